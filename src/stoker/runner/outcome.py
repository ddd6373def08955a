"""What a comparison found: runs of both kinds, their ratios, and how far their losses agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from stoker.measure import Ratio, Timing, ratio, timing
from stoker.runner.losses import Agreement, agreement, table
from stoker.runner.records import Record, Span
from stoker.runner.turns import Turn

PLAIN = "plain"


@dataclass(kw_only=True)
class Outcome:
    """Runs of a program, in the order in which they ran."""

    command: str
    tier: str
    off: tuple[str, ...]
    verified: bool
    """Whether all runs began with the same random states."""
    turns: tuple[Turn, ...]
    phases: dict[str, dict[str, float] | None] = field(default_factory=dict)
    """By variant: mean seconds of a step by phase."""

    def of(self, variant: str) -> list[Turn]:
        """Return the runs of one kind."""
        return [turn for turn in self.turns if turn.variant == variant]

    @property
    def steps(self) -> bool:
        """Whether every run did enough steps to be timed; otherwise whole runs are compared (a script that only evaluates)."""
        return all(_chief(turn).window is not None for turn in self.turns)

    def spans(self, variant: str) -> list[Span]:
        """Return what was timed in each run: the window after the warm-up, or the whole of it; of the first rank, with the work of all."""
        found = []
        for turn in self.of(variant):
            spans = [record.window if self.steps else record.whole for record in turn.records]
            known = [span for span in spans if span is not None]
            if known:
                works = [span.work_s for span in known]
                work_s = None if any(work is None for work in works) else sum(work for work in works if work is not None)
                chief = known[0]
                found.append(Span(seconds=chief.seconds, steps=chief.steps, data_s=chief.data_s, work_s=work_s))
        return found

    def timing(self, variant: str) -> Timing | None:
        """Return wall seconds a step (of the whole run when there are no steps), a sample a run; CPU seconds beside it, of all processes."""
        spans = self.spans(variant)
        if not spans or len(spans) != len(self.of(variant)):
            return None
        walls = [span.step_s if self.steps else span.seconds for span in spans]
        works = [(span.work_s or 0.0) / (max(1, span.steps) if self.steps else 1) for span in spans]
        return timing(walls, works)

    def waited_s(self, variant: str) -> float | None:
        """Return seconds a step (of the whole run when there are no steps) that the first rank waited for batches: mean over the runs."""
        spans = self.spans(variant)
        values = [span.data_s / (max(1, span.steps) if self.steps else 1) for span in spans]
        return sum(values) / len(values) if values else None

    @property
    def ratio(self) -> Ratio | None:
        """How many times longer a plain step takes."""
        plain, boosted = self.timing(PLAIN), self.timing(self.tier)
        return ratio(plain, boosted) if plain is not None and boosted is not None and plain.n == boosted.n else None

    @property
    def work_ratio(self) -> float | None:
        """How many times more CPU seconds a plain step takes, all processes together."""
        plain, boosted = self.timing(PLAIN), self.timing(self.tier)
        return plain.cpu_s / boosted.cpu_s if plain is not None and boosted is not None and boosted.cpu_s > 0 else None

    @property
    def repeatable(self) -> Agreement:
        """How far the plain runs agree with each other: beyond that nothing can be said. A single one is taken to agree with itself."""
        first, *others = self.of(PLAIN)
        return min((agreement(first.records, other.records) for other in others or [first]), key=_rank)

    @property
    def worst(self) -> Agreement | None:
        """How far plain and boosted runs agree at the least, no further than the plain ones with each other."""
        limit = self.repeatable
        first = self.of(PLAIN)[0]
        found = [agreement(first.records, turn.records) for turn in self.of(self.tier)]
        if not found:
            return None
        least = min(found, key=_rank)
        if limit.difference is not None and least.losses >= limit.losses:
            return Agreement(losses=limit.losses, weights=None, difference=None)
        return least

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What boost noted in the last boosted run, first rank."""
        boosted = self.of(self.tier)
        return _chief(boosted[-1]).notes if boosted else []

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain, boosted, worst = self.of(PLAIN), self.of(self.tier), self.worst
        timings = {name: found for name in (PLAIN, self.tier) if (found := self.timing(name)) is not None}
        return {
            **{"command": self.command, "tier": self.tier, "off": list(self.off), "unit": "step" if self.steps else "run"},
            "timings": {name: {**asdict(found), "waited_s": self.waited_s(name)} for name, found in timings.items()},
            "ratio": None if self.ratio is None else asdict(self.ratio),
            "cpu_ratio": self.work_ratio,
            "phases_s": self.phases,
            "verified": self.verified,
            "plain_runs_agree": self.repeatable.as_dict(),
            "boosted_agree": None if worst is None else worst.as_dict(),
            "losses": [asdict(row) for row in table(_chief(plain[0]), _chief(boosted[0]))] if boosted else [],
            "runs": [_run(turn) for turn in self.turns],
            "notes": self.notes,
        }


def _chief(turn: Turn) -> Record:
    return turn.records[0]


def _rank(found: Agreement) -> tuple[int, int]:
    """Order agreements: those with a difference first, the earliest of them first."""
    return (0 if found.difference is not None else 1, found.losses)


def _run(turn: Turn) -> dict[str, Any]:
    record = _chief(turn)
    spans = {name: None if span is None else asdict(span) for name, span in (("window", record.window), ("whole", record.whole))}
    processes = [{"steps": len(each.steps), "losses": len(each.losses), "batches": each.batches, "weights": each.weights} for each in turn.records]
    return {
        "variant": turn.variant,
        "stopped": turn.stopped,
        "wall_s": turn.wall_s,
        "median_step_s": record.median_step_s,
        **spans,
        "processes": processes,
    }
