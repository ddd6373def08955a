"""The pace that a replay must have: code that runs in the script's own thread against workers that run beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stoker.boost.notes import Note
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
