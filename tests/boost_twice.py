"""Runs one pipeline plainly and boosted in this process, and says in what the two differ."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import stoker.boost
from stoker.boost import guard
from stoker.boost.notes import NOTES, Note
from tests.boost_pipelines import Pipeline, first_difference, trace


@dataclass(kw_only=True)
class Twice:
    """What came of both runs."""

    difference: str
    """An empty text when the script cannot tell them apart."""
    notes: list[Note]
    said: str
    """What boost said on stderr."""
    raised: bool
    """Whether anything was raised in the plain run."""

    @property
    def replayed(self) -> int:
        """Batches that replay made, those of the checks not counted."""
        return sum(note.numbers.get("batches", 0) - note.numbers.get("plain_batches", 0) for note in self.notes if note.kind == "loader")

    @property
    def reasons(self) -> list[str]:
        """Why loaders were not replayed."""
        return [f"{note.what}: {note.why}" for note in self.notes if note.kind == "loader" and note.outcome != "applied"]

    @property
    def wrong(self) -> list[str]:
        """Reasons that are no honest decline: boost itself broke, or its bits were not PyTorch's and only the check saved the script."""
        words = ("differ",) if self.raised else ("differ", "Error", "could not", "failed", "was changed", "were changed")
        found = [reason.split(": ", 1)[1] for reason in self.reasons]
        return [why for why in found if any(word in why for word in words) and "is outside" not in why and "its first sample" not in why]


def twice(pipeline: Pipeline, folder: Path, *, pace: bool = False) -> Twice:
    """Run `pipeline` plainly, then under `stoker.boost.on("exact")`. `pace`: let the check decline what would not be faster."""
    plain = trace(pipeline, folder)
    raised = any(isinstance(event, tuple) and len(event) == 2 and isinstance(event[1], str) for event in plain)
    guard._said.clear()
    said = io.StringIO()
    patch = contextlib.nullcontext() if pace else mock.patch("stoker.boost.replay.check.Check._slower", return_value=False)
    with mock.patch.dict(os.environ, {"STOKER_BOOST_QUIET": "1"}), contextlib.redirect_stderr(said), patch:
        stoker.boost.on("exact", off=["allocator"])
        try:
            boosted = trace(pipeline, folder)
            notes = list(NOTES.kept)
        finally:
            stoker.boost.off()
    ours = "\n".join(line for line in said.getvalue().splitlines() if "stoker" in line)
    return Twice(difference=first_difference(boosted, plain), notes=notes, said=ours, raised=raised)
