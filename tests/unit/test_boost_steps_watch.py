"""Changes of an object are seen, equal values are no change, and large or endless contents are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stoker.boost.replay.steps.watch import Watch


class Thing:
    def __init__(self) -> None:
        self.number: Any = 0.5
        self.items: Any = [1, [2, {"a": 3}]]
        self.pair: Any = (1, [2])
        self.table: Any = torch.arange(4)
        self.array: Any = np.arange(4)
        self.empty: Any = {}
        self.other: Any = object()

    def act(self) -> int:
        return 1


CHANGES = {
    "number": lambda thing: setattr(thing, "number", 0.6),
    "type": lambda thing: setattr(thing, "number", 1 == 1),
    "item": lambda thing: thing.items.__setitem__(0, 2),
    "inner": lambda thing: thing.items[1][1].__setitem__("a", 4),
    "key": lambda thing: thing.items[1][1].__setitem__("b", 4),
    "in a tuple": lambda thing: thing.pair[1].append(3),
    "tensor": lambda thing: thing.table.add_(1),
    "array": lambda thing: thing.array.__setitem__(0, 9),
    "empty": lambda thing: thing.empty.__setitem__("a", 1),
    "object": lambda thing: setattr(thing, "other", object()),
    "new": lambda thing: setattr(thing, "more", 1),
    "gone": lambda thing: delattr(thing, "number"),
    "dict": lambda thing: setattr(thing, "__dict__", {"number": 0.5}),
    "class": lambda thing: setattr(thing, "__class__", type("Other", (Thing,), {})),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes(change: Any) -> None:
    thing = Thing()
    watch = Watch(thing)
    assert watch.same()
    change(thing)
    assert not watch.same()


def test_equal_values_are_no_change() -> None:
    thing = Thing()
    watch = Watch(thing)
    thing.number, thing.items, thing.table, thing.array = float("0.5"), [1, [2, {"a": 3}]], torch.arange(4), np.arange(4)
    thing.__dict__ = dict(reversed(list(vars(thing).items())))
    assert watch.same()


def test_functions_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(Thing(), ("act", "missing"))
    assert watch.same()
    monkeypatch.setattr(Thing, "act", lambda self: 2)
    assert not watch.same()


def test_large_and_endless_contents() -> None:
    thing = Thing()
    thing.items = thing.other = []
    thing.items.append(thing.items)
    thing.table, thing.array, thing.pair = torch.zeros(1 << 17), np.array([object()]), list(range(1000))
    watch = Watch(thing)
    assert watch.same()
    thing.table.add_(1)
    thing.pair.append(1)
    assert watch.same()
    thing.pair = list(range(1000))
    assert not watch.same()


def test_what_has_no_attributes() -> None:
    assert Watch(len).same()
    assert Watch(3).same()
