"""Whether the GPUs are healthy: lost, failing memory, heat, power."""

from __future__ import annotations

from collections.abc import Callable

from stoker.doctor.checks.grounds import answering, call, calls, cards_away, log_lines, no_gpus
from stoker.doctor.checks.links import nvlink_down, pcie_generation_low, pcie_narrow, peer_access_missing
from stoker.doctor.checks.sharing import compute_mode_set, gpu_busy, gpu_memory_nearly_full, gpus_unlike
from stoker.doctor.checks.tuning import clocks_lowered, mig_without_devices, persistence_off, power_limit_lowered
from stoker.doctor.checks.visible import mig_chosen_wrong
from stoker.doctor.facts import Facts, Gpu
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_RESET = "sudo nvidia-smi --gpu-reset -i {}   # with no program on it; else: sudo reboot"


def gpu_lost(facts: Facts) -> Outcome:
    """A GPU is lost, or one that the driver holds does not answer.

    "GPU is lost" or "has fallen off the bus" (Xid 79): the card no longer answers on PCIe, after overheating, a drop of its supply, a bad seat or
    riser, or because it is dead. "requires reset": it answers, and refuses to work. Programs that use all GPUs stop. See with `nvidia-smi -L` and
    `sudo dmesg | grep Xid`. Only a restart (often: power off, wait, power on) brings a lost one back.
    """
    if skipped := no_gpus(facts):
        return skipped
    lost = [gpu for gpu in facts.gpus if gpu.lost]
    held = facts.driver.card_modules.count("nvidia")
    away = cards_away(facts)
    if not lost and not away:
        return Passed(what=f"{len(facts.gpus)} GPU(s) answer")
    evidence = [f"{call(gpu)}: {gpu.lost_text or 'lost'}" for gpu in lost]
    if away:
        evidence.append(f"the driver holds {held} cards, NVML lists {len(facts.gpus)}")
    reset = all("reset" in (gpu.lost_text or "") or "restart" in (gpu.lost_text or "") for gpu in lost) and not away
    return Finding(
        severity=Severity.ERROR,
        what=f"{calls(lost)} {'is' if len(lost) == 1 else 'are'} lost"
        if lost
        else f"{away} of {held} GPUs {'does' if away == 1 else 'do'} not answer",
        evidence=(*evidence, *log_lines(facts, r"Xid|fallen off the bus|RmInitAdapter")),
        consequence="a training that uses it ends with an error; with all GPUs, CUDA may not start at all",
        fix="\n".join(_RESET.format(gpu.index) for gpu in lost)
        if reset
        else "sudo reboot   # if it stays lost: power off, check power cable and seat",
    )


def rows_remapped(facts: Facts) -> Outcome:
    """Bad memory of a GPU waits to be replaced by spare rows, or could not be.

    From Ampere on a GPU replaces memory rows that failed by spare ones; before, the driver retires pages. Either takes effect at the next reset:
    until then the bad memory is in use. Where a replacement failed, the spares are used up, and NVIDIA exchanges the card. See with
    `nvidia-smi -q -d ROW_REMAPPER`. Source: NVIDIA GPU Memory Error Management.
    """
    if skipped := no_gpus(facts):
        return skipped
    failed = [gpu for gpu in answering(facts) if gpu.rows_failed]
    pending = [gpu for gpu in answering(facts) if gpu.rows_pending or gpu.pages_pending]
    if not failed and not pending:
        known = any(gpu.rows_pending is not None or gpu.pages_pending is not None for gpu in answering(facts))
        return Passed(what="no memory waits to be replaced") if known else Skipped(reason="these GPUs do not tell")
    worst = failed or pending
    left = ",".join(str(gpu.index) for gpu in answering(facts) if gpu not in failed)
    leave = f"export CUDA_VISIBLE_DEVICES={left}   # until the card is exchanged" if left else "have the card exchanged"
    fix = leave if failed else "\n".join(_RESET.format(gpu.index) for gpu in pending)
    return Finding(
        severity=Severity.ERROR if failed else Severity.WARNING,
        what=f"{calls(worst)}: replacing bad memory {'failed' if failed else 'waits for a reset'}",
        evidence=tuple(_rows(gpu) for gpu in answering(facts) if gpu in failed or gpu in pending),
        consequence="programs on it may crash with memory errors (Xid 48, 94, 95)",
        fix=fix,
    )


def _rows(gpu: Gpu) -> str:
    if gpu.pages_pending:
        return f"{call(gpu)}: retired pages pending: yes"
    told = gpu.rows_remapped_correctable is not None and gpu.rows_remapped_uncorrectable is not None
    numbers = f"{gpu.rows_remapped_correctable} correctable, {gpu.rows_remapped_uncorrectable} uncorrectable" if told else "not told"
    counts = f"remapped rows: {numbers}"
    errors = f"; uncorrected memory errors since the driver was loaded: {gpu.ecc_uncorrected_volatile}" if gpu.ecc_uncorrected_volatile else ""
    return f"{call(gpu)}: {counts}; pending: {_word(gpu.rows_pending)}; failed: {_word(gpu.rows_failed)}{errors}"


def _word(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def ecc_errors(facts: Facts) -> Outcome:
    """A GPU's memory had errors that ECC could not correct.

    Such an error ends the program that meets it. Errors since the driver was loaded ("volatile") want a reset and, if they come back, another card;
    errors of former times ("aggregate") are worth knowing. See with `nvidia-smi -q -d ECC`. Source: NVIDIA GPU Memory Error Management.
    """
    if skipped := no_gpus(facts):
        return skipped
    counted = [gpu for gpu in answering(facts) if gpu.ecc_uncorrected_volatile is not None]
    if not counted:
        return Skipped(reason="these GPUs have no ECC, or it is off")
    told = [gpu for gpu in counted if gpu.rows_failed or gpu.rows_pending or gpu.pages_pending]
    counted = [gpu for gpu in counted if gpu not in told]
    now = [gpu for gpu in counted if gpu.ecc_uncorrected_volatile]
    before = [gpu for gpu in counted if gpu.ecc_uncorrected_aggregate]
    if not now and not before:
        return Skipped(reason="see rows-remapped") if told else Passed(what="no uncorrected memory error")
    worst = now or before
    numbers = tuple(
        f"{call(gpu)}: uncorrected memory errors: {gpu.ecc_uncorrected_volatile} since the driver was loaded, "
        f"{gpu.ecc_uncorrected_aggregate} over its life"
        for gpu in worst
    )
    return Finding(
        severity=Severity.ERROR if now else Severity.NOTE,
        what=f"{calls(worst)} had memory errors that ECC could not correct{'' if now else ', in former times'}",
        evidence=numbers,
        consequence="programs on it may crash with memory errors (Xid 48, 94, 95)" if now else "none now; if they go on, the card is to be exchanged",
        fix="\n".join(_RESET.format(gpu.index) for gpu in now) if now else "nvidia-smi -q -d ECC,ROW_REMAPPER   # look again after some trainings",
    )


def thermal_throttling(facts: Facts) -> Outcome:
    """A GPU is too hot and lowers its clock.

    The driver lowers the clock when the chip or its memory comes near its limit (software), and the chip halves it when it is over (hardware). The
    cause is air: dust, a dead fan, a passive server card in a case without air flow, a closed rack. Looked at three times in a tenth of a second;
    only what lasts counts. See with `nvidia-smi -q -d PERFORMANCE,TEMPERATURE`.
    """
    return _slowed(facts, {"hw_thermal", "sw_thermal"}, _thermal)


def _thermal(slow: list[Gpu]) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        what=f"{calls(slow)}: the clock is lowered because of heat",
        evidence=tuple(
            f"{call(gpu)}: {_or_not(gpu.temperature_c, 'C')} (slows down at {_or_not(gpu.temperature_limit_c, 'C')}), "
            f"{_or_not(gpu.clock_sm_mhz, 'MHz')} of {_or_not(gpu.clock_sm_max_mhz, 'MHz')}, {', '.join(gpu.throttle)}"
            for gpu in slow
        ),
        consequence="the training runs slower, by as much as the clock is lower, and unevenly",
        fix="nvidia-smi -q -d PERFORMANCE,TEMPERATURE   # watch it; then clean filters and fans, check the air flow\n"
        f"sudo nvidia-smi -i {slow[0].index} -pl WATTS   # a lower power limit keeps it even until then",
    )


def power_throttling(facts: Facts) -> Outcome:
    """The board's or machine's power supply holds a GPU back.

    "HW power brake": the machine's power supply pulls the brake; "HW slowdown" without heat: the card draws more than its supply gives (a power
    cable that is missing or of the wrong kind). Both halve the clock or worse. Reaching the card's own power limit while it works (software power
    cap) is how every data-centre GPU runs, and no finding. See with `nvidia-smi -q -d PERFORMANCE`. Source: NVML API, clocks event reasons.
    """
    return _slowed(facts, {"hw_power_brake", "hw_slowdown"}, _brake, unless={"hw_thermal", "sw_thermal"})


def _brake(slow: list[Gpu]) -> Finding:
    return Finding(
        severity=Severity.ERROR,
        what=f"{calls(slow)}: the power supply holds the clock down",
        evidence=tuple(
            f"{call(gpu)}: {', '.join(gpu.throttle)}; {_or_not(gpu.power_w, 'W')}, "
            f"{_or_not(gpu.clock_sm_mhz, 'MHz')} of {_or_not(gpu.clock_sm_max_mhz, 'MHz')}"
            for gpu in slow
        ),
        consequence="the GPU computes at half its speed or less",
        fix="check the power supplies of the machine (sudo ipmitool sdr type 'Power Supply') and the card's power cable",
    )


def _slowed(facts: Facts, reasons: set[str], finding: Callable[[list[Gpu]], Finding], unless: frozenset[str] | set[str] = frozenset()) -> Outcome:
    if skipped := no_gpus(facts):
        return skipped
    slow = [gpu for gpu in answering(facts) if reasons & set(gpu.throttle) and not unless & set(gpu.throttle)]
    return finding(slow) if slow else Passed(what="no GPU is slowed down by it")


def _or_not(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:.0f} {unit}"


CHECKS: tuple[Check, ...] = (
    gpu_lost,
    rows_remapped,
    ecc_errors,
    power_throttling,
    thermal_throttling,
    mig_without_devices,
    mig_chosen_wrong,
    compute_mode_set,
    gpu_memory_nearly_full,
    gpu_busy,
    pcie_narrow,
    pcie_generation_low,
    nvlink_down,
    peer_access_missing,
    persistence_off,
    power_limit_lowered,
    clocks_lowered,
    gpus_unlike,
)
