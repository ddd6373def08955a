"""Cross-validation: a SubsetRandomSampler for each fold, a new model and optimizer each time, augmentation without workers."""

import numpy as np
import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader, SubsetRandomSampler
from torchvision import transforms
from torchvision.datasets import CIFAR10


def main():
    args = arguments(folds=3)
    torch.manual_seed(0)
    augment = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    dataset = CIFAR10(args.data, train=True, transform=augment)
    order = np.random.RandomState(0).permutation(len(dataset))
    for fold in range(args.folds):
        held = order[fold :: args.folds]
        train_idx = np.setdiff1d(order, held)
        train_loader = DataLoader(dataset, batch_size=64, sampler=SubsetRandomSampler(train_idx))
        val_loader = DataLoader(dataset, batch_size=64, sampler=SubsetRandomSampler(held))
        model = small_cnn()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(max(1, args.epochs // 2)):
            for x, y in train_loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                say_loss(loss)
        with torch.no_grad():
            correct = sum((model(x).argmax(1) == y).sum().item() for x, y in val_loader)
        print(f"fold {fold}: {correct}/{len(held)}")
    say_end(model)


if __name__ == "__main__":
    main()
