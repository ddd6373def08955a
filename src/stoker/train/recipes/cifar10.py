"""CIFAR-10: two small CNNs, the ResNet-18 of the 95 % kind, and 94 % in seconds."""

from stoker.train.recipe import Recipe

# Per channel over the 50,000 training images, on the scale 0..1.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)


def small() -> Recipe:
    """conv32-pool-conv64-pool-linear, SGD with momentum, batch 64, 5 epochs: what most first scripts train."""
    return Recipe(
        name="cifar10.small",
        dataset="cifar10",
        image_size=32,
        mean=_MEAN,
        std=_STD,
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
    return Recipe(
        name="cifar10.small1",
        dataset="cifar10",
        image_size=32,
        mean=_MEAN,
        std=_STD,
        model="small1",
        epochs=5,
        batch_size=64,
        optimizer="adam",
        learning_rate=1e-3,
    )


def resnet18() -> Recipe:
    """ResNet-18 in its CIFAR form, SGD with Nesterov momentum, cosine, 60 epochs: the 95 % kind. Wants a GPU."""
    return Recipe(
        name="cifar10.resnet18",
        dataset="cifar10",
        image_size=32,
        mean=_MEAN,
        std=_STD,
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
    """94 % on one GPU within seconds: whitened first layer, Muon, alternating flip, test-time augmentation (arXiv 2404.00498)."""
    return Recipe(
        name="cifar10.speedrun",
        dataset="cifar10",
        image_size=32,
        mean=_MEAN,
        std=_STD,
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
