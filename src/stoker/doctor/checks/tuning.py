"""How the GPUs are set: persistence, power limit, clocks, MIG."""

from __future__ import annotations

from stoker.doctor.checks.grounds import answering, call, calls, is_mobile, model, no_gpus
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

# Drivers round limits; a limit this near its default was not lowered by anybody.
_SAME = 0.97


def mig_without_devices(facts: Facts) -> Outcome:
    """MIG is on, and the GPU was not divided: it cannot be used at all.

    With MIG (Multi-Instance GPU) on, CUDA runs only on instances that somebody creates, and they are gone after every restart of the machine.
    Create them, or turn MIG off. A container sees only the instances it was given. See with `nvidia-smi -L` and `nvidia-smi mig -lgi`. Source: MIG
    User Guide.
    """
    if skipped := no_gpus(facts):
        return skipped
    divided = [gpu for gpu in answering(facts) if gpu.mig]
    if not divided:
        return Skipped(reason="MIG is off")
    empty = [gpu for gpu in divided if not gpu.mig_devices]
    if not empty:
        return Passed(what=f"{sum(len(gpu.mig_devices) for gpu in divided)} MIG instances")
    first = empty[0].index
    inside = "give the container an instance: --gpus '\"device=0:0\"' (podman: --device nvidia.com/gpu=0:0)\n" if facts.system.container else ""
    return Finding(
        severity=Severity.ERROR if len(empty) == len(answering(facts)) else Severity.WARNING,
        what=f"{calls(empty)}: MIG is on, and no instance {'is in this container' if inside else 'was created'}",
        evidence=tuple(f"{call(gpu)}: MIG enabled, no MIG device" for gpu in empty),
        consequence="CUDA finds no device on it",
        fix=f"{inside}sudo nvidia-smi mig -i {first} -lgip        # the possible sizes\n"
        f"sudo nvidia-smi mig -i {first} -cgi 0 -C     # one instance of full size\n"
        f"sudo nvidia-smi -i {first} -mig 0            # or: turn MIG off",
    )


def persistence_off(facts: Facts) -> Outcome:
    """Persistence mode is off on a server.

    Without it the driver shuts a GPU down when the last program ends, and starts it anew for the next: a second or more a GPU for each start of a
    program and each nvidia-smi, and settings (clocks, power limit) are lost. On by nvidia-persistenced, or by hand. Looked at on data-centre GPUs
    only. See with `nvidia-smi -q | grep Persistence`. Source: NVIDIA Driver Persistence.
    """
    if skipped := no_gpus(facts):
        return skipped
    servers = [gpu for gpu in answering(facts) if (known := model(gpu)) is not None and known.datacentre and gpu.persistence is not None]
    if not servers or facts.system.wsl:
        return Skipped(reason="no data-centre GPU that tells")
    off = [gpu for gpu in servers if not gpu.persistence]
    if not off:
        return Passed(what="persistence mode is on")
    command = "nvidia-smi -pm 1"
    where = "   # on the machine itself, outside of this container" if facts.system.container else ""
    return Finding(
        severity=Severity.WARNING,
        what=f"{calls(off)}: persistence mode is off",
        evidence=tuple(f"{call(gpu)}: persistence mode disabled" for gpu in off),
        consequence="every start of a program waits for the GPUs to start, a second or more each",
        fix=f"sudo systemctl enable --now nvidia-persistenced{where}\nsudo {command}   # until the next start",
        safe_fix=tuple(command.split()) if facts.system.uid == 0 and not facts.system.container else None,
    )


def power_limit_lowered(facts: Facts) -> Outcome:
    """The power limit of a GPU is below its default.

    Somebody, or the machine's management, lets it draw less. It then computes slower, if less than in proportion; often that is meant. See with
    `nvidia-smi -q -d POWER`.
    """
    if skipped := no_gpus(facts):
        return skipped
    told = [gpu for gpu in answering(facts) if gpu.power_limit_w and gpu.power_limit_default_w and not is_mobile(gpu)]
    if not told:
        return Skipped(reason="these GPUs do not tell, or are a laptop's")
    low = [gpu for gpu in told if (gpu.power_limit_w or 0) < _SAME * (gpu.power_limit_default_w or 0)]
    if not low:
        return Passed(what="the power limits are the default ones")
    return Finding(
        severity=Severity.NOTE,
        what=f"{calls(low)}: the power limit was lowered",
        evidence=tuple(
            f"{call(gpu)}: {gpu.power_limit_w:.0f} W of {gpu.power_limit_default_w:.0f} W"
            f"{', and it is at the limit now' if 'sw_power_cap' in gpu.throttle else ''}"
            for gpu in low
        ),
        consequence="a training that is bound by computing runs slower",
        fix="\n".join(f"sudo nvidia-smi -i {gpu.index} -pl {gpu.power_limit_default_w:.0f}" for gpu in low),
    )


def clocks_lowered(facts: Facts) -> Outcome:
    """The clock of a GPU was fixed below its default.

    `nvidia-smi -ac` sets a clock for applications, and it stays until it is taken back or the driver is loaded anew. See with
    `nvidia-smi -q -d CLOCK`. (A clock locked with `-lgc` cannot be read.)
    """
    if skipped := no_gpus(facts):
        return skipped
    told = [gpu for gpu in answering(facts) if gpu.clock_applications_mhz and gpu.clock_applications_default_mhz]
    if not told:
        return Skipped(reason="these GPUs do not tell")
    low = [gpu for gpu in told if (gpu.clock_applications_mhz or 0) < _SAME * (gpu.clock_applications_default_mhz or 0)]
    if not low:
        return Passed(what="the clocks are the default ones")
    return Finding(
        severity=Severity.NOTE,
        what=f"{calls(low)}: the clock for applications was lowered",
        evidence=tuple(f"{call(gpu)}: {gpu.clock_applications_mhz} MHz of {gpu.clock_applications_default_mhz} MHz" for gpu in low),
        consequence="the training runs slower, by as much as the clock is lower",
        fix="\n".join(f"sudo nvidia-smi -i {gpu.index} -rac" for gpu in low),
    )
