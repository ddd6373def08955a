"""Everything in memory: a TensorDataset of three tensors, shuffled, no workers, Adam, a learning rate that follows the loss."""

import torch
import torch.nn as nn
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader, TensorDataset


def main():
    args = arguments(images=4000, workers=0)
    torch.manual_seed(0)
    x = torch.randn(args.images, 3, 32, 32)
    y = torch.randint(0, 10, (args.images,))
    weight = torch.rand(args.images)
    loader = DataLoader(TensorDataset(x, y, weight), batch_size=64, shuffle=True, drop_last=True, num_workers=args.workers)
    model = small_cnn()
    criterion = nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(args.epochs):
        total = 0.0
        for xb, yb, wb in loader:
            loss = (criterion(model(xb), yb) * wb).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
            say_loss(loss)
        plateau.step(total)
    say_end(model)


if __name__ == "__main__":
    main()
