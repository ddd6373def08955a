"""The schedules: their shape, their ends, and that they forget nothing because they remember nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from stoker.errors import BadValue, UnknownName
from stoker.train.schedules import NAMES, factor, set_rates


def curve(name: str, total: int = 100, **settings: float) -> list[float]:
    """All factors of a run."""
    return [factor(name, step=step, total_steps=total, **settings) for step in range(total)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_up_once_then_down(name: str) -> None:
    values = curve(name, warmup_steps=20, final=0.1)
    assert all(0 < value <= 1 for value in values)
    assert values[20] == 1
    assert all(one < other for one, other in itertools.pairwise(values[:21]))
    assert all(one >= other for one, other in itertools.pairwise(values[20:]))


def test_known_values() -> None:
    assert curve("constant") == [1.0] * 100
    assert curve("linear")[:2] == [1.0, 0.99]
    assert curve("linear", final=0.5)[50] == pytest.approx(0.75)
    assert curve("cosine")[50] == pytest.approx(0.5)
    assert curve("linear", warmup_steps=3)[:4] == [0.25, 0.5, 0.75, 1.0]
    assert curve("onecycle", warmup_steps=30)[0] == pytest.approx(1 / 25)
    for name in ("linear", "cosine", "onecycle"):
        assert factor(name, step=100, total_steps=100, final=0.25) == pytest.approx(0.25)
        assert factor(name, step=1000, total_steps=100, final=0.25) == pytest.approx(0.25)


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.2)
    for step in range(40):
        assert factor("cosine", step=step, total_steps=40, final=0.2) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (2, 1), (5, 5), (5, 9)])
def test_the_shortest_runs(name: str, total: int, warmup: int) -> None:
    assert all(0 < value <= 1 for value in curve(name, total, warmup_steps=warmup))


def test_refusals() -> None:
    with pytest.raises(UnknownName) as unknown:
        factor("cosin", step=0, total_steps=1)
    assert "'cosine'" in unknown.value.hint
    for wrong in ({"step": -1}, {"total_steps": 0}, {"warmup_steps": -1}, {"final": 1.5}, {"final": float("nan")}):
        with pytest.raises(BadValue):
            factor("linear", **{"step": 0, "total_steps": 10, **wrong})  # type: ignore[arg-type]


def test_rates_are_set_from_the_peak_however_often() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": 2.0, "peak_lr": 2.0}, {"params": [nn.Parameter(torch.zeros(1))]}], lr=1.0
    )
    for step in (5, 5, 0, 5):
        set_rates(optimizer, "linear", step=step, total_steps=10)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5]
