"""Switches the tiers close and fast on: what is replaced in torch, and what torch calls by itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stoker.boost.guard import complain
from stoker.boost.models import adadelta
from stoker.boost.models.watch import Watch

if TYPE_CHECKING:
    from stoker.boost.session import Session

_HOOKS = (
    *("register_forward_hook", "register_forward_pre_hook"),
    *("register_full_backward_hook", "register_full_backward_pre_hook", "register_backward_hook"),
)

_TRACERS = ("trace", "trace_module")
"""They call the module once more without tracing, and compare."""

_DYNAMO_KNOWS = "unpatched_nn_module_call"
"""The name under which torch's compiler keeps the `Module.__call__` that it need not look into."""


def apply(session: Session) -> None:
    """Watch modules and optimizers, and try the session's parts on what is trained."""
    watch = Watch(session)
    session.at_off(watch.end)
    handles = [register_optimizer_step_pre_hook(watch.stepping), register_optimizer_step_post_hook(watch.stepped)]
    for handle in handles:
        session.at_off(handle.remove)
    call = watch.wrapped(nn.Module.__call__)
    plain = session.patches.set(nn.Module, "__call__", call)
    _tell_compiler(session, plain, call)
    for name in _HOOKS:
        session.patches.set(nn.Module, name, _hooking(getattr(nn.Module, name), watch))
    for name in _TRACERS:
        session.patches.set(torch.jit, name, watch.aside(getattr(torch.jit, name)))
    if "fused" in session.parts:
        adadelta.apply(session)
    if "layout" in session.parts:
        session.patches.set(torch.Tensor, "view", _viewing(torch.Tensor.view, watch))


def _hooking(original: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    @functools.wraps(original)
    def register(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        try:
            watch.hooked(self)
        except Exception as error:
            complain("models", error)
        return original(self, *args, **kwargs)

    return register


def _viewing(original: Callable[..., torch.Tensor], watch: Watch) -> Callable[..., torch.Tensor]:
    @functools.wraps(original)
    def view(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        try:
            return original(self, *args, **kwargs)
        except RuntimeError:
            mended = watch.mended(self)
            if mended is None:
                raise
        return original(mended, *args, **kwargs)

    return view


def _tell_compiler(session: Session, plain: Callable[..., Any], ours: Callable[..., Any]) -> None:
    """Have torch.compile step over our call as it does over torch's own, whenever it was or will be imported."""
    skip_code = getattr(torch._C._dynamo.eval_frame, "skip_code", None)
    if skip_code is not None:
        skip_code(ours.__code__)
        skip_code(Watch._outermost.__code__)
    names = ("torch._dynamo.utils", "torch._dynamo.variables.nn_module")
    for module in (sys.modules.get(name) for name in names):
        if module is not None and getattr(module, _DYNAMO_KNOWS, None) is plain:
            setattr(module, _DYNAMO_KNOWS, ours)

    def forget() -> None:
        for module in (sys.modules.get(name) for name in names):
            if module is not None and getattr(module, _DYNAMO_KNOWS, None) is ours:
                setattr(module, _DYNAMO_KNOWS, plain)

    session.at_off(forget)
