"""Whether the GPUs that were asked for are there, can be given to a container, and are free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stoker.doctor.finding import Finding, Severity
from stoker.doctor.sizes import size
from stoker.host.driver import version_numbers
from stoker.launch.checks.gathering import Before

if TYPE_CHECKING:
    from stoker.doctor.facts.gpus import Gpu

_CPU = "start without: --gpus none"
_GENERATE = "sudo nvidia-ctk cdi generate --output={}"
_INSTALL = "install nvidia-container-toolkit from NVIDIA's repository (docs.nvidia.com/datacenter/cloud-native, install guide), then:\n"
_USED_BYTES = 512 * 2**20
"""From here on a GPU is somebody's: a desktop takes less."""
_CDI_OF_PODMAN_4_3 = (0, 5, 0)
"""The newest specification that podman 4.3 reads; of another it says "unresolvable" and nothing more."""


def gpu_missing(before: Before) -> Iterator[Finding]:
    """GPUs were asked for that this machine does not have."""
    asked = before.request.gpus
    if asked.what == "none":
        return
    if not before.site.gpus:
        driver = before.site.driver
        yield Finding(
            severity=Severity.ERROR,
            what=f"--gpus {asked.text}: this machine has no GPU that could be given",
            evidence=("no /dev/nvidia0", f"driver: {driver or 'none is loaded'}"),
            consequence="the engine refuses to start the container, or starts it without GPUs",
            fix=f"stoker doctor   # says why, where there is an NVIDIA card\n{_CPU}",
        )
        return
    lacking = [device for device in asked.devices if before.gpus and not _found(device, before.gpus)]
    if lacking:
        yield Finding(
            severity=Severity.ERROR,
            what=f"--gpus {asked.text}: there is no GPU {', '.join(lacking)}",
            evidence=tuple(_listed(gpu) for gpu in before.gpus or ()),
            consequence="the engine refuses to start the container",
            fix="nvidia-smi -L   # names those that there are",
        )


def _found(device: str, gpus: tuple[Gpu, ...]) -> bool:
    index, _, part = device.partition(":")
    for gpu in gpus:
        mig = [(str(one.index), (one.uuid or "").lower()) for one in gpu.mig_devices]
        whole = device.lower() == (gpu.uuid or "").lower() or (device == str(gpu.index) and not part)
        if whole or any(device.lower() == uuid or (index == str(gpu.index) and part == number) for number, uuid in mig):
            return True
    # The old form of MIG's names is not among those that NVML tells.
    return device.startswith("MIG-GPU-")


def _listed(gpu: Gpu) -> str:
    return f"GPU {gpu.index}: {gpu.name or 'gives no name'} ({gpu.uuid or 'no UUID'})" + "".join(
        f"; {gpu.index}:{part.index} {part.name or 'MIG'} ({part.uuid})" for part in gpu.mig_devices
    )


def gpu_lost(before: Before) -> Iterator[Finding]:
    """A GPU that was asked for does not answer."""
    for gpu in _asked(before):
        if gpu.lost or gpu.unanswered:
            yield Finding(
                severity=Severity.WARNING if before.request.gpus.what == "all" else Severity.ERROR,
                what=f"GPU {gpu.index} is lost" if gpu.lost else f"GPU {gpu.index} gives no answer",
                evidence=(f"NVML: {gpu.lost_text or gpu.unanswered or 'lost'}",),
                consequence="a training on it ends with a CUDA error",
                fix="stoker doctor   # says what to do; until then start on the others: --gpus 0,1,...",
            )


def cdi_missing(before: Before) -> Iterator[Finding]:
    """Podman takes GPUs from a CDI specification, and there is none, or none with these."""
    site, asked = before.site, before.request.gpus
    if asked.what == "none" or not site.gpus or site.engine.name != "podman":
        return
    devices = {name for one in before.cdi for name in one.devices}
    wanted = ("all",) if asked.what == "all" else asked.devices
    lacking = [name for name in wanted if name not in devices]
    if not before.cdi:
        what, evidence = "there is no CDI specification, from which podman takes GPUs", ["nothing of nvidia.com/gpu in /etc/cdi and /run/cdi"]
    elif lacking:
        what, evidence = f"the CDI specification lacks {', '.join(lacking)}", [f"{one.path}: {', '.join(one.devices)}" for one in before.cdi]
    else:
        return
    path = before.cdi[0].path if before.cdi else "/etc/cdi/nvidia.yaml"
    yield Finding(
        severity=Severity.ERROR,
        what=what,
        evidence=tuple(evidence),
        consequence='podman refuses: "unresolvable CDI devices"',
        fix=("" if before.toolkit else _INSTALL) + _GENERATE.format(path) + f"\n{_CPU}",
    )


def cdi_unfit(before: Before) -> Iterator[Finding]:
    """The CDI specification is of another driver, or newer than this podman reads."""
    site = before.site
    if before.request.gpus.what == "none" or not site.gpus or site.engine.name != "podman":
        return
    for one in before.cdi:
        if one.driver_versions and site.driver and site.driver not in one.driver_versions:
            yield Finding(
                severity=Severity.ERROR,
                what=f"{one.path} was written for driver {', '.join(one.driver_versions)}; this one is {site.driver}",
                evidence=(f"{one.path}: libcuda of {', '.join(one.driver_versions)}", f"/proc/driver/nvidia/version: {site.driver}"),
                consequence="the container does not start, or gets the files of the old driver",
                fix=_GENERATE.format(one.path),
            )
        elif site.engine.version and site.engine.version < (4, 4) and one.version and version_numbers(one.version) > _CDI_OF_PODMAN_4_3:
            yield Finding(
                severity=Severity.ERROR,
                what=f"{one.path} has cdiVersion {one.version}, and this podman reads 0.5.0 at most",
                evidence=(f"podman {'.'.join(map(str, site.engine.version))}", f"{one.path}: cdiVersion {one.version}"),
                consequence='podman refuses: "unresolvable CDI devices"',
                fix=f"sudo sed -i 's/^cdiVersion:.*/cdiVersion: \"0.5.0\"/' {one.path}   # or podman 4.4 and newer",
            )


def runtime_missing(before: Before) -> Iterator[Finding]:
    """Docker has no NVIDIA runtime, no CDI, and the toolkit whose hook it would call is not installed."""
    engine = before.site.engine
    if before.request.gpus.what == "none" or not before.site.gpus or engine.name != "docker" or engine.answers is not None:
        return
    if "nvidia" in engine.runtimes or engine.cdi or before.toolkit:
        return
    yield Finding(
        severity=Severity.ERROR,
        what="Docker cannot give GPUs to containers: the NVIDIA container toolkit is not installed",
        evidence=(f"docker info: runtimes {', '.join(engine.runtimes) or 'not told'}", "no nvidia-ctk or nvidia-container-cli on PATH"),
        consequence='docker refuses: "could not select device driver with capabilities: [[gpu]]"',
        fix=f"{_INSTALL}sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker\n{_CPU}",
    )


def gpu_in_use(before: Before) -> Iterator[Finding]:
    """Somebody computes on a GPU that was asked for."""
    asked = _asked(before)
    used = [gpu for gpu in asked if not gpu.mig and _used_bytes(gpu) >= _USED_BYTES]
    if not used:
        return
    free = [str(gpu.index) for gpu in before.gpus or () if not gpu.lost and not gpu.unanswered and _used_bytes(gpu) < _USED_BYTES]
    yield Finding(
        severity=Severity.WARNING,
        what=f"GPU {', '.join(str(gpu.index) for gpu in used)} {'is' if len(used) == 1 else 'are'} in use: {_by_whom(before, used)}",
        evidence=tuple(
            f"GPU {gpu.index}: {size(gpu.memory_used_bytes or 0)} of {size(gpu.memory_bytes or 0)} in use; {_processes(before, gpu)}" for gpu in used
        ),
        consequence="both share its time and memory: slower, or out of memory",
        fix="\n".join([*([f"take those that are free: --gpus {','.join(free)}"] if free else []), *_stops(before, used)]) or "wait until it is free",
    )


def _asked(before: Before) -> list[Gpu]:
    gpus, asked = before.gpus or (), before.request.gpus
    return [gpu for gpu in gpus if asked.what == "all" or any(_found(device, (gpu,)) for device in asked.devices)] if asked.what != "none" else []


def _used_bytes(gpu: Gpu) -> int:
    """Return what processes hold; what is in use without one belongs to a container that cannot be seen, or to the driver."""
    held = sum(process.memory_bytes or 0 for process in gpu.processes)
    return max(held, gpu.memory_used_bytes or 0) if gpu.processes or (gpu.memory_used_bytes or 0) > 2 * _USED_BYTES else held


def _by_whom(before: Before, gpus: list[Gpu]) -> str:
    names = dict.fromkeys(before.users.get(process.pid, f"process {process.pid}") for gpu in gpus for process in gpu.processes)
    return ", ".join(names) or "by whom cannot be seen from here"


def _processes(before: Before, gpu: Gpu) -> str:
    told = [f"{process.pid} {process.name or '?'} ({before.users.get(process.pid, 'whose is not known')})" for process in gpu.processes[:5]]
    return f"processes: {', '.join(told)}" if told else "no process that can be seen from here"


def _stops(before: Before, gpus: list[Gpu]) -> list[str]:
    users = {before.users.get(process.pid, "") for gpu in gpus for process in gpu.processes}
    return [f"stoker stop {user.removeprefix('container ')}" for user in sorted(users) if user.startswith("container ")]


def gpus_silent(before: Before) -> Iterator[Finding]:
    """The driver gave no answer in the time that there was."""
    if before.request.gpus.what != "none" and before.site.gpus and before.gpus is None:
        yield Finding(
            severity=Severity.NOTE,
            what="the GPUs gave no answer within a second: whether they are free is not known",
            evidence=("NVML is still being asked (persistence mode off, or many GPUs)",),
            consequence="somebody else may compute on them",
            fix="sudo nvidia-smi -pm 1   # keeps the driver loaded; or look: nvidia-smi",
        )


CHECKS = (gpu_missing, gpu_lost, cdi_missing, cdi_unfit, runtime_missing, gpu_in_use, gpus_silent)
