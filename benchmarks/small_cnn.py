"""The small CNN on CIFAR-10: `stoker train cifar10.small` against a script of the usual kind, on the CPU.

The script (benchmarks/plain/small_cnn.py) reads the same files through torchvision, with DataLoader's defaults and with 2 workers. All three
run in turn, once a seed, each in a process of its own; an epoch is its training steps with their feeding, without the evaluation.
Goals: at least 3 times less wall time an epoch than the better of the two scripts, accuracy within 0.5 points after 5 epochs.
--quick: 10,000 images, 2 epochs, one seed, and no claim about accuracy.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cifar import real_pixels, write_batches
from claims import REPOSITORY, Benchmark, benchmark

from stoker.measure import ratio, timing

Run = dict[str, Any]


def main() -> None:
    """Run all three in turn and claim."""
    bench = benchmark(__doc__)
    epochs, seeds = (2, 1) if bench.quick else (5, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_images, test_images = (10_000, 2_000) if bench.quick else (50_000, 10_000)
        data = write_batches(real_pixels(bench.data), folder / "data", train_images=train_images, test_images=test_images)
        bench.fact("images", f"{train_images} to train, {test_images} to test; batch 64, {epochs} epochs, {seeds} seeds")
        runs: dict[str, list[Run]] = {"plain_defaults": [], "plain_2_workers": [], "stoker": []}
        for seed in range(seeds):
            runs["plain_defaults"].append(plain(data, epochs, seed, workers=0))
            runs["plain_2_workers"].append(plain(data, epochs, seed, workers=2))
            runs["stoker"].append(stoker(data, epochs, seed, folder))
    claim(bench, runs)
    bench.finish()


def plain(data: Path, epochs: int, seed: int, *, workers: int) -> Run:
    """Run the usual script; returns seconds and CPU seconds an epoch, and the accuracy."""
    script = REPOSITORY / "benchmarks" / "plain" / "small_cnn.py"
    command = [sys.executable, str(script), str(data), f"--workers={workers}", f"--epochs={epochs}", f"--seed={seed}"]
    lines = [json.loads(line) for line in subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()]
    return {
        "seconds": [line["seconds"] for line in lines[:-1]],
        "cpu_seconds": [line["cpu_seconds"] for line in lines[:-1]],
        "accuracy": lines[-1]["test_accuracy"],
    }


def stoker(data: Path, epochs: int, seed: int, folder: Path) -> Run:
    """Run `stoker train cifar10.small` on the same files."""
    command = [sys.executable, "-m", "stoker", "train", "cifar10.small", f"--data={data}", f"--set=epochs={epochs}", f"--set=seed={seed}", "--json"]
    record = json.loads(subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout)
    lines = [json.loads(line) for line in (folder / "runs" / record["id"] / "metrics.jsonl").read_text().splitlines()]
    events = [line for line in lines if line["kind"] == "epoch"]
    return {
        "seconds": [event["train_s"] for event in events],
        "cpu_seconds": [event["cpu_s"] for event in events],
        "accuracy": record["result"]["test_accuracy"],
        "choices": record["choices"],
    }


def claim(bench: Benchmark, runs: dict[str, list[Run]]) -> None:
    """Say what was measured, and claim."""
    timings = {
        name: timing([s for run in found for s in run["seconds"]], [s for run in found for s in run["cpu_seconds"]]) for name, found in runs.items()
    }
    accuracies = {name: [run["accuracy"] for run in found] for name, found in runs.items()}
    for name, found in timings.items():
        bench.measured(f"{name}_epoch", found, accuracy=statistics.mean(accuracies[name]), accuracies=accuracies[name])
    bench.fact("kept", [choice["name"] for choice in runs["stoker"][0]["choices"] if choice["kept"]])
    better = min(("plain_defaults", "plain_2_workers"), key=lambda name: timings[name].median_s)
    bench.fact("better_of_the_plain", better)
    gain = ratio(timings[better], timings["stoker"])
    bench.compared(f"{better} / stoker", gain)
    bench.claim("epoch_speedup", gain.median, "x", at_least=3.0)
    if not bench.quick:
        usual = statistics.mean(accuracies["plain_defaults"] + accuracies["plain_2_workers"])
        bench.claim("accuracy_difference", 100 * abs(statistics.mean(accuracies["stoker"]) - usual), "points", at_most=0.5)


if __name__ == "__main__":
    main()
