"""Whether CUDA_VISIBLE_DEVICES names GPUs that are there."""

from __future__ import annotations

import re

from stoker.doctor.checks.grounds import answering, call, no_gpus
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

_NAME = "CUDA_VISIBLE_DEVICES"


def cuda_visible_devices_wrong(facts: Facts) -> Outcome:
    """CUDA_VISIBLE_DEVICES hides the GPUs, or names some that are not there.

    CUDA shows a process only the GPUs that this variable lists, by index, or by UUID (a unique beginning is enough). It stops at the first entry that
    is wrong, without an error. Empty or `-1` hides all of them. Inside a container the GPUs are numbered anew from 0: a list from the machine is
    wrong there. See with `echo $CUDA_VISIBLE_DEVICES; nvidia-smi -L`. Source: CUDA C++ Programming Guide, environment variables.
    """
    value = facts.variables.get(_NAME)
    if value is None:
        return Skipped(reason=f"{_NAME} is not set")
    if skipped := no_gpus(facts):
        return skipped
    entries = [entry.strip() for entry in value.split(",")]
    if not value.strip() or entries[0] in ("-1", "NoDevFiles", "none", "void"):
        return _finding(facts, value, "hides every GPU", "torch.cuda.is_available() is False, though the GPUs work", 0)
    for position, entry in enumerate(entries):
        wrong = _wrong(facts, entry)
        if wrong:
            shown = f"CUDA stops there and shows {'no GPU' if not position else f'the first {position} only'}"
            return _finding(facts, value, wrong, shown, position)
    twice = sorted({entry for entry in entries if entries.count(entry) > 1})
    if twice:
        return _finding(facts, value, f"names {', '.join(twice)} twice", "CUDA refuses the list or shows fewer GPUs than it names", len(set(entries)))
    return Passed(what=f"{_NAME}={value} names GPUs that are there")


def _wrong(facts: Facts, entry: str) -> str | None:
    """Say what is wrong with one entry."""
    gpus = answering(facts)
    if re.fullmatch(r"\d+", entry):
        if any(gpu.mig for gpu in gpus):
            return None  # with MIG an index counts instances, in an order of its own
        return None if int(entry) < len(facts.gpus) else f"names GPU {entry}, and there is {_range(len(facts.gpus))}"
    if entry.startswith("MIG-GPU-"):
        return None  # the old form, by GPU and instance numbers
    names = [name for gpu in gpus for name in (gpu.uuid, *(part.uuid for part in gpu.mig_devices)) if name]
    if entry.startswith(("GPU-", "MIG-")):
        matches = [name for name in names if name.lower().startswith(entry.lower())]
        if not matches and (not names or any(gpu.uuid is None for gpu in gpus)):
            return None  # not every name is known: say nothing rather than guess
        return None if len(matches) == 1 else f"names {entry}, which {'is not here' if not matches else 'begins several names'}"
    return f"has the entry {entry!r}, which is neither an index nor a UUID"


def _range(count: int) -> str:
    return "only GPU 0" if count == 1 else f"only GPU 0 to {count - 1}"


def _finding(facts: Facts, value: str, wrong: str, consequence: str, left: int) -> Finding:
    listed = tuple(f"{call(gpu)}: {gpu.uuid}" for gpu in facts.gpus[:8])
    # Hiding all may be meant; an entry that cannot be right is not.
    meant = wrong == "hides every GPU"
    return Finding(
        severity=Severity.WARNING if meant or left else Severity.ERROR,
        what=f'{_NAME}="{value}" {wrong}',
        evidence=(f"{_NAME}={value}", *listed),
        consequence=consequence,
        fix="unset CUDA_VISIBLE_DEVICES"
        if facts.variables.get("SLURM_JOB_ID") is None
        else "ask Slurm for GPUs: --gpus=1 (it sets this variable itself)",
    )


def mig_chosen_wrong(facts: Facts) -> Outcome:
    """CUDA_VISIBLE_DEVICES lists several parts of a GPU (MIG), of which CUDA uses one.

    A process sees one MIG instance only; further ones in the list are left out without a word. For several instances start several processes, each
    with one of them. Source: NVIDIA MIG User Guide, "CUDA device enumeration".
    """
    value = facts.variables.get(_NAME)
    if value is None or not any(gpu.mig for gpu in facts.gpus):
        return Skipped(reason="no GPU with MIG, or CUDA_VISIBLE_DEVICES is not set")
    parts = [entry.strip() for entry in value.split(",") if entry.strip().startswith("MIG-")]
    if len(parts) < 2:
        return Passed(what="one MIG instance at most is chosen")
    return Finding(
        severity=Severity.WARNING,
        what=f"{_NAME} lists {len(parts)} MIG instances; CUDA uses the first",
        evidence=(f"{_NAME}={value}",),
        consequence="torch.cuda.device_count() is 1; the other instances idle",
        fix=f"export {_NAME}={parts[0]}   # one process for each instance",
    )
