"""What every part of close and fast can do, and what it needs to know of what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer


class CompiledCall(Protocol):
    """A model's call, compiled for one kind of call."""

    def takes(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, calls: int) -> bool:
        """Whether a call is of that kind."""
        ...

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it."""
        ...


class Model(Protocol):
    """A model where it is called."""

    device: torch.device
    wrapper: str | None
    own_autocast: bool
    autocast: bool
    layout: bool
    operations: bool
    compiled: CompiledCall | None

    @property
    def module(self) -> nn.Module | None:
        """The module that is called; None when it is gone."""
        ...

    @property
    def root(self) -> nn.Module | None:
        """The user's own module inside."""
        ...


class Group(Protocol):
    """Models and optimizers that train together."""

    @property
    def entries(self) -> Sequence[Model]:
        """All models."""
        ...

    def able(self) -> Sequence[Model]:
        """Return the models that have passed the last rehearsal."""
        ...

    def optimizers(self) -> list[Optimizer]:
        """Return the optimizers that are alive."""
        ...


class Way(Protocol):
    """One way to do a step otherwise."""

    name: str
    """Its part: one of `parts.PARTS`."""
    rehearsed: bool
    """Whether copies of the models have to run in it first."""
    told: str
    """What it does, for --explain: `bfloat16 autocast`."""

    def fits(self, training: Group) -> str | None:
        """Return why it is not to be tried, None when it is."""
        ...

    def on(self, training: Group) -> None:
        """Switch it on: between two steps, never within one."""
        ...

    def off(self, training: Group) -> None:
        """Switch it off again, leaving nothing."""
        ...

    def joined(self, optimizer: Optimizer) -> None:
        """Take in an optimizer that is made while it is on."""
        ...
