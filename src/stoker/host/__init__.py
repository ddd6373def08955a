"""This machine as frozen facts; a reading that the machine does not give is None, never an exception."""

from __future__ import annotations

from stoker.host.container import Container, find_container
from stoker.host.driver import Driver, find_driver
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
]
