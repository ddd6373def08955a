"""What the observer of `stoker diagnose` costs a training: small steps, where each clock reading weighs most.

The small CNN (conv32-pool-conv64-pool-linear, 3x32x32, batch 64, SGD, a loader without workers), and one whose step is far shorter (batch 8,
conv8-linear). In one process and in turn: some steps with the observer in torch, the same without. Goal: at most 3 % more for the small CNN.
--quick: fewer repetitions.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType

import torch
from claims import REPOSITORY, benchmark
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stoker.measure import in_turn, ratio


def main() -> None:
    """Measure both networks and claim for the small CNN."""
    bench = benchmark(__doc__)
    torch.set_num_threads(1)  # with more, what other processes do to the threads' meeting points hides the difference
    observer = observer_module()
    rounds = 8 if bench.quick else 24
    with tempfile.TemporaryDirectory() as name:
        for title, make, batch, steps in (("small_cnn", small_cnn, 64, 20), ("tiny", tiny, 8, 1000)):
            train = training(make(), batch, steps)
            timings = in_turn({"observed": lambda: observed(observer, Path(name), train), "plain": train}, rounds=rounds, warmup=2)  # noqa: B023
            found = ratio(timings["observed"], timings["plain"])
            bench.measured(f"{title}_plain", timings["plain"], step_s=timings["plain"].median_s / steps)
            bench.measured(f"{title}_observed", timings["observed"], cpu_ratio=timings["observed"].cpu_s / timings["plain"].cpu_s)
            bench.compared(f"{title}_observed_over_plain", found)
            if title == "small_cnn":
                bench.claim("observed_over_plain", found.median, "x", at_most=1.03)
    bench.finish()


def observer_module() -> ModuleType:
    """Load the observer as a diagnosed program does: from its file."""
    spec = util.spec_from_file_location("_stoker_observer", REPOSITORY / "src" / "stoker" / "diagnosis" / "observer.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["_stoker_observer"] = module
    spec.loader.exec_module(module)
    return module


def observed(observer: ModuleType, folder: Path, train: Callable[[], None]) -> None:
    """Train with the observer in torch, as in the middle of a window: writing included, the putting in and out too."""
    recorder = observer.Recorder(str(folder), 3600.0, 0)
    observer.apply(recorder)
    try:
        train()
    finally:
        recorder.finish("exit")
    assert recorder.steps, "the observer saw nothing"


def training(model: nn.Module, batch: int, steps: int) -> Callable[[], None]:
    """Return a call that trains for so many steps from a loader."""
    images_NCHW, labels_N = torch.randn(batch * steps, 3, 32, 32), torch.randint(0, 10, (batch * steps,))
    loader = DataLoader(TensorDataset(images_NCHW, labels_N), batch_size=batch)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def train() -> None:
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return train


def small_cnn() -> nn.Module:
    """conv32-pool-conv64-pool-linear."""
    layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 64, 10))


def tiny() -> nn.Module:
    """conv8-linear."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))


if __name__ == "__main__":
    main()
