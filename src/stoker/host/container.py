"""The container around this process, if there is one, and the digest of its image."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from stoker.host.place import filesystem_root, read

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Container:
    """What holds this process."""

    engine: str
    """podman, docker, kubernetes, apptainer or container (some other one)."""
    image_digest: str | None
    """`sha256:...` from STOKER_IMAGE_DIGEST or /etc/stoker/image-digest, which our images have; None: not told."""


def find_container(root: Path | None = None) -> Container | None:
    """Return the container, or None when this process runs on the machine itself."""
    root = root or filesystem_root()
    engine = _engine(root)
    return Container(engine=engine, image_digest=_digest(root)) if engine else None


def _engine(root: Path) -> str | None:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "singularity.d").exists() or (root / ".singularity.d").exists():
        return "apptainer"
    return "container" if (read(root / "run/systemd/container") or os.environ.get("container")) else None  # noqa: SIM112 (systemd's name)


def _digest(root: Path) -> str | None:
    text = os.environ.get("STOKER_IMAGE_DIGEST") or read(root / "etc/stoker/image-digest") or ""
    found = _DIGEST.search(text)
    return found.group(0) if found else None
