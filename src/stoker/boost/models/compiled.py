"""The part `compile`: the model as torch.compile makes it, for calls like those that it was tried with."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stoker.boost.models import outputs, ranks
from stoker.boost.models.rehearsal import user_hooks
from stoker.boost.models.ways import Group, Model

_EXPECTED_S = {"cpu": 60.0, "cuda": 40.0}
"""What a compilation may take. A training that has not yet lasted as long is not expected to last as long again."""

_SMALL_PARAMETERS = 30_000_000
"""Below this a GPU waits for the host to start its kernels, and CUDA graphs help."""

_STANCE = hasattr(torch.compiler, "set_stance")
"""Since torch 2.6: what was compiled is used where its guards hold, and nothing is compiled anew in the middle of the training."""


class Compile:
    """The model's forward and backward compiled. Evaluation, the last small batch and other calls stay as they are."""

    name = "compile"
    rehearsed = True
    told = "compiled forward and backward"

    def __init__(self) -> None:
        self._made: dict[int, Compiled] = {}

    def fits(self, training: Group) -> str | None:
        """Decline where the compiler would be seen, or cannot work."""
        if ranks.world() > 1:
            return "not tried while several ranks train together"
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in training.optimizers()):
            return "LBFGS calls the model a varying number of times a step"
        return next((why for entry in training.entries if (why := _obstacle(entry))), None)

    def expected_s(self, training: Group) -> float:
        """Return for how many seconds the training must have lasted before a compilation is begun."""
        return max((_EXPECTED_S.get(entry.device.type, 60.0) for entry in training.entries), default=60.0)

    def on(self, training: Group) -> None:
        """From the next call on: that one compiles."""
        for entry in training.able():
            if entry.root is not None:
                entry.compiled = self._made.setdefault(id(entry), Compiled(entry.root, entry.device))

    def off(self, training: Group) -> None:
        """What was compiled stays here, for the next block of the trial."""
        for entry in training.entries:
            entry.compiled = None

    def joined(self, optimizer: Optimizer) -> None:
        """Nothing: the optimizer sees the same parameters."""


class Compiled:
    """A compiled call of one module, and the kind of call that it is for."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._kind: tuple[Any, ...] | None = None
        self._graphs = device.type == "cuda" and sum(parameter.numel() for parameter in module.parameters()) < _SMALL_PARAMETERS
        self._first = next(module.parameters())
        self._call = compiled_call(module, graphs=self._graphs, threads=torch.get_num_threads())
        self._settled = False

    def takes(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, calls: int = 1) -> bool:
        """Whether a call is like the first one: shapes, types, mode, gradients; others are not worth a compilation.

        `calls`: how many there were in this step, with this one.
        """
        if not torch.is_grad_enabled() or (self._graphs and (calls > 1 or self._first.grad is not None)):
            # The memory of a CUDA graph is used again by the next replay: gradients that are added up may not lie in it.
            return False
        kind = _kind(module, args, kwargs)
        if self._kind is None:
            self._kind = kind
        return kind is not None and kind == self._kind

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it; the first time this compiles. Raises what the compiler raises."""
        if self._settled and _STANCE:
            with torch.compiler.set_stance("eager_on_recompile"):
                found = self._call(*args, **kwargs)
        else:
            found = self._call(*args, **kwargs)
            self._settled = True
        return outputs.replaced(found, torch.Tensor.clone) if self._graphs else found


def compiled_call(module: nn.Module, *, graphs: bool, threads: int) -> Callable[..., Any]:
    """Return `module`'s call as it will be compiled when it is first called, for so many threads, with the random numbers of the plain one."""
    config: Any = importlib.import_module("torch._inductor.config")
    options: dict[str, Any] = {"fallback_random": True, "cpp.threads": threads, "fx_graph_cache": True}
    if graphs:
        options["triton.cudagraphs"] = True
    # One process compiles: the compiler's own workers would be seen among the user's processes.
    config.compile_threads = 1
    return torch.compile(module._call_impl, dynamic=False, options=options)


def compiled_by_user(module: nn.Module) -> bool:
    """Whether the script has compiled the model, or a part of it, itself."""
    return any(type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None for part in module.modules())


def _obstacle(entry: Model) -> str | None:
    root = entry.root
    if root is None:
        return "the model is gone"
    if entry.wrapper is not None:
        return f"not tried inside {entry.wrapper}"
    if entry.device.type not in _EXPECTED_S:
        return f"not known on {entry.device.type}"
    hooked = user_hooks(root)
    if hooked:
        return f"the hooks on {hooked} would run inside compiled code"
    if entry.device.type == "cpu" and not shutil.which(os.environ.get("CXX") or "g++"):
        return "there is no C++ compiler"
    if type(root).forward is nn.Module.forward:
        return "the model has no forward of its own class"
    return None


def _kind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    values = [*args, *kwargs.values()]
    if any(not isinstance(value, torch.Tensor | int | float | bool | str | None) for value in values):
        return None
    described = tuple((value.shape, value.dtype, value.requires_grad) if isinstance(value, torch.Tensor) else value for value in values)
    return module.training, len(args), tuple(kwargs), described, torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
