"""Adadelta's step by the C kernel: torch's numbers but for the last bit, in the optimizer's own state; what it does not take goes to torch."""

from __future__ import annotations

import copy
import gc
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stoker.boost
from stoker.boost.models import adadelta, fused
from stoker.boost.patches import Patches
from tests.native import compiled

MODULE = importlib.import_module("torch.optim.adadelta")


class Session:
    """As much of a session as `apply` needs."""

    def __init__(self) -> None:
        self.patches = Patches()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return adadelta.load(compiled("adadelta.c", tmp_path_factory.mktemp("kernel")))


@pytest.fixture(autouse=True)
def applied(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(adadelta, "library", lambda: kernel)
    session: Any = Session()
    adadelta.apply(session)
    yield
    session.patches.undo()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the parameters that the kernel has stepped."""
    found: list[int] = []
    one = adadelta._one

    def noted(kernel: Any, row: Any, told: Any) -> None:
        found.append(row[0].numel())
        one(kernel, row, told)

    monkeypatch.setattr(adadelta, "_one", noted)
    return found


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 301)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    model(torch.full((2, 3, 8, 8), 0.1 * number)).square().mean().backward()
    optimizer.step()


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        step(model, optimizer, number)


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.01}, {"maximize": True}, {"weight_decay": 0.1, "maximize": True}, {"lr": 0.3, "rho": 0.7, "eps": 1e-4}]
)
def test_the_numbers_are_torchs_and_the_state_is_the_optimizers(options: dict[str, Any], done: list[int]) -> None:
    states = []
    for switched in (False, True):
        model = module()
        optimizer = torch.optim.Adadelta(model.parameters(), **options)
        trained(model, optimizer, range(3))
        assert fused.unfit(optimizer) is None
        ours = adadelta.Switched(optimizer) if switched else None
        kept = [tensor for state in optimizer.state.values() for tensor in state.values()]
        trained(model, optimizer, range(3, 9))
        assert all(one is other for one, other in zip(kept, (t for s in optimizer.state.values() for t in s.values()), strict=True))
        if ours is not None:
            assert len(done) == 6 * 4
            ours.back()
        trained(model, optimizer, range(9, 12))
        assert len(done) == (6 * 4 if switched else 0)
        states.append((list(model.parameters()), optimizer.state_dict()))
    (theirs, their_state), (mine, my_state) = states
    for one, other in zip(mine, theirs, strict=True):
        close(one, other)
    for index, state in their_state["state"].items():
        assert my_state["state"][index]["step"] == state["step"] == 12
        for name in ("square_avg", "acc_delta"):
            torch.testing.assert_close(my_state["state"][index][name], state[name], rtol=1e-4, atol=1e-12)
    assert my_state["param_groups"] == their_state["param_groups"]


def test_shared_among_threads_the_numbers_are_the_same(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for many in (1, 10**9):
        monkeypatch.setattr(adadelta, "_MANY", many)
        model = module()
        optimizer = torch.optim.Adadelta(model.parameters())
        switched = adadelta.Switched(optimizer)
        trained(model, optimizer, range(4))
        switched.back()
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_checkpoint_goes_on_either_way(done: list[int]) -> None:
    model = module()
    optimizer = torch.optim.Adadelta(model.parameters())
    switched = adadelta.Switched(optimizer)
    trained(model, optimizer, range(4))
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    trained(model, optimizer, range(4, 8))
    switched.back()
    plain = module()
    plain.load_state_dict(weights)
    other = torch.optim.Adadelta(plain.parameters())
    other.load_state_dict(state)
    before = len(done)
    trained(plain, other, range(4, 8))
    assert len(done) == before
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        close(one, two)


def test_schedulers_hooks_frozen_parameters_and_groups(done: list[int]) -> None:
    found = []
    for switched in (False, True):
        model, calls = module(), []
        model[0].bias.requires_grad_(False)  # type: ignore[index]
        groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}]  # type: ignore[index]
        optimizer = torch.optim.Adadelta(groups, lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        ours = adadelta.Switched(optimizer) if switched else None
        for number in range(6):
            step(model, optimizer, number)
            scheduler.step()
        if ours is not None:
            ours.back()
        assert len(calls) == 6
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert done
    for one, two in zip(*found, strict=True):
        close(one, two)


@pytest.mark.parametrize("chosen", [{"foreach": False}, {"foreach": True}, {"capturable": True}, {"differentiable": True}])
def test_what_the_script_has_chosen_stays(chosen: dict[str, Any]) -> None:
    optimizer = torch.optim.Adadelta(module().parameters(), **chosen)
    assert "the script has chosen" in (fused.unfit(optimizer) or "")


def test_what_the_kernel_cannot_do_goes_to_torch(done: list[int]) -> None:
    class Own(torch.optim.Adadelta):
        pass

    assert "no fused kernel" in (fused.unfit(Own(module().parameters())) or "")
    assert "float32" in (fused.unfit(torch.optim.Adadelta(module().double().parameters())) or "")
    weight = nn.Parameter(torch.ones(6, 4))
    optimizer = torch.optim.Adadelta([weight])
    switched = adadelta.Switched(optimizer)
    weight.grad = torch.ones(4, 6).t()
    optimizer.step()
    weight.grad = torch.ones(6, 4)
    optimizer.step()
    weight.grad = None
    optimizer.step()
    assert done == [24]
    with torch.no_grad():
        weight.grad = torch.ones(6, 4, dtype=torch.float64).float()
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    optimizer.step()
    assert done == [24, 24]
    switched.back()
    optimizer.step()
    assert done == [24, 24]
    assert not adadelta._SWITCHED


def test_infinity_stays_infinity_without_weight_decay(done: list[int]) -> None:
    weight = nn.Parameter(torch.tensor([float("inf"), 1.0]))
    optimizer = torch.optim.Adadelta([weight])
    switched = adadelta.Switched(optimizer)
    weight.grad = torch.zeros(2)
    optimizer.step()
    switched.back()
    assert done == [2]
    assert weight.tolist() == [float("inf"), 1.0]


def test_autograd_sees_that_weights_have_changed(done: list[int]) -> None:
    weight = nn.Parameter(torch.ones(8))
    optimizer = torch.optim.Adadelta([weight])
    switched = adadelta.Switched(optimizer)
    loss = weight.square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    switched.back()
    assert done == [8]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_optimizer_that_is_gone_leaves_nothing(done: list[int]) -> None:
    model: Any = module()
    optimizer: Any = torch.optim.Adadelta(model.parameters())
    switched: Any = adadelta.Switched(optimizer)
    del optimizer
    gc.collect()
    assert not switched.alive()
    assert not adadelta._SWITCHED
    trained(model, torch.optim.Adadelta(model.parameters()), range(2))
    assert not done


def test_a_plain_optimizer_beside_a_switched_one_is_torchs(done: list[int]) -> None:
    one, other = module(), module()
    switched = adadelta.Switched(torch.optim.Adadelta(one.parameters()))
    trained(other, torch.optim.Adadelta(other.parameters()), range(3))
    switched.back()
    assert not done


def test_off_puts_torchs_function_back() -> None:
    before = getattr(MODULE, adadelta._DOOR)
    stoker.boost.on(tier="close", off=("loader", "allocator", "copies"))
    try:
        assert getattr(MODULE, adadelta._DOOR) is not before
    finally:
        stoker.boost.off()
    assert getattr(MODULE, adadelta._DOOR) is before


def test_another_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        adadelta.load(tmp_path / "missing.so")
