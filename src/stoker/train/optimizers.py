"""Optimizers by name, with a rate for each group of parameters where the model asks for it.

A model may have a method `parameter_groups(optimizer: str)` that returns None or a list of dicts, each with `params` and, if they are
not the plain ones: `name`; `rate_factor` and `decay_factor` (of the learning rate and the weight decay that were asked for); `momentum`;
`span` (share of the run after which the group stands still, see `stoker.train.schedules.set_rates`); and for Muon `kind`, `keep_norm` and
`iterations`. Parameters that need no gradient are in no group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stoker.errors import BadValue, UnknownName, nearest
from stoker.train.muon import Muon

NAMES = ("sgd", "adam", "adamw", "muon")
MUON_REST_RATE = 0.05
"""AdamW's learning rate as a share of Muon's, for what is no matrix: 0.001 where Muon has 0.02."""


def build(
    name: str,
    model: nn.Module,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    fused: bool = False,
    decay_vectors: bool = False,
) -> tuple[Optimizer, str | None]:
    """Build the optimizer of `model`, and say why it is not fused although that was asked for (None: as asked).

    `momentum` and `nesterov` are those of sgd and muon; adam and adamw keep betas of 0.9 and 0.999. `weight_decay` is an L2 term in sgd
    and adam, decoupled in adamw and muon. `decay_vectors=True` decays biases and the weights of norms as well. Build it after the model
    was moved to its device. Raises UnknownName and BadValue.
    """
    if name not in NAMES:
        near = nearest(name, NAMES)
        likely = f"did you mean '{near}'? " if near else ""
        raise UnknownName(f"there is no optimizer '{name}'", hint=f"{likely}there are: {', '.join(NAMES)}")
    if name == "sgd" and nesterov and momentum <= 0:
        raise BadValue("Nesterov momentum was asked for with a momentum of 0", hint="set a momentum such as 0.9, or leave nesterov off")
    groups = _groups(name, model, learning_rate=learning_rate, weight_decay=weight_decay, decay_vectors=decay_vectors)
    if not groups:
        raise BadValue(f"the model {type(model).__name__} has no parameter that learns", hint="choose a model with trainable parameters")
    if name == "muon":
        refusal = "muon is not one kernel: its orthogonalisation is a row of matrix products" if fused else None
        return Muon(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay), refusal
    kind: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    settings: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "sgd":
        settings |= {"momentum": momentum, "nesterov": nesterov}
    refusal = _why_not_fused(kind, groups) if fused else None
    if fused and refusal is None:
        settings["fused"] = True
    return kind(groups, **settings), refusal


def _groups(name: str, model: nn.Module, *, learning_rate: float, weight_decay: float, decay_vectors: bool) -> list[dict[str, Any]]:
    """Return the parameter groups with absolute rates; `peak_lr` is what the schedule multiplies."""
    own: Callable[[str], list[dict[str, Any]] | None] = getattr(model, "parameter_groups", lambda _: None)
    asked = own(name)
    if asked is None:
        asked = _muon_groups(model) if name == "muon" else _plain_groups(model, decay_vectors)
    groups: list[dict[str, Any]] = []
    for group in asked:
        parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
        if parameters:
            rate = learning_rate * group.get("rate_factor", 1.0)
            decay = weight_decay * group.get("decay_factor", 1.0)
            rest = {key: value for key, value in group.items() if key not in ("params", "rate_factor", "decay_factor")}
            groups.append({"span": 1.0, **rest, "params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay})
    return groups


def _plain_groups(model: nn.Module, decay_vectors: bool) -> list[dict[str, Any]]:
    if decay_vectors:
        return [{"name": "all", "params": list(model.parameters())}]
    # Biases and norm weights are vectors or scalars: decay would only pull them from where the norm wants them.
    return [
        {"name": "weights", "params": [parameter for parameter in model.parameters() if parameter.ndim > 1]},
        {"name": "biases and norms", "params": [parameter for parameter in model.parameters() if parameter.ndim <= 1], "decay_factor": 0.0},
    ]


def _muon_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Muon for the matrices inside; AdamW for vectors, and for the first and the last matrix, as Muon's author advises."""
    owned = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))}
    matrices = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) in owned]
    inside = {id(parameter) for parameter in matrices[1:-1]}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    adamw = {"kind": "adamw", "rate_factor": MUON_REST_RATE}
    return [
        {"name": "matrices", "params": matrices[1:-1], "kind": "muon"},
        {"name": "first, last and other arrays", "params": [parameter for parameter in rest if parameter.ndim > 1], **adamw},
        {"name": "biases and norms", "params": [parameter for parameter in rest if parameter.ndim <= 1], **adamw, "decay_factor": 0.0},
    ]


def _why_not_fused(kind: Any, groups: list[dict[str, Any]]) -> str | None:
    """Return why this torch has no fused step for these parameters, None when it has: found by taking one step on a single number."""
    for device, dtype in sorted({(parameter.device, parameter.dtype) for group in groups for parameter in group["params"]}, key=str):
        try:
            probe = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
            probe.grad = torch.zeros_like(probe)
            kind([probe], lr=0.1, fused=True).step()
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            return f"torch {torch.__version__} has no fused {kind.__name__} for {dtype} on {device.type}: {str(error).strip().splitlines()[0]}"
    return None
