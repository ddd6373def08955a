"""The layers of an image by their names in the store: each is a hash of all that decides the bytes of the layer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from stoker.image.baselayer import base_key
from stoker.image.compression import Compression
from stoker.image.layers import LayerPlan, plan_layers
from stoker.image.lock import Lock


@dataclass(frozen=True, kw_only=True)
class Names:
    """The layers of ours in an image, by name."""

    first: str
    """Debian; on an OCI base what has to go on top of it."""
    plans: tuple[LayerPlan, ...]
    """Those of the wheels, the lowest first."""
    own: str
    """Stoker."""
    rootfs: str
    """Settings."""

    def all(self) -> tuple[tuple[str, str], ...]:
        """Return title and name of each, the lowest first."""
        wheels = ((plan.title, plan.key) for plan in self.plans)
        return (("base", self.first), *wheels, ("stoker", self.own), ("settings", self.rootfs))


def layer_names(lock: Lock, compression: Compression) -> Names:
    """Return the names of the layers that the image of a lock has."""
    # Another version of the compressor gives other bytes, and so other layers.
    kind = f"{compression} {lock.compression}"
    debs = _name("debs", *(deb.sha256 for deb in lock.base.debs), lock.base.digest or "")
    return Names(
        first=_name("base" if lock.base.kind == "debian" else "additions", base_key(lock), kind),
        plans=plan_layers(lock, compression=compression),
        own=_name("own", lock.own.sha256, lock.python, debs, kind),
        rootfs=_name("rootfs", lock.digest, lock.own.sha256, kind),
    )


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
