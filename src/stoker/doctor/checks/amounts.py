"""How findings write sizes, and how large a training is taken to be where nobody said: its processes, workers and machines."""

from __future__ import annotations

from stoker.doctor.facts import Facts
from stoker.doctor.sizes import size as size

_WORKERS_A_GPU = 8
"""More workers for one GPU are rare."""


def usable_cores(facts: Facts) -> float | None:
    """Return how many cores the process can keep busy at once: affinity and quota."""
    known = [cores for cores in (facts.processor.cores_usable, facts.processor.quota_cores) if cores is not None]
    return min(known, default=None)


def has_gpu(facts: Facts) -> bool:
    """Tell whether there is an NVIDIA GPU, with or without a driver."""
    return bool(facts.gpus or facts.driver.cards)


def training_processes(facts: Facts) -> int:
    """Return one process a GPU, at least one."""
    return max(1, len(facts.gpus))


def loader_workers(facts: Facts) -> int:
    """Return the loader workers of a training that uses the whole machine: one a core, at most 8 a GPU; 4 where the cores are not known."""
    cores = usable_cores(facts)
    return max(1, min(int(cores), _WORKERS_A_GPU * training_processes(facts))) if cores is not None else 4


def set_threads(facts: Facts) -> int | None:
    """Return OMP_NUM_THREADS where it is a number that libgomp takes."""
    first = facts.variables.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and 0 < int(first) < 2**31 else None


def on_host(facts: Facts, command: str) -> str:
    """Return a command with the word where to run it, inside a container."""
    return f"on the machine itself, outside of this container:\n{command}" if facts.system.container else command


def many_machines(facts: Facts) -> bool:
    """Tell whether this is part of a training on several machines."""
    nodes = facts.variables.get("SLURM_JOB_NUM_NODES") or facts.variables.get("SLURM_NNODES") or ""
    world, local = facts.variables.get("WORLD_SIZE", ""), facts.variables.get("LOCAL_WORLD_SIZE", "")
    more = world.isdecimal() and local.isdecimal() and int(world) > int(local)
    return bool(facts.cluster.nodes) or (nodes.isdecimal() and int(nodes) > 1) or more
