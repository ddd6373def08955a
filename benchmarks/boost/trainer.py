"""A trainer class with callbacks, as Lightning and its kin are built: `training_step`, hooks, a fetcher that is one batch ahead, a sanity check."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small_cnn()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=100_000)


class Ahead:
    """Knows which batch is the last one, by fetching one ahead."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        iterator = iter(self.loader)
        try:
            last = next(iterator)
        except StopIteration:
            return
        for value in iterator:
            yield last, False
            last = value
        yield last, True


class Trainer:
    def __init__(self, max_epochs, callbacks=()):
        self.max_epochs, self.callbacks, self.global_step = max_epochs, callbacks, 0

    def call(self, name, *args):
        for callback in self.callbacks:
            getattr(callback, name)(self, *args)

    def fit(self, model, train_loader, val_loader):
        optimizer, scheduler = model.configure_optimizers()
        self.validate(model, val_loader, limit=2)
        for _ in range(self.max_epochs):
            model.train()
            for index, (batch, is_last) in enumerate(Ahead(train_loader)):
                batch = tuple(value.to("cpu", non_blocking=True) for value in batch)

                def closure(batch=batch, index=index):
                    optimizer.zero_grad()
                    loss = model.training_step(batch, index)
                    loss.backward()
                    return loss

                loss = optimizer.step(closure)
                scheduler.step()
                self.global_step += 1
                self.call("on_train_batch_end", loss, is_last)
            self.validate(model, val_loader)

    def validate(self, model, loader, limit=None):
        model.eval()
        with torch.inference_mode():
            for index, batch in enumerate(loader):
                if limit is not None and index >= limit:
                    break
                self.call("on_validation_batch_end", model.validation_step(batch, index))


class Log:
    def on_train_batch_end(self, trainer, loss, is_last):
        say_loss(loss)
        if is_last:
            print(f"epoch ends at step {trainer.global_step}")

    def on_validation_batch_end(self, trainer, loss):
        say_loss(loss)


def main():
    args = arguments()
    torch.manual_seed(11)
    augment = transforms.Compose(
        [transforms.RandomCrop(32, padding=4, padding_mode="reflect"), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    train_loader = DataLoader(CIFAR10(args.data, train=True, transform=augment), batch_size=64, shuffle=True, num_workers=2, persistent_workers=True)
    val_loader = DataLoader(CIFAR10(args.data, train=False, transform=transforms.ToTensor()), batch_size=128, num_workers=2)
    model = Module()
    Trainer(args.epochs, [Log()]).fit(model, train_loader, val_loader)
    say_end(model)


if __name__ == "__main__":
    main()
