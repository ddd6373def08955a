"""What every part of close and fast can do: say whether it fits a training, and be switched on and off between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch.optim import Optimizer

if TYPE_CHECKING:
    from stoker.boost.models.training import Training


class Way(Protocol):
    """One way to do a step otherwise."""

    name: str
    """Its part: one of `parts.PARTS`."""
    rehearsed: bool
    """Whether copies of the models have to run in it first."""
    told: str
    """What it does, for --explain: `bfloat16 autocast`."""

    def fits(self, training: Training) -> str | None:
        """Return why it is not to be tried, None when it is."""
        ...

    def on(self, training: Training) -> None:
        """Switch it on: between two steps, never within one."""
        ...

    def off(self, training: Training) -> None:
        """Switch it off again, leaving nothing."""
        ...

    def joined(self, optimizer: Optimizer) -> None:
        """Take in an optimizer that is made while it is on."""
        ...
