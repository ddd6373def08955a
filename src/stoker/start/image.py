"""What an image says about itself inside: its stacks, the newest first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import ImageBroken, UsageError
from stoker.host import filesystem_root

IMAGE = "etc/stoker/image.json"
STACKS = "opt/stoker"


@dataclass(frozen=True, kw_only=True)
class ImageStack:
    """One Python environment of the image, under `/opt/stoker/<name>`."""

    name: str
    """As `cu130`; `cpu`; `plain` without PyTorch."""
    torch: str | None
    """As `2.13.0`; None: an image without PyTorch."""
    cuda: str | None
    """As `13.0`; None: for the CPU."""

    @property
    def says(self) -> str:
        """The stack for people, as `cu130 (torch 2.13.0, CUDA 13.0)`."""
        parts = [f"torch {self.torch}" if self.torch else "no PyTorch", f"CUDA {self.cuda}" if self.cuda else "CPU"]
        return f"{self.name} ({', '.join(parts if self.torch else parts[:1])})"


@dataclass(frozen=True, kw_only=True)
class Image:
    """The image around this process."""

    name: str
    machine: str
    """`x86_64` or `aarch64`."""
    variants: tuple[str, ...]
    stacks: tuple[ImageStack, ...]
    """The newest first; at least one."""


def read_image(root: Path | None = None) -> Image:
    """Return what the image says. Raises UsageError outside an image, ImageBroken where its file cannot be read."""
    path = (root or filesystem_root()) / IMAGE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            "this is not inside an image of Stoker: there are no stacks to choose from",
            hint="`stoker image build` makes one; outside of it `stoker doctor` and `stoker resolve` say what fits this machine",
        ) from error
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    try:
        return _image(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(path, error) from error


def _image(told: dict[str, Any]) -> Image:
    stacks = tuple(ImageStack(name=_text(one["name"]), torch=_maybe(one["torch"]), cuda=_maybe(one["cuda"])) for one in told["stacks"])
    if not stacks:
        raise ValueError("it names no stack")
    return Image(name=_text(told["name"]), machine=_text(told["machine"]), variants=tuple(map(_text, told["variants"])), stacks=stacks)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _maybe(value: Any) -> str | None:
    return None if value is None else _text(value)


def _broken(path: Path, error: Exception) -> ImageBroken:
    why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return ImageBroken(
        f"/{IMAGE} of this image cannot be used: {why} ({path})",
        hint="the file belongs to the image: build it again, or start it without a mount there",
    )
