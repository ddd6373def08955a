"""The NVIDIA driver: its version, and whether an NVIDIA card is there without one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stoker import shell
from stoker.host.place import filesystem_root, read

_VERSION = re.compile(r"(?<![\d.])(\d{3,4}\.\d{1,4}(?:\.\d{1,3})?)(?![\d.])")
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What is known about the NVIDIA driver of this machine."""

    version: str | None
    """As `580.95.05`; None: no driver is loaded."""
    cards: int
    """NVIDIA display controllers on the PCI bus, with or without a driver."""
    nodes: int
    """Device nodes /dev/nvidia0, 1, ... (or /dev/dxg under WSL): what a process here can open. 0 in a container without GPUs."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """An NVIDIA display controller on the PCI bus."""

    address: str
    """As 0000:18:00.0."""
    device: str
    """Its PCI number, as 2335."""
    module: str
    """The kernel module that holds it: nvidia, nouveau, vfio-pci; "" for none."""


def find_driver(root: Path | None = None) -> Driver:
    """Read the driver's version from the kernel, else ask nvidia-smi (WSL has no kernel module to read)."""
    root = root or filesystem_root()
    version = kernel_driver_version(root) or _from_smi()
    return Driver(version=version, cards=len(find_cards(root)), nodes=_nodes(root))


def kernel_driver_version(root: Path) -> str | None:
    """Return the version of the kernel module that is loaded."""
    return _from_module(root) or _from_proc(root)


def find_cards(root: Path) -> tuple[Card, ...]:
    """Return the NVIDIA display controllers by address, with or without a driver."""
    return tuple(_card(device) for device in pci_devices(root, _DISPLAY_CLASS))


def pci_devices(root: Path, device_class: str) -> list[Path]:
    """Return the folders in /sys of NVIDIA's PCI devices whose class begins so (0x03 display, 0x0680 bridge), by address."""
    try:
        devices = sorted((root / "sys/bus/pci/devices").iterdir())
    except OSError:
        return []
    return [device for device in devices if read(device / "vendor") == _NVIDIA and (read(device / "class") or "").startswith(device_class)]


def version_numbers(version: str) -> tuple[int, ...]:
    """Return `580.95.05` as (580, 95, 5), which compares by size."""
    return tuple(int(part) for part in version.split("."))


def _from_module(root: Path) -> str | None:
    return _first_version(read(root / "sys/module/nvidia/version"))


def _from_proc(root: Path) -> str | None:
    text = read(root / "proc/driver/nvidia/version")
    lines = [line for line in (text or "").splitlines() if line.startswith("NVRM")]
    return _first_version(lines[0] if lines else None)


def _from_smi() -> str | None:
    found = shell.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], timeout_s=20)
    return _first_version(found.out) if found.ok else None


def _first_version(text: str | None) -> str | None:
    found = _VERSION.search(text or "")
    return found.group(1) if found else None


def _card(folder: Path) -> Card:
    try:
        module = (folder / "driver").readlink().name
    except OSError:
        module = ""
    return Card(address=folder.name, device=(read(folder / "device") or "").removeprefix("0x"), module=module)


def _nodes(root: Path) -> int:
    try:
        names = [entry.name for entry in (root / "dev").iterdir()]
    except OSError:
        return 0
    return sum(bool(re.fullmatch(r"nvidia\d+|dxg", name)) for name in names)
