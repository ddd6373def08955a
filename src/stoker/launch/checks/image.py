"""Whether the image is there, is for this machine, and has a stack that this machine's driver runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from stoker.doctor.finding import Finding, Severity
from stoker.host.driver import version_numbers
from stoker.launch import labels
from stoker.launch.checks.gathering import Before

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def image_missing(before: Before) -> Iterator[Finding]:
    """The engine does not have the image. Stoker pulls nothing by itself."""
    site = before.site
    if site.image is not None or site.engine.answers is not None:
        return
    yield Finding(
        severity=Severity.ERROR,
        what=f"{site.engine.name} has no image {site.image_name}",
        evidence=(f"{site.engine.name} image inspect {site.image_name}: no such image", *_lies_here(before)),
        consequence="there is nothing to start",
        fix=_make(before),
    )


def _lies_here(before: Before) -> tuple[str, ...]:
    return (f"in {before.site.wanted.project}: {', '.join(before.sources)}",) if before.sources and before.site.wanted.image is None else ()


def _make(before: Before) -> str:
    """Return the command that brings the image, by what lies in the project."""
    site = before.site
    project = site.wanted.project
    file = "" if project is None or _is_here(project) else f" -f {project}/stoker.toml"
    build = f"stoker image build{file} --load {site.engine.name}"
    if site.wanted.image is not None or not before.sources:
        # No registry has what was built on a machine: podman calls that `localhost/...`.
        made_here = f"stoker image build --load {site.engine.name}   # in the folder of its stoker.toml; `{site.engine.name} images`: what there is"
        return made_here if site.image_name.startswith("localhost/") else f"{site.engine.name} pull {site.image_name}"
    if any(name.endswith(".oci") for name in before.sources):
        return f"{build}   # it is built already, and only loaded"
    return build if "stoker.lock" in before.sources else f"stoker image lock{file} && {build}"


def _is_here(folder: Any) -> bool:
    try:
        return os.path.samefile(folder, os.curdir)
    except OSError:
        return False


def image_of_other_machine(before: Before) -> Iterator[Finding]:
    """The image is for another kind of processor."""
    image = before.site.image
    own = _MACHINES.get(os.uname().machine)
    if image is None or own is None or image.architecture in ("", own):
        return
    yield Finding(
        severity=Severity.ERROR,
        what=f"the image is for {image.architecture}, this machine is {own}",
        evidence=(f"{before.site.engine.name} image inspect {image.name}: Architecture {image.architecture}", f"uname -m: {os.uname().machine}"),
        consequence='the start fails with "exec format error", or runs at a tenth of the speed under emulation',
        fix="lock and build it here: stoker image lock && stoker image build --load " + before.site.engine.name,
    )


def driver_too_old(before: Before) -> Iterator[Finding]:
    """No CUDA stack of the image runs on this machine's NVIDIA driver."""
    site = before.site
    floors = _floors(site.image.labels.get(labels.STACKS, "") if site.image else "")
    if before.request.gpus.what == "none" or site.driver is None or not floors:
        return
    oldest = min(floors, key=version_numbers)
    if version_numbers(site.driver) >= version_numbers(oldest):
        return
    yield Finding(
        severity=Severity.ERROR,
        what=f"driver {site.driver} is too old for this image: it needs {oldest} or newer",
        evidence=(f"/proc/driver/nvidia/version: {site.driver}", *(f"label {labels.STACKS}: driver_min {floor}" for floor in sorted(floors))),
        consequence="torch.cuda.is_available() is False inside; NVIDIA's runtime may refuse to start the container",
        fix="stoker resolve   # names the PyTorch and CUDA that this driver runs; lock and build with those\n"
        f"or install driver {oldest} or newer on this machine; or start on the CPU: --gpus none",
    )


def _floors(label: str) -> list[str]:
    """Return the oldest driver of each stack; nothing where one needs none, or where the label cannot be read."""
    try:
        stacks = json.loads(label or "[]")
        floors = [stack["driver_min"] for stack in stacks]
        return [floor for floor in floors if version_numbers(floor)] if all(floors) else []
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


CHECKS = (image_missing, image_of_other_machine, driver_too_old)
