"""PyTorch's recipe for reproducible runs: a generator, a worker_init_fn that seeds numpy and random, and a transform that draws from both."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from _wild import arguments, say_end, say_loss, small_cnn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10


def seed_worker(worker_id):
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)
    random.seed(worker_seed)


def jitter(x):
    return x * (0.9 + 0.2 * random.random()) + float(np.random.normal(0.0, 0.01))


def main():
    args = arguments()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    torch.use_deterministic_algorithms(True)
    g = torch.Generator()
    g.manual_seed(0)
    augment = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Lambda(jitter)])
    dataset = CIFAR10(args.data, train=True, transform=augment)
    loader = DataLoader(dataset, batch_size=64, num_workers=2, worker_init_fn=seed_worker, generator=g, shuffle=True)
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(args.epochs):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            say_loss(loss)
    print("states", random.random().hex(), np.random.rand().hex(), g.get_state().sum().item())
    say_end(model)


if __name__ == "__main__":
    main()
