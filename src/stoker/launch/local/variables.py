"""The environment variables of a job: the person's own, those of --env-file, and what makes it use its Python, GPUs and caches."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stoker.errors import BadValue
from stoker.launch.gpus import Gpus
from stoker.launch.local.environment import Environment
from stoker.launch.local.job import Job
from stoker.launch.local.means import Means
from stoker.start.stack import CHOSEN
from stoker.start.threads import thread_settings

FOREIGN = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")
"""Variables that would bring another Python's packages into the environment of a lock."""
_SYSTEM = "/usr/local/bin:/usr/bin:/bin"


def variables(job: Job, environment: Environment, kept: Means, given: Mapping[str, str]) -> dict[str, str]:
    """Return what the program gets on top of what the person has (`given`); nothing of it is secret."""
    caches = {"TORCHINDUCTOR_CACHE_DIR": "torchinductor", "TRITON_CACHE_DIR": "triton"}
    cores = len(kept.cores) or (max(1, math.floor(job.cpus)) if job.cpus else 0)
    return {
        **{name: str(job.home / ".cache" / folder) for name, folder in caches.items() if not given.get(name)},
        **(thread_settings(cores, os.cpu_count() or cores, given) if cores else {}),
        **_python(environment, given.get("PATH") or _SYSTEM),
        **({CHOSEN: environment.stack} if environment.stack else {}),
        **({"STOKER_DATA": str(job.data[0])} if job.data else {}),
        **_gpus(job.gpus),
    }


def foreign(environment: Environment) -> tuple[str, ...]:
    """Return the variables that the program must not get. Stoker's own environment is taken as it is."""
    return FOREIGN if environment.stack else ()


def read_env_file(path: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a file as docker reads it: `NAME=VALUE`, or `NAME` for the value that it has here. Raises BadValue."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadValue(f"--env-file {path} cannot be read: {error}", hint="a text file with NAME=VALUE in each line") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not name or name != name.strip() or "\0" in text:
            raise BadValue(f"--env-file {path}, line {number}: no variable", hint="NAME=VALUE, without blanks around the name")
        if equals:
            found[name] = value
        elif name in given:
            found[name] = given[name]
    return found


def _python(environment: Environment, path: str) -> dict[str, str]:
    """Put the environment's programs first."""
    programs = str(environment.folder / "bin") if environment.stack else os.path.dirname(sys.executable)
    whole = ":".join(dict.fromkeys([programs, *path.split(":")]))
    virtual = environment.stack is not None or sys.prefix != sys.base_prefix
    return {"PATH": whole, **({"VIRTUAL_ENV": str(environment.folder)} if virtual else {})}


def _gpus(gpus: Gpus) -> dict[str, str]:
    if gpus.what == "all":
        return {}
    # CUDA's own order is by speed; people and nvidia-smi count by place on the bus.
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
