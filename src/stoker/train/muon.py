"""Muon, momentum whose steps are made orthogonal, for the matrices of a model; SGD or AdamW for the rest, in one Optimizer.

Published by Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).

torch.optim.Muon (torch 2.9) takes matrices of exactly two dimensions and nothing else: it refuses convolutions, and a model would need
two optimizers, two states in a checkpoint and two schedules. It also knows neither torch 2.5 nor the kept norm of the CIFAR-10 speed run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from stoker.errors import BadValue

KINDS = ("muon", "sgd", "adamw")
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: chosen by its author for the steepest slope at 0; singular values end between 0.7 and 1.2, not at 1."""


class Muon(Optimizer):
    """Steps each parameter group as its `kind` says: muon, sgd (L2 decay, as torch.optim.SGD) or adamw (as torch.optim.AdamW).

    A muon group flattens each array to (rows, rest). With `keep_norm` an array is rescaled to the norm sqrt(rows) before each step, which
    replaces weight decay where batch norm follows; without it decay is decoupled and the step of tall matrices is scaled by sqrt(rows / columns).
    """

    def __init__(self, groups: Any, *, lr: float, momentum: float = 0.95, nesterov: bool = True, weight_decay: float = 0.0) -> None:
        defaults = {
            "kind": "muon", "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay,
            "keep_norm": False, "iterations": 5, "betas": (0.9, 0.999), "eps": 1e-8,
        }  # fmt: skip
        super().__init__(groups, defaults)
        for group in self.param_groups:
            if group["kind"] not in KINDS:
                raise BadValue(f"a parameter group has the kind {group['kind']!r}", hint=f"it is one of {', '.join(KINDS)}")
            if group["kind"] == "muon" and any(parameter.ndim < 2 for parameter in group["params"]):
                raise BadValue(
                    "a vector is in a parameter group of the kind 'muon'", hint="put biases and norms into a group of the kind sgd or adamw"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; returns what `closure` gave, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                {"muon": self._muon_step, "sgd": self._sgd_step, "adamw": self._adamw_step}[group["kind"]](group, parameters)
        return loss

    def _muon_step(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        updates = self._with_momentum(group, parameters, _gradients(parameters))
        if group["keep_norm"]:
            norms = torch._foreach_norm(parameters)
            # Never by zero: an array that is all zeros stays so until its first step.
            torch._foreach_mul_(parameters, [len(array) ** 0.5 / norm.clamp(min=1e-12) for array, norm in zip(parameters, norms, strict=True)])
        elif group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        # Arrays of one shape are orthogonalised together: a few large matrix products instead of many small ones.
        alike: dict[torch.Size, list[int]] = defaultdict(list)
        for index, parameter in enumerate(parameters):
            alike[torch.Size((len(parameter), parameter.numel() // len(parameter)))].append(index)
        for (rows, columns), indices in alike.items():
            steps = orthogonal(torch.stack([updates[index].reshape(rows, columns) for index in indices]), group["iterations"])
            scale = 1.0 if group["keep_norm"] else max(1.0, rows / columns) ** 0.5
            for index, step in zip(indices, steps, strict=True):
                parameters[index].add_(step.reshape(parameters[index].shape).to(parameters[index].dtype), alpha=-group["lr"] * scale)

    def _sgd_step(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        gradients = _gradients(parameters)
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        torch._foreach_add_(parameters, self._with_momentum(group, parameters, gradients), alpha=-group["lr"])

    def _adamw_step(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        (beta1, beta2), gradients = group["betas"], _gradients(parameters)
        means, squares = self._state(parameters, "exp_avg"), self._state(parameters, "exp_avg_sq")
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        # Counted a parameter, in a plain number that lives on the host: no synchronisation with the device.
        count = 1
        for parameter in parameters:
            self.state[parameter]["steps"] = count = self.state[parameter].get("steps", 0) + 1
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_div_(divisors, (1 - beta2**count) ** 0.5)
        torch._foreach_add_(divisors, group["eps"])
        torch._foreach_addcdiv_(parameters, means, divisors, value=-group["lr"] / (1 - beta1**count))

    def _with_momentum(self, group: dict[str, Any], parameters: list[torch.Tensor], gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Add the gradients to the momentum buffers; return the steps, looking ahead when `nesterov`."""
        if not group["momentum"]:
            return gradients
        buffers = self._state(parameters, "momentum_buffer")
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        return list(torch._foreach_add(gradients, buffers, alpha=group["momentum"])) if group["nesterov"] else buffers

    def _state(self, parameters: list[torch.Tensor], key: str) -> list[torch.Tensor]:
        for parameter in parameters:
            if key not in self.state[parameter]:
                self.state[parameter][key] = torch.zeros_like(parameter)
        return [self.state[parameter][key] for parameter in parameters]


def orthogonal(matrices_BRC: torch.Tensor, iterations: int) -> torch.Tensor:
    """Return matrices (B, R, C) with the same singular vectors and singular values near 1 (0.7 to 1.2 after 5 iterations; Newton-Schulz)."""
    # bfloat16 is enough by its author's tests; on a CPU float32, because bfloat16 products are emulated on many.
    work = matrices_BRC.to(torch.bfloat16 if matrices_BRC.is_cuda else torch.float32)
    rows, columns = work.shape[-2:]
    work = work.mT if rows > columns else work  # the small side's square is the cheaper one
    work = work / (work.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    first, second, third = COEFFICIENTS
    for _ in range(iterations):
        square = work @ work.mT
        work = torch.baddbmm(work, torch.baddbmm(square, square, square, beta=second, alpha=third), work, beta=first)
    return work.mT if rows > columns else work


def _gradients(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
