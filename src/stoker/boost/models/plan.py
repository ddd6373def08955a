"""In which order the parts are tried on a training."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias

from stoker.boost.models.attempt import Attempt
from stoker.boost.models.autocast import Autocast
from stoker.boost.models.compiled import Compile
from stoker.boost.models.flags import CudnnBenchmark, Tf32, Threads, other_thread_counts
from stoker.boost.models.fused import Fused
from stoker.boost.models.layout import Layout
from stoker.boost.models.operations import Operations
from stoker.boost.models.training import Training
from stoker.boost.models.trial import Verdict
from stoker.boost.models.ways import Way

Plan: TypeAlias = "Generator[Attempt, Verdict | None, None]"


def plan(training: Training, parts: frozenset[str], *, process: bool) -> Plan:
    """Yield attempts, and be sent the verdict on each. `process`: whether the settings of the whole process are to be tried as well."""
    yield from _arithmetic(training, parts)
    if process:
        yield from _settings(training, parts)
    yield from _operations(training, parts)
    yield from _each(training, parts, [Fused])
    if process and "threads" in parts:
        yield from _threads(training)
    compile_way = Compile()
    if compile_way.name in parts and _fits(training, compile_way):
        yield Attempt((compile_way,), after_s=compile_way.expected_s(training))


def _arithmetic(training: Training, parts: frozenset[str]) -> Plan:
    """Alone first, then what was no gain alone once more with the other: bfloat16 needs channels_last on some machines, and the reverse."""
    ways: list[Way] = [way for way in (Autocast(), Layout()) if way.name in parts]
    possible = [way for way in ways if _fits(training, way)]
    slower = []
    for way in possible:
        verdict = yield Attempt((way,))
        if verdict is not None and verdict.steps and not verdict.keep:
            slower.append(way)
    # Where the first was kept, the second was tried on top of it: nothing is left to try.
    if len(possible) == 2 and possible[0] in slower and (possible[1] in slower or possible[1].name in training.on):
        yield Attempt(tuple(slower))


def _settings(training: Training, parts: frozenset[str]) -> Plan:
    # Under autocast the products are bfloat16 already.
    kinds: list[Callable[[], Way]] = [CudnnBenchmark] if "autocast" in training.on else [Tf32, CudnnBenchmark]
    yield from _each(training, parts, kinds)


def _operations(training: Training, parts: frozenset[str]) -> Plan:
    """With channels_last once more where that was no gain alone: our max pool needs it, and torch's own is slowest in it."""
    if Operations.name not in parts or not _fits(training, Operations()):
        return
    layout = Layout()
    if layout.name in parts and layout.name not in training.on and layout.fits(training) is None:
        verdict = yield Attempt((layout, Operations()))
        if verdict is not None and verdict.keep:
            return
    yield Attempt((Operations(),))


def _threads(training: Training) -> Plan:
    for count in other_thread_counts():
        way = Threads(count)
        if not _fits(training, way):
            return
        verdict = yield Attempt((way,))
        if verdict is not None and verdict.keep:
            return


def _each(training: Training, parts: frozenset[str], kinds: list[Callable[[], Way]]) -> Plan:
    for kind in kinds:
        way = kind()
        if way.name in parts and _fits(training, way):
            yield Attempt((way,))


def _fits(training: Training, way: Way) -> bool:
    why = way.fits(training)
    if why is not None:
        training.note(way.name, "declined", why)
    return why is None
