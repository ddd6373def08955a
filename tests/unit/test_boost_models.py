"""The small parts of the tiers close and fast: what a trial decides, what is found in outputs, what is declined, and that all of it can be undone."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
import random
from collections import OrderedDict, namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stoker.boost.models import fused, outputs, rehearsal
from stoker.boost.models.autocast import Autocast
from stoker.boost.models.compiled import compiled_by_user
from stoker.boost.models.layout import Layout
from stoker.boost.models.operations import Operations
from stoker.boost.models.plan import plan
from stoker.boost.models.trial import Trial, Verdict, judge

CPU = torch.device("cpu")


def run(trial: Trial, plain: Any, tried: Any, most: int = 1000) -> tuple[Any, int]:
    """Feed a trial with steps from two clocks until it decides; return verdict and laps."""
    for laps in range(1, most):
        verdict = trial.lap(tried() if trial.tried else plain())
        if verdict is not None:
            return verdict, laps
    raise AssertionError("the trial does not end")


def noisy(seconds: float, spread: float, seed: int) -> Any:
    rng = random.Random(seed)
    return lambda: seconds * (1 + spread * rng.random())


def test_a_clear_gain_is_kept_early() -> None:
    verdict, laps = run(Trial(), noisy(0.010, 0.05, 0), noisy(0.005, 0.05, 1))
    assert verdict.keep
    assert verdict.ratio == pytest.approx(2.0, rel=0.1)
    assert laps == 4 * 5


def test_a_clear_loss_is_dropped_early() -> None:
    verdict, laps = run(Trial(), noisy(0.010, 0.05, 0), noisy(0.020, 0.05, 1))
    assert not verdict.keep
    assert laps == 4 * 5


def test_two_per_cent_are_not_enough() -> None:
    verdict, _ = run(Trial(), lambda: 0.100, lambda: 0.098)
    assert not verdict.keep
    assert "not faster" in verdict.why


def test_the_same_thing_twice_is_almost_never_kept() -> None:
    kept = sum(run(Trial(), noisy(0.01, 2.0, seed), noisy(0.01, 2.0, seed + 1000))[0].keep for seed in range(200))
    assert kept <= 200 * 0.05


def test_a_gain_is_found_on_a_busy_machine() -> None:
    found = [run(Trial(), noisy(0.010, 4.0, seed), noisy(0.004, 4.0, seed + 1000))[0] for seed in range(50)]
    assert sum(verdict.keep for verdict in found) >= 40


def test_without_early_the_number_of_laps_is_fixed() -> None:
    assert {
        run(Trial(early=False), noisy(0.01, 1.0, seed), noisy(factor, 1.0, seed + 9))[1] for seed in range(5) for factor in (0.001, 0.01, 0.1)
    } == {30}


def test_disturbed_laps_are_not_counted() -> None:
    verdict, _ = run(Trial(early=False), lambda: None, lambda: 0.1)
    assert not verdict.keep
    assert "too few" in verdict.why
    assert verdict.numbers() == {"steps": 12}


def test_judge_says_what_it_measured() -> None:
    verdict = judge([0.01] * 8, [0.005] * 8)
    assert verdict.keep
    assert verdict.why == "faster: 10 ms a step before, 5 ms with it"
    assert verdict.numbers() == {"steps": 16, "plain_step_s": 0.01, "step_s": 0.005, "ratio": 2.0}


Pair = namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass
class Output:
    """As transformers' outputs."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Result(OrderedDict[str, Any]):
    """A dict with a type of its own."""


@pytest.mark.parametrize(
    "make", [lambda t: t, lambda t: (t, 1), lambda t: [t, {"a": t}], lambda t: Pair(t, None), lambda t: Output(logits=t), lambda t: Result(x=t)]
)
def test_outputs_come_back_in_float32_and_their_own_type(make: Any) -> None:
    half = torch.ones(2, dtype=torch.bfloat16)
    value = make(half)
    assert outputs.strange(value) is None
    found = outputs.in_float32(value)
    assert type(found) is type(value)
    assert {tensor.dtype for tensor in outputs.tensors(found)} == {torch.float32}
    assert next(outputs.tensors(value)) is half, "the model's own object was changed"
    plain = make(torch.ones(2))
    assert outputs.in_float32(plain) is plain


def test_what_cannot_be_looked_into_is_named() -> None:
    assert outputs.strange((1, [torch.distributions.Normal(0.0, 1.0)])) == "Normal"


class Views(nn.Module):
    """The classic `.view`, which channels_last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images)
        return self.head(features.view(features.shape[0], -1))


class Random(nn.Module):
    """Draws in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.head(values) + torch.randn(4) + random.random() + float(np.random.rand())


class Precise(nn.Module):
    """Mathematics that bfloat16 destroys."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 64)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (self.head(values) - self.head(values * 1.0001)) * 1e4


class Changing(nn.Module):
    """Changes what it is given, its buffers and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.norm(values.mul_(2))


def rehearsed(module: nn.Module, *args: torch.Tensor, autocast: bool = True, layout: bool = False) -> str | None:
    return rehearsal.rehearse(module, args, {}, device=CPU, autocast=autocast, layout=layout)


def test_a_view_declines_the_layout_and_not_autocast() -> None:
    images = torch.randn(2, 3, 8, 8)
    assert "view size is not compatible" in (rehearsed(Views(), images, autocast=False, layout=True) or "")
    assert rehearsed(Views(), images) is None


def test_a_copy_needs_memory_that_can_be_had_and_not_memory_that_nobody_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    for available_kb, room in ((8_000_000, True), (20, False)):
        (tmp_path / "proc/meminfo").write_text(f"MemTotal: 16000000 kB\nMemFree: 20 kB\nMemAvailable: {available_kb} kB\n")
        assert rehearsal.room_for_copy(nn.Linear(64, 64), CPU) is room


def test_lost_precision_is_declined() -> None:
    torch.manual_seed(0)
    assert "differ by" in (rehearsed(Precise(), torch.randn(8, 64)) or "")


def test_a_rehearsal_leaves_no_trace() -> None:
    module, drawing, values, fired = Changing(), Random(), torch.ones(3, 4), []
    module.register_forward_hook(lambda *_: fired.append(1))
    before = copy.deepcopy(module.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)[1].tolist()
    assert rehearsed(module, values) is None
    assert rehearsed(drawing, torch.ones(2, 4)) is None
    assert module.calls == 0
    assert not fired
    assert torch.equal(values, torch.ones(3, 4))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state(legacy=True)[1].tolist()


AUTOCAST, LAYOUT, OPERATIONS, FUSED, BOTH = ("autocast",), ("layout",), ("operations",), ("fused",), ("layout", "operations")


@pytest.mark.parametrize(
    ("kept", "tried"),
    [
        ({AUTOCAST, LAYOUT}, [AUTOCAST, LAYOUT, OPERATIONS, FUSED]),
        ({AUTOCAST, BOTH}, [AUTOCAST, LAYOUT, BOTH, FUSED]),
        ({AUTOCAST}, [AUTOCAST, LAYOUT, BOTH, OPERATIONS, FUSED]),
        (set(), [AUTOCAST, LAYOUT, ("autocast", "layout"), BOTH, OPERATIONS, FUSED]),
    ],
)
def test_channels_last_is_tried_once_more_with_the_kernels(kept: set[Any], tried: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for way in (Autocast, Layout, Operations, fused.Fused):
        monkeypatch.setattr(way, "fits", lambda *_: None)
    training: Any = SimpleNamespace(on={}, note=lambda *_: None)
    attempts = plan(training, frozenset({"autocast", "layout", "operations", "fused"}), process=False)
    found, attempt = [], next(attempts)
    with contextlib.suppress(StopIteration):
        while True:
            names = tuple(way.name for way in attempt.ways)
            found.append(names)
            keep = names in kept
            training.on.update({way.name: way for way in attempt.ways} if keep else {})
            attempt = attempts.send(Verdict(keep=keep, why="", plain_step_s=1.0, step_s=1.0, steps=20))
    assert found == tried


def test_torchs_own_hooks_are_not_the_users() -> None:
    module = nn.utils.spectral_norm(nn.Linear(3, 3))
    assert rehearsal.user_hooks(module) is None
    module.register_forward_hook(lambda *_: None)
    assert rehearsal.user_hooks(module) == "Linear"


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_fused_optimizer_goes_on_from_the_same_state(kind: Any) -> None:
    results = []
    for switched in (False, True):
        torch.manual_seed(0)
        module: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
        module.to(memory_format=torch.channels_last)
        optimizer = kind(module.parameters(), lr=0.01, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
        changed: Any = None
        for step in range(9):
            if switched and step == 3:
                assert fused.unfit(optimizer) is None
                changed = fused._Changed(optimizer)
                assert all(group["fused"] for group in optimizer.param_groups)
                assert not any(group["fused"] for group in optimizer.state_dict()["param_groups"])
                assert not any("stoker" in repr(pickle.dumps(value)) for value in (optimizer,))
            if switched and step == 6:
                changed.back()
                assert not any(group["fused"] for group in optimizer.param_groups)
            optimizer.zero_grad()
            module(torch.full((2, 3, 8, 8), 0.1 * step)).square().sum().backward()
            optimizer.step()
        results.append([parameter.detach().clone() for parameter in module.parameters()])
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chosen", [{"foreach": False}, {"foreach": True}, {"fused": False}, {"differentiable": True}])
def test_what_the_script_has_chosen_stays(chosen: dict[str, Any]) -> None:
    assert "the script has chosen" in (fused.unfit(torch.optim.Adam(nn.Linear(2, 2).parameters(), **chosen)) or "")


def test_optimizers_without_a_kernel_stay() -> None:
    class Own(torch.optim.SGD):
        pass

    parameters = list(nn.Linear(2, 2).parameters())
    assert "no fused kernel" in (fused.unfit(Own(parameters, lr=0.1)) or "")
    assert "no fused kernel" in (fused.unfit(torch.optim.LBFGS(parameters)) or "")
    parameters[0].grad = torch.empty_strided((2, 2), (1, 2)).fill_(1)
    assert "lie in memory otherwise" in (fused.unfit(torch.optim.SGD(parameters, lr=0.1)) or "")


def test_a_compiled_model_is_recognised() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    assert not compiled_by_user(module)
    module[0]._compiled_call_impl = lambda value: value
    assert compiled_by_user(module)
