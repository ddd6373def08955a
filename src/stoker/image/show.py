"""What an image holds, read from its layout: layers, sizes, stacks and the drivers they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import ImageBroken
from stoker.image import configuration, oci
from stoker.image.oci import read_layout


@dataclass(frozen=True, kw_only=True)
class LayerShown:
    """A layer."""

    title: str
    digest: str
    size: int
    """Bytes, compressed."""
    unpacked_size: int | None
    """Bytes of its tar; None: not said."""


@dataclass(frozen=True, kw_only=True)
class StackShown:
    """A stack of the image."""

    name: str
    torch: str | None
    cuda: str | None
    driver_min: str | None
    driver_full: str | None
    architectures: tuple[str, ...]
    """As ("75", "80")."""
    ptx: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image."""

    name: str
    digest: str
    created: str
    lock: str | None
    """Digest of the lock that it was built from."""
    stoker: str | None
    """The version of the Stoker inside."""
    variants: tuple[str, ...]
    require: str | None
    """NVIDIA_REQUIRE_CUDA."""
    stacks: tuple[StackShown, ...]
    """The newest first, as the start tries them."""
    layers: tuple[LayerShown, ...]
    """The lowest first."""

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed."""
        return sum(layer.size for layer in self.layers)

    @property
    def unpacked_size(self) -> int:
        """Bytes of all layers, as tars."""
        return sum(layer.unpacked_size or 0 for layer in self.layers)


def shown(folder: Path) -> Shown:
    """Read an image from its layout. Raises ImageBroken."""
    layout = read_layout(folder)
    settings = layout.config.get("config") or {}
    labels: Mapping[str, str] = settings.get("Labels") or {}
    environment = dict(str(row).partition("=")[::2] for row in settings.get("Env") or [])
    try:
        stacks = tuple(_stack(row) for row in json.loads(labels.get(configuration.STACKS, "[]")))
    except (ValueError, KeyError, TypeError) as error:
        raise ImageBroken(f"{folder}: the label {configuration.STACKS} cannot be read ({error})", hint="run `stoker image build` again") from error
    return Shown(
        name=labels.get(configuration.TITLE, ""),
        digest=layout.digest,
        created=labels.get(configuration.CREATED, str(layout.config.get("created", ""))),
        lock=labels.get(oci.LOCK),
        stoker=labels.get(configuration.VERSION),
        variants=tuple(labels.get(configuration.VARIANTS, "").split()),
        require=environment.get("NVIDIA_REQUIRE_CUDA"),
        stacks=stacks,
        layers=tuple(
            LayerShown(title=layer.title, digest=layer.blob.digest, size=layer.blob.size, unpacked_size=layer.blob.unpacked_size or None)
            for layer in layout.layers
        ),
    )


def _stack(row: Mapping[str, Any]) -> StackShown:
    return StackShown(
        name=str(row["name"]),
        torch=row["torch"],
        cuda=row["cuda"],
        driver_min=row["driver_min"],
        driver_full=row["driver_full"],
        architectures=tuple(map(str, row["architectures"])),
        ptx=bool(row["ptx"]),
    )
