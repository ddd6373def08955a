"""The newer transforms: v2.ToImage, RandomCrop, flip, ColorJitter, ToDtype, Normalize, RandomErasing, two workers."""

import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2


def main():
    args = arguments()
    torch.manual_seed(9)
    augment = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[0.4914, 0.4822, 0.4465], std=[0.2470, 0.2435, 0.2616]),
            v2.RandomErasing(p=0.25),
        ]
    )
    loader = DataLoader(CIFAR10(args.data, train=True, transform=augment), batch_size=64, shuffle=True, num_workers=2)
    model = small_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(args.epochs):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            say_loss(loss)
    say_end(model)


if __name__ == "__main__":
    main()
