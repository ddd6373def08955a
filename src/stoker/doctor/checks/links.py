"""How the GPUs are connected: PCIe, NVLink, and to each other."""

from __future__ import annotations

from stoker.doctor.checks.grounds import answering, call, calls, is_mobile, model, no_gpus
from stoker.doctor.facts import Facts, Gpu
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

# A GPU this busy has raised its link; an idle one lowers the generation to save power.
_BUSY_PERCENT = 50


def pcie_narrow(facts: Facts) -> Outcome:
    """A GPU's PCIe link has fewer lanes than card and slot can do.

    A x16 card at x8 or x4 copies batches at half or a quarter of the speed. Where the slot has the lanes, the card sits badly, the riser or the
    contacts are bad. Where the slot itself has fewer (many boards divide lanes when two slots are filled), it is only a note. A laptop's lanes are
    what its maker chose, a virtual machine's slot is not the real one, and a GPU tied to its processor by NVLink-C2C (GH200) has PCIe for little
    else than its start: no finding. See with `nvidia-smi -q | grep -A9 'GPU Link Info'` and `sudo lspci -vv | grep LnkSta`.
    """
    if skipped := no_gpus(facts):
        return skipped
    told = [gpu for gpu in answering(facts) if gpu.pcie_width and gpu.pcie_width_max and _in_a_slot(gpu)]
    if facts.system.virtual:
        told = [gpu for gpu in told if gpu.pcie_width_slot is not None]
    if not told or facts.system.wsl:
        return Skipped(reason="the GPUs do not tell their PCIe width, or a virtual machine, laptop or NVLink-C2C decides")
    narrow = [gpu for gpu in told if (gpu.pcie_width or 0) < (gpu.pcie_width_max or 0)]
    bad = [gpu for gpu in narrow if gpu.pcie_width_slot is None or gpu.pcie_width_slot > (gpu.pcie_width or 0)]
    if not narrow:
        return Passed(what="every GPU has all its PCIe lanes")
    worst = bad or narrow
    return Finding(
        severity=Severity.WARNING if bad else Severity.NOTE,
        what=f"{calls(worst)}: PCIe x{worst[0].pcie_width}, where the card can do x{worst[0].pcie_width_max}",
        evidence=tuple(f"{call(gpu)} at {gpu.bus_id}: x{gpu.pcie_width} of x{gpu.pcie_width_max}{_slot(gpu)}" for gpu in worst),
        consequence=f"copying batches to it takes up to {(worst[0].pcie_width_max or 1) / (worst[0].pcie_width or 1):.0f} times as long",
        fix="seat the card anew, without a riser if there is one; then look again: nvidia-smi --query-gpu=pcie.link.width.current --format=csv"
        if bad
        else "put the card into a slot with more lanes, if there is one (sudo lspci -vv: LnkCap of the slot)",
    )


def _in_a_slot(gpu: Gpu) -> bool:
    """Whether its PCIe link carries its data: not a laptop's GPU, nor one that the catalogue knows to be tied to its processor by NVLink-C2C."""
    known = model(gpu)
    return not is_mobile(gpu) and (known is None or known.pcie_generation is not None)


def _slot(gpu: Gpu) -> str:
    return f", the slot has x{gpu.pcie_width_slot}" if gpu.pcie_width_slot else ""


def pcie_generation_low(facts: Facts) -> Outcome:
    """A GPU's PCIe link is of an older generation than the card.

    Each generation halves the speed of the one after it. What counts is the most that GPU and slot can do together; the present generation is judged
    on a busy GPU only, for idle ones lower it to save power. Often the board or processor cannot do more; sometimes the firmware holds it down
    ("PCIe speed: Gen3") or a riser does. See with `nvidia-smi -q | grep -A9 'GPU Link Info'`.
    """
    if skipped := no_gpus(facts):
        return skipped
    told = [gpu for gpu in answering(facts) if gpu.pcie_generation_max and _in_a_slot(gpu)]
    if not told or facts.system.wsl or facts.system.virtual:
        return Skipped(reason="the GPUs do not tell, or a virtual machine, laptop or NVLink-C2C decides")
    fallen = [gpu for gpu in told if _is_busy(gpu) and gpu.pcie_generation and gpu.pcie_generation < (gpu.pcie_generation_max or 0)]
    bounded = [gpu for gpu in told if gpu.pcie_generation_gpu and (gpu.pcie_generation_max or 0) < gpu.pcie_generation_gpu]
    if not fallen and not bounded:
        return Passed(what="every GPU can use its PCIe generation")
    worst = fallen or bounded
    now, most = (worst[0].pcie_generation, worst[0].pcie_generation_max) if fallen else (worst[0].pcie_generation_max, worst[0].pcie_generation_gpu)
    return Finding(
        severity=Severity.WARNING if fallen else Severity.NOTE,
        what=f"{calls(worst)}: PCIe generation {now}, where {'card and slot' if fallen else 'the card'} can do {most}",
        evidence=tuple(
            f"{call(gpu)} at {gpu.bus_id}: now {gpu.pcie_generation}, with this slot at most {gpu.pcie_generation_max}, "
            f"the card {gpu.pcie_generation_gpu}, {gpu.utilization_percent or 0} % busy"
            for gpu in worst
        ),
        consequence=f"copying batches to it takes up to {2 ** ((most or 0) - (now or 0))} times as long",
        fix="sudo lspci -vv | grep -E 'NVIDIA|LnkCap|LnkSta'   # who is slower; then the firmware's PCIe speed (Auto), the slot, the riser",
    )


def _is_busy(gpu: Gpu) -> bool:
    return (gpu.utilization_percent or 0) >= _BUSY_PERCENT


def nvlink_down(facts: Facts) -> Outcome:
    """Some NVLinks of a GPU are down that others of its kind here have up.

    GPUs on NVLink exchange gradients many times faster than over PCIe. A bridge that does not sit well, a failed link (Xid 74) or an NVSwitch that
    is not set up takes links down. Links that no GPU of the kind has up are not connected on this machine, and no finding. See with
    `nvidia-smi nvlink -s`.
    """
    if skipped := no_gpus(facts):
        return skipped
    told = [gpu for gpu in answering(facts) if gpu.nvlinks and gpu.nvlinks_active is not None and gpu.name and not gpu.mig]
    if not told:
        return Skipped(reason="no GPU here has NVLink")
    most = {name: max(gpu.nvlinks_active or 0 for gpu in told if gpu.name == name) for name in {gpu.name for gpu in told}}
    down = [gpu for gpu in told if (gpu.nvlinks_active or 0) < most[gpu.name]]
    if not down:
        return Passed(what=f"NVLinks up: {', '.join(str(gpu.nvlinks_active) for gpu in told)}")
    return Finding(
        severity=Severity.WARNING,
        what=f"{calls(down)}: {down[0].nvlinks_active} NVLinks are up, other GPUs of the kind have {most[down[0].name]}",
        evidence=tuple(f"{call(gpu)}: {gpu.nvlinks_active} of {gpu.nvlinks} links up" for gpu in told),
        consequence="training on several GPUs waits longer for gradients, or goes over PCIe",
        fix="nvidia-smi nvlink -s; nvidia-smi nvlink -e   # which link; then seat the bridge anew, reset the GPUs, or restart",
    )


def peer_access_missing(facts: Facts) -> Outcome:
    """GPUs that could read each other's memory may not.

    Without peer access (P2P) gradients go through the main memory. Data-centre GPUs have it, over NVLink or PCIe; it fails with access control
    (ACS) or an IOMMU in the way, or a driver option. GeForce cards and pairs on different processors often have none by design: no finding. See
    with `nvidia-smi topo -p2p r`. Source: NCCL documentation, troubleshooting, PCI Access Control Services.
    """
    if skipped := no_gpus(facts):
        return skipped
    able = {gpu.index: gpu for gpu in answering(facts) if (known := model(gpu)) is not None and known.datacentre and known.nvlink and not gpu.mig}
    if len(able) < 2 or facts.system.virtual:
        return Skipped(reason="no two GPUs that must be able to, or a virtual machine decides")
    pairs = [
        (gpu.index, int(other), status)
        for gpu in able.values()
        for other, status in gpu.peers.items()
        if other.isdecimal() and gpu.index < int(other) and int(other) in able and able[int(other)].name == gpu.name
    ]
    refused = [(one, other, status) for one, other, status in pairs if status not in ("ok", "unknown") and _near(able[one], str(other))]
    if not refused:
        return Passed(what="the GPUs can read each other's memory") if pairs else Skipped(reason="the driver does not tell")
    return Finding(
        severity=Severity.WARNING,
        what=f"{len(refused)} of {len(pairs)} pairs of GPUs cannot read each other's memory",
        evidence=tuple(f"GPU {one} and {other} ({able[one].topology.get(str(other))}): {status}" for one, other, status in refused[:8]),
        consequence="training on several GPUs sends gradients through the main memory",
        fix="nvidia-smi topo -p2p r\nsudo lspci -vvv | grep ACSCtl   # 'SrcValid+': turn ACS (or the IOMMU) off in the firmware",
    )


def _near(gpu: Gpu, other: str) -> bool:
    """Whether the pair hangs on one processor; across processors PCIe peer access is often not there by design."""
    return gpu.topology.get(other) in ("PIX", "PXB", "PHB", "INT")
