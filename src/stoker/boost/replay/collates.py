"""Which functions that make a batch of samples are known: PyTorch's own, also by another name, and timm's."""

from __future__ import annotations

import functools
import inspect
import sys
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from torch.utils.data._utils.collate import default_collate

from stoker.boost.replay.classes import body_unknown, line_of
from stoker.boost.replay.unfit import Unfit

_LONGEST = 6
"""`torch.utils.data._utils.collate.default_collate(batch)`."""


@dataclass(frozen=True, kw_only=True)
class Collate:
    """What a batch is made into."""

    name: str
    kind: type[list[Any]] | type[tuple[Any, ...]]
    """What its fields stand in."""
    bytes_only: bool
    """Whether images are stacked as bytes and labels as int64, whatever they were."""


DEFAULT = Collate(name="default_collate", kind=list, bytes_only=False)
FAST = Collate(name="fast_collate", kind=tuple, bytes_only=True)


def recognise_collate(function: Any) -> Collate:
    """Return what `function`, a loader's collate_fn, makes. Raises Unfit."""
    if _is_default(function):
        return DEFAULT
    fast: Any = getattr(sys.modules.get("timm.data.loader"), "fast_collate", None)
    if fast is not None and function is fast:
        if (reason := body_unknown(function, "fast_collate")) is not None:
            raise Unfit(reason)
        return FAST
    library = str(getattr(function, "__module__", None) or type(function).__module__).partition(".")[0]
    name = getattr(function, "__qualname__", type(function).__qualname__)
    raise Unfit(f"collate_fn is {'timm' if library == 'timm' else 'the script'}'s own {name}{line_of(function)}")


def _is_default(function: Any) -> bool:
    """Whether `function` is PyTorch's default_collate, or does nothing but call it: `lambda batch: default_collate(batch)`."""
    if type(function) is functools.partial and not function.args and not function.keywords:
        return _is_default(function.func)
    if function is default_collate or type(function) is not FunctionType:
        return function is default_collate
    code = function.__code__
    if not 0 < len(code.co_names) <= _LONGEST or _body(code) != _body(_calling(len(code.co_names))) or function.__defaults__:
        return False
    found = function.__globals__.get(code.co_names[0])
    for name in code.co_names[1:]:
        found = getattr(found, name, None)
    return found is default_collate


def _body(code: CodeType) -> tuple[Any, ...]:
    kinds = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    return code.co_code, code.co_argcount, code.co_kwonlyargcount, code.co_flags & kinds


@functools.cache
def _calling(names: int) -> CodeType:
    """Return the code of a function that hands its one argument to a global function, with so many names: `a.b.c(batch)`."""
    module = compile(f"lambda batch: {'.'.join('abcdef'[:names])}(batch)", "<names>", "eval")
    return next(part for part in module.co_consts if isinstance(part, CodeType))
