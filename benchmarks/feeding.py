"""What feeding costs: how fast batches are made on one core, and how much of a training step is lost to it.

1. Crop, flip and normalise of CIFAR-10 at batch 128 on one core: Stoker's Feed, the usual torchvision transforms on PIL images, and the usual
   batch operations in torch. Goal: at least 250,000 images/s.
2. The training step of `cifar10.small` (batch 64, bf16, channels_last) out of the Feed, against the same step on one fixed
   batch that never moves, which is the floor. Goal: at least 97 % of the floor's throughput.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from claims import Benchmark, benchmark
from PIL import Image
from torch import nn
from torchvision import transforms

from stoker import arithmetic as arithmetic_
from stoker.arithmetic import Arithmetic
from stoker.data.feed import Feed
from stoker.data.sets import Resident
from stoker.data.sources import open_dataset
from stoker.measure import in_turn, ratio
from stoker.train import models, optimizers
from stoker.train.step import Step

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
BLOCK = 20


def main() -> None:
    """Measure both parts and claim."""
    bench = benchmark(__doc__)
    bench.fact("freed memory is kept", arithmetic_.use_large_allocations())
    resident = pixels(bench)
    one_core(bench, resident)
    training(bench, resident)
    bench.finish()


def pixels(bench: Benchmark) -> Resident:
    """Return real CIFAR-10 training images, or random ones, and say which."""
    archive = bench.data / "cifar10-jpeg.tar.xz"
    if archive.exists():
        dataset = open_dataset("cifar10", archive, resident=True, test_fraction=0.2, seed=0, skip_broken=False)
        assert isinstance(dataset.train, Resident)
        bench.fact("pixels", f"{dataset.train.images} images of {archive.name}")
        return dataset.train
    bench.fact("pixels", f"40000 random images ({archive} is not there)")
    rng = np.random.default_rng(0)
    return Resident(pixels_NHWC=rng.integers(0, 256, (40_000, 32, 32, 3), dtype=np.uint8), labels_N=rng.integers(0, 10, 40_000))


# --- batches on one core ---------------------------------------------------------------------------------------------


def one_core(bench: Benchmark, resident: Resident) -> None:
    """Time the making of batches of 128, everything pinned to one core."""
    batch, threads, cores = 128, torch.get_num_threads(), os.sched_getaffinity(0)
    fused = fed(resident, batch, torch.float32, channels_last=False)
    bench.fact("feed", fused.how)
    candidates = {
        "fused": forever(fused),
        "fused_bf16_channels_last": forever(fed(resident, batch, torch.bfloat16, channels_last=True)),
        "torch_batch": torch_batches(resident, batch),
        "torchvision_pil": torchvision_batches(resident, batch),
    }
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cores)})
    try:
        found = in_turn(candidates, rounds=5 if bench.quick else 15, inner=10)
        # A batch of the fused kernel takes a tenth of a millisecond: the claim rests on samples of its own, long enough to be read.
        alone = in_turn({name: candidates[name] for name in ("fused", "fused_bf16_channels_last")}, rounds=9 if bench.quick else 31, inner=200)
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
    for name, timing in (found | alone).items():
        bench.measured(name, timing, images_per_s=batch / timing.median_s, cpu_us_per_image=timing.cpu_s / batch * 1e6)
    bench.compared("torchvision_pil / fused", ratio(found["torchvision_pil"], found["fused"]))
    bench.compared("torch_batch / fused", ratio(found["torch_batch"], found["fused"]))
    bench.claim("fused_one_core", batch / alone["fused"].median_s, "images/s", at_least=250_000)


def fed(resident: Resident, batch_size: int, dtype: torch.dtype, *, channels_last: bool) -> Feed:
    """Return the Feed of the small CNN."""
    return Feed(
        resident=resident,
        batch_size=batch_size,
        device="cpu",
        dtype=dtype,
        channels_last=channels_last,
        mean=MEAN,
        std=STD,
        padding=4,
        flip="random",
        seed=0,
        shuffle=True,
        drop_last=True,
    )


def batches(feed: Feed) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches epoch after epoch; the order and the draws of each epoch are part of the cost."""
    epoch = 0
    while True:
        yield from feed.epoch(epoch)
        epoch += 1


def forever(feed: Feed) -> Callable[[], object]:
    """Return a call that makes the next batch."""
    source = batches(feed)
    return lambda: next(source)


def torch_batches(resident: Resident, batch: int) -> Callable[[], torch.Tensor]:
    """Return a call that makes a batch by the usual batch operations: float, pad, gather the crops, flip, normalise."""
    all_NCHW = torch.from_numpy(np.array(resident.pixels_NHWC)).permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    place = torch.arange(32)

    def make() -> torch.Tensor:
        images = nn.functional.pad(all_NCHW[torch.randint(len(all_NCHW), (batch,))].float().div_(255), (4, 4, 4, 4))
        rows, columns = (torch.randint(9, (batch, 1)) + place for _ in range(2))
        images = images[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        images = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, images.flip(3), images)
        return images.sub_(mean).div_(std).contiguous()

    return make


def torchvision_batches(resident: Resident, batch: int) -> Callable[[], torch.Tensor]:
    """Return a call that makes a batch as a DataLoader does: PIL, transforms, an image at a time, stacked."""
    usual = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )

    def make() -> torch.Tensor:
        return torch.stack([usual(Image.fromarray(resident.pixels_NHWC[k])) for k in torch.randint(resident.images, (batch,)).tolist()])

    return make


# --- training --------------------------------------------------------------------------------------------------------


def training(bench: Benchmark, resident: Resident) -> None:
    """Time blocks of training steps, fed and on a fixed batch, in turn; the same model takes both."""
    feed = fed(resident, 64, torch.bfloat16, channels_last=True)
    source = batches(feed)
    images, labels = next(source)
    fixed = (images.clone(memory_format=torch.preserve_format), labels.clone())
    del images, labels
    step = small_cnn_step()

    def fed_block() -> None:
        for _ in range(BLOCK):
            step(*next(source))

    def fixed_block() -> None:
        for _ in range(BLOCK):
            step(*fixed)

    def only_feed() -> None:
        for _ in range(BLOCK):
            next(source)

    found = in_turn({"floor": fixed_block, "fed": fed_block, "feed_alone": only_feed}, rounds=20 if bench.quick else 150, warmup=3)
    for name, timing in found.items():
        bench.measured(f"{name} ({BLOCK} steps of 64)", timing, images_per_s=BLOCK * 64 / timing.median_s)
    share = ratio(found["floor"], found["fed"])
    bench.compared("floor / fed", share)
    bench.compared("feed_alone / floor", ratio(found["feed_alone"], found["floor"]))
    bench.claim("fed_of_floor", share.median, "ratio", at_least=0.97)


def small_cnn_step() -> Callable[[torch.Tensor, torch.Tensor], object]:
    """Return the training step of `cifar10.small` as `stoker train` takes it on a CPU: bf16, channels_last, fused SGD."""
    torch.manual_seed(0)
    arithmetic, device = Arithmetic(precision="bf16", channels_last=True, fused=True), torch.device("cpu")
    model = models.build("small", classes=10, channels=3, image_size=32)
    arithmetic_.apply(arithmetic, model, device)
    optimizer, _ = optimizers.build("sgd", model, learning_rate=0.01, momentum=0.9, fused=True)
    return Step(model, optimizer, arithmetic, device, 0.0)


if __name__ == "__main__":
    main()
