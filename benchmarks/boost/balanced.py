"""A WeightedRandomSampler against uneven classes, on a ConcatDataset of two copies with different transforms."""

from collections import Counter

import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import ConcatDataset, DataLoader, WeightedRandomSampler
from torchvision import transforms
from torchvision.datasets import CIFAR10


def main():
    args = arguments()
    torch.manual_seed(21)
    flipped = transforms.Compose([transforms.RandomVerticalFlip(), transforms.ToTensor()])
    turned = transforms.Compose([transforms.RandomRotation(15), transforms.ToTensor()])
    parts = [CIFAR10(args.data, train=True, transform=flipped), CIFAR10(args.data, train=True, transform=turned)]
    targets = [target for part in parts for target in part.targets]
    counts = Counter(targets)
    weights = torch.tensor([1.0 / counts[target] for target in targets], dtype=torch.double)
    sampler = WeightedRandomSampler(weights, num_samples=len(parts[0]), replacement=True)
    loader = DataLoader(ConcatDataset(parts), batch_size=64, sampler=sampler, num_workers=2)
    model = small_cnn()
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-4)
    for _ in range(args.epochs):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            say_loss(loss)
    say_end(model)


if __name__ == "__main__":
    main()
