"""One machine and one Python on it in one frozen value, which can be written to a file and judged elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from stoker.doctor.facts.cluster import Cluster
from stoker.doctor.facts.containers import Containers
from stoker.doctor.facts.driver import Driver
from stoker.doctor.facts.gpus import Gpu
from stoker.doctor.facts.memory import Memory
from stoker.doctor.facts.processor import Processor
from stoker.doctor.facts.python import Python
from stoker.doctor.facts.services import Services
from stoker.doctor.facts.storage import Storage
from stoker.doctor.facts.system import System


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was there at one moment."""

    gathered: str | None = None
    """When, in UTC, as 2026-11-21T10:00:00+00:00."""
    system: System = field(default_factory=System)
    processor: Processor = field(default_factory=Processor)
    memory: Memory = field(default_factory=Memory)
    storage: Storage = field(default_factory=Storage)
    driver: Driver = field(default_factory=Driver)
    gpus: tuple[Gpu, ...] = ()
    containers: Containers = field(default_factory=Containers)
    python: Python = field(default_factory=Python)
    cluster: Cluster = field(default_factory=Cluster)
    services: Services = field(default_factory=Services)
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables that matter for GPUs, threads and Python, as they are; of one that looks like a secret only its length."""
    unread: dict[str, str] = field(default_factory=dict)
    """Sections that could not be gathered, and why."""
