"""CIFAR-10 as most scripts have it: RandomCrop, flip, Normalize, SGD with momentum, 0, 2 or 4 workers (`--workers`), a test an epoch."""

import torch
import torch.nn as nn
import torchvision
import torchvision.transforms as transforms
from _wild import arguments, say_end, say_loss, small_cnn

args = arguments(workers=2, batch=64)
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)

normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
transform_train = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])
transform_test = transforms.Compose([transforms.ToTensor(), normalize])


def train(epoch):
    net.train()
    train_loss, correct, total = 0, 0, 0
    for _, (inputs, targets) in enumerate(trainloader):
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
        train_loss += loss.item()
        _, predicted = outputs.max(1)
        total += targets.size(0)
        correct += predicted.eq(targets).sum().item()
        say_loss(loss)
    print(f"epoch {epoch} {train_loss.hex()} {correct}/{total}")


def test():
    net.eval()
    correct = 0
    with torch.no_grad():
        for inputs, targets in testloader:
            outputs = net(inputs.to(device))
            correct += outputs.max(1)[1].eq(targets.to(device)).sum().item()
    print(f"test {correct}")


if __name__ == "__main__":
    trainset = torchvision.datasets.CIFAR10(root=args.data, train=True, download=False, transform=transform_train)
    trainloader = torch.utils.data.DataLoader(trainset, batch_size=args.batch, shuffle=True, num_workers=args.workers)
    testset = torchvision.datasets.CIFAR10(root=args.data, train=False, download=False, transform=transform_test)
    testloader = torch.utils.data.DataLoader(testset, batch_size=100, shuffle=False, num_workers=args.workers)
    net = small_cnn().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    for epoch in range(args.epochs):
        train(epoch)
        test()
        scheduler.step()
    say_end(net)
