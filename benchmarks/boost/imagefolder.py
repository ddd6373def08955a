"""ImageFolder as the ImageNet example has it, smaller: RandomResizedCrop and flip, Resize and CenterCrop to validate, two workers."""

import os

import torch
import torch.nn as nn
import torchvision.transforms as transforms
from _wild import arguments, say_end, say_loss, small_cnn
from torchvision.datasets import ImageFolder


def main():
    args = arguments(workers=2, size=96)
    torch.manual_seed(0)
    normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    train_dataset = ImageFolder(
        os.path.join(args.data, "photos"),
        transforms.Compose([transforms.RandomResizedCrop(args.size), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]),
    )
    val_dataset = ImageFolder(
        os.path.join(args.data, "photos"),
        transforms.Compose([transforms.Resize(args.size + 16), transforms.CenterCrop(args.size), transforms.ToTensor(), normalize]),
    )
    train_loader = torch.utils.data.DataLoader(train_dataset, batch_size=16, shuffle=True, num_workers=args.workers, pin_memory=False)
    val_loader = torch.utils.data.DataLoader(val_dataset, batch_size=16, shuffle=False, num_workers=args.workers)
    model = small_cnn(len(train_dataset.classes), args.size)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(args.epochs):
        model.train()
        for images, target in train_loader:
            loss = criterion(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            say_loss(loss)
        model.eval()
        with torch.no_grad():
            print(f"val {sum(criterion(model(images), target).item() for images, target in val_loader).hex()}")
    say_end(model)


if __name__ == "__main__":
    main()
