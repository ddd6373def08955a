"""Whether code of the user's can run in this process instead of a worker's without anybody seeing it, and whether it may draw random numbers.

The code is read, not run: only what is known to have no effect but on its own argument is let through, and anything else has a reason.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stoker.boost.replay import harmless_names as names
from stoker.boost.replay.harmless_expressions import Refused
from stoker.boost.replay.harmless_source import NotFound, trees
from stoker.boost.replay.harmless_values import ATOMS, GIVEN, MADE, SHARED, TENSOR, Value, data, of
from stoker.boost.replay.harmless_walk import Walk

_ABSENT = object()
_MOST_FUNCTIONS = 200
_COUNTS = ("len", "float", "int", "bool", "str", "isinstance", "issubclass", "hash", "abs")
"""What gives a number or a text, whatever it is given."""
_PASSES_ON = ("list", "tuple", "set", "frozenset", "sorted", "reversed", "enumerate", "zip", "iter", "next", "min", "max", "sum")
"""What gives numbers and texts, one or many, when it is given many."""
_MODULE_CALLS = tuple(getattr(torch.nn.Module, name) for name in ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__"))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Harmless:
    """Code that nobody sees running, apart from what it does to its argument."""

    draws: bool
    """Whether it may take numbers from torch's, Python's or numpy's generators, seed them, or ask for their seeds or for `get_worker_info()`."""
    reads: tuple[tuple[Any, str, Any], ...] = field(default=(), repr=False, compare=False)
    """The variables outside of it that it reads: where (a dict or an object), name and value."""

    def current(self) -> bool:
        """Return whether the variables that it reads still are the objects that were looked at."""
        return all(_now(space, name) is value for space, name, value in self.reads)


def judge(callable_: Any) -> Harmless | str:
    """Return `Harmless`, or the reason why a callable of the user's must run in a worker. Raises nothing; takes milliseconds."""
    reading = _Reading()
    try:
        reading.called(callable_, [Value(GIVEN)], {})
    except Refused as reason:
        return f"{reading.place(callable_)} {reason}"
    except RecursionError:
        return f"{_title(callable_)} is too deep to follow"
    except Exception as error:
        return f"{_title(callable_)} cannot be read ({type(error).__name__}: {error})"
    return Harmless(reading.draws, tuple(reading.reads))


def _now(space: Any, name: str) -> Any:
    try:
        return space.get(name, _ABSENT) if isinstance(space, dict) else getattr(space, name)
    except (AttributeError, ValueError):
        return _ABSENT


class _Reading:
    """One verdict on its way: what was met so far."""

    def __init__(self) -> None:
        self.draws = False
        self.reads: list[tuple[Any, str, Any]] = []
        self._results: dict[Any, Value] = {}
        self._held: list[Any] = []
        self._stack: list[types.FunctionType] = []
        self._refused_in: types.FunctionType | None = None

    def place(self, callable_: Any) -> str:
        """Return the function that was refused, with file and line."""
        return _title(self._refused_in or callable_)

    # --- what the walk asks -------------------------------------------------------------------------------------------

    def draw(self, name: str) -> None:
        self.draws = self.draws or names.draws(name)

    def read(self, space: Any, name: str, obj: Any) -> None:
        if isinstance(obj, types.ModuleType) or any(space is one and name == other for one, other, _ in self.reads):
            return
        self.reads.append((space, name, obj))

    def handed(self, value: Value) -> None:
        for other in value.others:
            if type(other) in (list, tuple, dict):
                raise Refused("hands a container of objects on")
            if not (isinstance(other, type) and (names.library(other) is not None or _data_class(other))):
                self.called(other, [Value(SHARED)], {})

    def attribute(self, obj: Any, name: str) -> Value:
        if isinstance(obj, types.ModuleType):
            found = vars(obj).get(name, _ABSENT)
            if found is _ABSENT:
                raise Refused(f"uses {obj.__name__}.{name}, which is not there")
            if not isinstance(found, types.ModuleType):
                self.read(vars(obj), name, found)
            return of(found)
        if name.startswith("__"):
            raise Refused(f"uses {name} of a {type(obj).__name__}")
        if isinstance(obj, type):
            return self._of_class(obj, name)
        return self._of_instance(obj, name)

    def called(self, callee: Any, values: list[Value], keywords: dict[str, Value]) -> Value:
        """Return what calling `callee` gives. Raises Refused."""
        library = names.library(callee)
        if library is not None:
            return self._library(callee, library, values, keywords)
        if isinstance(callee, functools.partial) and type(callee) is functools.partial:
            fixed = {key: of(value) for key, value in callee.keywords.items()}
            return self.called(callee.func, [*map(of, callee.args), *values], {**fixed, **keywords})
        if isinstance(callee, types.MethodType):
            return self.called(callee.__func__, [of(callee.__self__), *values], keywords)
        if isinstance(callee, types.FunctionType):
            return self._function(callee, values, keywords)
        if isinstance(callee, type) or names.module_of(type(callee)) == "builtins":
            raise Refused(f"calls {getattr(callee, '__qualname__', None) or type(callee).__name__}")
        return self._object(callee, values, keywords)

    # --- live objects -------------------------------------------------------------------------------------------------

    def _library(self, callee: Any, library: str, values: list[Value], keywords: dict[str, Value]) -> Value:
        short = library.rpartition(".")[2]
        everything = [*values, *keywords.values()]
        worst = functools.reduce(Value.__or__, everything, Value())
        if library in ("random.choice",) and worst.kind < TENSOR and worst.others:
            self.draws = True
            return self._items(worst)
        if short not in ("isinstance", "issubclass"):
            for value in everything:
                self.handed(value)
        if short == "type" and len(values) != 1:
            raise Refused("makes a class")
        if library.startswith("torchvision") and isinstance(callee, type):
            self.draws = self.draws or short not in names.STILL
            return Value(calls=True)
        self.draw(short)
        if names.writes_first(library) and worst.kind >= TENSOR:
            raise Refused(f"lets {short} change what others hold")
        self._check_outputs(callee, library, values, keywords)
        if library in ("numpy.array", "torch.tensor") and not keywords.keys() - {"dtype"}:
            return Value()
        if short in _COUNTS:
            return Value()
        return Value(SHARED if worst.kind == ATOMS and short not in _PASSES_ON else worst.kind)

    def _check_outputs(self, callee: Any, library: str, values: list[Value], keywords: dict[str, Value]) -> None:
        """Refuse calls that may write into something of others: an `out` by position, `inplace`."""
        shared = [place for place, value in enumerate(values) if value.kind >= TENSOR]
        if not shared and "**" not in keywords:
            return
        if isinstance(callee, np.ufunc) and any(place >= callee.nin for place in shared):
            raise Refused(f"lets {library} write into what others hold")
        if library.startswith("numpy") and not isinstance(callee, np.ufunc) and library not in ("numpy.where", "numpy.full"):
            if any(place >= 2 for place in shared) or len(values) > 2 or keywords.keys() - {"axis", "keepdims", "dtype"}:
                raise Refused(f"hands what others hold to {library}, which may write into it")
        elif isinstance(callee, types.FunctionType):
            parameters = list(inspect.signature(callee).parameters)
            if "inplace" in parameters and (len(values) > parameters.index("inplace") or keywords.keys() & {"inplace", "**"}):
                raise Refused(f"lets {library} change what others hold")

    def _items(self, value: Value) -> Value:
        found = Value(value.kind, solid=False)
        for other in value.others:
            if type(other) not in (list, tuple):
                raise Refused(f"chooses from a {type(other).__name__}")
            for item in other:
                found |= of(item)
        return found

    def _object(self, callee: Any, values: list[Value], keywords: dict[str, Value]) -> Value:
        kind = type(callee)
        if isinstance(callee, torch.nn.Module):
            return self._module(callee, values, keywords)
        if names.own_class(kind, "torchvision.transforms"):
            return self._transform(callee)
        method = inspect.getattr_static(kind, "__call__", None)
        if not isinstance(method, types.FunctionType):
            raise Refused(f"calls a {kind.__name__}")
        return self._function(method, [Value(MADE, (callee,), solid=False), *values], keywords)

    def _module(self, module: torch.nn.Module, values: list[Value], keywords: dict[str, Value]) -> Value:
        kind = type(module)
        for name, original in zip(("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__"), _MODULE_CALLS, strict=True):
            if inspect.getattr_static(kind, name, None) is not original or name in vars(module):
                raise Refused(f"calls a {kind.__name__} with a {name} of its own")
        if any(vars(module).get(name) for name in _HOOKS) or getattr(module, "_compiled_call_impl", None) is not None:
            raise Refused(f"calls a {kind.__name__} with hooks")
        if names.own_class(kind, "torchvision.transforms"):
            return self._transform(module)
        if names.own_class(kind, "torch.nn.modules"):
            if kind.__name__ not in names.MODULES:
                raise Refused(f"calls a {kind.__name__}")
            self.draws = self.draws or "Dropout" in kind.__name__
            for child in module._modules.values():
                self.called(child, [Value(GIVEN)], {})
            if any(value.kind >= TENSOR for value in values):
                raise Refused(f"hands what others hold to a {kind.__name__}")
            return Value(GIVEN)
        method = inspect.getattr_static(kind, "forward", None)
        if not isinstance(method, types.FunctionType) or "forward" in vars(module):
            raise Refused(f"calls a {kind.__name__} without a plain forward")
        return self._function(method, [Value(MADE, (module,), solid=False), *values], keywords)

    def _transform(self, transform: Any) -> Value:
        """One of torchvision's own: it draws and changes nothing; what the user gave it is looked at, too."""
        self.draws = self.draws or type(transform).__name__ not in names.STILL
        inner = [*vars(transform).values(), *vars(transform).get("_modules", {}).values()]
        for value in inner:
            for one in value if isinstance(value, (list, tuple, torch.nn.ModuleList)) else [value]:
                if callable(one) and data(one) is None and not isinstance(one, type) and not isinstance(one, torch.nn.ModuleList):
                    self.called(one, [Value(GIVEN)], {})
        return Value(GIVEN)

    def _of_class(self, kind: type, name: str) -> Value:
        if type(kind) is not type and not names.own_class(kind, "torchvision") and not names.module_of(kind).startswith(("PIL", "torch", "abc")):
            meta = inspect.getattr_static(type(kind), "__getattribute__", None)
            if meta is not type.__getattribute__ or inspect.getattr_static(type(kind), "__getattr__", _ABSENT) is not _ABSENT:
                raise Refused(f"uses {kind.__name__}.{name}")
        for owner in kind.__mro__:
            found = vars(owner).get(name, _ABSENT)
            if found is _ABSENT:
                continue
            if isinstance(found, staticmethod):
                return of(found.__func__)
            if isinstance(found, classmethod):
                return of(types.MethodType(found.__func__, kind))
            if data(found) is None and not isinstance(found, (types.FunctionType, type)) and hasattr(found, "__get__"):
                raise Refused(f"uses {kind.__name__}.{name}")
            self.read(kind, name, found)
            return of(found)
        raise Refused(f"uses {kind.__name__}.{name}, which is not there")

    def _of_instance(self, obj: Any, name: str) -> Value:
        kind = type(obj)
        if names.module_of(kind) == "builtins" or inspect.getattr_static(kind, "__getattribute__", None) is not object.__getattribute__:
            raise Refused(f"uses {name} of a {kind.__name__}")
        own = getattr(obj, "__dict__", {})
        found = inspect.getattr_static(kind, name, _ABSENT)
        if isinstance(found, property):
            if found.fget is None:
                raise Refused(f"uses {name} of a {kind.__name__}")
            return self.called(found.fget, [Value(MADE, (obj,), solid=False)], {})
        if name in own and (found is _ABSENT or not hasattr(type(found), "__set__")):
            self.read(own, name, own[name])
            return of(own[name])
        if isinstance(obj, torch.nn.Module):
            for place in ("_parameters", "_buffers", "_modules"):
                if name in own.get(place, {}):
                    self.read(own[place], name, own[place][name])
                    return of(own[place][name])
        if isinstance(found, types.FunctionType):
            return of(types.MethodType(found, obj))
        if isinstance(found, (staticmethod, classmethod)):
            return self._of_class(kind, name)
        if isinstance(found, types.MemberDescriptorType):
            return of(found.__get__(obj))
        if found is _ABSENT or hasattr(type(found), "__get__"):
            raise Refused(f"uses {name} of a {kind.__name__}")
        self.read(kind, name, found)
        return of(found)

    # --- functions ----------------------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType, values: list[Value], keywords: dict[str, Value]) -> Value:
        if names.closed(function):
            raise Refused(f"calls {function.__module__}.{function.__qualname__}")
        arguments = _bound(function, values, keywords)
        key = (function, tuple((name, value.kind, tuple(map(id, value.others))) for name, value in arguments.items()))
        if key in self._results:
            return self._results[key]
        if len(self._results) >= _MOST_FUNCTIONS:
            raise Refused("calls too many functions to follow")
        self._results[key] = Value(SHARED)  # what a function that calls itself gets
        self._held.append(arguments)  # ids stay those of these objects
        try:
            found = [Walk(self, function, tree).result(arguments) for tree in trees(function)]
        except NotFound as reason:
            self._refused_in = self._refused_in or function
            raise Refused(f"cannot be read: {reason}") from None
        except Refused:
            self._refused_in = self._refused_in or function
            raise
        self._results[key] = functools.reduce(Value.__or__, found)
        return self._results[key]


def _bound(function: types.FunctionType, values: list[Value], keywords: dict[str, Value]) -> dict[str, Value]:
    """Return what is known of every parameter. What cannot be told apart is everything at once."""
    parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    arguments = {one.name: of(one.default) for one in parameters if one.default is not one.empty}
    everything = functools.reduce(Value.__or__, [*values, *keywords.values()], Value())
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    plain = all(one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters) and "**" not in keywords
    if plain and len(values) <= len(positional) and keywords.keys() <= {one.name for one in parameters}:
        arguments.update({one.name: value for one, value in zip(positional, values, strict=False)})
        arguments.update(keywords)
        return {one.name: arguments.get(one.name, Value()) for one in parameters}
    first = {positional[0].name: values[0]} if positional and values and "**" not in keywords else {}
    rest = functools.reduce(Value.__or__, [*values[len(first) :], *keywords.values()], Value()) if first else everything
    found: dict[str, Value] = {}
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            # A container of its own; objects in it are met when it is gone through.
            found[one.name] = Value(rest.held().kind, (list(rest.others),) if rest.others else ())
        else:
            found[one.name] = first.get(one.name) or (arguments[one.name] | rest if one.name in arguments else rest)
    return found


def _data_class(kind: type) -> bool:
    """Return whether a class is one of data's, as `isinstance` and conversions name them."""
    return kind in (torch.Tensor, np.ndarray, object) or names.module_of(kind) == "builtins" or names.module_of(kind).startswith("PIL.")


def _title(callable_: Any) -> str:
    """Return the name of a callable and the place of its code."""
    inner = getattr(callable_, "func", callable_) if isinstance(callable_, functools.partial) else callable_
    title = str(getattr(inner, "__qualname__", type(inner).__qualname__)).replace("<locals>.", "")
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    where = f" ({Path(code.co_filename).name}:{code.co_firstlineno})" if code is not None and code.co_filename not in sys.builtin_module_names else ""
    return f"{title}{where}"
