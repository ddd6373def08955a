"""What is said often, and wrong, about PyTorch and CUDA, to be put right when a question touches it."""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass

from stoker.catalog.cuda import find_branch
from stoker.catalog.stack import Question
from stoker.catalog.tables import Row, rows


@dataclass(frozen=True, kw_only=True)
class Myth:
    """A wrong belief and what is true."""

    says: str
    truth: str
    torch: tuple[str, ...]
    """It is about these releases (`2.8`: all of 2.8); empty: about any."""
    cuda: tuple[str, ...]
    """It is about these CUDA versions; empty: see the next two."""
    any_cuda: bool
    """It is about whoever asks for a CUDA."""
    driver_cuda: bool
    """It is about whoever asks for the CUDA that nvidia-smi shows."""
    source: str
    checked: datetime.date

    def touches(self, question: Question) -> bool:
        """Whether a question may come from this belief."""
        if self.torch and not any(question.torch == version or (question.torch or "").startswith(version + ".") for version in self.torch):
            return False
        if self.cuda and question.cuda not in self.cuda:
            return False
        if self.any_cuda and question.cuda in (None, "cpu"):
            return False
        branch = find_branch(question.driver) if question.driver else None
        return not self.driver_cuda or (branch is not None and branch.cuda == question.cuda)


def myths_about(question: Question) -> tuple[Myth, ...]:
    """Return the myths that a question touches. Raises BadValue when the table is broken."""
    return tuple(myth for myth in _myths() if myth.touches(question))


@functools.cache
def _myths() -> tuple[Myth, ...]:
    return tuple(_myth(row) for row in rows("myths.toml", "myth"))


def _myth(row: Row) -> Myth:
    myth = Myth(
        says=row.text("says"),
        truth=row.text("truth"),
        torch=row.texts("torch"),
        cuda=row.texts("cuda"),
        any_cuda=row.flag("any_cuda"),
        driver_cuda=row.flag("driver_cuda"),
        source=row.text("source"),
        checked=row.date("checked"),
    )
    row.end()
    return myth
