"""Public training scripts as they are, plainly and with STOKER_BOOST=exact, in turn: the same numbers printed, how much faster, how much less CPU.

    STOKER_PUBLIC=FOLDER python benchmarks/boost_public.py

FOLDER holds clones of pytorch/examples (`examples`), kuangliu/pytorch-cifar (`pytorch-cifar`) and huggingface/pytorch-image-models
(`pytorch-image-models`), each optional; nothing of them is in this repository. They run unchanged on the data sets that benchmarks/wild.py
writes, through a launcher that takes torchvision's checksums away (the files are not the originals), keeps it from downloading, and seeds the random
states, which most of these scripts do not. Each run ends after so many steps, or by itself, where its record of losses and times ends.
Goals: the same losses to the bit, and no script slower than 0.98 x. --quick: fewer steps, one round.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from claims import Benchmark, benchmark
from wild import prepare

from stoker.measure import ratio, timing
from stoker.runner import turns
from stoker.runner.losses import agreement
from stoker.runner.records import all_at_limit, read_records
from stoker.runner.turns import Turn

LAUNCHER = Path(__file__).resolve().parent / "plain" / "unchecked.py"


@dataclass(frozen=True, kw_only=True)
class Public:
    """A public script and its arguments; `{data}` stands for the folder of data sets."""

    name: str
    script: str
    """Within the folder of clones."""
    arguments: tuple[str, ...]
    steps: int
    """So many are timed, unless --quick."""
    data: str = ""
    """A link that the script expects in the folder in which it runs (`../data`, `data`); empty: the arguments name the data."""


ALL = (
    Public(name="examples_mnist", script="examples/mnist/main.py", arguments=("--epochs=1", "--no-accel"), steps=150, data="../data"),
    Public(
        name="examples_imagenet",
        script="examples/imagenet/main.py",
        arguments=("{data}/imagenet", "--arch=resnet18", "--epochs=4", "--batch-size=16", "--workers=2", "--seed=1", "--no-accel"),
        steps=20,
    ),
    Public(name="pytorch_cifar", script="pytorch-cifar/main.py", arguments=("--lr=0.01",), steps=5, data="data"),
    Public(
        name="timm_train",
        script="pytorch-image-models/train.py",
        arguments=(
            "--data-dir={data}/imagenet",
            "--model=resnet18",
            "--num-classes=4",
            "--img-size=96",
            "--epochs=4",
            "-b=16",
            "-j=2",
            "--device=cpu",
        ),
        steps=20,
    ),
)


def main() -> None:
    """Run what is there, in turn, and claim."""
    bench = benchmark(__doc__)
    clones = Path(os.environ.get("STOKER_PUBLIC") or "public").absolute()
    rounds = 1 if bench.quick else 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        bench.fact("data", f"{prepare(bench.data, data, images=12_800)}, {rounds} rounds")
        (data / "imagenet").mkdir()
        for part in ("train", "val", "validation"):
            (data / "imagenet" / part).symlink_to(data / "photos")
        for public in ALL:
            if not (clones / public.script).exists():
                bench.fact(public.name, f"skipped: {clones / public.script} is not there")
                continue
            compare(bench, public, clones, folder, rounds)
    bench.finish()


def compare(bench: Benchmark, public: Public, clones: Path, folder: Path, rounds: int) -> None:
    """Run one script in turn, and claim."""
    taken: dict[str, list[Turn]] = {"plain": [], "exact": []}
    for number in range(rounds):
        for variant in ("plain", "exact") if number % 2 == 0 else ("exact", "plain"):
            turn = one(public, clones, folder, variant, 5 if bench.quick else public.steps)
            if turn.failed or not turn.records or turn.records[0].whole is None:
                bench.fact(f"{public.name} failed", f"{variant}, exit status {turn.status}: {turn.output[-500:]}")
                bench.claim(f"{public.name}_ran", 0, "runs", at_least=1)
                return
            taken[variant].append(turn)
    first = taken["plain"][0]
    found = [agreement(first.records, turn.records) for turn in taken["plain"][1:] + taken["exact"]]
    bench.fact(f"{public.name} losses", [each.as_dict() for each in found])
    bench.fact(f"{public.name} loaders", loaders_of(taken["exact"][-1]))
    bench.claim(f"{public.name}_identical", sum(each.difference is None and each.losses > 0 for each in found), "runs", at_least=len(found))
    times = {}
    for variant, runs in taken.items():
        spans = [span for turn in runs if (span := turn.records[0].window or turn.records[0].whole) is not None]
        times[variant] = timing([span.step_s for span in spans], [(span.work_s or 0.0) / max(1, span.steps) for span in spans])
        bench.measured(f"{public.name}_{variant}_step", times[variant], waited_s=sum(span.data_s / max(1, span.steps) for span in spans) / len(spans))
    gain = ratio(times["plain"], times["exact"])
    bench.compared(f"{public.name}: plain / exact", gain)
    bench.fact(f"{public.name} CPU ratio", round(times["plain"].cpu_s / max(times["exact"].cpu_s, 1e-9), 3))
    bench.claim(f"{public.name}_speed", gain.median, "x", at_least=0.98)


def one(public: Public, clones: Path, folder: Path, variant: str, steps: int) -> Turn:
    """Run a script once, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        place, record = Path(name) / "inside" / "run", Path(name) / "record"
        place.mkdir(parents=True)
        record.mkdir()
        if public.data:
            (place / public.data).symlink_to(folder / "data")
        arguments = [argument.replace("{data}", str(folder / "data")) for argument in public.arguments]
        boost = {"STOKER_BOOST": "record" if variant == "plain" else variant, "STOKER_BOOST_QUIET": "1", "STOKER_BOOST_RECORD": str(record)}
        limits = {"STOKER_BOOST_RECORD_SKIP": "5", "STOKER_BOOST_RECORD_STEPS": str(steps), "STOKER_BOOST_RECORD_SEED": "0"}
        return turns.run(
            [sys.executable, str(LAUNCHER), str(clones / public.script), *arguments],
            variant=variant,
            changes={**boost, **limits, "STOKER_UNCHECKED_FOLDER": str(place)},
            enough=lambda: all_at_limit(record),
            read=lambda: read_records(record),
        )


def loaders_of(turn: Turn) -> list[str]:
    """Return what boost said about the loaders."""
    return [f"{note.get('outcome')}: {note.get('what')}: {note.get('why')}" for note in turn.records[0].notes if note.get("kind") == "loader"]


if __name__ == "__main__":
    main()
