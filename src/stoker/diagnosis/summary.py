"""The diagnosis as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.diagnosis.bars import NAMES
from stoker.diagnosis.fixes import Fix, duration
from stoker.diagnosis.observation import Observation, Split
from stoker.diagnosis.verdict import Diagnosis, chief_split
from stoker.runs.columns import fold, printable, terminal_width

_BAR = 30


def summary(observation: Observation, diagnosis: Diagnosis) -> list[str]:
    """Return the lines: verdict, split, fixes, notes."""
    split = chief_split(observation)
    width = min(terminal_width(), 110)
    lines = [*fold(printable(diagnosis.sentence), width), ""]
    if observation.ended is not None:
        lines += [f"The program ended while it was observed: {observation.ended}.", ""]
    if split is not None:
        lines += [*_split(split), ""]
    if diagnosis.fixes:
        lines += ["What to change:", *(line for number, fix in enumerate(diagnosis.fixes, 1) for line in _fix(number, fix, width)), ""]
    lines += [line for note in diagnosis.notes for line in _item("- ", printable(note), width)]
    return lines


def _split(split: Split) -> Iterator[str]:
    if split.step_s is not None:
        yield f"a step: {duration(split.step_s)} (mean of {split.steps:,}, median {duration(split.median_s or 0)})"
    else:
        yield f"the training thread, {split.samples:,} samples"
    stream = "   GPU stream" if split.gpu_shares else ""
    for phase, name in NAMES.items():
        share = split.shares.get(phase, 0.0)
        gpu = (split.gpu_shares or {}).get(phase, 0.0)
        if share < 0.0005 and gpu < 0.0005:
            continue
        time = f"{duration(share * split.step_s):>9}" if split.step_s is not None else ""
        beside = f"   {100 * gpu:5.1f} %" if stream else ""
        yield f"  {name:<20}{100 * share:5.1f} %{time}  {'#' * round(_BAR * share):<{_BAR}}{beside}".rstrip()
    if split.cost is not None:
        yield f"  the observer's own time, not among these: at least {100 * split.cost:.1f} % of a step"


def _fix(number: int, fix: Fix, width: int) -> Iterator[str]:
    gain = "gain not computed" if fix.gain is None else f"{'at most ' if fix.bound else ''}{fix.gain:.2f} x"
    where = f"{fix.where}: " if fix.where else ""
    yield from _item(f"{number}. ", printable(f"{where}{fix.what}"), width)
    yield from _item("   ", printable(f"{gain} = {fix.formula}" if fix.gain is not None else f"{gain}: {fix.formula}"), width)
    if fix.caution:
        yield from _item("   ", printable(f"note: {fix.caution}"), width)


def _item(mark: str, said: str, width: int) -> Iterator[str]:
    first, *more = fold(said, max(20, width - len(mark)))
    yield mark + first
    for line in more:
        yield " " * len(mark) + line
