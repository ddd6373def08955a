"""How many threads numeric libraries start: as many as the container may use, not as many as the host has cores."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS")
"""Read by OpenMP (PyTorch, OpenCV, scikit-learn), MKL, OpenBLAS (NumPy, SciPy) and NumExpr."""
OURS = "STOKER_THREADS"
"""Holds the number that was set here, so that a launcher of many processes can tell it from a person's wish."""


def thread_settings(cores: int, machine_cores: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set: none where nothing limits this container, and none where the person set OMP_NUM_THREADS.

    `cores`: what affinity and cgroup quotas leave; `machine_cores`: what the libraries would count. The other libraries fall back on
    OMP_NUM_THREADS, so that it alone is a wish for all of them. Without a limit nothing is set, because torchrun gives each of its
    processes one thread only where the variable is unset.
    """
    if cores >= machine_cores or environment.get("OMP_NUM_THREADS"):
        return {}
    return {name: str(cores) for name in VARIABLES if not environment.get(name)} | {OURS: str(cores)}
