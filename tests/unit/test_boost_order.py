"""Tests of what is known of PyTorch's inner order: this release is known, and whatever changes a function is noticed."""

from __future__ import annotations

import functools
import linecache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import dataloader as torch_dataloader
from torch.utils.data._utils import worker

from stoker.boost.replay import order
from stoker.boost.replay.order import block, known_order, live, plain, source_hash, text_hash
from stoker.boost.replay.orders import ORDERS


def test_this_pytorch_is_known() -> None:
    assert known_order() is None


def test_every_row_names_a_function() -> None:
    for name, known in ORDERS.items():
        assert callable(live(name)), name
        assert all(len(digest) == 16 and versions for digest, versions in known.items())


def test_a_replaced_method_is_noticed_even_behind_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    original = DataLoader.__iter__

    @functools.wraps(original)
    def wrapped(self: Any) -> Any:
        return original(self)

    monkeypatch.setattr(DataLoader, "__iter__", wrapped)
    assert known_order() == (
        f"DataLoader.__iter__ of torch {torch.__version__} was replaced ({Path(__file__).name}:{wrapped.__code__.co_firstlineno}): "
        "the inner order of its DataLoader is not known"
    )


def test_a_builtin_in_its_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RandomSampler, "__iter__", len)
    monkeypatch.delattr(worker, "_generate_state")
    reason = known_order()
    assert reason is not None
    assert "_generate_state, RandomSampler.__iter__ of torch" in reason
    assert "are not as in a release that is known" in reason


def test_an_unknown_release_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "torch.utils.data.dataloader:_BaseDataLoaderIter._reset"
    monkeypatch.setitem(ORDERS, name, {"0" * 16: "1.0"})
    reason = known_order()
    assert reason is not None
    assert reason.startswith(f"_BaseDataLoaderIter._reset of torch {torch.__version__} is not as in a release that is known: ")


def test_without_sources_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order.linecache, "getlines", lambda *_: [])
    reason = known_order()
    assert reason is not None
    assert "more of torch" in reason


FUNCTION = '''\
    @property
    def first(
        self,  # the caller
    ) -> int:
        """A docstring
with a line at the margin."""
        # a comment
        text = """kept # not a comment"""
        return 1

    # between
    def second(self): pass
'''


def test_comments_and_docstrings_do_not_count() -> None:
    text = FUNCTION.replace("\nwith", "\n        with")
    assert plain(block(text.splitlines(keepends=True), 1), "first") == (
        '@property\ndef first(\n    self,\n) -> int:\n    text = """kept # not a comment"""\n    return 1'
    )


def test_a_function_that_was_cut_is_not_hashed() -> None:
    with pytest.raises(ValueError, match="not whole"):
        text_hash(block(FUNCTION.splitlines(keepends=True), 1), "first")
    with pytest.raises(ValueError, match="not whole"):
        text_hash("    def other(self): pass\n", "first")
    with pytest.raises(ValueError, match="no function"):
        block(["x = 1\n"], 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 1", "return 2"),
        ("        return 1", "            return 1"),
        ("kept # not a comment", "kept # another"),
        ("@property\n", "@cached\n"),
        ("text = ", "text  = "),
    ],
)
def test_code_counts(old: str, new: str) -> None:
    whole = FUNCTION.replace("\nwith", "\n        with")
    before, after = (text_hash(block(text.splitlines(keepends=True), 1), "first") for text in (whole, whole.replace(old, new)))
    assert before != after


def test_what_has_no_source_says_so() -> None:
    with pytest.raises(TypeError):
        source_hash(len)
    space: dict[str, Any] = {}
    exec(compile("def made(): pass", "<nowhere>", "exec"), space)
    with pytest.raises(OSError, match="made"):
        source_hash(space["made"])
    assert source_hash(torch_dataloader.DataLoader.__len__) == source_hash(DataLoader.__len__)
    assert linecache.getlines(torch_dataloader.__file__)
