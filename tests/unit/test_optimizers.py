"""The optimizers: against torch's own, their groups, what a checkpoint keeps, and Muon's orthogonal steps."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stoker.errors import BadValue, UnknownName
from stoker.train import models, optimizers, schedules
from stoker.train.muon import Muon, orthogonal


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> list[torch.Tensor]:
    """Take steps on random images; return the weights."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images, labels = torch.randn(16, 3, 16, 16, generator=generator), torch.randint(0, 10, (16,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def small(seed: int = 0) -> nn.Module:
    """The same small model for the same seed."""
    torch.manual_seed(seed)
    return models.build("small", classes=10, channels=3, image_size=16)


@pytest.mark.parametrize(
    ("name", "settings", "reference"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": True}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)),
        ("adam", {}, lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01)),
        ("adamw", {}, lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01)),
    ],
)
def test_plain_optimizers_are_torchs(name: str, settings: dict[str, Any], reference: Any) -> None:
    ours, theirs = small(), small()
    optimizer, refusal = optimizers.build(name, ours, learning_rate=0.05, weight_decay=0.01, decay_vectors=True, **settings)
    assert refusal is None
    for one, other in zip(train(ours, optimizer, 5), train(theirs, reference(theirs.parameters()), 5), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_muons_other_kinds_are_torchs(kind: str) -> None:
    ours, theirs = small(), small()
    muon = Muon([{"params": list(ours.parameters()), "kind": kind}], lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1)
    reference: torch.optim.Optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1)
    if kind == "adamw":
        reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    for one, other in zip(train(ours, muon, 5), train(theirs, reference, 5), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_biases_and_norms_are_not_decayed_unless_asked() -> None:
    model = models.build("digits", classes=10, channels=1, image_size=8)
    optimizer, _ = optimizers.build("sgd", model, learning_rate=0.1, weight_decay=0.5)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {decays[id(parameter)] for parameter in model.parameters() if parameter.ndim == 1} == {0.0}
    assert {decays[id(parameter)] for parameter in model.parameters() if parameter.ndim > 1} == {0.5}
    assert len(decays) == len(list(model.parameters()))


def test_muon_steps_are_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (2, 40, 16), (1, 8, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape), 5))
        assert 0.6 < values.min() < values.max() < 1.25
    both = torch.randn(2, 8, 20)
    together = orthogonal(both, 5)
    assert torch.allclose(together[1], orthogonal(both[1:], 5)[0], atol=1e-5)
    assert torch.equal(orthogonal(torch.zeros(1, 4, 4), 5), torch.zeros(1, 4, 4))


@pytest.mark.parametrize(("name", "options"), [("small", {}), ("digits", {}), ("resnet18", {"width": 8}), ("speedrun", {"widths": (32, 48, 48)})])
def test_muon_reaches_every_parameter_once_and_lowers_the_loss(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = models.build(name, classes=10, channels=3, image_size=16, options=options)
    learning_rate = 0.24 if name == "speedrun" else 0.02
    optimizer, refusal = optimizers.build("muon", model, learning_rate=learning_rate, momentum=0.6, nesterov=True, weight_decay=3.8e-5, fused=True)
    assert refusal is not None
    assert "muon" in refusal
    reached = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(reached) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    images, labels = torch.randn(64, 3, 16, 16), torch.randint(0, 10, (64,))
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_a_resumed_optimizer_takes_the_same_steps(name: str) -> None:
    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        return optimizers.build(name, model, learning_rate=0.01, momentum=0.9, nesterov=True, weight_decay=0.01)[0]

    whole = small()
    whole_optimizer = optimizer_of(whole)
    train(whole, whole_optimizer, 3)
    buffer = io.BytesIO()
    torch.save({"model": whole.state_dict(), "optimizer": whole_optimizer.state_dict()}, buffer)
    expected = train(whole, whole_optimizer, 3, seed=1)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    resumed = small(seed=5)
    resumed_optimizer = optimizer_of(resumed)
    resumed.load_state_dict(state["model"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    for one, other in zip(train(resumed, resumed_optimizer, 3, seed=1), expected, strict=True):
        assert torch.equal(one, other)


def test_fused_where_torch_has_it_and_a_reason_where_not() -> None:
    ours, theirs = small(), small()
    fused, refusal = optimizers.build("sgd", ours, learning_rate=0.05, momentum=0.9, fused=True)
    plain, _ = optimizers.build("sgd", theirs, learning_rate=0.05, momentum=0.9)
    assert refusal is None or "fused" in refusal
    for one, other in zip(train(ours, fused, 3), train(theirs, plain, 3), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    elsewhere, refusal = optimizers.build("adam", nn.Linear(2, 2, dtype=torch.complex64), learning_rate=0.1, fused=True)
    assert refusal is not None
    assert not elsewhere.defaults["fused"]


def test_refusals() -> None:
    with pytest.raises(UnknownName) as unknown:
        optimizers.build("adamv", small(), learning_rate=0.1)
    assert "'adamw'" in unknown.value.hint or "'adam'" in unknown.value.hint
    with pytest.raises(BadValue, match="Nesterov"):
        optimizers.build("sgd", small(), learning_rate=0.1, nesterov=True)
    with pytest.raises(BadValue, match="no parameter"):
        optimizers.build("sgd", nn.ReLU(), learning_rate=0.1)
    with pytest.raises(BadValue, match="vector"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))]}], lr=0.1)


def test_a_group_with_a_span_stands_still_after_it() -> None:
    torch.manual_seed(0)
    model = models.build("speedrun", classes=10, channels=3, image_size=16, options={"widths": (32, 48, 48)})
    model.prepare(torch.randn(64, 3, 16, 16))  # type: ignore[operator]
    optimizer, _ = optimizers.build("muon", model, learning_rate=0.24, momentum=0.6, nesterov=True, weight_decay=3.8e-5)
    frozen = copy.deepcopy(model.whiten.weight)  # type: ignore[union-attr]
    biases = []
    for step in range(8):
        rate = schedules.set_rates(optimizer, "linear", step=step, total_steps=8, freeze=True)
        assert rate == pytest.approx(0.24 * (1 - step / 8))
        train(model, optimizer, 1, seed=step)
        biases.append(model.whiten.bias.detach().clone())  # type: ignore[union-attr, operator]
    assert not torch.equal(biases[0], biases[2])
    assert all(torch.equal(bias, biases[2]) for bias in biases[3:])
    assert not model.whiten.bias.requires_grad  # type: ignore[union-attr]
    assert torch.equal(frozen, model.whiten.weight)  # type: ignore[union-attr, arg-type]
    schedules.set_rates(optimizer, "linear", step=0, total_steps=8, freeze=True)
    assert model.whiten.bias.requires_grad  # type: ignore[union-attr]
