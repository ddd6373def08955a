"""Whether the NVIDIA driver is there, whole, and answers."""

from __future__ import annotations

import datetime

from stoker.catalog import find_branch, version_numbers
from stoker.doctor.checks.grounds import answering, log_lines, model, no_driver, no_way, nvml_evidence, smi_evidence
from stoker.doctor.checks.installation import REFUSED, driver_commands, why_not_loaded
from stoker.doctor.checks.nodes import (
    device_nodes_forbidden,
    device_nodes_missing,
    driver_not_in_container,
    gpus_lost_after_daemon_reload,
    nvidia_uvm_missing,
    nvidia_visible_devices_void,
)
from stoker.doctor.checks.visible import cuda_visible_devices_wrong
from stoker.doctor.checks.xid import xid_errors
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped, check_id

# NVML's code for a library that is not there.
_NOT_FOUND = 12
_MISMATCH = "Driver/library version mismatch"
_RELOAD = "sudo rmmod nvidia_drm nvidia_modeset nvidia_uvm nvidia && sudo modprobe nvidia   # with no program on the GPUs; else: sudo reboot"


def driver_missing(facts: Facts) -> Outcome:
    """There is an NVIDIA card, and no driver for it is loaded.

    Without NVIDIA's kernel module no program can use the card. The usual reasons, and how each shows: the free driver nouveau holds the card
    (`lspci -k`); Secure Boot refuses a module without a signature (`mokutil --sb-state`, "Key was rejected by service"); the module was built for an
    older kernel and not for the one that runs after an update (`dkms status`); nothing is installed. A card that is bound to vfio-pci was handed to
    virtual machines on purpose and is no finding. Source: NVIDIA Driver Installation Guide.
    """
    driver = facts.driver
    if "driver" in facts.unread:
        return Skipped(reason="the driver could not be looked at")
    if driver.version is not None:
        return Passed(what=f"driver {driver.version} is loaded")
    if not driver.cards:
        return Skipped(reason="no NVIDIA GPU in this machine")
    if driver.card_modules and all(module == "vfio-pci" for module in driver.card_modules):
        return Skipped(reason="the NVIDIA cards are handed to virtual machines (vfio-pci)")
    reason, fix = why_not_loaded(facts)
    log = log_lines(facts, rf"NVRM|nouveau|{REFUSED}")
    return Finding(
        severity=Severity.ERROR,
        what=f"no NVIDIA driver is loaded for {_cards(driver.cards)}: {reason}",
        evidence=(f"on the PCI bus: {'; '.join(driver.card_names) or _cards(driver.cards)}", "no /sys/module/nvidia", *log, *smi_evidence(facts)),
        consequence="torch.cuda.is_available() is False; everything runs on the CPU",
        fix=fix if not facts.system.container else f"on the machine itself, outside of this container:\n{fix}",
    )


def _cards(number: int) -> str:
    return f"{number} NVIDIA card{'s' if number > 1 else ''}"


def wsl_driver(facts: Facts) -> Outcome:
    """Under WSL a Linux driver hides the one of Windows.

    In the Windows Subsystem for Linux the driver is the one of Windows; its libraries appear in /usr/lib/wsl/lib. A Linux driver package installed
    inside brings its own libcuda, which finds no kernel module and hides the right one. See with `ldconfig -p | grep libcuda`. Remove the packages
    (`cuda-toolkit-*` packages are fine, `cuda`, `cuda-drivers` and `nvidia-driver-*` are not). Source: NVIDIA, CUDA on WSL User Guide.
    """
    if not facts.system.wsl:
        return Skipped(reason="not the Windows Subsystem for Linux")
    cuda = [library for library in facts.driver.libraries if "libcuda" in library.path]
    if not any(library.path.startswith("/usr/lib/wsl/") for library in cuda):
        return Skipped(reason="Windows gives no NVIDIA driver to this system")
    taken = next((library for library in cuda if library.first), None)
    if taken is None or "/wsl/" in taken.path:
        return Passed(what="libcuda is the one of Windows' driver")
    return Finding(
        severity=Severity.ERROR,
        what=f"the loader takes libcuda of a Linux driver ({taken.path}), which hides the one of Windows in /usr/lib/wsl/lib",
        evidence=tuple(f"libcuda: {library.path}{' (taken)' if library.first else ''}" for library in cuda),
        consequence="CUDA finds no GPU, for the Linux driver has no kernel module under WSL",
        fix="sudo apt purge 'nvidia-driver-*' 'libnvidia-compute-*' cuda-drivers && sudo ldconfig   # the driver of Windows is enough",
    )


def driver_library_mismatch(facts: Facts) -> Outcome:
    """The driver's libraries are of another version than the kernel module that is loaded.

    The driver's kernel module and its libraries (libcuda, libnvidia-ml) must be of the very same version. A package update replaces the libraries at
    once, while the old module stays loaded until it is reloaded or the machine restarts: "Failed to initialize NVML: Driver/library version
    mismatch". In a container: libraries that belong to the image hide those of the machine, or the machine was updated while the container ran.
    See with `cat /proc/driver/nvidia/version` and `ls -l /usr/lib/*/libcuda.so.*`. Source: NVML API, NVML_ERROR_LIB_RM_VERSION_MISMATCH.
    """
    if skipped := no_way(facts):
        return skipped
    driver = facts.driver
    if facts.system.wsl:
        return Skipped(reason="under WSL the libraries come with the driver of Windows")
    said = driver.nvml_code == 18 or _MISMATCH in driver.smi_text
    if driver.nvml_code == 0 and not said:
        return Passed(what=f"libraries and kernel module agree ({driver.version})")
    if not said and (driver.library_version is None or driver.library_version == driver.version):
        return Skipped(reason="the version of the libraries is not known") if driver.library_version is None else Passed(what="the versions agree")
    libraries = driver.library_version or "of another version"
    return Finding(
        severity=Severity.ERROR,
        what=f"the kernel module is {driver.version}, the driver's libraries are {libraries}",
        evidence=(
            f"/proc/driver/nvidia/version: {driver.version}",
            *(f"taken by the loader: {library.path}" for library in driver.libraries if library.first),
            *nvml_evidence(facts),
            *smi_evidence(facts),
        ),
        consequence="no program can use the GPUs: nvidia-smi fails and torch.cuda.is_available() is False",
        fix=_mismatch_fix(facts),
    )


def _mismatch_fix(facts: Facts) -> str:
    if not facts.system.container:
        return _RELOAD
    return (
        "start the container anew: the machine's driver was changed while it ran\n"
        "apt purge -y 'libnvidia-*' 'libcuda1'   # in the image, if it brings libraries of a driver itself (ls -l /usr/lib/*/libcuda.so.*)"
    )


def driver_library_missing(facts: Facts) -> Outcome:
    """The driver's kernel module is loaded, and its library libcuda cannot be.

    CUDA programs load `libcuda.so.1`, which belongs to the driver and not to CUDA or PyTorch. On a machine it comes in a package apart from the
    kernel module (libnvidia-compute-*, nvidia-driver-cuda, libcuda1). In a container the toolkit mounts it, if NVIDIA_DRIVER_CAPABILITIES holds
    `compute`. See with `ldconfig -p | grep libcuda`. Source: NVIDIA Container Toolkit documentation, driver capabilities.
    """
    if skipped := no_way(facts):
        return skipped
    driver = facts.driver
    if driver.libcuda_error is None:
        return Passed(what="the loader finds libcuda.so.1")
    missing = "cannot open shared object file" in driver.libcuda_error
    capabilities = facts.variables.get("NVIDIA_DRIVER_CAPABILITIES")
    evidence = [driver.libcuda_error, f"kernel module {driver.version} is loaded"]
    if capabilities is not None:
        evidence.append(f"NVIDIA_DRIVER_CAPABILITIES={capabilities}")
    others = [library.path for library in driver.libraries if "libcuda" in library.path]
    evidence += [f"{'not where the loader looks' if missing else 'found'}: {path}" for path in others]
    return Finding(
        severity=Severity.ERROR,
        what=f"driver {driver.version} is loaded, but its library libcuda.so.1 {'is not here' if missing else 'cannot be loaded'}",
        evidence=tuple(evidence),
        consequence="torch.cuda.is_available() is False",
        fix=_library_fix(facts, others if missing else []),
    )


def _library_fix(facts: Facts, others: list[str]) -> str:
    if facts.system.container:
        return "start the container with --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility (podman: --device nvidia.com/gpu=all)"
    if others:
        return f"echo {others[0].rpartition('/')[0]} | sudo tee /etc/ld.so.conf.d/nvidia.conf && sudo ldconfig"
    return driver_commands(facts.system.os, libraries_only=True)


def smi_hangs(facts: Facts) -> Outcome:
    """nvidia-smi or NVML gives no answer.

    A driver whose GPU has died, or whose firmware (GSP) no longer answers, blocks every program that asks it, often so that it cannot be killed
    (state D in `ps`). On servers without persistence mode the driver starts every GPU anew for each question, which takes seconds a GPU: try `time
    nvidia-smi`. If it answers after some seconds, turn persistence mode on; if it never does, look for Xid lines in the kernel's log and restart.
    """
    if skipped := no_driver(facts):
        return skipped
    driver = facts.driver
    evidence = ["nvidia-smi: no answer within 4 s"] if driver.smi_found and driver.smi_code is None and "no answer" in driver.smi_text else []
    if driver.nvml_error and "no answer" in driver.nvml_error:
        evidence.append(driver.nvml_error)
    evidence += sorted({gpu.unanswered for gpu in facts.gpus if gpu.unanswered and "no answer" in gpu.unanswered} - set(evidence))
    if not evidence:
        return Passed(what="nvidia-smi and NVML answer in time")
    who = [name for name in ("nvidia-smi", "NVML") if any(name in line for line in evidence)]
    return Finding(
        severity=Severity.ERROR,
        what=f"the driver does not answer: {' and '.join(who)} {'hang' if len(who) > 1 else 'hangs'}",
        evidence=(*evidence, *log_lines(facts, r"Xid|NVRM")),
        consequence="every program that asks the GPUs waits, often beyond being killed; torch hangs in its first CUDA call",
        fix="time nvidia-smi\nsudo nvidia-smi -pm 1   # if it answered after some seconds\nsudo reboot            # if it never did",
    )


def nvml_broken(facts: Facts) -> Outcome:
    """The driver's management library fails or answers garbage.

    NVML (libnvidia-ml) is what nvidia-smi, and this doctor, ask for GPUs. Here it died, gave an error that says nothing, or answers that cannot be
    true. That happens with half-installed drivers, with a library that does not belong to the driver, and with GPUs that failed. See with
    `nvidia-smi -q | head -40`. Install the driver anew, and restart.
    """
    if skipped := no_way(facts):
        return skipped
    driver = facts.driver
    unanswered = sorted({gpu.unanswered for gpu in facts.gpus if gpu.unanswered})
    if any("no answer" in text for text in (driver.nvml_error or "", *unanswered)):
        return Skipped(reason="it hangs: see smi-hangs")
    if unanswered and driver.nvml_code == 0:
        return _nvml_finding(facts, "fails while it tells of the GPUs", tuple(unanswered))
    if driver.nvml_code == 0 and driver.nvml_error is None:
        if _garbage(facts):
            return _nvml_finding(facts, "answers garbage", tuple(f"GPU {gpu.index}: no name, no memory, no UUID" for gpu in facts.gpus))
        return Passed(what="NVML answers")
    if driver.nvml_error is None or driver.nvml_code == _NOT_FOUND:
        # A container with the capability `compute` alone has no NVML, and needs none.
        return Skipped(reason="NVML was not asked" if driver.nvml_error is None else "NVML is not installed here")
    for cause in (device_nodes_missing, device_nodes_forbidden, gpus_lost_after_daemon_reload, driver_library_mismatch, driver_library_missing):
        if isinstance(cause(facts), Finding):
            return Skipped(reason=f"see {check_id(cause)}")
    return _nvml_finding(facts, "fails", (*nvml_evidence(facts), *smi_evidence(facts)))


def _garbage(facts: Facts) -> bool:
    return bool(facts.gpus) and all(gpu.name is None and gpu.memory_bytes is None and gpu.uuid is None and not gpu.lost for gpu in facts.gpus)


def _nvml_finding(facts: Facts, what: str, evidence: tuple[str, ...]) -> Finding:
    libraries = tuple(f"library: {library.path}" for library in facts.driver.libraries if library.first and "libnvidia-ml" in library.path)
    return Finding(
        severity=Severity.ERROR,
        what=f"the driver's management library NVML {what}",
        evidence=(*evidence, *libraries, *log_lines(facts, r"Xid|NVRM")),
        consequence="neither nvidia-smi nor a monitor can be trusted; CUDA may fail too",
        fix=f"nvidia-smi -q | head -40   # does it fail too?\n{driver_commands(facts.system.os)}",
    )


def gpus_not_initialised(facts: Facts) -> Outcome:
    """The driver is loaded, and finds no GPU that it can use.

    nvidia-smi says "No devices were found" while the card is on the PCI bus: the driver could not start it. The kernel's log says why: "RmInitAdapter
    failed" (power cable, PCIe address space, a dead card), "not supported by open ... kernel modules" (before Turing: install the closed
    module), "Legacy drivers" (the card is too old for this driver). See with `sudo dmesg | grep NVRM`.
    """
    if skipped := no_way(facts):
        return skipped
    driver = facts.driver
    if facts.gpus or "gpus" in facts.unread:
        return Passed(what=f"the driver runs {len(facts.gpus)} GPU(s)") if facts.gpus else Skipped(reason="the GPUs could not be looked at")
    if driver.smi_found and driver.smi_code is None:
        return Skipped(reason="nvidia-smi gave no answer: see smi-hangs")
    if driver.nvml_code != 0 or driver.nvml_error or not any(module == "nvidia" for module in driver.card_modules):
        return Skipped(reason="NVML did not start, or the driver holds no card")
    log = log_lines(facts, r"RmInitAdapter|not supported|legacy|Xid|NVRM", most=6)
    text = " ".join(log).lower()
    if "supported by open" in text or "open nvidia gpu kernel modules" in text:
        fix = "install the closed kernel module of the same driver: the open one runs Turing (RTX 20xx, T4) and newer only"
    elif "legacy" in text:
        fix = "install the legacy driver that the log names: this card is too old for the driver that is loaded"
    else:
        fix = "sudo dmesg | grep -i NVRM   # RmInitAdapter failed: check power cable, slot and 'Above 4G decoding' in the firmware, then restart"
    return Finding(
        severity=Severity.ERROR,
        what=f"driver {driver.version} is loaded, but could start none of {_cards(driver.cards)}",
        evidence=(*driver.card_names, *smi_evidence(facts), *log),
        consequence="torch.cuda.is_available() is False",
        fix=fix,
    )


def fabric_manager_down(facts: Facts) -> Outcome:
    """The machine has NVSwitches, and the fabric manager does not run.

    On HGX and DGX machines CUDA refuses every program (error 802, "system not yet initialized") until nvidia-fabricmanager has set up the switches.
    It must be of the very version of the driver: after a driver update it stops by itself. See with `systemctl status nvidia-fabricmanager` and
    `nvidia-smi -q | grep -A3 Fabric`. Source: NVIDIA Fabric Manager User Guide.
    """
    if skipped := no_driver(facts):
        return skipped
    driver = facts.driver
    if not driver.nvswitches:
        return Skipped(reason="no NVSwitch in this machine")
    if facts.system.container or driver.fabric_manager is not False:
        waiting = [gpu for gpu in answering(facts) if gpu.fabric in ("not_started", "in_progress")]
        if not (facts.system.container and waiting):
            return Passed(what="the fabric manager runs") if driver.fabric_manager else Skipped(reason="whether it runs cannot be seen from here")
    elif facts.gpus and all(gpu.fabric == "completed" for gpu in answering(facts)):
        return Passed(what="the GPUs say that their fabric is set up")
    states = tuple(f"GPU {gpu.index}: fabric {gpu.fabric}" for gpu in answering(facts) if gpu.fabric)
    return Finding(
        severity=Severity.ERROR,
        what=f"the fabric manager does not run, and this machine has {driver.nvswitches} NVSwitches",
        evidence=("no process nv-fabricmanager", *states) if not facts.system.container else states,
        consequence='CUDA refuses every program: "system not yet initialized" (802)',
        fix=f"sudo systemctl enable --now nvidia-fabricmanager   # of version {driver.version}, the driver's own",
    )


def cuda_compat_misplaced(facts: Facts) -> Outcome:
    """CUDA's forward-compatibility library is used where it cannot work.

    The package cuda-compat brings a newer libcuda for an older driver. It works on data-centre GPUs only (elsewhere: error 804, "forward
    compatibility was attempted on non supported HW"), and it must not be older than the driver (error 803). Images that put /usr/local/cuda/compat
    into LD_LIBRARY_PATH use it everywhere. See with `ldd $(python -c "import torch; print(torch.__path__[0])")/lib/libtorch_cuda.so | grep libcuda`.
    Source: NVIDIA, CUDA Compatibility, forward compatibility.
    """
    if skipped := no_way(facts):
        return skipped
    taken = next((one for one in facts.driver.libraries if one.first and "libcuda" in one.path and "compat" in one.path), None)
    if taken is None or taken.version is None or facts.driver.version is None:
        return Passed(what="libcuda is the driver's own")
    unfit = [gpu for gpu in answering(facts) if (known := model(gpu)) is not None and not known.datacentre]
    older = version_numbers(taken.version) < version_numbers(facts.driver.version)
    if not unfit and not older:
        return Passed(what=f"cuda-compat {taken.version} fits")
    why = f"older than the driver ({facts.driver.version})" if older else f"not supported on {unfit[0].name}"
    return Finding(
        severity=Severity.ERROR,
        what=f"libcuda comes from cuda-compat {taken.version}, which is {why}",
        evidence=(f"taken by the loader: {taken.path}", f"LD_LIBRARY_PATH={facts.variables.get('LD_LIBRARY_PATH', '')}"),
        consequence=f"CUDA does not start: error {803 if older else 804}",
        fix="export LD_LIBRARY_PATH=$(printf %s \"$LD_LIBRARY_PATH\" | tr ':' '\\n' | grep -v compat | paste -sd:)",
    )


def cuda_stub_taken(facts: Facts) -> Outcome:
    """A stub of libcuda is loaded in the place of the driver's library.

    CUDA toolkits hold a `stubs/libcuda.so` to link against where there is no driver. It has every name and does nothing. When its folder is on
    LD_LIBRARY_PATH, CUDA ends with error 34 ("CUDA driver is a stub library"). See with `echo $LD_LIBRARY_PATH`. Source: CUDA Runtime API.
    """
    if skipped := no_way(facts):
        return skipped
    taken = next((one for one in facts.driver.libraries if one.first and "libcuda" in one.path and "/stubs/" in one.path), None)
    if taken is None:
        return Passed(what="libcuda is no stub")
    return Finding(
        severity=Severity.ERROR,
        what=f"the loader takes a stub of libcuda: {taken.path}",
        evidence=(f"LD_LIBRARY_PATH={facts.variables.get('LD_LIBRARY_PATH', '')}",),
        consequence='torch finds no GPU: "CUDA driver is a stub library" (34)',
        fix="export LD_LIBRARY_PATH=$(printf %s \"$LD_LIBRARY_PATH\" | tr ':' '\\n' | grep -v /stubs | paste -sd:)",
    )


def driver_branch_ended(facts: Facts) -> Outcome:
    """The driver is of a branch that NVIDIA no longer maintains.

    NVIDIA maintains each driver branch for a time (long-term branches three years), then closes no more holes in it and mends no more faults. The
    date is that of the branch's end of life in NVIDIA's table of supported data-centre drivers.
    """
    if skipped := no_driver(facts):
        return skipped
    version = facts.driver.version or ""
    branch = find_branch(version)
    if branch is None or branch.end_of_life is None or facts.gathered is None:
        return Skipped(reason="the end of this branch, or the date, is not known")
    end = branch.end_of_life
    next_month = datetime.date(end.year + end.month // 12, end.month % 12 + 1, 1)
    if facts.gathered[:10] < next_month.isoformat():
        return Passed(what=f"branch {branch.branch} is maintained until {end:%B %Y}")
    return Finding(
        severity=Severity.NOTE,
        what=f"driver {version} is of branch {branch.branch}, which NVIDIA stopped maintaining in {end:%B %Y}",
        evidence=(f"driver {version}", f"{branch.source} (read {branch.checked})"),
        consequence="known holes and faults of the driver stay open",
        fix=driver_commands(facts.system.os),
    )


CHECKS: tuple[Check, ...] = (
    driver_missing,
    wsl_driver,
    nvidia_visible_devices_void,
    driver_not_in_container,
    device_nodes_missing,
    device_nodes_forbidden,
    gpus_lost_after_daemon_reload,
    driver_library_mismatch,
    driver_library_missing,
    smi_hangs,
    nvml_broken,
    gpus_not_initialised,
    fabric_manager_down,
    nvidia_uvm_missing,
    cuda_stub_taken,
    cuda_compat_misplaced,
    cuda_visible_devices_wrong,
    xid_errors,
    driver_branch_ended,
)
