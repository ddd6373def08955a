"""A DataLoader subclass of the script's own, as in detection code: its workers live on, the sampler repeats for ever, batches go to the device."""

import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10


class RepeatSampler:
    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from iter(self.sampler)


class InfiniteDataLoader(DataLoader):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "batch_sampler", RepeatSampler(self.batch_sampler))
        self.iterator = super().__iter__()

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        for _ in range(len(self)):
            x, y = next(self.iterator)
            yield x.to("cpu"), y.to("cpu")


def main():
    args = arguments()
    torch.manual_seed(5)
    augment = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    loader = InfiniteDataLoader(CIFAR10(args.data, train=True, transform=augment), batch_size=64, shuffle=True, num_workers=2)
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(args.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            say_loss(loss)
    say_end(model)


if __name__ == "__main__":
    main()
