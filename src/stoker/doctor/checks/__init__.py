"""The one list of all checks, by what they look at."""

from __future__ import annotations

from stoker.doctor.checks import cluster, containers, driver, gpus, memory, packages, processor, reading, safety, storage, wheel
from stoker.doctor.finding import Check

GROUPS: dict[str, tuple[Check, ...]] = {
    "Driver": driver.CHECKS,
    "Containers": containers.CHECKS,
    "PyTorch": wheel.CHECKS,
    "Packages": packages.CHECKS,
    "GPUs": gpus.CHECKS,
    "Processor": processor.CHECKS,
    "Memory": memory.CHECKS,
    "Disks": storage.CHECKS,
    "Network and many machines": cluster.CHECKS,
    "Safety": safety.CHECKS,
    "The examination itself": reading.CHECKS,
}
CHECKS: tuple[Check, ...] = tuple(check for group in GROUPS.values() for check in group)
"""In the order in which causes come before their consequences."""
