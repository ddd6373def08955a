"""Options that podman and docker write alike."""

from __future__ import annotations

import re

from stoker.launch import labels as names
from stoker.launch.account import HOME
from stoker.launch.amounts import written
from stoker.launch.command import Option
from stoker.launch.engine import Engine
from stoker.launch.engines.folders import WORKSPACE
from stoker.launch.limits import UNLIMITED
from stoker.launch.request import Limits, Request

_HOST_NAME = 63
"""Letters of a name in DNS."""
_ULIMITS = {
    "memlock": "memory that cannot be swapped out, which InfiniBand and pinned batches need",
    "nofile": "open files: loaders pass tensors as such",
    "nproc": "processes and threads of the user; named because one --ulimit replaces podman's whole list of defaults",
    "stack": "larger stacks for compilers and MPI",
}
_FIXED = {
    "TORCHINDUCTOR_CACHE_DIR": "what torch.compile compiled is kept: the second start does not compile again",
    "TRITON_CACHE_DIR": "the same for Triton's kernels",
}
_LABELS = {
    names.LAUNCH: "Stoker looks after it; the labels are all the state there is",
    names.NAME: "its name in `stoker ps`",
    names.KIND: "notebook, ssh or run",
    names.PROJECT: "the project folder on the host",
    names.HOME: "the home folder on the host",
    names.LISTEN: "where it answers",
    names.GRACE: "seconds that `stoker stop` waits",
    names.GPUS: "the GPUs as asked for",
}


def option(why: str, *words: str) -> Option:
    """Return an option with its reason."""
    return Option(words=words, why=why)


def start(request: Request) -> list[Option]:
    """Return how it runs: in the background or in this terminal, under which name."""
    found = []
    if request.detach:
        found.append(option("in the background", "--detach"))
    if request.interactive:
        found.append(option("what is typed here goes in", "--interactive"))
    if request.terminal:
        found.append(option("with a terminal", "--tty"))
    return [
        *found,
        option("the name under which it is stopped, entered and removed", "--name", request.container),
        *_host_name(request),
        option("an image that is not here is an error, not a download", "--pull=never"),
    ]


def _host_name(request: Request) -> list[Option]:
    """Return the name that prompts show. Not for notebooks: it would stand in the certificate, of which there is one for all that share a home."""
    if request.kind == "notebook":
        return []
    host = re.sub(r"[^a-z0-9-]+", "-", request.name)[:_HOST_NAME].strip("-") or "stoker"
    return [option("the name that prompts inside show", "--hostname", host)]


def stop(request: Request) -> list[Option]:
    """Return how it ends."""
    init = [option("the image has no process that passes SIGTERM on to the program and buries its children", "--init")] if request.init else []
    return [*init, option("seconds between SIGTERM and SIGKILL: time to save", "--stop-timeout", str(request.grace_s))]


def limits(request: Request) -> list[Option]:
    """Return what it may use."""
    found, asked = [], request.limits
    if asked.memory_bytes is not None:
        found.append(
            option("above this, and as much swap again, the kernel ends the program and spares the machine", "--memory", written(asked.memory_bytes))
        )
    if asked.cpus is not None:
        found.append(option("cores' worth of time", "--cpus", f"{asked.cpus:.10g}"))
    if asked.shm_bytes is not None:
        found.append(option("/dev/shm, through which loader workers hand over their batches; 64m otherwise", "--shm-size", written(asked.shm_bytes)))
    if asked.pids is not None:
        found.append(option("processes and threads, so that a runaway loop of forks ends here", "--pids-limit", str(asked.pids)))
    return [*found, *(_ulimit(*one) for one in asked.ulimits)]


def _ulimit(name: str, soft: int, hard: int) -> Option:
    finite = name == "memlock" and hard != UNLIMITED
    why = _ULIMITS.get(name, "as far as this host allows") + (" more of; this host allows no more" if finite else "")
    return option(why, "--ulimit", f"{name}={soft}:{hard}")


def safety(request: Request, engine: Engine) -> list[Option]:
    """Return what it may not do."""
    found = [
        option("no privileges of root, whatever it runs as", "--cap-drop", "ALL"),
        option("nor does a program with the setuid bit give any", "--security-opt", "no-new-privileges"),
    ]
    if "selinux" in engine.security:
        why = "SELinux would hide the mounted folders; giving them its label would change them for everybody else"
        found.append(option(why, "--security-opt", "label=disable"))
    if not request.writable:
        found.append(option("the image's own files cannot be changed; what is to stay belongs on a mounted folder", "--read-only"))
    return found


def scratch(request: Request, *places: str, empty: str = "", owner: str = "") -> list[Option]:
    """Return temporary file systems: /tmp, from which torch.compile runs what it compiles, and further places that may be written to.

    `empty`, `owner`: the engine's words for one that is empty, and that belongs to the account. The mode alone does not make it writable: over a
    folder of the image, runc 1.1 keeps that one's mode.
    """
    flags = f"rw,exec,nosuid,nodev{_quarter(request.limits)}{empty}"
    found = [option("temporary files, in memory; exec, since torch.compile runs what it writes there", "--tmpfs", f"/tmp:{flags},mode=1777")]
    if request.home is None:
        found.append(option("no home folder is kept: this one is gone with the container", "--tmpfs", f"{HOME}:{flags},mode=0700{owner}"))
    for place in () if request.writable else places:
        found.append(option("the rest that programs write to", "--tmpfs", f"{place}:rw,noexec,nosuid,nodev,mode=1777,size=64m"))
    return found


def _quarter(limits: Limits) -> str:
    """Return the size that keeps a full /tmp an error of the program that writes ("no space left"), not the death of the container."""
    return f",size={written(limits.memory_bytes // 4 // 2**20 * 2**20)}" if limits.memory_bytes else ""


def working_folder(request: Request) -> list[Option]:
    """Return where the program starts."""
    return [option("where the program starts", "--workdir", WORKSPACE)] if request.project is not None else []


def ports(request: Request) -> list[Option]:
    """Return its ports on the host."""
    return [option(_port_reason(port.address), "--publish", f"{port.text}:{port.inside}") for port in request.ports]


def _port_reason(address: str) -> str:
    return "reached from this machine only" if address in ("::1", "localhost") or address.startswith("127.") else "reached from other machines"


def environment(request: Request) -> list[Option]:
    """Return its variables: values of the caller's are read by the engine, and stand on no command line."""
    found = [
        option("the home inside", "--env", f"HOME={HOME}"),
        option("who it is, also for programs that look in no passwd file", "--env", f"USER={request.account.name}"),
    ]
    found += [option(_FIXED.get(name, "set by Stoker"), "--env", f"{name}={value}") for name, value in request.fixed]
    if request.env_file is not None:
        found.append(option("variables from a file, so that no value is on a command line", "--env-file", str(request.env_file)))
    return found + [option("your variable, with the value that it has here", "--env", name) for name in request.environment]


def hidden_gpus() -> Option:
    """Return what keeps GPUs away where NVIDIA's runtime is the engine's default and the image asks for all of them."""
    return option("no GPU, also where the image would get them all by itself", "--env", "NVIDIA_VISIBLE_DEVICES=void")


def labels(request: Request) -> list[Option]:
    """Return the labels by which `stoker ps` knows it again."""
    return [option(_LABELS[name], "--label", f"{name}={value}") for name, value in request.labels]
