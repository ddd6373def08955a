"""The part `operations`: max pool and dropout on a CPU by kernels of ours, with the numbers of torch's own and less memory to go through."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch._C._functorch import peek_interpreter_stack
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from stoker import pool
from stoker.boost.models import dropout
from stoker.boost.models.ways import Group, Model


class Operations:
    """2x2 max pools in channels_last memory and dropout, wherever the model's forward calls them, as modules or as functions."""

    name = "operations"
    rehearsed = True
    told = "max pool and dropout by Stoker's kernels"

    def fits(self, training: Group) -> str | None:
        """Decline without kernels, and away from the CPU."""
        if not replacements():
            return "the kernels were not built, or torch draws otherwise than they do"
        return next((why for entry in training.entries if (why := _obstacle(entry))), None)

    def on(self, training: Group) -> None:
        """From the next call on."""
        for entry in training.able():
            entry.operations = True

    def off(self, training: Group) -> None:
        """From the next call on."""
        for entry in training.entries:
            entry.operations = False

    def joined(self, optimizer: Optimizer) -> None:
        """Nothing: the optimizer sees the same gradients."""


def _obstacle(entry: Model) -> str | None:
    if entry.device.type != "cpu":
        return "the model is not on the CPU"
    return "the model is gone" if entry.module is None else None


class Kernels(TorchFunctionMode):
    """While it is entered, the operations that are known here are done by our kernels where those take them, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        """Operations done so far."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        replacement = _REPLACEMENTS.get(func)
        if replacement is not None and not _others():
            found = replacement(*args, **(kwargs or {}))
            if found is not None:
                self.taken += 1
                return found
        return func(*args, **(kwargs or {}))


def _others() -> bool:
    """Whether somebody else wants to see every operation (torch.func, modes of the user's), who would not see ours."""
    return peek_interpreter_stack() is not None or bool(torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())


def replacements() -> list[str]:
    """Return the names of the operations that have a kernel here."""
    kernels = {"max pool": pool.library(), "dropout": dropout.library()}
    return [name for name, kernel in kernels.items() if kernel is not None]


def _max_pool(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False
) -> torch.Tensor | None:
    kernel = pool.library()
    if kernel is None or type(input) is not torch.Tensor or return_indices or not pool.takes(input):
        return None
    if not (_all(kernel_size, 2) and (stride is None or stride == () or _all(stride, 2)) and _all(padding, 0) and _all(dilation, 1)):
        return None
    return pool.pooled(input, kernel, relu=False)


def _all(size: Any, value: int) -> bool:
    """Whether a size, one number or two, is `value` in both directions."""
    return bool(size == value or (isinstance(size, tuple | list) and len(size) in (1, 2) and all(one == value for one in size)))


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor | None:
    kernel = dropout.library()
    if kernel is None or type(input) is not torch.Tensor or not training or inplace or not torch.is_grad_enabled():
        return None
    return dropout.dropout(input, p, kernel) if dropout.takes(input, p) else None


def _torchs_dropout(input: Any, p: float, train: bool) -> torch.Tensor | None:
    return _dropout(input, p, train)


_REPLACEMENTS: dict[Any, Any] = {F.max_pool2d: _max_pool, torch.max_pool2d: _max_pool, F.dropout: _dropout, torch.dropout: _torchs_dropout}
