"""The configuration of an image: environment, user, entry point, labels, history; all of it from the lock.

Labels:

- `org.opencontainers.image.created`: the moment of the lock, not of the build, which would make every build another image.
- `org.opencontainers.image.title`, `.version`: the image's name, and the PyTorch of its newest stack.
- `org.opencontainers.image.revision`, `.source`: only with `build --git`: the commit of the stoker.lock, and the repository that it came from.
  Not by default: the same lock would be another image after every commit.
- `org.opencontainers.image.base.digest`: of an OCI base.
- `dev.stoker.lock`: digest of the lock, or of the part of it that was built.
- `dev.stoker.variants`: as `cli notebook`.
- `dev.stoker.version`: the Stoker inside.
- `dev.stoker.stacks`: JSON, one object a stack, the newest first: what `stoker image show` and a scheduler need without unpacking a layer.
- `dev.stoker.driver-min`: the oldest NVIDIA driver on which any of the stacks runs; absent without CUDA.

NVIDIA's variables:

- `NVIDIA_REQUIRE_CUDA` lets NVIDIA's container runtime refuse a host whose driver is too old before anything starts. The condition is that of
  the least demanding stack, because the start picks the stack. It is the oldest driver that runs it (minor-version compatibility), not the
  CUDA that PyTorch was built with: CUDA 12.8 runs on a driver of CUDA 12.0. `cuda>=` stands first, since for it alone the runtime's message
  says that the driver must be updated.
- `NVIDIA_DRIVER_CAPABILITIES`: `compute,utility`, that is libcuda and nvidia-smi.
- `NVIDIA_VISIBLE_DEVICES` is not set: with it a container gets every GPU where the NVIDIA runtime is the default one, on Kubernetes also a pod
  that asked for none. `--gpus`, CDI and the device plugins set it, or need none.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from stoker.catalog.cuda import find_branch
from stoker.catalog.versions import version_numbers
from stoker.image import oci
from stoker.image.lock import Lock, LockedStack
from stoker.image.oci import Layer

STACKS = "dev.stoker.stacks"
VARIANTS = "dev.stoker.variants"
VERSION = "dev.stoker.version"
DRIVER_MIN = "dev.stoker.driver-min"
TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"

_PATH = "/opt/stoker/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SSH_PORT, _NOTEBOOK_PORT = "2222/tcp", "8888/tcp"


def image_configuration(
    lock: Lock, layers: Sequence[Layer], *, init: Sequence[str], command: Sequence[str], labels: Mapping[str, str], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the OCI image configuration (OCI image spec 1.1) of these layers.

    `labels` come on top of those of the lock; `base` is the `config` of an OCI base, whose environment and labels stay where ours say nothing.
    """
    created = created_text(lock)
    return {
        "architecture": _ARCHITECTURES[lock.machine],
        "os": "linux",
        "created": created,
        "config": {
            "User": "stoker",
            "WorkingDir": "/workspace",
            "Entrypoint": list(init),
            "Cmd": list(command),
            "Env": [f"{name}={value}" for name, value in sorted({**_base_environment(base), **environment(lock)}.items())],
            "ExposedPorts": {port: {} for port in _ports(lock)},
            "Labels": {**(base.get("Labels") or {}), **image_labels(lock), **labels},
            # What sshd, Jupyter and a training script end on; the init passes it on.
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.blob.diff_id for layer in layers]},
        "history": [{"created": created, "created_by": f"stoker image build: {layer.title}"} for layer in layers],
    }


def environment(lock: Lock) -> dict[str, str]:
    """Return the environment variables of the image."""
    found = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/home/stoker"}
    requirement = driver_requirement(lock)
    if requirement:
        found["NVIDIA_REQUIRE_CUDA"] = requirement
    if oldest_driver(lock):
        found["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
    return found


def driver_requirement(lock: Lock) -> str | None:
    """Return the value of NVIDIA_REQUIRE_CUDA, as `cuda>=12.0,driver>=525.60.13` (a comma is "and"); None when a stack needs no driver."""
    oldest = oldest_driver(lock)
    if oldest is None or any(stack.cuda is None for stack in lock.stacks):
        return None
    branch = find_branch(oldest)
    return ",".join([*([f"cuda>={branch.cuda}"] if branch else []), f"driver>={oldest}"])


def oldest_driver(lock: Lock) -> str | None:
    """Return the oldest driver on which any of the CUDA stacks runs; None without CUDA."""
    return min((stack.driver_min for stack in lock.stacks if stack.driver_min), key=version_numbers, default=None)


def image_labels(lock: Lock) -> dict[str, str]:
    """Return the labels: see the top of this file."""
    newest = lock.stacks[0] if lock.stacks else None
    oldest = oldest_driver(lock)
    return {
        CREATED: created_text(lock),
        TITLE: lock.name,
        **({"org.opencontainers.image.version": newest.torch} if newest and newest.torch else {}),
        **({"org.opencontainers.image.base.digest": lock.base.digest} if lock.base.digest else {}),
        oci.LOCK: lock.digest,
        VARIANTS: " ".join(lock.variants),
        VERSION: lock.own.version,
        STACKS: json.dumps([_stack(stack) for stack in lock.stacks], sort_keys=True, separators=(",", ":")),
        **({DRIVER_MIN: oldest} if oldest else {}),
    }


def created_text(lock: Lock) -> str:
    """Return the moment of the lock as RFC 3339 says."""
    return datetime.datetime.fromtimestamp(lock.created, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stack(stack: LockedStack) -> dict[str, Any]:
    return {
        "name": stack.name,
        "torch": stack.torch,
        "cuda": stack.cuda,
        "driver_min": stack.driver_min,
        "driver_full": stack.driver_full,
        "architectures": list(stack.architectures),
        "ptx": stack.ptx,
    }


def _base_environment(base: Mapping[str, Any]) -> dict[str, str]:
    rows = [str(row).partition("=") for row in base.get("Env") or []]
    return {name: value for name, _, value in rows}


def _ports(lock: Lock) -> list[str]:
    return [port for variant, port in (("ssh", _SSH_PORT), ("notebook", _NOTEBOOK_PORT)) if variant in lock.variants]
