"""Docker, Podman, the NVIDIA container toolkit and the CDI specifications on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker import shell
from stoker.doctor.facts.cdi import CdiSpecification, read_cdi
from stoker.host.container import find_container
from stoker.host.place import filesystem_root, read

__all__ = ["CdiSpecification", "Containers", "gather_containers"]

_LIMIT_S = 4.0
_HOOKS = ("usr/share/containers/oci/hooks.d/oci-nvidia-hook.json", "etc/containers/oci/hooks.d/oci-nvidia-hook.json")


@dataclass(frozen=True, kw_only=True)
class Containers:
    """What starts containers here."""

    docker_version: str | None = None
    """Of the client, as 28.2.0; None: no docker program, or one that is podman in disguise."""
    docker_server_version: str | None = None
    """Of the daemon; None: it did not answer."""
    docker_error: str | None = None
    """What the client said instead of an answer of the daemon."""
    docker_remote: bool = False
    """Whether the client speaks to another machine (DOCKER_HOST, a context)."""
    docker_runtimes: tuple[str, ...] = ()
    docker_default_runtime: str | None = None
    docker_cgroup_driver: str | None = None
    """systemd or cgroupfs."""
    docker_cdi_folders: tuple[str, ...] | None = None
    """Where the daemon looks for CDI specifications; () : CDI is off; None: not known."""
    docker_config: str | None = None
    """/etc/docker/daemon.json, as it is (the first 2000 characters)."""
    docker_socket_group: str | None = None
    """The group that may use the daemon's socket; None: there is no socket."""
    podman_version: str | None = None
    toolkit_version: str | None = None
    """Of the NVIDIA container toolkit, as 1.17.8."""
    toolkit_path: str | None = None
    """Where nvidia-ctk (or nvidia-container-cli) stands."""
    toolkit_config: str | None = None
    """/etc/nvidia-container-runtime/config.toml without comments (the first 2000 characters)."""
    hook: str | None = None
    """Podman's old OCI hook of the toolkit, where it is installed."""
    cdi: tuple[CdiSpecification, ...] = ()
    cdi_refreshed: bool | None = None
    """Whether the service that keeps the specification up to date (nvidia-cdi-refresh) is enabled."""
    systemd: bool = False
    """Whether systemd runs this machine."""
    cgroup_version: int | None = None


def gather_containers(root: Path | None = None) -> Containers:
    """Ask docker, podman and the toolkit for their versions, side by side, and read the CDI files. 0.1 s; at most 5 s. Raises nothing."""
    root = root or filesystem_root()
    inside = find_container(root) is not None
    with ThreadPoolExecutor(4) as pool:
        docker = pool.submit(_docker, root, inside)
        podman = pool.submit(_version_of, "podman", r"podman version (\S+)")
        toolkit = pool.submit(_toolkit_version)
        fields = docker.result() | {"podman_version": podman.result(), "toolkit_version": toolkit.result()}
    hook = next((path for path in _HOOKS if (root / path).exists()), None)
    return Containers(
        **fields,
        docker_config=_file(root / "etc/docker/daemon.json"),
        docker_socket_group=_group_of(root / "run/docker.sock") or _group_of(root / "var/run/docker.sock"),
        toolkit_path=shutil.which("nvidia-ctk") or shutil.which("nvidia-container-cli"),
        toolkit_config=_file(root / "etc/nvidia-container-runtime/config.toml", comments=False),
        hook=f"/{hook}" if hook else None,
        cdi=tuple(read_cdi(path, root) for path in _cdi_files(root)),
        cdi_refreshed=_is_enabled(root, "nvidia-cdi-refresh.path"),
        systemd=(root / "run/systemd/system").is_dir(),
        cgroup_version=2 if (root / "sys/fs/cgroup/cgroup.controllers").exists() else 1 if (root / "sys/fs/cgroup").is_dir() else None,
    )


def _docker(root: Path, inside: bool) -> dict[str, Any]:
    """Ask the docker client for itself and for its daemon. Inside a container there is none of our business."""
    version = _version_of("docker", r"Docker version ([\d.]+)")
    if version is None or inside:
        return {"docker_version": version}
    done = shell.run(["docker", "info", "--format", "{{json .}}"], timeout_s=_LIMIT_S)
    info = _json(done.out)
    server = info.get("ServerVersion") or None
    errors = [str(error) for error in info.get("ServerErrors") or ()]
    folders = info.get("CDISpecDirs")
    return {
        "docker_version": version,
        "docker_server_version": server if isinstance(server, str) else None,
        "docker_error": None if server else ("; ".join(errors) or done.err.strip() or "no answer")[-500:],
        "docker_remote": os.environ.get("DOCKER_HOST", "").startswith(("tcp:", "ssh:")) or info.get("OperatingSystem") == "Docker Desktop",
        "docker_runtimes": tuple(sorted(info["Runtimes"])) if isinstance(info.get("Runtimes"), dict) else (),
        "docker_default_runtime": _text(info.get("DefaultRuntime")),
        "docker_cgroup_driver": _text(info.get("CgroupDriver")),
        # Daemons before 25 know nothing of CDI and do not list the key; later ones list no folder where it is off.
        "docker_cdi_folders": tuple(map(str, folders)) if isinstance(folders, list) else () if server else None,
    }


def _version_of(program: str, pattern: str) -> str | None:
    if shutil.which(program) is None:
        return None
    done = shell.run([program, "--version"], timeout_s=_LIMIT_S)
    found = re.search(pattern, done.out)
    return found[1].rstrip(",") if found else None


def _toolkit_version() -> str | None:
    return _version_of("nvidia-ctk", r"version (\d+\.\d+\.\d+)") or _version_of("nvidia-container-cli", r"cli-version: (\d+\.\d+\.\d+)")


def _cdi_files(root: Path) -> list[Path]:
    """Return the specifications that may speak of NVIDIA, each once: /var/run is a link to /run."""
    found: dict[Path, Path] = {}
    for folder in ("etc/cdi", "run/cdi", "var/run/cdi"):
        try:
            files = sorted(file for file in (root / folder).iterdir() if file.suffix in (".yaml", ".yml", ".json"))
        except OSError:
            continue
        for file in files:
            if "nvidia.com/gpu" in (read(file) or "nvidia.com/gpu"):
                found.setdefault(file.resolve(), file)
    return list(found.values())


def _is_enabled(root: Path, unit: str) -> bool | None:
    if not (root / "run/systemd/system").is_dir():
        return None
    return any((root / "etc/systemd/system").glob(f"*.wants/{unit}"))


def _file(path: Path, *, comments: bool = True) -> str | None:
    text = read(path)
    if text is not None and not comments:
        text = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return text[:2000] if text is not None else None


def _group_of(path: Path) -> str | None:
    try:
        return path.group()
    except (OSError, KeyError):
        return None


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
