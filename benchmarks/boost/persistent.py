"""Workers that live on, four batches ahead, an iterator used by hand and an epoch that is broken off in the middle."""

import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10


def main():
    args = arguments()
    torch.manual_seed(13)
    augment = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    dataset = CIFAR10(args.data, train=True, transform=augment)
    loader = DataLoader(dataset, batch_size=128, shuffle=True, num_workers=3, persistent_workers=True, prefetch_factor=4, drop_last=True)
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for epoch in range(args.epochs + 1):
        batches = iter(loader)
        for step in range(len(loader)):
            if epoch == 1 and step == 3:
                break
            x, y = next(batches)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            say_loss(loss)
    say_end(model)


if __name__ == "__main__":
    main()
