"""Code of the user's own in a pipeline, and transforms that are not taken apart: they run as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stoker.boost.replay.harmless import Harmless, judge
from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.step import Step
from stoker.boost.replay.steps.watch import Watch
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A callable that is called as it is, for every sample. Nobody knows what the image looks like behind it."""

    of: Any = field(repr=False)
    """The user's object; this one is called, not a copy: it may hold state."""
    watches: tuple[Watch, ...] = field(repr=False)
    name: str
    """With the place of its code: `Lambda(<lambda>, train.py:12)`."""
    draws: bool
    """Whether it may draw from the global generators."""
    serial: bool
    reason: str | None
    """Why others could see it run in this process instead of a worker's; None: nobody can."""
    inner: tuple[Step, ...] = ()
    """The steps of a container that runs as a whole."""
    verdict: Harmless | None = field(default=None, repr=False)
    """What was found about the user's code, and what it rests on."""

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        return None, None

    def apply(self, image: Any, drawn: Any) -> Any:
        return self.of(image)

    def words(self, look: Look) -> int | None:
        return None if self.draws else 0

    def params(self, words_BK: np.ndarray, look: Look) -> Any:
        return None

    def after(self, look: Look) -> Look:
        raise Unfit(f"nobody knows what {self.name} makes")

    def current(self) -> bool:
        same = all(watch.same() for watch in self.watches) and all(step.current() for step in self.inner)
        return same and (self.verdict is None or self.verdict.current())


def user_code(of: Any, inner: Any = None) -> Unknown:
    """Return the step for a callable of the user's; `inner` is the function inside a `Lambda`."""
    code = of if inner is None else inner
    verdict = judge(code)
    name = _named(code) if inner is None else f"Lambda({_named(code)})"
    if not isinstance(verdict, Harmless):
        # Not watched: it may change itself with every call, and it is the user's own object that is called.
        return Unknown(of=of, watches=(), name=name, draws=True, serial=True, reason=verdict)
    watches = (Watch(of),) if inner is None else (Watch(of), Watch(inner))
    return Unknown(of=of, watches=watches, name=name, draws=verdict.draws, serial=verdict.draws, reason=None, verdict=verdict)


def as_it_is(of: Any, draws: bool = True) -> Unknown:
    """Return the step for an unchanged transform of torchvision's that is not taken apart: it draws from the global generators at most."""
    return Unknown(of=of, watches=(Watch(of),), name=f"{type(of).__name__}(...)", draws=draws, serial=draws, reason=None)


def unlike(of: Any, reason: str) -> Unknown:
    """Return the step for what looks like something known and is not: nobody knows what it does."""
    return Unknown(of=of, watches=(), name=f"{type(of).__name__}(...)", draws=True, serial=True, reason=reason)


def _named(code: Any) -> str:
    """Return the name of a callable and, where it is known, the line where it stands."""
    name = getattr(code, "__qualname__", type(code).__qualname__).split("<locals>.")[-1]
    function = getattr(code, "__func__", code)
    lines = getattr(function, "__code__", None)
    if lines is None:
        found = [lookup for lookup in ("forward", "__call__") if hasattr(type(code), lookup)]
        lines = getattr(getattr(type(code), found[0]), "__code__", None) if found else None
    return name if lines is None else f"{name}, {Path(lines.co_filename).name}:{lines.co_firstlineno}"
