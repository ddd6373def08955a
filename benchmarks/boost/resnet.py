"""ResNet-18 with a 3 x 3 stem on CIFAR-10: RandomCrop, flip, Normalize, batch 128, SGD with momentum, `--workers` workers, a test an epoch."""

import torch
import torch.nn as nn
import torchvision
import torchvision.transforms as transforms
from _wild import arguments, say_end, say_loss

args = arguments(workers=4, batch=128)
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)

normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
transform_train = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])
transform_test = transforms.Compose([transforms.ToTensor(), normalize])


def resnet18_cifar():
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    return net


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
    net = resnet18_cifar().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    for epoch in range(args.epochs):
        train(epoch)
        test()
        scheduler.step()
    say_end(net)
