"""Requests and engines for the tests of `launch`: what people ask for, one name each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stoker.launch.engine import Engine
from stoker.launch.gpus import NONE, read_gpus
from stoker.launch.request import Account, Limits, Mount, Port, Request

GIBIBYTE = 2**30
GPU = "GPU-5d1f8a3e-2b7c-4f60-9a11-0c2d3e4f5a6b"
MIG = "MIG-8f6c2e1a-0b3d-5e7f-9a1c-2d4e6f8a0b1c"

FULL_LIMITS = Limits(
    memory_bytes=57 * GIBIBYTE,
    cpus=None,
    shm_bytes=GIBIBYTE,
    pids=4096,
    ulimits=(("memlock", -1, -1), ("nofile", 65536, 524288), ("stack", 67108864, -1)),
)
NO_LIMITS = Limits(memory_bytes=None, cpus=None, shm_bytes=None, pids=None)
KNOWN = Account(uid=1000, gid=1000, name="stoker", keep_id=False, known=True, host_uid=1000, host_gid=1000)
KEPT = dataclasses.replace(KNOWN, keep_id=True, host_uid=12345, host_gid=12345)
STRANGER = Account(uid=12345, gid=100, name="ada", keep_id=False, known=False, host_uid=12345, host_gid=100)
FILES = Path("/home/ada/.local/share/stoker/accounts")
ROOT = Account(uid=0, gid=0, name="root", keep_id=False, known=True, host_uid=0, host_gid=0)
OUTSIDE = dataclasses.replace(ROOT, host_uid=1000, host_gid=1000)

BARE = Request(
    name="digits-run",
    kind="run",
    image="localhost/trainer:latest",
    command=("python", "train.py"),
    project=Path("/home/ada/digits"),
    home=Path("/home/ada/.local/share/stoker/home"),
    gpus=NONE,
    limits=FULL_LIMITS,
    account=KNOWN,
    fixed=(("TORCHINDUCTOR_CACHE_DIR", "/home/stoker/.cache/torchinductor"), ("TRITON_CACHE_DIR", "/home/stoker/.cache/triton")),
)

PODMAN = Engine(name="podman", program="podman", version=(4, 3, 1))
DOCKER = Engine(name="docker", program="docker", version=(20, 10, 24))
ROOTLESS = {"rootless": True}

Changes = dict[str, Any]
"""Fields of a request (`limits_` and `account_` change fields of those)."""


def changed(request: Request, **changes: Any) -> Request:
    """A request with other fields; `limits={...}` changes the fields of its limits."""
    if isinstance(changes.get("limits"), dict):
        changes["limits"] = dataclasses.replace(request.limits, **changes["limits"])
    return dataclasses.replace(request, **changes)


def mounts(*texts: str) -> tuple[Mount, ...]:
    """Mounts as `source -> target`, with ` rw` behind for those that can be written to."""
    found = []
    for text in texts:
        source, _, target = text.partition(" -> ")
        found.append(Mount(source=Path(source), target=target.removesuffix(" rw"), writable=target.endswith(" rw")))
    return tuple(found)


def gpus(text: str) -> Changes:
    """GPUs as on the command line."""
    return {"gpus": read_gpus(text)}


NOTEBOOK: Changes = {
    "name": "digits-notebook",
    "kind": "notebook",
    "command": ("notebook",),
    "detach": True,
    "ports": (Port(host=8888, inside=8888),),
}
SSH: Changes = {
    "name": "digits-ssh",
    "kind": "ssh",
    "command": ("sshd",),
    "detach": True,
    "ports": (Port(host=2222, inside=2222),),
    "mounts": mounts("/home/ada/.local/share/stoker/authorized_keys -> /run/stoker/authorized_keys"),
}

CASES: dict[str, Changes] = {
    # how it runs
    "run": {},
    "run-detached": {"detach": True},
    "run-in-a-terminal": {"interactive": True, "terminal": True},
    "run-from-a-pipe": {"interactive": True},
    "run-with-init": {"init": True},
    "run-long-grace": {"grace_s": 600},
    "run-restarted": {"detach": True, "restart": True},
    "run-the-images-own-command": {"command": ()},
    "run-words-to-quote": {"command": ("python", "-c", "print('a  b', \"$HOME\", `x`)\nprint(1)", "*.jpg", "")},
    "run-characters-of-terminals": {"command": ("echo", "\x1b[2J\ttab", "it's", "\udcff", "schön")},
    "notebook": NOTEBOOK,
    "notebook-restarted": {**NOTEBOOK, "restart": True},
    "notebook-for-everybody": {**NOTEBOOK, "ports": (Port(host=8890, inside=8888, address="0.0.0.0"),)},
    "ssh": SSH,
    "ssh-stranger": {**SSH, "account": STRANGER},
    # who it is
    "user-stranger": {"account": STRANGER},
    "user-root": {"account": ROOT},
    # GPUs
    "gpus-all": gpus("all"),
    "gpus-one": gpus("0"),
    "gpus-list": gpus("0,2"),
    "gpus-uuid": gpus(GPU),
    "gpus-uuids": gpus(f"{GPU},1"),
    "gpus-mig": gpus("0:1"),
    "gpus-migs": gpus("0:0,0:1,1:3"),
    "gpus-mig-uuid": gpus(MIG),
    # limits
    "limits-none": {"limits": NO_LIMITS},
    "limits-cpus": {"limits": {"cpus": 1.5}},
    "limits-small": {"limits": {"memory_bytes": 512 * 2**20, "shm_bytes": 256 * 2**20, "pids": 100}},
    "limits-odd-bytes": {"limits": {"memory_bytes": 1_000_000_001, "shm_bytes": 1_000_448}},
    "limits-locked-memory": {"limits": {"ulimits": (("memlock", 8388608, 8388608), ("nofile", 20000, 20000), ("stack", 67108864, -1))}},
    "limits-all-ulimits": {"limits": {"ulimits": (("memlock", -1, -1), ("nofile", 65536, 524288), ("nproc", 96365, 96365), ("stack", 67108864, -1))}},
    "writable": {"writable": True},
    # folders
    "no-project": {"project": None},
    "no-home": {"home": None},
    "no-home-writable": {"home": None, "writable": True},
    "nothing-kept": {"project": None, "home": None, "limits": NO_LIMITS, "fixed": ()},
    "data": {"mounts": mounts("/data/cifar -> /data")},
    "data-two": {"mounts": mounts("/data/cifar -> /data/cifar", "/mnt/stl 10 -> /data/stl 10")},
    "volume-writable": {"mounts": mounts("/scratch -> /scratch rw", "/etc/ssl/certs/ca-certificates.crt -> /etc/ssl/certs/ca-certificates.crt")},
    "path-with-colon": {"mounts": mounts("/data/run=12:30 -> /data")},
    "path-with-comma": {"project": Path('/home/ada/cats, "dogs"')},
    # network and variables
    "ports-two": {"ports": (Port(host=6006, inside=6006), Port(host=8265, inside=8000))},
    "port-ipv6": {"ports": (Port(host=6006, inside=6006, address="::1"),)},
    "environment": {"environment": ("HF_TOKEN", "WANDB_API_KEY")},
    "environment-file": {"env_file": Path("/home/ada/my secrets.env")},
    "everything": {
        **gpus("0,1"),
        "detach": True,
        "restart": True,
        "init": True,
        "account": STRANGER,
        "limits": {"cpus": 12.0},
        "mounts": mounts("/data/cifar -> /data", "/scratch -> /scratch rw"),
        "ports": (Port(host=6006, inside=6006, address="192.0.2.7"),),
        "environment": ("HF_TOKEN",),
        "env_file": Path("/home/ada/.env"),
        "grace_s": 60,
    },
}
"""For both engines."""

OWN_CASES: dict[str, dict[str, tuple[Changes, Changes]]] = {
    "podman": {
        "rootless-4.3": ({"account": KEPT}, ROOTLESS),
        "rootless-5": ({"account": KEPT, **gpus("all")}, {**ROOTLESS, "version": (5, 4, 2)}),
        "rootless-4.2": ({"account": dataclasses.replace(STRANGER, keep_id=True)}, {**ROOTLESS, "version": (4, 2, 0)}),
        "rootless-3.4": ({"account": dataclasses.replace(STRANGER, keep_id=True)}, {**ROOTLESS, "version": (3, 4, 4)}),
        "rootless-other-uid": ({"account": dataclasses.replace(STRANGER, keep_id=True)}, ROOTLESS),
        "rootless-root": ({"account": OUTSIDE}, ROOTLESS),
        "rootful-5": (gpus("0,2"), {"version": (5, 4, 2)}),
        "version-unknown": ({"account": KEPT, **gpus("0")}, {**ROOTLESS, "version": ()}),
        "selinux": (NOTEBOOK, {"security": ("selinux",)}),
    },
    "docker": {
        "rootless": ({"account": OUTSIDE}, ROOTLESS),
        "version-28": (gpus("0,2"), {"version": (28, 2, 2)}),
        "version-unknown": ({}, {"version": ()}),
        "userns-remap": ({}, {"security": ("seccomp", "userns")}),
        "selinux": (NOTEBOOK, {"security": ("seccomp", "selinux")}),
        "not-in-path": ({}, {"program": "/opt/docker 28/docker"}),
    },
}


def cases(engine: str) -> dict[str, tuple[Request, Engine]]:
    """Every request for an engine, by name."""
    plain = PODMAN if engine == "podman" else DOCKER
    found = {name: (changed(BARE, **changes), plain) for name, changes in CASES.items()}
    for name, (changes, others) in OWN_CASES[engine].items():
        found[name] = (changed(BARE, **changes), dataclasses.replace(plain, **others))
    return {name: (_with_image(_with_files(request, one), one), one) for name, (request, one) in found.items()}


def _with_files(request: Request, engine: Engine) -> Request:
    """What `account` decides: docker writes an account where the image has none."""
    if engine.name != "docker" or request.account.known:
        return request
    return dataclasses.replace(request, account=dataclasses.replace(request.account, files=FILES))


def _with_image(request: Request, engine: Engine) -> Request:
    return request if engine.name == "podman" else dataclasses.replace(request, image=request.image.removeprefix("localhost/"))
