"""What the driver wrote into the kernel's log: Xid errors and their meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stoker.doctor.checks.grounds import cards_away, no_driver
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)[^)]*\): (\d+)")


@dataclass(frozen=True, kw_only=True)
class Xid:
    """A number of NVIDIA's list of Xid errors."""

    meaning: str
    severity: Severity | None
    """None: a consequence of something else, or harmless."""
    todo: str = "sudo nvidia-smi --gpu-reset -i N   # with no program on the GPU; if it comes back: exchange the card"


_PROGRAM = "CUDA_LAUNCH_BLOCKING=1 python ...   # finds the place in the program; if all programs fail on one GPU only: dcgmi diag -r 3"
_RESEAT = "sudo reboot   # if it comes back: check power, temperature and seat of the card, then exchange it"
# Source: NVIDIA, "XID Errors" (docs.nvidia.com/deploy/xid-errors), table of common Xids.
XIDS: dict[int, Xid] = {
    13: Xid(meaning="a kernel of a program did something illegal (graphics engine exception)", severity=Severity.NOTE, todo=_PROGRAM),
    31: Xid(meaning="a program read or wrote memory that is not its own (MMU fault)", severity=Severity.NOTE, todo=_PROGRAM),
    32: Xid(meaning="corrupt commands reached the GPU: driver, or the PCIe link", severity=Severity.WARNING, todo=_RESEAT),
    43: Xid(meaning="a program's channel stopped; the GPU is well", severity=Severity.NOTE, todo=_PROGRAM),
    45: Xid(meaning="work was cleared away after another error, or a program was killed", severity=None),
    48: Xid(meaning="a memory error that ECC could not correct (double bit)", severity=Severity.ERROR),
    61: Xid(meaning="the GPU's micro-controller stopped", severity=Severity.ERROR, todo=_RESEAT),
    62: Xid(meaning="the GPU's micro-controller halted", severity=Severity.ERROR, todo=_RESEAT),
    63: Xid(meaning="a bad memory row (or page) was marked to be replaced at the next reset", severity=Severity.WARNING),
    64: Xid(meaning="marking a bad memory row (or page) failed", severity=Severity.ERROR),
    69: Xid(meaning="a program sent the GPU something illegal (graphics engine class error)", severity=Severity.NOTE, todo=_PROGRAM),
    74: Xid(
        meaning="an error on NVLink",
        severity=Severity.ERROR,
        todo="nvidia-smi nvlink -e   # which link; reset the GPUs; if it comes back: bridge or board",
    ),
    79: Xid(meaning="the GPU has fallen off the PCIe bus", severity=Severity.ERROR, todo=_RESEAT),
    92: Xid(meaning="many memory errors that ECC corrected", severity=Severity.WARNING),
    94: Xid(meaning="an uncorrectable memory error, contained: it killed one program", severity=Severity.WARNING),
    95: Xid(meaning="an uncorrectable memory error, not contained: all programs on the GPU are affected", severity=Severity.ERROR),
    109: Xid(meaning="changing between programs took too long", severity=Severity.NOTE, todo=_PROGRAM),
    119: Xid(meaning="the GPU's firmware (GSP) does not answer", severity=Severity.ERROR, todo=_RESEAT),
    120: Xid(meaning="the GPU's firmware (GSP) failed", severity=Severity.ERROR, todo=_RESEAT),
    140: Xid(meaning="a memory error that ECC could not correct", severity=Severity.ERROR),
    154: Xid(meaning="the driver asks for a reset or restart", severity=None),
}
_ORDER = (Severity.NOTE, Severity.WARNING, Severity.ERROR)


def xid_errors(facts: Facts) -> Outcome:
    """The driver reported errors of a GPU (Xid) to the kernel's log.

    An Xid is the driver's own error number. 13, 31, 43 and 69 mostly mean a fault in a program (an index out of range in a kernel); 48, 63, 64, 92,
    94, 95 memory errors; 74 NVLink; 79 a GPU that fell off the bus; 119 and 120 firmware that stopped. 45 only follows from others. See with
    `sudo dmesg | grep Xid`. Only this start of the machine is looked at. Source: NVIDIA, XID Errors.
    """
    if skipped := no_driver(facts):
        return skipped
    if facts.driver.kernel_log_source is None:
        return Skipped(reason="this user may not read the kernel's log (sudo dmesg)")
    told = _told(facts)
    lines: dict[int, list[str]] = {}
    for line in facts.driver.kernel_log:
        found = _XID.search(line)
        if found and int(found[2]) not in told:
            lines.setdefault(int(found[2]), []).append(line)
    grave = {number: XIDS[number].severity if number in XIDS else Severity.WARNING for number in lines}
    counted = {number: severity for number, severity in grave.items() if severity is not None}
    if not counted:
        return Passed(what="no Xid in the kernel's log that means anything by itself")
    worst = max(counted.values(), key=_ORDER.index)
    numbers = sorted(counted, key=lambda number: (-_ORDER.index(counted[number]), number))
    known = [XIDS[number] for number in numbers if number in XIDS]
    source = facts.driver.kernel_log_source
    return Finding(
        severity=worst,
        what="the driver reported " + "; ".join(f"Xid {number}: {_meaning(number)}" for number in numbers[:4]),
        evidence=tuple(f"{source}: {line}" for number in numbers[:4] for line in lines[number][-2:]),
        consequence="a program failed on the GPU" if worst is Severity.NOTE else "trainings on this GPU crash, hang or may give wrong numbers",
        fix="\n".join(dict.fromkeys(entry.todo for entry in known)) or "look the number up: https://docs.nvidia.com/deploy/xid-errors/",
    )


def _meaning(number: int) -> str:
    return XIDS[number].meaning if number in XIDS else "not in this list of common ones"


def _told(facts: Facts) -> set[int]:
    """Return the Xids that only repeat what another finding says about a GPU itself."""
    told: set[int] = set()
    hangs = "no answer" in (facts.driver.nvml_error or "") or (facts.driver.smi_code is None and "no answer" in facts.driver.smi_text)
    away = bool(facts.gpus) and cards_away(facts) > 0
    if hangs or away or any(gpu.lost for gpu in facts.gpus):
        told |= {79, 119, 120, 154}
    if any(gpu.rows_pending or gpu.rows_failed or gpu.pages_pending or gpu.ecc_uncorrected_volatile for gpu in facts.gpus):
        told |= {48, 63, 64, 92, 94, 95, 140}
    return told
