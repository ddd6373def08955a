"""random_split into training and validation, gradients accumulated over two batches, the best weights kept and loaded again."""

import copy

import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader, random_split
from torchvision import transforms
from torchvision.datasets import CIFAR10


def main():
    args = arguments()
    torch.manual_seed(42)
    full = CIFAR10(args.data, train=True, transform=transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()]))
    held = len(full) // 5
    train_ds, val_ds = random_split(full, [len(full) - held, held], generator=torch.Generator().manual_seed(7))
    train_dl = DataLoader(train_ds, 32, shuffle=True, num_workers=2, pin_memory=torch.cuda.is_available())
    val_dl = DataLoader(val_ds, 64, num_workers=2)
    model = small_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    best, kept = float("inf"), None
    for _ in range(args.epochs):
        model.train()
        for i, (xb, yb) in enumerate(train_dl):
            loss = F.cross_entropy(model(xb), yb) / 2
            loss.backward()
            say_loss(loss)
            if i % 2 == 1:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            losses, counts = zip(*[(F.cross_entropy(model(xb), yb).item() * len(xb), len(xb)) for xb, yb in val_dl], strict=True)
        value = sum(losses) / sum(counts)
        print(f"val {value.hex()}")
        if value < best:
            best, kept = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    say_end(model)


if __name__ == "__main__":
    main()
