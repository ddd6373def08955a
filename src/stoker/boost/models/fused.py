"""The part `fused`: the optimizer's step as one kernel over all parameters, with the state that it has."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Optimizer

from stoker.boost.models import adadelta
from stoker.boost.models.ways import Group

_KERNELS: dict[str, tuple[type[Optimizer], ...]] = {"cpu": (SGD, Adam, AdamW, Adagrad), "cuda": (SGD, Adam, AdamW)}
"""Optimizers with a fused kernel since torch 2.5, by type of device."""

_CHOICES = ("fused", "foreach", "capturable", "differentiable")


class Fused:
    """`param_groups[i]["fused"] = True`, as the constructor's argument would set it; Adadelta, for which torch has no kernel, by one of ours."""

    name = "fused"
    rehearsed = False
    told = "fused optimizer step"

    def __init__(self) -> None:
        self._changed: dict[int, _Changed | adadelta.Switched] = {}

    def fits(self, training: Group) -> str | None:
        """Decline unless every optimizer of the training can be switched."""
        reasons = [unfit(optimizer) for optimizer in training.optimizers()]
        return next((reason for reason in reasons if reason), None if reasons else "no optimizer")

    def on(self, training: Group) -> None:
        """Switch every optimizer of the training."""
        for optimizer in training.optimizers():
            if unfit(optimizer) is None:
                self._changed[id(optimizer)] = _changed(optimizer)

    def off(self, training: Group) -> None:
        """Give the groups back what they had."""
        while self._changed:
            _, changed = self._changed.popitem()
            changed.back()

    def joined(self, optimizer: Optimizer) -> None:
        """A new optimizer for the same parameters is switched too."""
        self._changed = {key: changed for key, changed in self._changed.items() if changed.alive()}
        if id(optimizer) not in self._changed and unfit(optimizer) is None:
            self._changed[id(optimizer)] = _changed(optimizer)

    def before_step(self, optimizer: Optimizer) -> None:
        """The kernel goes through memory in order: gradients must lie as their parameters do."""
        changed = self._changed.get(id(optimizer))
        if changed is not None and changed.is_of(optimizer) and not _aligned(optimizer):
            del self._changed[id(optimizer)]
            changed.back()


def _changed(optimizer: Optimizer) -> _Changed | adadelta.Switched:
    return adadelta.Switched(optimizer) if isinstance(optimizer, Adadelta) else _Changed(optimizer)


class _Changed:
    """An optimizer that we have switched to its fused kernel."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._ref = weakref.ref(optimizer)
        self._before = [(group, group.get("fused")) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["fused"] = True
        _move_steps(optimizer, to_device=True)
        # A checkpoint must not tell later runs to use fused kernels.
        self._hook = optimizer.register_state_dict_post_hook(self._unsay)

    def alive(self) -> bool:
        return self._ref() is not None

    def is_of(self, optimizer: Optimizer) -> bool:
        return self._ref() is optimizer

    def back(self) -> None:
        optimizer = self._ref()
        self._hook.remove()
        if optimizer is None:
            return
        for group, before in self._before:
            if group.get("fused") is True:
                group["fused"] = before
        _move_steps(optimizer, to_device=False)

    def _unsay(self, _: Optimizer, state: dict[str, Any]) -> None:
        for packed, (_group, before) in zip(state["param_groups"], self._before, strict=False):
            packed["fused"] = before


def unfit(optimizer: Optimizer) -> str | None:
    """Return why an optimizer stays as it is."""
    name = type(optimizer).__name__
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    devices = {parameter.device.type for parameter in parameters}
    known = _KERNELS.get(next(iter(devices)), ()) if len(devices) == 1 else ()
    ours = type(optimizer) is Adadelta and devices == {"cpu"} and adadelta.library() is not None
    if type(optimizer) not in known and not ours:
        return f"{name} has no fused kernel for parameters on {', '.join(sorted(devices)) or 'no device'}"
    chosen = next((choice for choice in _CHOICES for group in optimizer.param_groups if group.get(choice)), None)
    if chosen is None:
        chosen = next((choice for choice in _CHOICES[:2] for group in optimizer.param_groups if group.get(choice) is not None), None)
    if chosen:
        return f"the script has chosen {chosen} for {name}"
    if any(parameter.dtype != torch.float32 or parameter.layout != torch.strided for parameter in parameters):
        return f"{name} has parameters that are not dense float32 tensors"
    if not _aligned(optimizer):
        return f"{name} has gradients or a state that lie in memory otherwise than their parameters"
    return None


def _aligned(optimizer: Optimizer) -> bool:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is None:
                continue
            if grad.layout != torch.strided or grad.stride() != parameter.stride() or grad.dtype != parameter.dtype:
                return False
            for value in optimizer.state.get(parameter, _NOTHING).values():
                if isinstance(value, torch.Tensor) and value.dim() and value.stride() != parameter.stride():
                    return False
    return True


_NOTHING: dict[str, Any] = {}


def _move_steps(optimizer: Optimizer, *, to_device: bool) -> None:
    # On a GPU the fused kernel counts steps on the device, the others on the host.
    for parameter, state in optimizer.state.items():
        step = state.get("step") if isinstance(state, dict) else None
        if isinstance(step, torch.Tensor) and parameter.device.type == "cuda":
            state["step"] = step.to(parameter.device if to_device else "cpu")
