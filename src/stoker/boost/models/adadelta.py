"""Adadelta's step by the C kernel on a CPU: one pass over every parameter and its state, which stay the optimizer's own."""

from __future__ import annotations

import ctypes
import functools
import importlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Adadelta

from stoker.boost.guard import complain
from stoker.boost.replay import openmp
from stoker.kernels import built, of_version

if TYPE_CHECKING:
    from stoker.boost.session import Session

VERSION = 1

_MANY = 32_768
"""Values from which on a step is shared among the threads of torch's own operations."""

_DOOR = "_single_tensor_adadelta"
"""What a step of `torch.optim.Adadelta` calls with all parameters of a group, when neither foreach nor fused is chosen."""

_POINTER, _FLOAT = ctypes.c_void_p, ctypes.c_float


class _Step(ctypes.Structure):
    """`struct step` in native/adadelta.c."""

    _fields_ = (
        *((name, _POINTER) for name in ("parameter", "gradient", "square_avg", "acc_delta")),
        ("count", ctypes.c_int64),
        *((name, _FLOAT) for name in ("rate", "rho", "rest", "eps", "weight_decay")),
        ("maximize", ctypes.c_int32),
        *((name, _POINTER) for name in ("member", "members")),
    )


class Switched:
    """An optimizer whose steps the kernel does until `back`. Nothing about it is changed: its parameters are known here."""

    def __init__(self, optimizer: Adadelta) -> None:
        self._ref = weakref.ref(optimizer, lambda _: self.back())
        self._keys = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        _SWITCHED.update(dict.fromkeys(self._keys, self))

    def alive(self) -> bool:
        return self._ref() is not None

    def is_of(self, optimizer: torch.optim.Optimizer) -> bool:
        return self._ref() is optimizer

    def back(self) -> None:
        for key in self._keys:
            if _SWITCHED.get(key) is self:
                del _SWITCHED[key]


_SWITCHED: dict[int, Switched] = {}
"""By the id of a parameter: all that torch's function is given."""


def apply(session: Session) -> None:
    """Stand where torch does the step of a group; what is not switched is handed on."""
    if library() is not None:
        module = importlib.import_module("torch.optim.adadelta")
        session.patches.set(module, _DOOR, _stepping(getattr(module, _DOOR)))


def _stepping(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def step(params: list[torch.Tensor], *others: Any, **options: Any) -> None:
        if not torch.compiler.is_compiling() and params and _ours(params, others, options):
            return
        original(params, *others, **options)

    return step


def _ours(params: list[torch.Tensor], others: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Do a step if it is one of ours; whether it was done. Nothing was done when not."""
    try:
        switched, kernel = _SWITCHED.get(id(params[0])), library()
        if switched is None or kernel is None or not switched.alive() or len(others) != 4:
            return False
        grads, square_avgs, acc_deltas, steps = others
        rows = list(zip(params, grads, square_avgs, acc_deltas, strict=True))
        rate, rho = float(options["lr"]), options["rho"]
        told = (rate, rho, 1 - rho, options["eps"], options["weight_decay"], options["maximize"])
        if any(options[name] for name in ("differentiable", "capturable", "has_complex")) or not all(map(_fit, rows)):
            return False
    except Exception as error:
        complain("models.fused", error, consequence="torch does the step")
        return False
    torch._foreach_add_(steps, 1)
    for row in rows:
        _one(kernel, row, told)
    torch.autograd.graph.increment_version([tensor for row in rows for tensor in (row[0], *row[2:])])
    return True


def _fit(row: tuple[torch.Tensor, ...]) -> bool:
    """Whether a parameter, its gradient and its averages are float32 in the same order of memory, without gaps."""
    first = row[0]
    strides = first.stride()
    if not first.is_contiguous() and not (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)):
        return False
    return all(
        tensor.dtype == torch.float32
        and tensor.is_cpu
        and tensor.layout == torch.strided
        and tensor.stride() == strides
        and tensor.shape == first.shape
        and not tensor.is_neg()
        for tensor in row
    )


def _one(kernel: ctypes.CDLL, row: tuple[torch.Tensor, ...], told: tuple[Any, ...]) -> None:
    count = row[0].numel()
    step = _Step(*(tensor.data_ptr() for tensor in row), count, *told, None, None)
    team = _team() if count >= _MANY else None
    if team is None or torch.get_num_threads() == 1:
        kernel.stoker_adadelta(ctypes.byref(step))
        return
    parallel, step.member, step.members = team
    parallel(_address(kernel.stoker_adadelta), ctypes.byref(step), torch.get_num_threads(), 0)


@functools.cache
def _team() -> tuple[Any, int, int] | None:
    """Return OpenMP's function that has a team of threads call a function, and those that tell a member's number and how many there are."""
    found = openmp.library()
    try:
        parallel = found.GOMP_parallel if found is not None else None
        if found is None or parallel is None:
            return None
        parallel.argtypes, parallel.restype = (_POINTER, _POINTER, ctypes.c_uint, ctypes.c_uint), None
        return parallel, _address(found.omp_get_thread_num), _address(found.omp_get_num_threads)
    except AttributeError:
        return None


def _address(function: Any) -> int:
    return ctypes.cast(function, _POINTER).value or 0


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernel that was built with the package; None when there is none, or another version's."""
    found = built(Path(__file__).with_name("_adadelta"), load)
    return None if isinstance(found, str) else found


def load(path: Path) -> ctypes.CDLL:
    """Load the kernel at `path`. Raises OSError when it is not one of this version."""
    found = of_version(path, "stoker_adadelta_version", VERSION)
    found.stoker_adadelta.argtypes, found.stoker_adadelta.restype = (_POINTER,), None
    return found
