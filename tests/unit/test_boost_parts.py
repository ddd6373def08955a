"""The parts of boost: what is asked, what is switched on and off, what is said at the exit; `allocator` and `copies` themselves."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import stoker.boost
from stoker.boost import allocation, copies, guard, process, session, summary
from stoker.boost.notes import NOTES, Note, Notes, user_line
from stoker.boost.parts import PARTS, active
from stoker.boost.patches import Patches
from stoker.boost.request import Request
from stoker.boost.session import Door, Session
from stoker.errors import UnknownName
from stoker.runner import interpreter, program


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("STOKER_BOOST")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(guard, "_said", set())
    monkeypatch.setattr(session.ending, "expect", lambda request: None)
    yield
    stoker.boost.off()
    NOTES.clear()


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Session], None]]:
    """Parts that the test makes up: by the name of their module."""
    applied: dict[str, Callable[[Session], None]] = {}

    def find(name: str) -> types.SimpleNamespace:
        if name not in applied:
            raise ImportError(name)
        return types.SimpleNamespace(apply=applied[name])

    monkeypatch.setattr(session, "DOORS", (Door(module="one", parts=("loader",)), Door(module="two", parts=("copies", "layout"))))
    monkeypatch.setattr(session.importlib, "import_module", find)
    return applied


class Owner:
    """Somebody else's class."""

    def old(self) -> str:
        return "old"

    @staticmethod
    def fixed() -> str:
        return "fixed"


class Heir(Owner):
    """Has everything from its base."""


# --- what is asked --------------------------------------------------------------------------------------------------


def test_tiers_include_those_before_them() -> None:
    exact, close, fast = (active(Request(tier=tier)) for tier in ("exact", "close", "fast"))
    assert exact == {"loader", "allocator", "copies"}
    assert exact < close < fast == set(PARTS)
    assert active(Request(tier="close", off=frozenset({"tf32", "loader"}))) == close - {"tf32", "loader"}
    assert active(Request(tier=None)) == frozenset()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"STOKER_BOOST": "off", "STOKER_BOOST_EXPLAIN": "1"}, None),
        ({"STOKER_BOOST": "1"}, Request(tier="exact")),
        ({"STOKER_BOOST": " Fast "}, Request(tier="fast")),
        ({"STOKER_BOOST": "exact", "STOKER_BOOST_OFF": "loader, copies,"}, Request(tier="exact", off=frozenset({"loader", "copies"}))),
        ({"STOKER_BOOST": "close", "STOKER_BOOST_EXPLAIN": "1", "STOKER_BOOST_QUIET": "0"}, Request(tier="close", explain=True)),
        ({"STOKER_BOOST": "record", "STOKER_BOOST_RECORD": "/r"}, Request(tier=None, record=Path("/r"))),
        ({"STOKER_BOOST_RECORD": "/r"}, Request(tier=None, record=Path("/r"))),
        ({"STOKER_BOOST": "record"}, None),
        ({"STOKER_BOOST": "exact", "STOKER_BOOST_REPORT": "/r.json"}, Request(tier="exact", report=Path("/r.json"))),
    ],
)
def test_the_environment_asks(variables: dict[str, str], expected: Request | None) -> None:
    assert Request.from_environment(variables) == expected


def test_what_the_command_line_sets_is_what_the_environment_says() -> None:
    variables = program.environment(
        {"HOME": "/h", "STOKER_BOOST_OFF": "copies", "STOKER_BOOST_REPORT": "/outer"}, tier="close", off=["tf32"], explain=True, quiet=True
    )
    assert variables["HOME"] == "/h"
    assert Request.from_environment(variables) == Request(tier="close", off=frozenset({"copies", "tf32"}), explain=True, quiet=True)


def test_on_refuses_what_does_not_exist() -> None:
    with pytest.raises(UnknownName, match="did you mean 'close'"):
        stoker.boost.on("closed")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'fused'"):
        stoker.boost.on("close", off=["fuse"])
    assert session.current() is None


def test_on_adds_to_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, doors: dict[str, Any], tmp_path: Path) -> None:
    monkeypatch.setenv("STOKER_BOOST_OFF", "loader")
    monkeypatch.setenv("STOKER_BOOST_EXPLAIN", "1")
    doors["two"] = lambda session: None
    stoker.boost.on("close", off="tf32", report=tmp_path / "r.json")
    now = session.current()
    assert now is not None
    assert now.request == Request(tier="close", off=frozenset({"loader", "tf32"}), explain=True, report=tmp_path / "r.json")


# --- on and off -----------------------------------------------------------------------------------------------------


def test_on_and_off_and_on_again(doors: dict[str, Any]) -> None:
    old = vars(Owner)["old"]
    doors["one"] = lambda session: session.patches.set(Owner, "old", lambda self: f"new in {session.request.tier}")
    doors["two"] = lambda session: None
    for _ in range(2):
        stoker.boost.on()
        first = session.current()
        assert Owner().old() == "new in exact"
        stoker.boost.on()
        assert session.current() is first
        stoker.boost.on("fast")
        assert session.current() is not first
        assert Owner().old() == "new in fast"
        stoker.boost.off()
        assert vars(Owner)["old"] is old
        stoker.boost.off()
        assert session.current() is None


def test_a_part_that_fails_is_undone_and_the_others_go_on(doors: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    fixed = vars(Owner)["fixed"]

    def fail(session: Session) -> None:
        session.patches.set(Owner, "fixed", staticmethod(lambda: "broken"))
        raise ValueError("half way")

    doors["one"] = fail
    doors["two"] = lambda session: session.patches.set(Owner, "old", lambda self: "new")
    stoker.boost.on()
    assert (Owner.fixed(), Owner().old()) == ("fixed", "new")
    assert vars(Owner)["fixed"] is fixed
    assert capsys.readouterr().err == "stoker boost: one failed (ValueError: half way); the program goes on without it\n"


def test_a_part_that_cannot_be_imported_costs_only_itself(doors: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    doors["two"] = lambda session: session.patches.set(Owner, "old", lambda self: "new")
    stoker.boost.on()
    assert Owner().old() == "new"
    assert "one failed (ImportError" in capsys.readouterr().err


def test_only_what_is_asked_for_is_imported(doors: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    stoker.boost.on("exact", off=["loader", "copies"])
    assert capsys.readouterr().err == ""


def test_patches_put_back_what_was_there_in_reverse_order() -> None:
    order: list[str] = []
    before = dict(vars(Owner))
    patches = Patches()
    patches.set(Owner, "fixed", staticmethod(lambda: "1"))
    patches.at_undo(lambda: order.append(Owner.fixed()))
    patches.set(Owner, "fixed", staticmethod(lambda: "2"))
    patches.at_undo(lambda: order.append(Owner.fixed()))
    assert patches.set(Heir, "old", lambda self: "heir") is before["old"]
    assert patches.undo() == []
    assert order == ["2", "1"]
    assert vars(Owner)["fixed"] is before["fixed"]
    assert "old" not in vars(Heir)


def test_what_somebody_else_wrapped_since_stays(capsys: pytest.CaptureFixture[str], doors: dict[str, Any]) -> None:
    seen: list[Session] = []

    def patch(session: Session) -> None:
        seen.append(session)
        session.patches.set(Owner, "old", lambda self: "ours" if session.live else "handed on")

    doors["one"] = patch
    doors["two"] = lambda session: None
    old = vars(Owner)["old"]
    try:
        stoker.boost.on()
        ours = vars(Owner)["old"]
        Owner.old = lambda self: "theirs over " + ours(self)  # type: ignore[method-assign]
        assert Owner().old() == "theirs over ours"
        stoker.boost.off()
        assert Owner().old() == "theirs over handed on"
        assert "Owner.old" in capsys.readouterr().err
    finally:
        Owner.old = old  # type: ignore[method-assign]


def test_an_undo_that_fails_does_not_keep_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    old = vars(Owner)["old"]
    patches = Patches()
    patches.set(Owner, "old", lambda self: "new")
    patches.at_undo(lambda: 1 / 0)
    patches.undo()
    assert vars(Owner)["old"] is old
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_complaints_are_said_once_and_never_raise(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    guard.complain("x", ValueError("a"))
    guard.complain("x", ValueError("b"))
    assert capsys.readouterr().err == "stoker boost: x failed (ValueError: a); the program goes on without it\n"
    monkeypatch.setattr(sys, "stderr", None)
    guard.complain("y", ValueError("a"))


# --- notes and what is said -----------------------------------------------------------------------------------------


def loader(outcome: Any = "applied", where: str = "a.py:1", **numbers: Any) -> Note:
    return Note(kind="loader", part="loader", what="DataLoader(D)", where=where, outcome=outcome, why="so", numbers=numbers)


def test_the_same_note_is_kept_once() -> None:
    notes = Notes()
    first = notes.add(loader())
    assert notes.add(loader()) is first
    assert notes.add(loader(where="a.py:2")) is not first
    first.count(images=3, waited_s=0.5)
    first.count(images=4)
    assert first.numbers == {"images": 7, "waited_s": 0.5}


def test_a_forked_child_has_notes_of_its_own() -> None:
    note = NOTES.add(loader(images=5))
    NOTES.add(Note(kind="process", part="allocator", what="malloc", where="", outcome="applied", why="so"))
    read, write = os.pipe()
    if os.fork() == 0:
        kinds = [kept.kind for kept in NOTES.kept]
        NOTES.add(note).count(images=1)
        os.write(write, json.dumps([kinds, [kept.numbers.get("images") for kept in NOTES.kept]]).encode())
        os._exit(0)
    os.wait()
    assert json.loads(os.read(read, 1000)) == [["process"], [None, 1]]
    assert note.numbers == {"images": 5}


def test_the_users_line_is_the_innermost_that_is_nobody_elses() -> None:
    assert user_line() == f"test_boost_parts.py:{sys._getframe().f_lineno}"
    assert [user_line() for _ in [0]] == [f"test_boost_parts.py:{sys._getframe().f_lineno}"]


def test_the_line_of_a_notebook_has_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "/tmp/ipykernel_7/4146752976.py"
    shell = types.SimpleNamespace(compile=types.SimpleNamespace(_filename_map={cell: 3}))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert eval(compile("\n\nuser_line()", cell, "eval")) == "In[3]:3"


def test_nothing_is_said_when_nothing_was_looked_at() -> None:
    process_note = Note(kind="process", part="allocator", what="malloc", where="", outcome="applied", why="so")
    assert summary.line([], "exact") is None
    assert summary.line([process_note], "exact") is None


def test_only_what_was_measured_is_said() -> None:
    assert summary.line([loader("declined")], "exact") == "stoker boost: exact | 0 loaders replayed, 1 declined (--explain says why)"
    assert summary.line([loader()], "exact") == "stoker boost: exact | 1 loader replayed"
    assert summary.line([loader(images=1200, waited_s=0.5)], "close", "Process-1") == (
        "stoker boost (Process-1): close | 1 loader replayed | waited for data 0.50 s | 1,200 images"
    )
    measured = {"waited_s": 0.25, "check_plain_s": 0.5, "check_images": 100, "first_s": 10.0, "last_s": 12.0}
    found = summary.totals([loader(images=1000, **measured), loader(where="b", images=1000, **{**measured, "first_s": 12.0, "last_s": 20.0})])
    assert found == {"loaders_replayed": 2, "loaders_declined": 0, "images": 2000, "waited_s": 0.5, "plain_s": 10.0, "images_per_s": 200.0}
    unmeasured = summary.totals([loader(images=1000, **measured), loader(where="b", images=1000)])
    assert "plain_s" not in unmeasured  # the half of it would be a wrong number


def test_what_is_kept_of_the_models() -> None:
    notes = [
        Note(kind="model", part="autocast", what="Net", where="", outcome="kept", why="", numbers={"ratio": 2.0}),
        Note(kind="model", part="layout", what="Net", where="", outcome="kept", why=""),
        Note(kind="model", part="compile", what="Net", where="", outcome="dropped", why=""),
    ]
    assert summary.line(notes, "fast") == "stoker boost: fast | kept autocast 2.00x, layout"
    assert summary.line(notes[2:], "fast") == "stoker boost: fast | the arithmetic stays as it was (--explain says why)"


@pytest.mark.parametrize(
    ("variables", "noted", "expected"),
    [
        ({}, True, "r.json"),
        ({}, False, None),
        ({"STOKER_BOOST_PID": "0"}, True, "r.json"),
        ({"STOKER_BOOST_PID": "self"}, False, "r.json"),
        ({"STOKER_BOOST_PID": "1"}, True, "r.pidN.json"),
        ({"STOKER_BOOST_PID": "1"}, False, None),
        ({"RANK": "0", "STOKER_BOOST_PID": "1"}, True, "r.json"),
        ({"RANK": "3", "STOKER_BOOST_PID": "1"}, True, "r.rank3.json"),
    ],
)
def test_whose_report_has_which_name(
    variables: dict[str, str], noted: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("self", str(os.getpid())))
    found = process.report_path(tmp_path / "r.json", noted)
    assert (found and found.name) == (expected and expected.replace("N", str(os.getpid())))


# --- the Python of a program ----------------------------------------------------------------------------------------


def test_the_python_of_a_program(tmp_path: Path) -> None:
    here = sys.executable
    python = tmp_path / "python3"
    python.symlink_to(here)
    scripts = {
        "plain": f"#!{python}\n",
        "options": f"#!{python} -s\n",
        "env": "#!/usr/bin/env -S python3 -u\n",
        "long": f"#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\n",
        "quoted": f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n",
        "beside": "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3' \"$0\" \"$@\"\n' '''\n",
        "shell": "#!/bin/sh\nexec python3 train.py\n",
        "other": "#!/usr/bin/perl\n",
        "empty": "",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    found = {name: interpreter.find_python(name, str(tmp_path)) for name in (*scripts, "python3", "missing")}
    assert {name for name, value in found.items() if value == python} == {"plain", "options", "env", "long", "quoted", "beside", "python3"}
    assert {name for name, value in found.items() if value is None} == {"shell", "other", "empty", "missing"}
    assert interpreter.same_environment(Path(here))
    assert not interpreter.same_environment(python)


# --- allocator ------------------------------------------------------------------------------------------------------

FAULTS = """
import resource, sys, torch, stoker.boost
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(40_000_000, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
counts = [faults()]
stoker.boost.on(off=["loader", "copies"]); faults(); counts.append(faults())
print(*counts)
"""


def test_big_blocks_are_faulted_in_once() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    before, during = map(int, done.stdout.split())
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("needs glibc")
    assert during < before / 10


def test_off_sets_mallocs_thresholds_to_what_they_grow_to_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    libc = types.SimpleNamespace(mallopt=lambda which, value: calls.append((which, value)) or 1, malloc_trim=lambda pad: calls.append((0, pad)))
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: libc)
    boost = Session(Request(tier="exact"))
    allocation.apply(boost)
    assert calls[0] == (-3, 2**31 - 1)
    assert calls[1][0] == -1
    assert 64 << 20 <= calls[1][1] < 2**31
    boost.end()
    assert calls[2:] == [(-3, 32 << 20), (-1, 64 << 20), (0, 0)]


def test_a_malloc_that_takes_no_such_threshold_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: types.SimpleNamespace(mallopt=lambda which, value: 0))
    boost = Session(Request(tier="exact"))
    allocation.apply(boost)
    assert [note.outcome for note in NOTES.kept] == ["declined"]
    assert len(boost.patches) == 0


@pytest.mark.parametrize(
    "variables", [{"MALLOC_TRIM_THRESHOLD_": "1"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1"}, {"LD_PRELOAD": "/usr/lib/libjemalloc.so"}]
)
def test_somebody_elses_settings_of_malloc_stay(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    allocation.apply(Session(Request(tier="exact")))
    assert [note.outcome for note in NOTES.kept] == ["declined"]


# --- copies ---------------------------------------------------------------------------------------------------------


class Gpu:
    """Stands in for a GPU: says what was copied, and how long the script was kept waiting for it, in seconds of its own clock."""

    def __init__(self, wait_s: float, copy_s: float) -> None:
        self.wait_s, self.copy_s, self.now_s = wait_s, copy_s, 0.0
        self.calls: list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.calls.append((tensor, args, kwargs))
        self.now_s += 0 if kwargs.get("non_blocking") else self.wait_s
        return tensor.clone()

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        self.now_s += self.copy_s
        return tensor.clone()


@pytest.fixture
def session_with_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], tuple[Session, Gpu]]:
    def make(wait_s: float, copy_s: float) -> tuple[Session, Gpu]:
        gpu = Gpu(wait_s, copy_s)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        for name in ("to", "cuda"):
            monkeypatch.setattr(torch.Tensor, name, lambda self, *args, **kwargs: gpu.to(self, *args, **kwargs))
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
        monkeypatch.setattr(copies.Copies, "_own", lambda self, tensor: gpu.own(tensor))
        monkeypatch.setattr(copies.time, "perf_counter", lambda: gpu.now_s)
        monkeypatch.setattr(copies.Copies.__init__, "__defaults__", (lambda: gpu.now_s,))
        boost = Session(Request(tier="exact"))
        copies.apply(boost)
        return boost, gpu

    return make


def trained(gpu: Gpu, batches: int) -> list[bool]:
    """Copy batches as a script does; return which of them nobody waited for."""
    ways = []
    for _ in range(batches):
        batch = [torch.ones(4), torch.ones(4)]
        copies.hand_out(*batch)
        x, y = (tensor.to("cuda") for tensor in batch)
        ways.append([call[2].get("non_blocking", False) for call in gpu.calls[-2:]])
        batch[0].zero_()
        assert x.sum() == y.sum() == 4
    assert all(one == other for one, other in ways)
    return [one for one, _ in ways]


@pytest.mark.parametrize(("wait_s", "copy_s", "staged", "outcome"), [(0.01, 0.001, True, "kept"), (0.001, 0.01, False, "dropped")])
def test_what_takes_less_time_is_kept(session_with_gpu: Any, wait_s: float, copy_s: float, staged: bool, outcome: str) -> None:
    boost, gpu = session_with_gpu(wait_s, copy_s)
    ways = trained(gpu, 40)
    assert not any(ways[:5])
    assert sum(ways[5:21]) == 8
    assert set(ways[22:]) == {staged}
    assert [(note.part, note.outcome) for note in NOTES.kept] == [("copies", outcome)]
    boost.end()


def test_copies_are_made_as_asked_of_anything_else(session_with_gpu: Any) -> None:
    boost, gpu = session_with_gpu(1.0, 0.1)
    trained(gpu, 30)
    mine, other = torch.ones(4), torch.ones(4)
    copies.hand_out(mine)
    for call in (
        lambda: other.to("cuda"),
        lambda: mine.to("cpu"),
        lambda: mine.to(torch.float64),
        lambda: mine.to("cuda", torch.float16),
        lambda: mine.to("cuda", non_blocking=False),
        lambda: mine.to(device="cuda", copy=True),
        lambda: mine.detach().to("cuda"),
        lambda: mine.requires_grad_().to("cuda"),
    ):
        call()
        assert "non_blocking" not in gpu.calls[-1][2] or gpu.calls[-1][2]["non_blocking"] is False
    mine.requires_grad_(False)
    for call in (
        lambda: mine.to("cuda:1"),
        lambda: mine.to(device=torch.device("cuda")),
        lambda: mine.to(0),
        lambda: mine.cuda(),
        lambda: mine.cuda(1),
    ):
        call()
        assert gpu.calls[-1][2]["non_blocking"] is True
        assert gpu.calls[-1][0] is not mine
    boost.end()


def test_nothing_is_replaced_before_a_batch_and_everything_is_put_back(session_with_gpu: Any) -> None:
    boost, _ = session_with_gpu(1.0, 0.1)
    before = [vars(torch.Tensor)["to"], vars(torch.Tensor)["cuda"], vars(torch.cuda.Stream)["__new__"]]
    boost_copies = copies._copies
    assert boost_copies is not None
    tensor = torch.ones(4)
    copies.hand_out(tensor)
    assert vars(torch.Tensor)["to"] is not before[0]
    assert boost_copies.is_handed_out(tensor)
    del tensor
    gc.collect()
    assert not boost_copies.known
    boost.end()
    assert all(
        one is other
        for one, other in zip(before, [vars(torch.Tensor)["to"], vars(torch.Tensor)["cuda"], vars(torch.cuda.Stream)["__new__"]], strict=True)
    )
    copies.hand_out(torch.ones(4))
    assert vars(torch.Tensor)["to"] is before[0]


def test_a_script_with_streams_of_its_own_waits_as_before(session_with_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.Stream, "__new__", lambda cls, *args, **kwargs: object())
    boost, gpu = session_with_gpu(1.0, 0.1)
    assert trained(gpu, 30)[-1]
    torch.cuda.Stream(stream_id=0, device_index=0, device_type=1)
    assert trained(gpu, 2)[-1]
    torch.cuda.Stream()
    assert not any(trained(gpu, 2))
    boost.end()


def test_without_a_gpu_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    boost = Session(Request(tier="exact"))
    copies.apply(boost)
    copies.hand_out(torch.ones(4))
    assert len(boost.patches) == 0
