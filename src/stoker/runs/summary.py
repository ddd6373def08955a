"""A run in a few numbers, final or so far: what the list, the comparison and the report put first."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from stoker.errors import RunBroken
from stoker.runs.fields import number, part
from stoker.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a run. A number that is not known (yet) is None."""

    id: str
    status: str
    """running, done, interrupted, terminated, failed, died or broken."""
    recipe: str | None = None
    epochs: int | None = None
    """Epochs trained."""
    epochs_planned: int | None = None
    test_accuracy: float | None = None
    """A fraction, 0 to 1, after the last epoch."""
    best_test_accuracy: float | None = None
    test_loss: float | None = None
    train_accuracy: float | None = None
    train_loss: float | None = None
    images_per_s: float | None = None
    train_s: float | None = None
    """Time in training steps, without evaluation."""
    total_s: float | None = None
    started: str | None = None
    """ISO 8601."""
    age_s: float | None = None
    """Time since it started."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self)


def summarise(run: Run) -> Summary:
    """Return the summary of a run: the record's result, or while there is none, what its metrics say so far. Never raises RunBroken."""
    status = run.status()
    try:
        record, epochs = run.record(), run.metrics("epoch")
    except RunBroken:
        return Summary(id=run.id, status="broken")
    result = part(record, "result") or _so_far(epochs)
    numbers = ("test_accuracy", "best_test_accuracy", "test_loss", "train_accuracy", "train_loss", "images_per_s", "train_s", "total_s")
    started = record.get("started")
    done = number(result.get("epochs"))
    return Summary(
        id=run.id,
        status=status,
        recipe=str(record["recipe"]) if record.get("recipe") is not None else None,
        epochs=None if done is None else int(done),
        epochs_planned=_planned(record.get("configuration")),
        started=str(started) if started else None,
        age_s=_age_s(started),
        **{name: number(result.get(name)) for name in numbers},
    )


def _so_far(epochs: list[dict[str, Any]]) -> dict[str, Any]:
    if not epochs:
        return {"epochs": 0}
    accuracies = [value for line in epochs if (value := number(line.get("test_accuracy"))) is not None]
    train_s = sum(number(line.get("train_s")) or 0.0 for line in epochs)
    return epochs[-1] | {"epochs": epochs[-1].get("epoch"), "best_test_accuracy": max(accuracies, default=None), "train_s": train_s or None}


def _planned(configuration: Any) -> int | None:
    """Return the number of epochs that was asked for, wherever the configuration keeps it."""
    if not isinstance(configuration, dict):
        return None
    if (own := number(configuration.get("epochs"))) is not None:
        return int(own)
    return next((found for value in configuration.values() if (found := _planned(value)) is not None), None)


def _age_s(started: Any) -> float | None:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return max(0.0, time.time() - datetime.fromisoformat(str(started)).timestamp())
    return None
