"""One transform of a user's pipeline, taken apart: what it draws, what it does with the drawn numbers, what the image looks like afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.watch import Watch
from stoker.boost.replay.stream import Stream

Family = Literal["v1", "v2", "own"]


class Step(Protocol):
    """What the engines know of a transform. Steps hold their own copies of the parameters: changing the user's object does not change them."""

    @property
    def of(self) -> Any:
        """The user's object."""
        ...

    @property
    def name(self) -> str:
        """As the user would write it: `RandomCrop(32, padding=4)`."""
        ...

    @property
    def draws(self) -> bool:
        """Whether it may take numbers from a random stream."""
        ...

    @property
    def serial(self) -> bool:
        """Whether it must run in `draw`, sample after sample: user code that draws from the global generators or that has side effects,
        or whose result decides what a later step draws. For a serial step `draw` draws nothing: `apply` runs with the stream made global."""
        ...

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        """Draw the parameters for one sample that looks like `look`, exactly as the user's transform would.

        Returns them (None when there are none) and the look afterwards; a look of None is one that nobody knows before the pixels are there
        (behind code of the user's own). Raises `Unfit` where a drawing step gets a look it cannot work from, and where the user's transform
        would raise.
        """
        ...

    def apply(self, image: Any, drawn: Any) -> Any:
        """Return what the user's transform returns for these drawn numbers, bit for bit. Callable from any thread, unless `serial`.
        Like the user's transform it may write into `image` when that was asked for (`inplace=True`)."""
        ...

    def words(self, look: Look) -> int | None:
        """Return how many raw 32-bit outputs of torch's generator every such sample takes: 0 when it draws nothing; None when that varies
        from sample to sample or other streams are used."""
        ...

    def params(self, words_BK: np.ndarray, look: Look) -> Any:
        """Return for B samples at once what `draw` would draw, from uint32 words [B, K], K = `words(look)`; the type is each step's own."""
        ...

    def after(self, look: Look) -> Look:
        """Return the look afterwards, for steps whose result looks the same whatever is drawn. Raises `Unfit` for all others, and where the
        user's transform would raise."""
        ...

    def current(self) -> bool:
        """Whether the user's object still is what was recognised."""
        ...


@dataclass(frozen=True, kw_only=True)
class Known:
    """What all recognised steps share: a step that draws nothing, unless its class says otherwise."""

    of: Any = field(repr=False)
    """The user's object. Never called: it may change while batches are under way."""
    twin: Any = field(repr=False)
    """A private copy of it, of the moment of recognition."""
    watch: Watch = field(repr=False)
    family: Family
    """`torchvision.transforms` (v1) or `torchvision.transforms.v2`."""
    name: str

    @property
    def draws(self) -> bool:
        return False

    @property
    def serial(self) -> bool:
        return False

    def current(self) -> bool:
        return self.watch.same()

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        return None, None if look is None else self.after(look)

    def apply(self, image: Any, drawn: Any) -> Any:
        return self.twin(image)

    def words(self, look: Look) -> int | None:
        return 0

    def params(self, words_BK: np.ndarray, look: Look) -> Any:
        return None

    def after(self, look: Look) -> Look:
        return look
