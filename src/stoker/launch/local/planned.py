"""What a start would do, as a command that can be pasted (`--dry-run`), with a reason for each part (`--explain`)."""

from __future__ import annotations

import os
import shlex

from stoker.launch.local import environment, marks, notebook
from stoker.launch.local.environment import Environment
from stoker.launch.local.folder import folders
from stoker.launch.local.job import Job
from stoker.launch.local.locked import Locked
from stoker.launch.local.means import means
from stoker.launch.local.variables import foreign, variables

_WHY = {
    "PATH": "the environment's programs come first",
    "VIRTUAL_ENV": "the environment",
    "TORCHINDUCTOR_CACHE_DIR": "what torch.compile makes is kept: the second start does not compile again",
    "TRITON_CACHE_DIR": "the same for Triton",
    "CUDA_VISIBLE_DEVICES": "the GPUs that it may use",
    "CUDA_DEVICE_ORDER": "GPUs are counted as nvidia-smi does",
    "STOKER_DATA": "the folder of --data",
    "STOKER_STACK_CHOSEN": "the stack of the lock",
}


def command_text(job: Job, locked: Locked | None, *, explained: bool) -> str:
    """Return the command of a job; nothing is made for it. Raises as `environment.plan`."""
    used = environment.plan(locked)
    kept = means(name=job.name, memory_bytes=job.memory_bytes, cpus=job.cpus, detach=False, taken=())
    words = job.command if job.kind != "notebook" else notebook.planned(job, used)
    given = marks.without(os.environ)
    parts: list[tuple[str, str]] = [(shlex.join(["cd", str(job.project)]) + " &&", "the project")]
    if kept.words:
        parts.append((shlex.join(kept.words), "a control group with the limits"))
    if kept.data_bytes:
        parts.append((f"prlimit --data={kept.data_bytes}", "memory of each process"))
    if kept.cores:
        parts.append((f"taskset --cpu-list {','.join(map(str, kept.cores))}", "the cores that it may use"))
    parts.append((shlex.join(["env", *(f"--unset={name}" for name in foreign(used) if name in given)]), "variables"))
    parts += [(shlex.quote(f"{name}={value}"), _WHY.get(name, "threads")) for name, value in variables(job, used, kept, given).items()]
    parts.append((shlex.join(words), "the program"))
    lines = _head(used, job, (*job.notes, *kept.notes))
    if explained:
        lines += [f"# {' '.join(text.split())}: {why}" for text, why in parts]
    return "\n".join([*lines, " \\\n  ".join(text for text, _ in parts)])


def _head(used: Environment, job: Job, notes: tuple[str, ...]) -> list[str]:
    state = "" if used.ready else f"; it is not there yet, the start makes it in {used.folder}"
    names = {folder.name for folder in folders()}
    taken = [f"the name {job.name} is taken"] if job.name in names else []
    return [f"# {line}" for line in (f"local: {used.says}{state}", *notes, *taken)]
