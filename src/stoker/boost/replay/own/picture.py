"""An image that a `__getitem__` of the script's would open: which file, as which mode, and the transforms that it is then given to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stoker.boost.replay.unfit import Unfit

MODES = ("RGB", "L")


@dataclass(eq=False)
class Handle:
    """A file opened by `open(path, "rb")`, or by `Image.open(path)` in a `with`."""

    path: str
    closed: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """Stands for the image while the rest of a `__getitem__` is evaluated."""

    handle: Handle
    mode: str | None = None
    """What it is converted to; None: it is as the file has it, and read when somebody needs its pixels."""
    loader: Any = None
    """torchvision's function that opens it, None where the script does."""
    chain: tuple[Any, ...] = ()
    """The objects that it was given to, one after the other."""

    def converted(self, mode: Any) -> Picture:
        """Return what `convert(mode)` makes. Raises Unfit for what is not followed."""
        self.check_open()
        if mode not in MODES or self.chain or self.mode not in (None, mode):
            raise Unfit(f"converts an image to {mode!r} where that is not followed")
        return replace(self, mode=mode)

    def given_to(self, transform: Any) -> Picture:
        """Return what `transform(image)` makes. Raises Unfit where the image can no longer be read then."""
        self.check_open()
        return replace(self, chain=(*self.chain, transform))

    def check_open(self) -> None:
        """Raise Unfit where the file was closed before the image was read."""
        if self.mode is None and not self.chain and self.handle.closed:
            raise Unfit("uses an image whose file is closed")
