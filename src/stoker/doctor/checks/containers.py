"""Whether Docker and Podman can give containers the GPUs of this machine."""

from __future__ import annotations

import re

from stoker.catalog import open_holes, version_numbers
from stoker.doctor.checks.driver import driver_library_mismatch
from stoker.doctor.checks.grounds import answering, no_driver
from stoker.doctor.checks.requirement import nvidia_require_cuda_unmet
from stoker.doctor.facts import Containers, Facts
from stoker.doctor.facts.containers import CdiSpecification
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_KIND = "nvidia.com/gpu"
_GENERATE = "sudo nvidia-ctk cdi generate --output={}"
_INSTALL = (
    "install nvidia-container-toolkit from NVIDIA's repository, then:\n"
    "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker   # docs.nvidia.com/datacenter/cloud-native: install guide"
)


def _outside(facts: Facts) -> Skipped | None:
    """Skip inside a container, and on machines without a GPU: nothing there to give."""
    if facts.system.container:
        return Skipped(reason="inside a container")
    if "containers" in facts.unread:
        return Skipped(reason="the container engines could not be looked at")
    if facts.system.wsl:
        return Skipped(reason="under WSL the engine is often Docker Desktop's, on another machine")
    return no_driver(facts)


def _no_toolkit(facts: Facts) -> Skipped | None:
    if skipped := _outside(facts):
        return skipped
    if facts.containers.toolkit_version is None and facts.containers.toolkit_path is None:
        return Skipped(reason="no toolkit: see toolkit-missing")
    return None


def _has_docker(facts: Facts) -> bool:
    return facts.containers.docker_version is not None and not facts.containers.docker_remote


def _specifications(facts: Facts) -> tuple[CdiSpecification, ...]:
    return tuple(one for one in facts.containers.cdi if one.kind == _KIND)


def _at_least(version: str | None, floor: tuple[int, ...]) -> bool:
    return version is not None and re.match(r"\d", version) is not None and version_numbers(version) >= floor


def _docker_uses_cdi(containers: Containers) -> bool:
    """Whether `--gpus` goes through CDI: since Docker 29.2, where it is on (release notes of Docker)."""
    return _at_least(containers.docker_server_version, (29, 2)) and bool(containers.docker_cdi_folders)


def toolkit_missing(facts: Facts) -> Outcome:
    """Docker or Podman is here, GPUs are, and the NVIDIA container toolkit is not.

    Container engines know nothing of GPUs. The toolkit puts device nodes and the driver's libraries into a container, by a hook (Docker) or by a CDI
    specification (Podman, newer Docker). Without it: "could not select device driver with capabilities: [[gpu]]". See with `nvidia-ctk --version`.
    Source: NVIDIA Container Toolkit, installation guide.
    """
    if skipped := _outside(facts):
        return skipped
    found = facts.containers
    engines = ["Docker"] * _has_docker(facts) + ["Podman"] * (found.podman_version is not None)
    if not engines:
        return Skipped(reason="neither Docker nor Podman here")
    if found.toolkit_version or found.toolkit_path or _specifications(facts):
        return Passed(what=f"NVIDIA container toolkit {found.toolkit_version or 'is installed'}")
    return Finding(
        # Podman comes with many distributions and is often not used; whoever installed Docker beside GPUs means to.
        severity=Severity.WARNING if _has_docker(facts) else Severity.NOTE,
        what=f"{' and '.join(engines)} {'are' if len(engines) > 1 else 'is'} here, the NVIDIA container toolkit is not",
        evidence=(
            f"docker {found.docker_version}" if _has_docker(facts) else f"podman {found.podman_version}",
            "no nvidia-ctk or nvidia-container-cli on PATH",
            f"driver {facts.driver.version}",
        ),
        consequence="containers get no GPU; Docker refuses --gpus (could not select device driver), Podman before 5 ignores it",
        fix=_INSTALL,
    )


def toolkit_vulnerable(facts: Facts) -> Outcome:
    """The NVIDIA container toolkit has known security holes.

    Through them a container can take over the machine: CVE-2024-0132 (fixed in 1.16.2), CVE-2025-23359 (1.17.4), CVE-2025-23266 (1.17.8) and others.
    The catalogue names each with the version that closes it. See with `nvidia-ctk --version`. Source: NVIDIA security bulletins.
    """
    if skipped := _no_toolkit(facts):
        return skipped
    version = facts.containers.toolkit_version
    if version is None:
        return Skipped(reason="the toolkit does not tell its version")
    holes = open_holes(version)
    if not holes:
        return Passed(what=f"toolkit {version} has no hole that the catalogue knows")
    cves = [cve for hole in holes for cve in hole.cves]
    return Finding(
        severity=Severity.ERROR,
        what=f"NVIDIA container toolkit {version} has {len(cves)} known security hole{'s' if len(cves) > 1 else ''}; {holes[-1].version} closes them",
        evidence=(f"nvidia-ctk --version: {version}", *(f"{', '.join(hole.cves)}: closed in {hole.version} ({hole.source})" for hole in holes)),
        consequence="a container, or an image from a stranger, can take over this machine",
        fix="sudo apt update && sudo apt install --only-upgrade nvidia-container-toolkit libnvidia-container1 libnvidia-container-tools\n"
        "sudo dnf upgrade nvidia-container-toolkit   # on Red Hat's family",
    )


def docker_forbidden(facts: Facts) -> Outcome:
    """This user may not use Docker.

    The daemon's socket belongs to root and a group. Members of the group can do everything that root can: give it to those only who may be root, or
    use rootless Docker or Podman. See with `ls -l /run/docker.sock` and `id`.
    """
    if skipped := _outside(facts):
        return skipped
    found = facts.containers
    if not _has_docker(facts):
        return Skipped(reason="no Docker here")
    if not (found.docker_error and "permission denied" in found.docker_error.lower()):
        return Passed(what="Docker lets this user in") if found.docker_server_version else Skipped(reason="Docker's daemon did not answer")
    return Finding(
        severity=Severity.NOTE,
        what="this user may not use Docker",
        evidence=(f"docker info: {found.docker_error}", f"group of the socket: {found.docker_socket_group}"),
        consequence="only root can start containers with GPUs through Docker",
        fix=f'sudo usermod -aG {found.docker_socket_group or "docker"} "$USER"   # then log in anew; the group is as mighty as root',
    )


def docker_not_running(facts: Facts) -> Outcome:
    """Docker is installed, and its daemon does not run.

    No container can be started, and none that was to come back after a reboot has. The client then says "Cannot connect to the Docker daemon". Why it
    stopped is in its log: `systemctl status docker`, `journalctl -u docker -n 50` (a typing error in /etc/docker/daemon.json is the usual cause).
    """
    if skipped := _outside(facts):
        return skipped
    found = facts.containers
    if not _has_docker(facts) or not found.docker_error:
        return Skipped(reason="no Docker here") if not _has_docker(facts) else Passed(what=f"Docker {found.docker_server_version} runs")
    if "permission denied" in found.docker_error.lower() or found.docker_socket_group is None:
        return Skipped(reason="see docker-forbidden" if found.docker_socket_group else "a Docker client without a daemon of this machine")
    return Finding(
        severity=Severity.NOTE,
        what="Docker is installed, and its daemon does not answer",
        evidence=(f"docker info: {found.docker_error}",),
        consequence="no container can be started through Docker",
        fix="sudo systemctl enable --now docker",
    )


def toolkit_not_configured_docker(facts: Facts) -> Outcome:
    """The toolkit is installed, and Docker was not told of it.

    `nvidia-ctk runtime configure --runtime=docker` writes the runtime `nvidia` into /etc/docker/daemon.json; the daemon must be restarted. Docker
    from 28.2 on can use a CDI specification in its place. See with `docker info | grep -i -A3 runtimes`. Source: NVIDIA Container Toolkit,
    installation guide.
    """
    if skipped := _no_toolkit(facts):
        return skipped
    found = facts.containers
    if not _has_docker(facts) or found.docker_server_version is None:
        return Skipped(reason="no Docker daemon that answers")
    if "nvidia" in found.docker_runtimes:
        return Passed(what="Docker has the runtime nvidia")
    if found.docker_cdi_folders and _specifications(facts):
        return Passed(what="Docker reads the CDI specification")
    written = '"nvidia"' in (found.docker_config or "")
    return Finding(
        severity=Severity.WARNING,
        what="Docker does not know the NVIDIA runtime" + (", though daemon.json names it: it was not restarted" if written else ""),
        evidence=(
            f"docker info: runtimes {', '.join(found.docker_runtimes) or 'not told'}; CDI {'on' if found.docker_cdi_folders else 'off'}",
            f"/etc/docker/daemon.json: {' '.join((found.docker_config or 'not there').split())[:300]}",
        ),
        consequence="`docker run --runtime=nvidia` is refused; --gpus works only if the daemon found the hook of the toolkit when it started",
        fix=("" if written else "sudo nvidia-ctk runtime configure --runtime=docker && ") + "sudo systemctl restart docker",
    )


def toolkit_not_configured_podman(facts: Facts) -> Outcome:
    """The toolkit is installed, and there is no CDI specification for Podman.

    Podman takes GPUs by name from a CDI specification in /etc/cdi or /run/cdi: `--device nvidia.com/gpu=all`. The toolkit writes it, from 1.18 on by
    itself (nvidia-cdi-refresh). Without: "unresolvable CDI devices nvidia.com/gpu=all". See with `nvidia-ctk cdi list`.
    """
    if skipped := _no_toolkit(facts):
        return skipped
    found = facts.containers
    if found.podman_version is None:
        return Skipped(reason="no Podman here")
    if _specifications(facts) or found.hook:
        return Passed(what=f"Podman has {found.hook or 'a CDI specification'}")
    broken = tuple(f"{one.path}: {one.error}" for one in found.cdi if one.error)
    return Finding(
        severity=Severity.WARNING,
        what="there is no CDI specification, from which Podman takes GPUs",
        evidence=(f"podman {found.podman_version}", *(broken or ("nothing of nvidia.com/gpu in /etc/cdi and /run/cdi",))),
        consequence='`podman run --device nvidia.com/gpu=all` is refused: "unresolvable CDI devices"',
        fix=_GENERATE.format("/etc/cdi/nvidia.yaml"),
    )


def cdi_stale(facts: Facts) -> Outcome:
    """The CDI specification was written for another driver.

    It lists the driver's files by name (libcuda.so.580.95.05). After an update they have other names, and starting a container fails, or mounts what
    is left of the old driver. Write it anew after every change of the driver; from toolkit 1.18 on nvidia-cdi-refresh does (but not when a driver is
    removed, nor after changes of MIG). See with `grep libcuda /etc/cdi/nvidia.yaml`. Source: NVIDIA Container Toolkit, CDI support.
    """
    if skipped := _outside(facts):
        return skipped
    specifications = _specifications(facts)
    if not specifications:
        return Skipped(reason="no CDI specification")
    version = facts.driver.version
    now = {version, facts.driver.library_version}
    if isinstance(driver_library_mismatch(facts), Finding) and all(now >= set(one.driver_versions) for one in specifications):
        return Skipped(reason="it is of the driver before or after the update: see driver-library-mismatch")
    other = [one for one in specifications if one.driver_versions and version not in one.driver_versions]
    broken = [one for one in specifications if one not in other and _gone(one)]
    if not other and not broken:
        return Passed(what="the CDI specification fits the driver")
    first = (other or broken)[0]
    why = (
        f"was written for driver {', '.join(first.driver_versions)}; this one is {version}"
        if other
        else f"names {_gone(first)[0]}, which is not here"
    )
    return Finding(
        severity=Severity.ERROR,
        what=f"{first.path} {why}",
        evidence=tuple(
            f"{one.path}: driver {', '.join(one.driver_versions) or 'not told'}{'; not here: ' + ', '.join(_gone(one)[:4]) if _gone(one) else ''}"
            for one in (*other, *broken)
        ),
        consequence="containers with GPUs do not start, or get the files of the old driver",
        fix="\n".join(_GENERATE.format(one.path) for one in (*other, *broken)),
    )


def _gone(specification: CdiSpecification) -> list[str]:
    """Return what a specification names and the machine lacks. Sockets, and nodes that are made when they are first used, come and go."""
    return [path for path in specification.missing if re.match(r"/(usr|lib|lib64|opt|etc)/|/dev/(nvidia\d+|nvidia-caps/)", path)]


def cdi_lacks_gpu(facts: Facts) -> Outcome:
    """The CDI specification lacks a GPU or a MIG instance.

    It was written before the GPU was added or divided; changes of MIG do not renew it by themselves. See with `nvidia-ctk cdi list` and
    `nvidia-smi -L`. Source: NVIDIA Container Toolkit, CDI support.
    """
    if skipped := _outside(facts):
        return skipped
    specifications = _specifications(facts)
    names = {name for one in specifications for name in one.devices}
    if not names or not facts.gpus:
        return Skipped(reason="no CDI specification with devices" if not names else "no GPU answers")
    # A specification that names no device by number or UUID (one made by hand, with "all" alone) cannot lack one.
    if not any(re.fullmatch(r"\d+(:\d+)?|(GPU|MIG)-.*", name) for name in names):
        return Skipped(reason="the CDI specification names no single GPU")
    lacking: list[str] = []
    for gpu in answering(facts):
        if gpu.mig:
            wanted = [(f"{gpu.index}:{part.index}", part.uuid) for part in gpu.mig_devices]
        else:
            wanted = [(str(gpu.index), gpu.uuid)]
        lacking += [number for number, uuid in wanted if number not in names and uuid not in names]
    if not lacking:
        return Passed(what="every GPU is in the CDI specification")
    mig = any(":" in name for name in lacking)
    return Finding(
        severity=Severity.WARNING,
        what=f"the CDI specification lacks {'MIG instance' if mig else 'GPU'} {', '.join(lacking)}",
        evidence=tuple(f"{one.path}: {', '.join(one.devices)}" for one in specifications),
        consequence=f'`--device nvidia.com/gpu={lacking[0]}` is refused: "unresolvable CDI devices"; `all` leaves it out',
        fix="\n".join(_GENERATE.format(one.path) for one in specifications),
    )


def podman_too_old_for_gpus(facts: Facts) -> Outcome:
    """Podman takes `--gpus` and ignores it.

    Podman before 5.0 accepts `--gpus all` for compatibility with Docker and does nothing: the container starts, without a GPU and without a word. Use
    `--device nvidia.com/gpu=all`, which works from 4.1 on; before, only the old hook.
    """
    if skipped := _no_toolkit(facts):
        return skipped
    version = facts.containers.podman_version
    if version is None:
        return Skipped(reason="no Podman here")
    if _at_least(version, (5,)):
        return Passed(what=f"podman {version} understands --gpus")
    return Finding(
        severity=Severity.NOTE,
        what=f"podman {version} ignores --gpus without a word",
        evidence=(f"podman --version: {version}",),
        consequence="a container started with --gpus all has no GPU",
        fix="podman run --device nvidia.com/gpu=all ...",
    )


def cgroup_driver_systemd_risk(facts: Facts) -> Outcome:
    """Containers of Docker can lose their GPUs at the next `systemctl daemon-reload`.

    With systemd as cgroup driver and the toolkit's hook (`--gpus`, `--runtime=nvidia`) systemd does not know that a container may open the GPUs; a
    daemon-reload, which every package update runs, takes them away: "Failed to initialize NVML: Unknown Error". With CDI the engine itself asks for
    the devices. Source: NVIDIA Container Toolkit documentation, troubleshooting.
    """
    if skipped := _no_toolkit(facts):
        return skipped
    found = facts.containers
    if not _has_docker(facts) or found.docker_server_version is None:
        return Skipped(reason="no Docker daemon that answers")
    if found.docker_cgroup_driver != "systemd" or "nvidia" not in found.docker_runtimes:
        return Passed(what=f"cgroup driver {found.docker_cgroup_driver}")
    if _docker_uses_cdi(found) and _specifications(facts):
        return Passed(what="Docker gives GPUs through CDI")
    if re.search(r'^\s*mode\s*=\s*"(jit-)?cdi"', found.toolkit_config or "", re.MULTILINE) or _at_least(found.toolkit_version, (1, 18)):
        return Passed(what="the toolkit gives GPUs through CDI")
    return Finding(
        severity=Severity.NOTE,
        what="containers can lose their GPUs at the next `systemctl daemon-reload`",
        evidence=(
            f"docker info: cgroup driver systemd, runtimes {', '.join(found.docker_runtimes)}",
            f"toolkit {found.toolkit_version}, by its hook",
        ),
        consequence='new programs in a running container then say "Failed to initialize NVML: Unknown Error"',
        fix=f"{_GENERATE.format('/etc/cdi/nvidia.yaml')}\nsudo nvidia-ctk config --in-place --set nvidia-container-runtime.mode=cdi",
    )


CHECKS: tuple[Check, ...] = (
    toolkit_missing,
    toolkit_vulnerable,
    docker_forbidden,
    docker_not_running,
    toolkit_not_configured_docker,
    toolkit_not_configured_podman,
    cdi_stale,
    cdi_lacks_gpu,
    podman_too_old_for_gpus,
    cgroup_driver_systemd_risk,
    nvidia_require_cuda_unmet,
)
