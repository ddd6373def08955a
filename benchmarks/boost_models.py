"""The tiers close and fast on a small CNN and CIFAR-10: seconds a training step, and accuracy over five seeds, against the same loop without.

Plain, close and fast train in turn, once a seed, each in a process of its own, for the same number of epochs. Pixels are in memory and normalised
before, so that a step is arithmetic alone; the step time is the median of the last epoch, when what is tried has been decided. The switches of
`boost` that are not about models are off.
Goals: a step of `fast` at least 2.5 times as fast; its mean accuracy no farther from the plain one than the plain seeds are from each other.
--quick: 6,400 images, 2 epochs, two seeds, and no claim about accuracy.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cifar import real_pixels
from claims import Benchmark, benchmark

from stoker.measure import ratio, timing

Run = dict[str, Any]

TIERS = ("plain", "close", "fast")
BATCH = 64


def main() -> None:
    """Train in turn and claim."""
    bench = benchmark(__doc__)
    images, tests, epochs, seeds = (6_400, 2_000, 2, 2) if bench.quick else (32_000, 10_000, 4, 5)
    bench.fact("training", f"conv 32, pool, conv 64, pool, linear; {images} images, batch {BATCH}, {epochs} epochs, {seeds} seeds, SGD with momentum")
    runs: dict[str, list[Run]] = {tier: [] for tier in TIERS}
    with tempfile.TemporaryDirectory() as name:
        pixels = save(bench.data, Path(name) / "pixels.pt", images, tests)
        for seed in range(seeds):
            for tier in TIERS:
                runs[tier].append(child(pixels, tier, seed, epochs))
    claim(bench, runs)
    bench.finish()


def save(data: Path, path: Path, images: int, tests: int) -> Path:
    """Write normalised pixels and labels for the children; returns `path`."""
    import numpy as np
    import torch

    from stoker.data.sets import Resident

    dataset = real_pixels(data)
    kept: dict[str, torch.Tensor] = {}
    for name, part, count in (("train", dataset.train, images), ("test", dataset.test, tests)):
        assert isinstance(part, Resident)
        chosen = np.random.default_rng(0).permutation(len(part.labels_N))[:count]
        kept[f"{name}_x"] = torch.from_numpy(part.pixels_NHWC[chosen]).permute(0, 3, 1, 2).contiguous().float().div(255).sub(0.47).div(0.25)
        kept[f"{name}_y"] = torch.from_numpy(part.labels_N[chosen]).long()
    torch.save(kept, path)
    return path


def child(pixels: Path, tier: str, seed: int, epochs: int) -> Run:
    """Train in a process of its own."""
    command = [sys.executable, __file__, "child", str(pixels), tier, str(seed), str(epochs)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_BOOST")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def train(pixels: str, tier: str, seed: int, epochs: int) -> Run:
    """Train as a script of the usual kind does; returns step time, accuracy and what was kept."""
    import torch
    from torch import nn

    import stoker.boost
    from stoker.boost.notes import NOTES

    if tier != "plain":
        stoker.boost.on(tier=tier, off=("loader", "allocator", "copies"))  # type: ignore[arg-type]
    data = torch.load(pixels)
    torch.manual_seed(seed)
    first = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64 * 8 * 8, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    began_s = time.perf_counter()
    steps_s: list[float] = []
    for _ in range(epochs):
        steps_s = []
        for index_B in torch.randperm(len(data["train_y"])).split(BATCH):
            images, labels = data["train_x"][index_B], data["train_y"][index_B]
            step_began_s = time.perf_counter()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            steps_s.append(time.perf_counter() - step_began_s)
    train_s = time.perf_counter() - began_s
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(data["test_x"].split(500), data["test_y"].split(500), strict=True))
    kept = {note.part: note.numbers.get("ratio") for note in NOTES.kept if note.kind == "model" and note.outcome == "kept"}
    return {"step_s": statistics.median(steps_s), "train_s": train_s, "accuracy": 100 * right / len(data["test_y"]), "kept": kept}


def claim(bench: Benchmark, runs: dict[str, list[Run]]) -> None:
    """Measure steps and accuracies against the plain ones."""
    steps = {tier: timing([run["step_s"] for run in runs[tier]], [0.0] * len(runs[tier])) for tier in TIERS}
    accuracies = {tier: [run["accuracy"] for run in runs[tier]] for tier in TIERS}
    for tier in TIERS:
        bench.measured(f"{tier}_step", steps[tier], accuracies=accuracies[tier], train_s=statistics.median(run["train_s"] for run in runs[tier]))
        bench.fact(f"{tier}_kept", [run["kept"] for run in runs[tier]])
    for tier in TIERS[1:]:
        found = ratio(steps["plain"], steps[tier])
        bench.compared(f"{tier}_step_ratio", found)
        if tier == "fast":
            bench.claim("fast_step_ratio", found.median, "x", at_least=2.5)
    if not bench.quick:
        spread = max(accuracies["plain"]) - min(accuracies["plain"])
        apart = abs(statistics.mean(accuracies["fast"]) - statistics.mean(accuracies["plain"]))
        bench.claim("fast_accuracy_difference", apart, "points", at_most=spread)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(train(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))))
    else:
        main()
