"""Whether the driver meets what the image asks for in NVIDIA_REQUIRE_CUDA."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

from stoker.catalog import version_numbers
from stoker.doctor.checks.grounds import answering, no_way
from stoker.doctor.checks.wheel import driver_below_minimum
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

_CONDITION = re.compile(r"(cuda|driver|arch)(>=|<=|!=|=|<|>)(\d+(?:\.\d+)*)")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}


def nvidia_require_cuda_unmet(facts: Facts) -> Outcome:
    """The image asks for a newer driver than this machine has.

    NVIDIA_REQUIRE_CUDA of an image says what it needs: `cuda>=13.0 driver>=580` (a space is "or", a comma is "and"). The toolkit's hook refuses to
    start the container otherwise; through CDI, or with NVIDIA_DISABLE_REQUIRE, it starts all the same and CUDA fails inside. See with
    `echo $NVIDIA_REQUIRE_CUDA; nvidia-smi | head -4`. Source: NVIDIA Container Toolkit, constraints.
    """
    wanted = facts.variables.get("NVIDIA_REQUIRE_CUDA")
    if not facts.system.container or not wanted:
        return Skipped(reason="not in a container, or NVIDIA_REQUIRE_CUDA is not set")
    if skipped := no_way(facts):
        return skipped
    if isinstance(driver_below_minimum(facts), Finding):
        return Skipped(reason="torch's own CUDA asks for no less: see driver-below-minimum")
    known = {"cuda": facts.driver.cuda_shown, "driver": facts.driver.version}
    capabilities = [gpu.compute_capability for gpu in answering(facts) if gpu.compute_capability]
    if capabilities:
        known["arch"] = ".".join(str(part) for part in min(capabilities))
    verdicts = [_all_met(alternative, known) for alternative in wanted.split()]
    if any(verdicts):
        return Passed(what=f"the driver meets NVIDIA_REQUIRE_CUDA={wanted[:80]}")
    if None in verdicts:
        return Skipped(reason="whether NVIDIA_REQUIRE_CUDA is met cannot be told")
    shown = wanted if len(wanted) <= 120 else wanted[:117] + "..."
    return Finding(
        severity=Severity.ERROR,
        what=f"the image asks for {shown}; the driver is {facts.driver.version} (CUDA {facts.driver.cuda_shown or 'not known'})",
        evidence=(f"NVIDIA_REQUIRE_CUDA={wanted[:500]}", *(f"{name}: {value}" for name, value in known.items() if value)),
        consequence="CUDA in this image does not start, or misses functions",
        fix="update the driver of the machine, or take an image for an older CUDA: stoker resolve   # says which fits",
    )


def _all_met(alternative: str, known: dict[str, str | None]) -> bool | None:
    """Judge conditions that all must hold: False if one certainly does not, None if that cannot be told."""
    verdicts = [_met(condition, known) for condition in alternative.split(",") if condition]
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _met(condition: str, known: dict[str, str | None]) -> bool | None:
    found = _CONDITION.fullmatch(condition)
    value = known.get(found[1]) if found else None
    if not found or value is None:
        return None
    have, want = version_numbers(value), version_numbers(found[3])
    size = len(want)  # driver<536 means: below 536.0; driver=535 means: any of 535
    padded = (*have, *([0] * size))
    return _COMPARE[found[2]](padded[:size] if found[2] in ("=", "!=", "<=", ">") else padded, want)
