"""Timing: in turn, within the budget, with ratios of neighbours."""

from __future__ import annotations

import time

import pytest

from stoker.errors import BadValue
from stoker.measure import in_turn, ratio, timing


def test_candidates_run_in_turn_after_the_warm_up():
    calls: list[str] = []
    result = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, inner=2, warmup=1)
    assert "".join(calls) == "aabb" + "aabb" + "bbaa" + "aabb"
    assert result["a"].n == result["b"].n == 3


def test_budget_stops_early_but_leaves_two_rounds():
    result = in_turn({"a": lambda: time.sleep(0.01)}, rounds=1000, budget_s=0.0, warmup=0)
    assert result["a"].n == 2
    result = in_turn({"a": lambda: time.sleep(0.01)}, rounds=1000, budget_s=0.1, warmup=0)
    assert 2 <= result["a"].n < 100


def test_synchronise_surrounds_every_sample():
    calls: list[str] = []
    in_turn({"a": lambda: calls.append("a")}, rounds=2, warmup=0, synchronise=lambda: calls.append("|"))
    assert "".join(calls) == "|a||a|"


def test_wall_and_cpu_seconds_are_a_call_each():
    result = in_turn({"sleep": lambda: time.sleep(0.02)}, rounds=2, inner=3, warmup=0)["sleep"]
    assert result.low_s >= 0.02
    assert result.cpu_s < 0.02


def test_ratio_pairs_the_rounds():
    # A machine that becomes ten times slower half-way: the medians alone would say anything.
    a, b = timing([2.0, 2.0, 20.0, 20.0], [0.0] * 4), timing([1.0, 1.0, 10.0, 10.0], [0.0] * 4)
    assert ratio(a, b).median == 2.0
    assert ratio(a, b).low == ratio(a, b).high == 2.0


def test_quartiles():
    result = timing([1.0, 2.0, 3.0, 4.0, 100.0], [0.5] * 5)
    assert (result.median_s, result.low_s, result.high_s, result.cpu_s, result.spread_s) == (3.0, 2.0, 4.0, 0.5, 2.0)
    few = timing([1.0, 5.0], [0.0, 0.0])
    assert (few.low_s, few.high_s) == (1.0, 5.0)


def test_what_a_candidate_raises_goes_through():
    with pytest.raises(ZeroDivisionError):
        in_turn({"a": lambda: 1 // 0}, rounds=2)


@pytest.mark.parametrize("wrong", [{"rounds": 1}, {"rounds": 2, "inner": 0}, {"rounds": 2, "warmup": -1}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(BadValue):
        in_turn({"a": lambda: None}, **wrong)
    with pytest.raises(BadValue):
        in_turn({}, rounds=2)


def test_uneven_rounds_are_not_paired():
    with pytest.raises(BadValue):
        ratio(timing([1.0, 1.0], [0.0] * 2), timing([1.0], [0.0]))
