"""This machine as frozen facts; a reading that the machine does not give is None, never an exception."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stoker.host.container import Container, find_container
    from stoker.host.driver import Driver, find_driver, kernel_driver_version
    from stoker.host.gpus import Gpu, find_gpus
    from stoker.host.limits import Limits, find_limits
    from stoker.host.machine import Host, facts
    from stoker.host.place import filesystem_root

__all__ = [
    "Container",
    "Driver",
    "Gpu",
    "Host",
    "Limits",
    "facts",
    "filesystem_root",
    "find_container",
    "find_driver",
    "find_gpus",
    "find_limits",
    "kernel_driver_version",
]
# Imported when first asked for: each is a file of its own, and few programs need more than one.
_PLACES = {
    "Container": "container",
    "find_container": "container",
    "Driver": "driver",
    "find_driver": "driver",
    "kernel_driver_version": "driver",
    "Gpu": "gpus",
    "find_gpus": "gpus",
    "Limits": "limits",
    "find_limits": "limits",
    "Host": "machine",
    "facts": "machine",
    "filesystem_root": "place",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
