"""Hostile scripts, each run plainly and with STOKER_BOOST=exact: the same words, the same exit, the same frames of the script's own code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts_boost"
TOGETHER = ("errors", "edits", "keeps", "threads", "loaders", "habits", "kinds", "surroundings")
"""Files whose cases run one after the other in one process; those of endings.py have a process each, forked when torch is imported."""
LONGEST = ("kinds", "habits", "keeps", "endings")
"""Begun first, so that the others run beside them."""
AT_ONCE = 4
"""Processes; on two cores this keeps both busy."""
LIMIT_S = 550


@dataclass(kw_only=True)
class Ended:
    """What is seen of a script from outside."""

    code: int
    out: str
    err: str
    counts: dict[str, int]
    """Replayed batches by case."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is run, plainly and boosted."""

    script: str
    workers: str = ""
    """CASE_WORKERS, for endings.py."""

    @classmethod
    def of(cls, item: pytest.Function) -> Run:
        """What a test of this file looks at."""
        asked = item.callspec.params
        return cls(script="endings", workers=asked["workers"]) if "workers" in asked else cls(script=asked["script"])


def run(one: Run, chosen: list[str], folder: Path, *, boosted: bool) -> dict[str, Ended]:
    """Run one script in an empty folder of its own; what came of it by case, or all as `all`."""
    place = folder / ("boosted" if boosted else "plain")
    place.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STOKER", "CASE"))}
    environment |= {
        "CASE_COUNTS": str(place / "counts"),
        "CASE_PACE": "any",
        "CASE_IMPORTS": "few",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    words = ["all", "w"]
    if one.workers:
        words = ["each", "w", *chosen]
        environment |= {"CASE_WORKERS": one.workers}
    if boosted:
        environment |= {"CASE_BOOST" if one.workers else "STOKER_BOOST": "exact"}
    command = [sys.executable, str(SCRIPTS / f"{one.script}.py"), *words]
    done = subprocess.run(command, cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    if one.workers:
        assert done.returncode == 0, done.stderr[-2000:]
        return {name: ending(place / name) for name in chosen}
    lines = (place / "counts").read_text().split("\n") if (place / "counts").exists() else []
    counts = {name: int(count) for name, count in map(str.split, filter(None, lines))}
    return {"all": Ended(code=done.returncode, out=done.stdout, err=done.stderr, counts=counts)}


def ending(place: Path) -> Ended:
    """What one of the endings left."""
    return Ended(code=int((place / "code").read_text()), out=(place / "out").read_text(), err=(place / "err").read_text(), counts={})


def cases(script: str) -> list[str]:
    """Names of the cases of a script, in order."""
    functions = [node for node in ast.parse((SCRIPTS / f"{script}.py").read_text()).body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if any(getattr(mark, "id", "") == "case" for mark in node.decorator_list)]


def sections(text: str) -> dict[str, list[str]]:
    """What was printed, by case."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("== "):
            current = found.setdefault(line[3:], [])
        else:
            current.append(line)
    return found


Both = Callable[..., tuple[Ended, Ended]]
"""The plain and the boosted run of a script: `both(SCRIPT)`, or `both("endings", CASE, WORKERS)`."""


@pytest.fixture(scope="module")
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Both runs of all that the chosen tests ask for, each made once, and several at once: they wait more than they compute.

    The pool's threads end with this file: other tests run replay in this process, which stands aside where the script has threads.
    """
    mine = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module.__name__ == __name__]
    wanted: dict[Run, list[str]] = {}
    for item in mine:
        wanted.setdefault(Run.of(item), []).append(item.callspec.params.get("case", ""))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs: dict[Run, list[Future[dict[str, Ended]]]] = {}
        for one in sorted(wanted, key=lambda one: one.script not in LONGEST):
            folder = tmp_path_factory.mktemp(f"{one.script}-{one.workers}")
            runs[one] = [pool.submit(run, one, wanted[one], folder, boosted=boosted) for boosted in (False, True)]

        def made(script: str, case: str = "all", workers: str = "") -> tuple[Ended, Ended]:
            plain, boosted = runs[Run(script=script, workers=workers)]
            return plain.result()[case], boosted.result()[case]

        yield made
        pool.shutdown(cancel_futures=True)


def first_difference(plain: list[str], boosted: list[str]) -> str:
    """Return the first line in which the two differ."""
    for number, (one, other) in enumerate(zip(plain, boosted, strict=False)):
        if one != other:
            words = [(a, b) for a, b in zip(one.split(" "), other.split(" "), strict=False) if a != b][:2]
            return f"line {number}:\n plain {one[:600]}\n boost {other[:600]}\n first words that differ: {words}"
    return "" if len(plain) == len(boosted) else f"{len(plain)} lines plainly, {len(boosted)} boosted: {(plain + boosted)[-1][:300]}"


@pytest.mark.parametrize(("script", "case"), [(script, case) for script in TOGETHER for case in cases(script)])
def test_case(both: Both, script: str, case: str) -> None:
    plain, boosted = both(script)
    one, other = sections(plain.out).get(case), sections(boosted.out).get(case)
    assert one is not None, f"the plain run never came here: exit {plain.code}\n{plain.err[-2000:]}"
    assert other is not None, f"the boosted run never came here: exit {boosted.code}\n{boosted.err[-2000:]}"
    assert not (difference := first_difference(one, other)), difference


@pytest.mark.parametrize("script", TOGETHER)
def test_nothing_of_boost_broke(both: Both, script: str) -> None:
    plain, boosted = both(script)
    assert (plain.code, boosted.code) == (0, 0), boosted.err[-2000:]
    complaints = [line for line in boosted.err.splitlines() if line.startswith("stoker boost: ") and "failed" in line]
    assert not complaints


@pytest.mark.parametrize("script", TOGETHER)
def test_replay_was_at_work(both: Both, script: str) -> None:
    _, boosted = both(script)
    idle = [case for case in cases(script) if not boosted.counts.get(case)]
    assert set(idle) <= DECLINED[script], f"not one batch was replayed in {sorted(set(idle) - DECLINED[script])}"


DECLINED: dict[str, set[str]] = {
    "errors": {
        *("collate_raises", "crop_too_large", "init_raises", "no_tensor", "own_dataset_raises", "own_dataset_raises_in_a_worker"),
        *("sizes_differ", "subclass", "timeouts", "transform_raises", "wrong_mean"),
    },
    "edits": {"counting"},
    "keeps": set(),
    # In children it is their own affair how much they replay: nobody counts it.
    "threads": {
        *("a_pool_of_processes", "in_a_thread", "iterating_while_iterating", "processes", "producer_and_consumer", "spawned_workers", "two_threads"),
    },
    "loaders": {
        *("asks_for_its_worker", "init_changes_the_data_set", "init_prints", "names_and_signatures", "other_data_sets"),
        *("without_batches", "worker_environment"),
    },
    "habits": {"a_thread_that_draws", "hooks_and_overrides"},
    "kinds": set(),
    # threads_and_garbage takes one batch of each iterator: all are made by the check.
    "surroundings": {"default_device", "function_modes", "other_default_types", "threads_and_garbage"},
}
"""Cases in which boost has nothing to do, or stands aside."""

AT_ANY_MOMENT = {"daemon_thread", "interrupted_inside", "interrupted_inside_uncaught"}
"""Endings in which PyTorch's own queues to its workers break at some moment, and say so or not."""

_ADDRESS = re.compile(r"0x[0-9a-f]+")
_PROCESS = re.compile(r"(pid|PID|process) \d+")


def seen(text: str) -> list[str]:
    """Return the script's own frames and the lines that are no frames: what somebody reads who looks for a mistake."""
    lines = []
    for line in text.splitlines():
        mine = line.lstrip().startswith('File "') and "scripts_boost" in line
        words = not line.startswith((" ", "Traceback", "stoker boost: ", "Stack (most recent")) and line.strip()
        if mine or words:
            lines.append(_PROCESS.sub("process", _ADDRESS.sub("0x", line)))
    return lines


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("case", cases("endings"))
def test_ending(both: Both, case: str, workers: str) -> None:
    plain, boosted = both("endings", case, workers)
    assert boosted.code == plain.code, f"{plain.err[-1500:]}\n--- boosted\n{boosted.err[-1500:]}"
    assert not (difference := first_difference(plain.out.splitlines(), boosted.out.splitlines())), difference
    if case not in AT_ANY_MOMENT or workers == "0":
        assert seen(boosted.err) == seen(plain.err)
