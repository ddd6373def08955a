"""The small CNN's training step on the CPU with max pool and ReLU in one kernel, against torch's own two operations; same numbers.

Goal: the step takes at least 1.1 times as long with torch's operations. --quick: fewer rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from claims import benchmark

from stoker import arithmetic as arithmetic_
from stoker import pool
from stoker.arithmetic import Arithmetic
from stoker.measure import in_turn, ratio
from stoker.train import models, optimizers
from stoker.train.step import Step

BLOCK = 20


def main() -> None:
    """Time both in turn and claim."""
    bench = benchmark(__doc__)
    arithmetic_.use_large_allocations()
    kernel = pool.library()
    if kernel is None:
        raise SystemExit("the pooling kernel was not built (no C compiler when Stoker was installed): there is nothing to measure")
    arithmetic, device = Arithmetic(precision="bf16", channels_last=True, fused=True), torch.device("cpu")
    torch.manual_seed(0)
    model = models.build("small", classes=10, channels=3, image_size=32)
    arithmetic_.apply(arithmetic, model, device)
    optimizer, _ = optimizers.build("sgd", model, learning_rate=0.01, momentum=0.9, fused=True)
    step = Step(model, optimizer, arithmetic, device, 0.0)
    images = torch.randn(64, 3, 32, 32).to(dtype=arithmetic.dtype, memory_format=arithmetic.memory_format)
    labels = torch.randint(0, 10, (64,))

    def block(found: object) -> Callable[[], None]:
        def steps() -> None:
            pool.library = lambda: found  # type: ignore[assignment,return-value]
            for _ in range(BLOCK):
                step(images, labels)

        return steps

    timings = in_turn({"kernel": block(kernel), "torch": block(None)}, rounds=15 if bench.quick else 80, warmup=3)
    for name, timing in timings.items():
        bench.measured(f"{name} ({BLOCK} steps of 64)", timing)
    gain = ratio(timings["torch"], timings["kernel"])
    bench.compared("torch / kernel", gain)
    bench.claim("pooled_step", gain.median, "x", at_least=1.1)
    bench.finish()


if __name__ == "__main__":
    main()
