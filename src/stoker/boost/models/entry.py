"""A model that is trained, where the user's code calls it: in the arithmetic that is being tried or has been kept."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch._C._functorch import peek_interpreter_stack

from stoker.boost.guard import complain
from stoker.boost.models import outputs
from stoker.boost.models.compilation import Compilation, compilation
from stoker.boost.models.operations import Kernels
from stoker.boost.models.rehearsal import channels_last, rehearse
from stoker.boost.models.ways import CompiledCall

Call = Callable[..., Any]

_OURS = (RuntimeError, TypeError, NotImplementedError, AssertionError)
"""What torch raises when an operation does not take a type or a layout. Other exceptions are the user's, also as a way out of a forward."""


class Keeper(Protocol):
    """What a model tells of its calls, and whom."""

    def disturbed(self) -> None:
        """Something else than a training step is going on."""
        ...

    def failed(self, why: str) -> None:
        """The model has failed in other arithmetic."""
        ...

    def withdraw(self, part: str, why: str) -> None:
        """The script needs a part off."""
        ...


class Entry:
    """The outermost module that is called, `DistributedDataParallel` included, and the model inside."""

    def __init__(self, module: nn.Module, where: str) -> None:
        self._ref = weakref.ref(module)
        self._root = weakref.ref(unwrapped(module))
        self.where = where
        self.what = type(unwrapped(module)).__name__
        self.wrapper = type(module).__name__ if module is not unwrapped(module) else None
        self.training: Keeper | None = None
        self.device = _device(module)
        self.autocast = False
        self.layout = False
        self.operations = False
        self.compiled: CompiledCall | None = None
        self.wanted: frozenset[str] | None = None
        """Parts that are to be rehearsed at the next call."""
        self.obstacle: str | None = None
        """Why the last rehearsal failed."""
        self.own_autocast = False
        """Whether the user's code calls it under an autocast of its own."""
        self.calls = 0
        """With gradients, since the last step."""
        self._pending: Compilation | None = None
        self._first = _first_parameter(module)

    @property
    def module(self) -> nn.Module | None:
        """The module that is called; None when it is gone."""
        return self._ref()

    @property
    def root(self) -> nn.Module | None:
        """The user's own module: what DistributedDataParallel and DataParallel wrap."""
        return self._root()

    def call(self, original: Call, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the module as the user does, in other arithmetic where that is on. What fails in it is done again as the user wrote it."""
        if self._aside():
            return original(module, *args, **kwargs)
        try:
            other = self._prepared(args, kwargs)
        except Exception as error:
            complain("models", error)
            other = False
        if not other:
            return original(module, *args, **kwargs)
        try:
            return self._otherwise(original, module, args, kwargs)
        except _OURS as error:
            why = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
        assert self.training is not None
        self.training.failed(f"the model failed with it, and the step was done plainly: {why}")
        return original(module, *args, **kwargs)

    def _aside(self) -> bool:
        """Whether somebody traces, exports, compiles, transforms or calls it with other parameters: then it is as the user wrote it."""
        if torch._C._get_tracing_state() is not None or peek_interpreter_stack() is not None:
            return True
        if torch._C._len_torch_dispatch_stack() or torch.compiler.is_compiling():
            return True
        owner, name, parameter = self._first
        found = owner()
        return found is None or found._parameters.get(name) is not parameter()

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Take notes of the call, rehearse when that is wanted, and return whether anything is to be done otherwise."""
        training = self.training
        if training is None:
            return False
        if torch.is_autocast_enabled(self.device.type):
            self.own_autocast = True
            if self.autocast:
                training.withdraw("autocast", "the script uses an autocast of its own")
        if not torch.is_grad_enabled():
            training.disturbed()
        else:
            self.calls += 1
            if self.wanted is not None:
                self._rehearse(args, kwargs)
        return self.autocast or self.layout or self.operations or self.compiled is not None

    def _rehearse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wanted, self.wanted = self.wanted or frozenset(), None
        root = self.root
        assert root is not None
        parts = {"autocast": "autocast" in wanted or self.autocast, "layout": "layout" in wanted or self.layout}
        if "compile" in wanted:
            self._pending = compilation(root, args, kwargs, device=self.device, **parts)
        else:
            self.obstacle = rehearse(root, args, kwargs, device=self.device, operations="operations" in wanted or self.operations, **parts)
        if self.training is not None:
            self.training.disturbed()

    def still_rehearsing(self) -> bool:
        """Whether a rehearsal in another process goes on; notes what came of it when not."""
        if self._pending is None:
            return False
        if not self._pending.over():
            return True
        self.obstacle, self._pending = self._pending.why, None
        return False

    def give_up(self) -> None:
        """End a rehearsal in another process, and want none."""
        self.wanted = None
        if self._pending is not None:
            self._pending.end()
            self._pending = None

    def _otherwise(self, original: Call, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.layout:
            args, kwargs = outputs.replaced(args, channels_last), outputs.replaced(kwargs, channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else contextlib.nullcontext():
            if self.compiled is not None and self.compiled.takes(module, args, kwargs, calls=self.calls):
                found = self.compiled.call(args, kwargs)
            else:
                with Kernels() if self.operations and torch.is_grad_enabled() else contextlib.nullcontext():
                    found = original(module, *args, **kwargs)
        return outputs.replaced(found, self._given_back)

    def _given_back(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.autocast and tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        if self.layout and tensor.dim() == 4 and not tensor.is_contiguous():
            tensor = tensor.contiguous()
        return tensor


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what DistributedDataParallel or DataParallel wraps, else the module itself."""
    wrapper = nn.parallel.DistributedDataParallel | nn.DataParallel
    return module.module if isinstance(module, wrapper) else module


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _first_parameter(module: nn.Module) -> tuple[weakref.ref[nn.Module], str, weakref.ref[nn.Parameter]]:
    for part in unwrapped(module).modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                return weakref.ref(part), name, weakref.ref(parameter)
    raise ValueError("a module without parameters")
