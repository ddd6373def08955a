"""All facts about this machine in one frozen value, for the record of a run."""

from __future__ import annotations

import platform
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stoker.host.container import Container, find_container
from stoker.host.driver import Driver, find_driver
from stoker.host.gpus import Gpu, find_gpus
from stoker.host.limits import Limits, find_limits
from stoker.host.place import filesystem_root, read


@dataclass(frozen=True, kw_only=True)
class Host:
    """This machine."""

    hostname: str
    system: str
    """As `Debian GNU/Linux 12 (bookworm)`."""
    kernel: str
    architecture: str
    """As `x86_64`."""
    cpu: str | None
    """The CPU's model name."""
    limits: Limits
    driver: Driver
    gpus: tuple[Gpu, ...]
    container: Container | None

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain values that JSON can hold."""
        return asdict(self)


def facts(root: Path | None = None) -> Host:
    """Gather the facts about this machine now. Raises nothing; takes up to a second when nvidia-smi must be asked."""
    root = root or filesystem_root()
    driver = find_driver(root)
    return Host(
        hostname=socket.gethostname(),
        system=_system(root),
        kernel=platform.release(),
        architecture=platform.machine(),
        cpu=_cpu(root),
        limits=find_limits(root),
        driver=driver,
        gpus=find_gpus() if driver.version else (),
        container=find_container(root),
    )


def _system(root: Path) -> str:
    for line in (read(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return platform.system()


def _cpu(root: Path) -> str | None:
    fields = [line.partition(":") for line in (read(root / "proc/cpuinfo") or "").splitlines()]
    names = [value.strip() for key, _, value in fields if key.strip() in ("model name", "Model")]
    return names[0] if names else None
