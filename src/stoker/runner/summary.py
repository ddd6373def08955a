"""A comparison in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.diagnosis.steps import PHASES
from stoker.runner.losses import table
from stoker.runner.outcome import PLAIN, Outcome

UNREPEATABLE = (
    "random numbers that are not seeded (numpy's default_rng(), os.urandom), the order of a set or of a folder, the clock, or, on a GPU, "
    "kernels that are not deterministic: torch.use_deterministic_algorithms(True)"
)


def lines(outcome: Outcome) -> Iterator[str]:
    """Return the lines of the whole summary."""
    yield ""
    without = f" without {', '.join(outcome.off)}" if outcome.off else ""
    yield f"{outcome.command}: plain and {outcome.tier}{without}"
    yield from _times(outcome)
    yield from _phases(outcome)
    yield from _losses(outcome)
    yield from _notes(outcome)


def _times(outcome: Outcome) -> Iterator[str]:
    unit = "a step" if outcome.steps else "in all"
    for variant in (PLAIN, outcome.tier):
        found, waited_s = outcome.timing(variant), outcome.waited_s(variant)
        if found is None:
            yield f"  {variant:6} could not be timed: fewer than three steps after the warm-up, and no data loader"
            continue
        yield (
            f"  {variant:6} {_ms(found.median_s)} {unit} ({_ms(found.low_s)} to {_ms(found.high_s)}, n={found.n}), "
            f"CPU of all processes {_ms(found.cpu_s)}, waited for data {_ms(waited_s or 0.0)}"
        )
    if (ratio := outcome.ratio) is not None:
        work = f"; CPU seconds {outcome.work_ratio:.2f} times less" if outcome.work_ratio else ""
        yield f"  ratio  {ratio} times faster{work}"


def _phases(outcome: Outcome) -> Iterator[str]:
    plain, boosted = outcome.phases.get(PLAIN), outcome.phases.get(outcome.tier)
    if not plain or not boosted:
        return
    yield "  where the time of a step goes (runs of their own, observed; without evaluations and starts of epochs):"
    yield f"    {'':10} {PLAIN:>10} {outcome.tier:>10}"
    for phase in PHASES:
        if plain[phase] >= 5e-6 or boosted[phase] >= 5e-6:
            yield f"    {phase:10} {_ms(plain[phase]):>10} {_ms(boosted[phase]):>10}"


def _losses(outcome: Outcome) -> Iterator[str]:
    plain, worst = outcome.repeatable, outcome.worst
    if worst is None or not (plain.losses or plain.difference):
        return
    if plain.difference is not None:
        yield f"  two plain runs part at {plain.difference}: beyond it nothing can be compared. Causes: {UNREPEATABLE}"
        if not outcome.verified:
            yield "    (--verify gives every run the same random states at its beginning)"
    if outcome.tier == "exact":
        if worst.difference is None:
            weights = {True: "; the weights at the end too", False: "", None: ""}[worst.weights]
            yield f"  losses: {worst.losses} are the same to the bit, plain and boosted{weights}"
        else:
            yield f"  losses: plain and boosted part at {worst.difference} ({worst.losses} before it are the same)"
        return
    yield f"  losses: {'number':>8} {PLAIN:>12} {outcome.tier:>12} {'relative difference':>20}"
    for row in table(outcome.of(PLAIN)[0].records[0], outcome.of(outcome.tier)[0].records[0]):
        yield f"          {row.loss:>8} {row.one:>12.6g} {row.other:>12.6g} {row.relative:>20.2e}"


def _notes(outcome: Outcome) -> Iterator[str]:
    for note in outcome.notes:
        yield f"  {note.get('outcome')}: {note.get('what')} ({note.get('where') or note.get('part')}): {note.get('why')}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 10 else f"{seconds:.3g} s"
