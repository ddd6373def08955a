"""A training script of the usual kind, to measure against: torchvision data set, PIL transforms, DataLoader, eager float32.

python small_cnn.py FOLDER --workers 2 --epochs 5 --seed 0 [--model small1] [--device cuda]
Prints a line of JSON an epoch: seconds, CPU seconds (with those of the workers), loss; at the end test accuracy.
"""

import argparse
import json
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(64 * 8 * 8, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return self.linear(x.flatten(1))


class Small1(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(32 * 16 * 16, 10)

    def forward(self, x):
        return self.linear(self.pool(F.relu(self.conv1(x))).flatten(1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=["small", "small1"], default="small")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if args.model == "small" else []
    train_set = datasets.CIFAR10(args.folder, train=True, transform=transforms.Compose([*augment, transforms.ToTensor(), normalize]))
    test_set = datasets.CIFAR10(args.folder, train=False, transform=transforms.Compose([transforms.ToTensor(), normalize]))
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=args.workers)
    test_loader = DataLoader(test_set, batch_size=1000, num_workers=args.workers)

    model = (Small() if args.model == "small" else Small1()).to(args.device)
    if args.model == "small":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion = nn.CrossEntropyLoss()

    for epoch in range(args.epochs):
        start, cpu = time.perf_counter(), sum(os.times()[:4])
        model.train()
        running_loss = 0.0
        for images, labels in train_loader:
            images, labels = images.to(args.device), labels.to(args.device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        seconds = time.perf_counter() - start
        # CPU seconds of workers count once they have ended, which they have: they are not persistent.
        used = sum(os.times()[:4]) - cpu
        print(json.dumps({"epoch": epoch + 1, "seconds": seconds, "cpu_seconds": used, "loss": running_loss / len(train_loader)}), flush=True)

    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in test_loader:
            predictions = model(images.to(args.device)).argmax(1)
            correct += (predictions == labels.to(args.device)).sum().item()
    print(json.dumps({"test_accuracy": correct / len(test_set)}), flush=True)


if __name__ == "__main__":
    # Our copy of CIFAR-10 holds the same pixels in files of its own making, so their sums are not the published ones.
    for names in (datasets.CIFAR10.train_list, datasets.CIFAR10.test_list):
        for entry in names:
            entry[1] = None
    datasets.CIFAR10.meta["md5"] = None
    main()
