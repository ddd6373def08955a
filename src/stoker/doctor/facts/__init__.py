"""All that the doctor looks at, gathered at once into frozen values; what is not known is None or empty."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stoker.doctor.facts.cluster import Cluster
    from stoker.doctor.facts.containers import Containers
    from stoker.doctor.facts.driver import Driver
    from stoker.doctor.facts.gpus import Gpu
    from stoker.doctor.facts.machine import Facts
    from stoker.doctor.facts.memory import Memory
    from stoker.doctor.facts.processor import Processor
    from stoker.doctor.facts.python import Python
    from stoker.doctor.facts.services import Services
    from stoker.doctor.facts.storage import Storage
    from stoker.doctor.facts.system import System

__all__ = ["Cluster", "Containers", "Driver", "Facts", "Gpu", "Memory", "Processor", "Python", "Services", "Storage", "System"]
# Imported when first asked for: `stoker run` looks at the GPUs only, and all of them take 0.1 s to import.
_PLACES = {name: "gpus" if name == "Gpu" else "machine" if name == "Facts" else name.lower() for name in __all__}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
