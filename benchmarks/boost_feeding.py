"""What feeding costs under `stoker boost`: the user's own DataLoader, plainly and boosted in tier exact, each measurement in a process of its own.

1. CIFAR-type (50,000 images, random crop, flip, normalise, batch 64; 0, 2 and 4 workers) and MNIST-type (60,000 images, normalise, batch 64; 0 and
   2 workers): CPU seconds an epoch, workers included, when nothing is done with the batches. Goal: at least 15 times fewer.
2. TensorDataset of 10000 x 3 x 224 x 224 float32, random order, batch 64, 4 workers: wall seconds a batch. Goal: at least 7 times less.

Pixels are random. The first batches of both ways are compared by checksum.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims import Benchmark, benchmark
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import datasets, transforms

from stoker.measure import Timing, ratio, timing

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One loader."""

    name: str
    kind: str
    samples: int
    workers: int
    epochs_plain: int = 1
    epochs_boosted: int = 5
    """A boosted epoch is short: several are taken, and the time of one is told."""
    compared: int = 50
    """Batches of the first, untimed epoch, which is broken off after them."""


def cases(quick: bool) -> list[Case]:
    """Return the loaders; smaller data sets when `quick`."""
    share = 5 if quick else 1
    cifar = [Case(name=f"cifar_{workers}_workers", kind="cifar", samples=50_000 // share, workers=workers) for workers in (0, 2, 4)]
    mnist = [Case(name=f"mnist_{workers}_workers", kind="mnist", samples=60_000 // share, workers=workers) for workers in (0, 2)]
    tensors = Case(name="tensors_4_workers", kind="tensors", samples=10_000 // share, workers=4, epochs_boosted=2, compared=10)
    return [*cifar, *mnist, tensors]


def main() -> None:
    """Measure every case and claim."""
    bench = benchmark(__doc__)
    rounds = 2 if bench.quick else 3
    for case in cases(bench.quick):
        measure(bench, case, rounds)
    bench.finish()


def measure(bench: Benchmark, case: Case, rounds: int) -> None:
    """Run the case plainly and boosted in turn, each in a process of its own."""
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "boosted": []}
    for turn in range(rounds):
        for way in ("plain", "boosted") if turn % 2 == 0 else ("boosted", "plain"):
            found[way].append(in_a_process(case, boosted=way == "boosted"))
    walls = {way: taken(found[way], "wall_s") for way in found}
    cpus = {way: taken(found[way], "cpu_s") for way in found}
    for way in found:
        batches = found[way][0]["batches"]
        bench.measured(
            f"{case.name} {way}, an epoch",
            walls[way],
            images_per_s=case.samples / walls[way].median_s,
            ms_per_batch=1e3 * walls[way].median_s / batches,
        )
    bench.compared(f"{case.name} wall plain / boosted", ratio(walls["plain"], walls["boosted"]))
    bench.compared(f"{case.name} CPU plain / boosted", ratio(cpus["plain"], cpus["boosted"]))
    bench.fact(f"{case.name} boost", found["boosted"][0]["notes"])
    sums = {one["checksum"] for way in found for one in found[way]}
    bench.claim(f"{case.name}_checksums", len(sums), "different", at_most=1)
    if case.kind == "tensors":
        bench.claim(f"{case.name}_wall", ratio(walls["plain"], walls["boosted"]).median, "ratio", at_least=7)
    else:
        bench.claim(f"{case.name}_cpu", ratio(cpus["plain"], cpus["boosted"]).median, "ratio", at_least=15)


def taken(runs: list[dict[str, Any]], what: str) -> Timing:
    """Return one quantity of all rounds as the samples of a Timing."""
    return timing([one[what] for one in runs], [one["cpu_s"] for one in runs])


def in_a_process(case: Case, *, boosted: bool) -> dict[str, Any]:
    """Return what `child` prints in a fresh Python."""
    code = f"import boost_feeding; boost_feeding.child({json.dumps(asdict(case))!r}, {boosted})"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STOKER_BOOST")} | {"STOKER_BOOST_QUIET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=1800
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# --- in the child ----------------------------------------------------------------------------------------------------


def child(text: str, boosted: bool) -> None:
    """Make the loader, compare the beginning of an epoch, time whole ones, and print the result as JSON."""
    case = Case(**json.loads(text))
    if boosted:
        import stoker.boost

        stoker.boost.on()
    loader = DataLoader(dataset(case), batch_size=64, shuffle=True, num_workers=case.workers)
    torch.manual_seed(0)
    checksum = first_batches(loader, case.compared)
    epochs = case.epochs_boosted if boosted else case.epochs_plain
    cpu, wall = cpu_seconds(), time.perf_counter()
    for _ in range(epochs):
        batches = 0
        for _ in loader:
            batches += 1
    wall_s, cpu_s = (time.perf_counter() - wall) / epochs, (cpu_seconds() - cpu) / epochs
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "batches": batches, "checksum": checksum, "notes": notes() if boosted else []}))


def first_batches(loader: DataLoader[Any], count: int) -> int:
    """Return a checksum of the first batches of an epoch."""
    checksum = 0
    for images, *labels in loader:
        for tensor in (images, *labels):
            checksum = zlib.crc32(np.ascontiguousarray(tensor.numpy()).data, checksum)
        count -= 1
        if count == 0:
            break
    return checksum


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that have ended: a loader's workers end with the epoch."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def notes() -> list[str]:
    """Return what boost has noted of the loader."""
    from stoker.boost.notes import NOTES

    return [f"{note.part}: {note.outcome}: {note.why}" for note in NOTES.kept if note.kind == "loader"]


def dataset(case: Case) -> Dataset[Any]:
    """Return the data set, as the user's script has it in memory after torchvision has read it."""
    rng = np.random.default_rng(0)
    if case.kind == "tensors":
        rows = torch.arange(case.samples, dtype=torch.float32).view(-1, 1, 1, 1)
        return TensorDataset(rows.expand(-1, 3, 224, 224).contiguous(), torch.arange(case.samples))
    if case.kind == "cifar":
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        cifar = blank(datasets.CIFAR10, transforms.Compose(steps))
        cifar.data = rng.integers(0, 256, (case.samples, 3, 32, 32), dtype=np.uint8).transpose(0, 2, 3, 1)
        cifar.targets = rng.integers(0, 10, case.samples).tolist()
        return cifar
    mnist = blank(datasets.MNIST, transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]))
    mnist.data = torch.from_numpy(rng.integers(0, 256, (case.samples, 28, 28), dtype=np.uint8))
    mnist.targets = torch.from_numpy(rng.integers(0, 10, case.samples))
    return mnist


def blank(kind: Any, transform: Any) -> Any:
    """Return a torchvision data set without its files."""
    made = kind.__new__(kind)
    vars(made).update(root="", train=True, transform=transform, target_transform=None, transforms=datasets.vision.StandardTransform(transform))
    return made


if __name__ == "__main__":
    main()
