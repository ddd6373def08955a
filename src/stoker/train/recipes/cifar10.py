"""CIFAR-10: two small CNNs, the ResNet-18 of the 95 % kind, and the speed run."""

from __future__ import annotations

from typing import Any

from stoker.train.recipe import Recipe


def _cifar10(**own: Any) -> Recipe:
    """Return a recipe for CIFAR-10; mean and std are those of its 50,000 training images."""
    return Recipe(dataset="cifar10", image_size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), **own)


def small() -> Recipe:
    """conv32-pool-conv64-pool-linear, SGD with momentum, batch 64, 5 epochs: what most first scripts train."""
    return _cifar10(
        name="cifar10.small",
        padding=4,
        flip="random",
        model="small",
        epochs=5,
        batch_size=64,
        learning_rate=0.01,
        momentum=0.9,
    )


def small1() -> Recipe:
    """conv32-pool-linear, Adam at 0.001, batch 64, 5 epochs."""
    return _cifar10(
        name="cifar10.small1",
        model="small1",
        epochs=5,
        batch_size=64,
        optimizer="adam",
        learning_rate=1e-3,
    )


def resnet18() -> Recipe:
    """ResNet-18 in its CIFAR form, SGD with Nesterov momentum, cosine, 60 epochs: the 95 % kind. Wants a GPU."""
    return _cifar10(
        name="cifar10.resnet18",
        padding=4,
        flip="random",
        model="resnet18",
        epochs=60,
        batch_size=128,
        learning_rate=0.1,
        nesterov=True,
        weight_decay=5e-4,
        schedule="cosine",
        warmup_epochs=2,
    )


def speedrun() -> Recipe:
    """The published run to 94 % within seconds on one GPU (arXiv 2404.00498): whitened first layer, Muon, alternating flip, TTA."""
    return _cifar10(
        name="cifar10.speedrun",
        padding=2,
        padding_mode="reflect",
        flip="alternating",
        model="speedrun",
        epochs=8,
        batch_size=2000,
        optimizer="muon",
        learning_rate=0.24,
        momentum=0.6,
        nesterov=True,
        weight_decay=3.8e-5,
        schedule="linear",
        label_smoothing=0.2,
        eval_every=0,
        eval_batch_size=2000,
        tta="flip+shift",
    )
