"""What the scripts of this folder share: their arguments, data sets without checksums, and numbers printed to the bit.

Not a script. The files that benchmarks/boost.py writes are not the originals, so the checksums of torchvision's classes are taken away.
"""

from __future__ import annotations

import argparse
import hashlib

import torch
from torch import nn
from torchvision.datasets import CIFAR10


def arguments(**more: object) -> argparse.Namespace:
    """Read `--data FOLDER --epochs N` and, for each of `more`, a flag with that default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--deterministic", action="store_true", help="with CUBLAS_WORKSPACE_CONFIG=:4096:8, GPUs give the same numbers twice")
    for name, value in more.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    CIFAR10.train_list = [[name, None] for name, _ in CIFAR10.train_list]
    CIFAR10.test_list = [[name, None] for name, _ in CIFAR10.test_list]
    CIFAR10.meta = {**CIFAR10.meta, "md5": None}
    found = parser.parse_args()
    torch.use_deterministic_algorithms(found.deterministic)
    return found


def say_loss(loss: torch.Tensor) -> None:
    """Print a loss with all its bits."""
    print(f"loss {loss.item().hex()}")


def say_end(model: nn.Module) -> None:
    """Print a hash of the weights and buffers, and one random number: the generator must be where it would have been."""
    found = hashlib.sha256()
    for value in model.state_dict().values():
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    print(f"weights {found.hexdigest()} random {torch.rand(()).item().hex()}")


def small_cnn(classes: int = 10, size: int = 32) -> nn.Sequential:
    """conv32-pool-conv64-pool-linear."""
    layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (size // 4) ** 2, classes))
