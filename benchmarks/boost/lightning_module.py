"""Lightning itself, where it is installed (exit status 75 where not): a LightningModule, Trainer.fit with validation, two workers."""

import sys

import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

try:
    import lightning as L
except ImportError:
    print("lightning is not installed", file=sys.stderr)
    sys.exit(75)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = small_cnn()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        say_loss(loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        say_loss(F.cross_entropy(self.net(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def main():
    args = arguments()
    L.seed_everything(1, workers=True)
    augment = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    train_loader = DataLoader(CIFAR10(args.data, train=True, transform=augment), batch_size=64, shuffle=True, num_workers=2)
    val_loader = DataLoader(CIFAR10(args.data, train=False, transform=transforms.ToTensor()), batch_size=128, num_workers=2)
    model = Model()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(max_epochs=args.epochs, accelerator="cpu", **quiet).fit(model, train_loader, val_loader)
    say_end(model)


if __name__ == "__main__":
    main()
