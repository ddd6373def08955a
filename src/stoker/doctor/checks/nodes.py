"""Whether this process can reach the driver: device nodes, and what a container was given of them."""

from __future__ import annotations

from stoker.doctor.checks.grounds import essential_nodes, gpu_nodes, no_driver, no_way, nvml_evidence, smi_evidence
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

_HIDING = ("void", "none", "")
_START = {
    "docker": "docker run --gpus all ...   # with the NVIDIA container toolkit on the machine",
    "podman": "podman run --device nvidia.com/gpu=all ...   # podman before 5 ignores --gpus; the machine needs a CDI specification",
    "kubernetes": "in the Pod:  resources: {limits: {nvidia.com/gpu: 1}}   # and NVIDIA's device plugin in the cluster",
    "apptainer": "apptainer exec --nv ...",
}


def nvidia_visible_devices_void(facts: Facts) -> Outcome:
    """The container was told to show no GPU.

    The NVIDIA container runtime reads NVIDIA_VISIBLE_DEVICES when the container starts: `void`, empty or unset gives nothing, `none` the driver
    without a GPU. Kubernetes sets `void` in Pods that ask for no GPU. (Containers started through CDI have `void` too, with their GPUs: that is
    right.) Beside a torch that was built for processors, no GPU seems to be meant: a note.
    """
    if not facts.system.container:
        return Skipped(reason="not in a container")
    if skipped := no_driver(facts):
        return skipped
    value = facts.variables.get("NVIDIA_VISIBLE_DEVICES")
    if gpu_nodes(facts) or value is None or value.strip().lower() not in _HIDING:
        return Passed(what="NVIDIA_VISIBLE_DEVICES hides nothing")
    return Finding(
        severity=_of_no_gpu(facts),
        what=f"NVIDIA_VISIBLE_DEVICES={value!r} was set when this container started: it was given no GPU",
        evidence=(f"NVIDIA_VISIBLE_DEVICES={value}", f"the machine has driver {facts.driver.version}", "no /dev/nvidia0 in the container"),
        consequence="torch.cuda.is_available() is False",
        fix=_start_command(facts),
    )


def driver_not_in_container(facts: Facts) -> Outcome:
    """The machine has GPUs and a driver, and this container was given none of it.

    A container sees GPUs only if it is started with them: `docker run --gpus all`, `podman run --device nvidia.com/gpu=all` (podman before 5 takes
    `--gpus` and ignores it without a word), a `nvidia.com/gpu` limit in Kubernetes, `apptainer --nv`. See inside with `ls /dev/nvidia*`. It cannot be
    mended from inside: start the container anew. Beside a torch that was built for processors, no GPU seems to be meant: a note.
    """
    if not facts.system.container:
        return Skipped(reason="not in a container")
    if skipped := no_driver(facts):
        return skipped
    if gpu_nodes(facts):
        return Passed(what=f"{len(gpu_nodes(facts))} device node(s) of GPUs are in the container")
    if facts.variables.get("NVIDIA_VISIBLE_DEVICES", "all").strip().lower() in _HIDING:
        return Skipped(reason="see nvidia-visible-devices-void")
    seen = [f"the machine has driver {facts.driver.version}", "no /dev/nvidia0 in the container"]
    if facts.driver.cards:
        seen.append(f"on the PCI bus: {'; '.join(facts.driver.card_names[:8]) or facts.driver.cards}")
    return Finding(
        severity=_of_no_gpu(facts),
        what=f"this container ({facts.system.container}) was started without the machine's GPUs",
        evidence=tuple(seen),
        consequence="torch.cuda.is_available() is False; everything runs on the CPU",
        fix=_start_command(facts),
    )


def _of_no_gpu(facts: Facts) -> Severity:
    """Return how much it matters that a container has no GPU: whoever put a torch without CUDA into it does not seem to want one."""
    torch = facts.python.torch
    meant = torch is not None and torch.version is not None and torch.cuda is None and torch.hip is None
    return Severity.NOTE if meant else Severity.ERROR


def _start_command(facts: Facts) -> str:
    engine = facts.system.container or ""
    return _START.get(engine) or f"start the container anew with its GPUs:\n{_START['docker']}\n{_START['podman']}"


def device_nodes_missing(facts: Facts) -> Outcome:
    """The driver is loaded, and its device nodes are not there.

    Programs reach the driver through /dev/nvidiactl and /dev/nvidia0, 1, ... They are made by udev, or by the set-uid program nvidia-modprobe
    when the first CUDA program runs. On a machine without a desktop and without nvidia-modprobe nobody makes them. See with `ls -l /dev/nvidia*`.
    Source: NVIDIA driver README, "How and when are the NVIDIA device files created?".
    """
    if skipped := no_way(facts):
        return skipped
    driver = facts.driver
    if facts.system.wsl or not (facts.system.container or any(module == "nvidia" for module in driver.card_modules)):
        return Skipped(reason="the driver holds no card here")
    missing = [] if gpu_nodes(facts) else ["/dev/nvidia0"]
    if not any(node.path == "/dev/nvidiactl" for node in driver.nodes):
        missing.append("/dev/nvidiactl")
    if not missing:
        return Passed(what="the device nodes are there")
    inside = facts.system.container
    return Finding(
        severity=Severity.ERROR,
        what=f"driver {driver.version} is loaded, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there",
        evidence=(f"in /dev: {', '.join(node.path for node in driver.nodes) or 'no node of NVIDIA'}", *smi_evidence(facts), *nvml_evidence(facts)),
        consequence="torch.cuda.is_available() is False",
        fix=_start_command(facts)
        if inside
        else "sudo nvidia-modprobe -c 0 -u   # now; for every start: sudo systemctl enable --now nvidia-persistenced",
    )


def device_nodes_forbidden(facts: Facts) -> Outcome:
    """This user may not open the driver's device nodes.

    CUDA opens /dev/nvidiactl, /dev/nvidia-uvm and /dev/nvidia0, ... for reading and writing. They are open to all (mode 666) unless the
    administrator chose a group (options NVreg_DeviceFileMode and NVreg_DeviceFileGID of the module, udev rules of a cluster). See with
    `ls -l /dev/nvidia*` and `id`.
    """
    if skipped := no_way(facts):
        return skipped
    forbidden = [node for node in essential_nodes(facts) if not node.readable]
    if not forbidden:
        return Passed(what="the device nodes can be opened")
    if any(node.error == "Operation not permitted" for node in forbidden):
        return Skipped(reason="a cgroup forbids it: see gpus-lost-after-daemon-reload")
    if not any(node.error in (None, "Permission denied") for node in forbidden):
        return Skipped(reason=f"{forbidden[0].path}: {forbidden[0].error}")
    groups = sorted({node.group for node in forbidden if node.group and node.group != "root"})
    if facts.system.container:
        fix = f"start the container with the group of the nodes: --group-add {forbidden[0].gid} (podman: --group-add keep-groups)"
    elif groups:
        fix = f'sudo usermod -aG {",".join(groups)} "$USER"   # then log in anew'
    else:
        fix = (
            "sudo chmod 666 "
            + " ".join(node.path for node in forbidden)
            + "   # until the next start; for good: the option NVreg_DeviceFileMode=0666"
        )
    return Finding(
        severity=Severity.ERROR,
        what=f"user {facts.system.uid} may not open {', '.join(node.path for node in forbidden)}",
        evidence=tuple(f"{node.path}: mode {node.mode}, uid {node.uid}, gid {node.gid} ({node.group}): {node.error}" for node in forbidden),
        consequence="torch.cuda.is_available() is False for this user",
        fix=fix,
    )


def gpus_lost_after_daemon_reload(facts: Facts) -> Outcome:
    """The container has lost its GPUs while it ran.

    "Failed to initialize NVML: Unknown Error" in a container that worked before: the toolkit's hook opens the GPUs in the container's cgroup behind
    systemd's back, and `systemctl daemon-reload` (any package update runs it) writes the cgroup anew without them. The nodes are there, and opening
    them is "Operation not permitted". Start the container anew; for good, let it get its GPUs through CDI, or use the cgroup driver cgroupfs.
    Source: NVIDIA Container Toolkit documentation, troubleshooting, "Containers losing access to GPUs".
    """
    if not facts.system.container:
        return Skipped(reason="not in a container")
    if skipped := no_way(facts):
        return skipped
    refused = [node for node in essential_nodes(facts) if node.error == "Operation not permitted"]
    unknown = facts.driver.nvml_code == 999 or "Failed to initialize NVML: Unknown Error" in facts.driver.smi_text
    if not refused and not unknown:
        return Passed(what="the container's cgroup lets the GPUs be opened")
    return Finding(
        severity=Severity.ERROR,
        what="this container may no longer open its GPUs: its cgroup forbids it, as after `systemctl daemon-reload` on the machine",
        evidence=(*(f"{node.path}: {node.error}" for node in refused), *nvml_evidence(facts), *smi_evidence(facts)),
        consequence="the training that runs goes on; every program that starts now finds no GPU",
        fix="start the container anew; for good on the machine:\n"
        "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml\n"
        "docker run --device nvidia.com/gpu=all ...   # in the place of --gpus all",
    )


def nvidia_uvm_missing(facts: Facts) -> Outcome:
    """The driver's module for unified memory is not there, and CUDA cannot start without it.

    nvidia-smi works without nvidia_uvm, CUDA does not ("unknown error", 999, from cuInit). On a machine nvidia-modprobe loads it when CUDA first
    asks; without that program, and in containers that were given /dev/nvidia0 by hand (`--device`), /dev/nvidia-uvm is missing. See with
    `ls /dev/nvidia-uvm`.
    """
    if skipped := no_way(facts):
        return skipped
    if facts.system.wsl or not gpu_nodes(facts):
        return Skipped(reason="no device node of a GPU" if not facts.system.wsl else "WSL has no such module")
    driver = facts.driver
    if any(node.path == "/dev/nvidia-uvm" for node in driver.nodes):
        return Passed(what="/dev/nvidia-uvm is there")
    inside = facts.system.container is not None
    if not inside and (driver.modprobe_helper or facts.system.uid == 0 or driver.uvm_loaded is None):
        return Skipped(reason="nvidia-modprobe, or root, loads nvidia_uvm when CUDA first asks")
    return Finding(
        severity=Severity.ERROR,
        what="/dev/nvidia-uvm is not there: nvidia-smi works, CUDA does not start",
        evidence=(f"in /dev: {', '.join(node.path for node in driver.nodes)}", f"module nvidia_uvm loaded: {'yes' if driver.uvm_loaded else 'no'}"),
        consequence="torch.cuda.is_available() is False, with an unknown error (999)",
        fix=_start_command(facts) if inside else "sudo modprobe nvidia_uvm && sudo nvidia-modprobe -c 0 -u",
    )
