"""The pace that a replay must have: code that runs in the script's own thread against workers that run beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import stoker.boost
from stoker.boost.notes import NOTES, Note
from stoker.boost.replay import plan as planning
from stoker.boost.replay import single
from stoker.boost.replay.check import Check


@pytest.mark.parametrize(
    ("at_once", "keeps", "replay_s", "slower"),
    [(1, False, 0.9, False), (1, False, 1.1, True), (1, True, 1.4, False), (2, False, 0.4, False), (2, True, 0.6, True), (4, True, 0.3, True)],
)
def test_only_where_nothing_runs_beside_it_may_the_first_batches_be_slower(at_once: int, keeps: bool, replay_s: float, slower: bool) -> None:
    note = Note(kind="loader", part="loader", what="", where="", outcome="applied", why="")
    note.numbers = {"check_replay_s": replay_s, "check_plain_s": 1.0, "check_images": 4}
    plan: Any = SimpleNamespace(engine=SimpleNamespace(keeps=keeps, serial=at_once > 1), subject=object(), signature=())
    assert Check(plan, note)._slower(at_once) is slower


@pytest.fixture
def rows() -> Any:
    """Boost is on, and there are 64 small rows."""
    stoker.boost.on(off=["allocator"])
    yield TensorDataset(torch.randn(64, 8), torch.arange(64))
    stoker.boost.off()


def test_the_first_batch_warms_up_and_the_last_that_is_checked_is_timed(rows: Any) -> None:
    assert len(list(DataLoader(rows, 16))) == 4
    (note,) = [note for note in NOTES.kept if note.kind == "loader"]
    assert note.numbers["check_images"] == 16


@pytest.mark.parametrize(("serial", "plain_s", "times"), [(False, 0.001, 4), (True, 0.001, 0), (False, 0.1, 0)])
def test_a_small_batch_is_timed_again_but_code_of_the_scripts_runs_once(serial: bool, plain_s: float, times: int) -> None:
    made: list[Any] = []
    it: Any = SimpleNamespace(
        _plan=SimpleNamespace(engine=SimpleNamespace(serial=serial, draws=True)),
        _stream=SimpleNamespace(restore=lambda _: None),
        _dataset_fetcher=SimpleNamespace(fetch=made.append),
    )
    assert single.ReplaySingle._warm_s(it, None, [1, 2], plain_s) <= plain_s
    assert made == times * [[1, 2]]


def test_nobody_is_asked_for_the_memory_that_is_left_where_batches_are_small(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def nothing_left(part: float) -> int:
        asked.append(part)
        return 0

    monkeypatch.setattr(planning, "share_bytes", nothing_left)
    planning.plan_for(DataLoader(rows, 16))
    assert not asked
    with pytest.raises(planning.Unfit, match="too little memory"):
        planning.plan_for(DataLoader(TensorDataset(torch.zeros(64, 100, 100)), 64))
