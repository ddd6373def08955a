"""What is evaluated in a `__getitem__` of the script's: values of which every operation is known to have no effect, and functions of such values."""

from __future__ import annotations

import builtins
import inspect
import operator
import os.path
import pathlib
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.unfit import Unfit

ATOMS = (type(None), bool, int, float, str, bytes)
_ATOM_TYPES = frozenset(ATOMS)
PATHS = (pathlib.PosixPath, pathlib.PurePosixPath)
_CONTAINERS = (list, tuple, dict, set, frozenset, OrderedDict)
_TYPES = (re.Match, torch.dtype, torch.Size, np.dtype, range, slice)
_PANDAS = ("DataFrame", "Series", "_iLocIndexer", "_LocIndexer", "_iAtIndexer", "_AtIndexer")

_FUNCTIONS = (
    *(int, float, str, bool, len, tuple, list, abs, min, max, sum, round),
    *(re.search, re.match, re.fullmatch, re.findall, re.split, re.sub),
    *(os.path.join, os.path.basename, os.path.dirname, os.path.splitext),
    *(torch.tensor, torch.as_tensor, torch.from_numpy, torch.is_tensor, torch.LongTensor, torch.FloatTensor),
    *(np.array, np.asarray, np.argmax, np.int64, np.int32, np.float32, np.float64),
    *(pathlib.Path,),
)
_KEYWORDS = ("dtype",)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(name for name in dir(str) if not name.startswith("_")) - {"format_map", "maketrans", "translate", "encode"},
    **dict.fromkeys((list, tuple), frozenset({"index", "count", "copy"}) & frozenset(dir(list))),
    **dict.fromkeys((dict, OrderedDict), frozenset({"get", "keys", "values", "items"})),
    re.Match: frozenset({"group", "groups"}),
    np.ndarray: frozenset({"item", "tolist", "astype", "copy", "argmax", "reshape", "transpose"}),
    torch.Tensor: frozenset({"item", "tolist", "long", "float", "int", "clone", "argmax", "numpy"}),
    **dict.fromkeys(PATHS, frozenset({"as_posix", "joinpath", "with_suffix", "with_name"})),
}
_NUMBER_METHODS = frozenset({"item", "astype", "tolist"})
METHODS = frozenset().union(*_METHODS.values(), {"convert"})
_FIELDS: dict[type, frozenset[str]] = {
    **dict.fromkeys(PATHS, frozenset({"name", "stem", "suffix", "parent", "parts"})),
    np.ndarray: frozenset({"shape", "dtype", "ndim", "size", "T"}),
    torch.Tensor: frozenset({"shape", "dtype", "ndim"}),
}
_PANDAS_FIELDS = frozenset({"iloc", "loc", "iat", "at", "values", "name", "index", "shape"})


def is_atom(value: Any) -> bool:
    """Return whether a value is a number or a text."""
    return type(value) in ATOMS or (isinstance(value, np.generic) and type(value).__module__ == "numpy" and not isinstance(value, np.object_))


def is_number(value: Any) -> bool:
    """Return whether a value is a number, or a tensor or an array of numbers."""
    if type(value) in (torch.Tensor, np.ndarray):
        return is_data(value) and (type(value) is torch.Tensor or value.dtype.kind in "iufb")
    return (is_atom(value) and not isinstance(value, (str, bytes))) and value is not None


def is_data(value: Any) -> bool:
    """Return whether a value is of a class whose operations here have no effect. What it holds is looked at when it is reached."""
    kind = type(value)
    if is_atom(value) or _is_number_type(value) or kind in (*PATHS, *_CONTAINERS, *_TYPES, np.ndarray):
        return True
    return (kind is torch.Tensor and not value.requires_grad and value.device.type == "cpu") or is_pandas(value)


def is_pandas(value: Any) -> bool:
    """Return whether a value is pandas' own table, column, row, or what indexes these."""
    kind = type(value)
    home = str(kind.__module__)
    return home.partition(".")[0] == "pandas" and kind.__name__ in _PANDAS and getattr(sys.modules.get(home), kind.__name__, None) is kind


def is_fixed(value: Any) -> bool:
    """Return whether a value is one that nobody can change."""
    return is_atom(value) or _is_number_type(value) or type(value) in (torch.dtype, *PATHS) or (type(value) is tuple and all(map(is_fixed, value)))


def _is_number_type(value: Any) -> bool:
    return value in (bool, int, float) if type(value) is type and not issubclass(value, np.generic) else _is_numpy_type(value)


def _is_numpy_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, np.generic) and value.__module__ == "numpy"


def need_data(value: Any, what: str) -> Any:
    """Return `value`. Raises Unfit for what is not data."""
    if not is_data(value):
        raise Unfit(f"{what} is a {type(value).__name__}")
    return value


def truth(value: Any) -> bool:
    """Return `bool(value)` where that has no effect. Raises Unfit."""
    if type(value) in (*ATOMS, *_CONTAINERS) or isinstance(value, np.generic):
        return bool(value)
    kind = type(value)
    if is_data(value) or any(inspect.getattr_static(kind, name, None) is not None for name in ("__bool__", "__len__")):
        raise Unfit(f"asks whether a {kind.__name__} is true")
    return True


def item(base: Any, key: Any) -> Any:
    """Return `base[key]`. Raises Unfit, and what indexing raises."""
    need_data(base, "what is indexed")
    if not _is_key(key):
        raise Unfit(f"indexes by a {type(key).__name__}")
    if is_pandas(base) and type(base).__name__ == "Series" and not isinstance(key, str) and base.index.dtype.kind not in "iu":
        raise Unfit("takes a value of a row by its place without iloc, of which pandas warns")
    return base[key]


def _is_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(map(_is_key, key))
    if type(key) is slice:
        return all(map(is_atom, (key.start, key.stop, key.step)))
    return is_atom(key) or (type(key) is torch.Tensor and key.dim() == 0 and is_data(key))


def field(base: Any, name: str) -> Any:
    """Return `base.name` of data. Raises Unfit, and what the attribute raises."""
    if is_pandas(base):
        if name in _PANDAS_FIELDS or (not hasattr(type(base), name) and not name.startswith("_")):
            return getattr(base, name)
    elif name in _FIELDS.get(type(base), ()):
        return getattr(base, name)
    raise Unfit(f"uses {name} of a {type(base).__name__}")


def method(base: Any, name: str, values: list[Any], keywords: dict[str, Any]) -> Any:
    """Return `base.name(...)` of data. Raises Unfit, and what the method raises."""
    if isinstance(base, np.ndarray) and base.dtype.hasobject and name not in ("item", "tolist", "copy"):
        raise Unfit(f"calls {name} of an array of objects")
    known = _NUMBER_METHODS if isinstance(base, np.generic) and is_atom(base) else _METHODS.get(type(base), frozenset())
    if name not in known or not is_data(base):
        raise Unfit(f"calls {name} of a {type(base).__name__}")
    _check_handed(values, keywords, _KEYWORDS if type(base) is not str else tuple(keywords))
    return getattr(base, name)(*values, **keywords)


def function(called: Any, values: list[Any], keywords: dict[str, Any]) -> Any:
    """Return what a function of `is_function` makes of data."""
    if called is not len or keywords or len(values) != 1 or not is_data(values[0]):
        _check_handed(values, keywords, _KEYWORDS)
    if called is torch.tensor and len(values) == 1 and type(values[0]) is torch.Tensor:
        # What it does, without the warning, which would name a line of ours: the script's own line says it when the first samples are compared.
        return values[0].detach().clone().to(keywords.get("dtype"))
    if called in (torch.from_numpy, torch.as_tensor) and any(type(one) is np.ndarray and not one.flags.writeable for one in values):
        raise Unfit("makes a tensor of an array that cannot be written to, of which PyTorch warns")
    return called(*values, **keywords)


def _check_handed(values: list[Any], keywords: dict[str, Any], known: tuple[str, ...]) -> None:
    for value in (*values, *keywords.values()):
        need_data(value, "what is handed on")
        if not _holds_data((value,)) or is_pandas(value):
            raise Unfit("hands a container of objects on")
    if unknown := keywords.keys() - set(known):
        raise Unfit(f"hands on {', '.join(sorted(unknown))}")


def _holds_data(container: Any) -> bool:
    items = [*container.keys(), *container.values()] if isinstance(container, dict) else container
    if set(map(type, items)) <= _ATOM_TYPES:
        return True
    return all(is_atom(one) or (type(one) in _CONTAINERS and _holds_data(one)) or (type(one) not in _CONTAINERS and _is_plain(one)) for one in items)


def _is_plain(value: Any) -> bool:
    return is_data(value) and not (type(value) is np.ndarray and value.dtype.hasobject)


def operated(symbol: str, one: Any, other: Any) -> Any:
    """Return `one symbol other`. Raises Unfit, and what the operator raises."""
    numbers = is_atom(one) and is_atom(other)
    if symbol in ("is", "is not"):
        return (one is other) is (symbol == "is")
    if symbol in ("in", "not in"):
        # Of a dict or a set only what has the same hash is compared.
        if not (is_atom(one) and type(other) in (*_CONTAINERS, str)) or (type(other) in (list, tuple) and not _holds_data(other)):
            raise Unfit(f"asks whether something is in a {type(other).__name__}")
    elif symbol == "%" and type(one) is str and type(other) is tuple and all(map(is_atom, other)):
        return one % other
    elif not numbers and not _operates(symbol, one, other):
        raise Unfit(f"works with {symbol} on a {type(one).__name__} and a {type(other).__name__}")
    return OPERATORS[symbol](one, other)


def _operates(symbol: str, one: Any, other: Any) -> bool:
    """Return whether an operator has no effect on values that are not both numbers or texts."""
    if type(one) in PATHS:
        return type(other) in (type(one), str) and symbol in ("/", "==", "!=")
    return type(one) is type(other) is tuple and (symbol == "+" or (_holds_data(one) and _holds_data(other)))


def negative(value: Any) -> Any:
    """Return `-value` of a number. Raises Unfit."""
    if not is_atom(value):
        raise Unfit(f"works with - on a {type(value).__name__}")
    return -value


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    **{"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv, "%": operator.mod},
    **{"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
    **{"in": lambda one, other: one in other, "not in": lambda one, other: one not in other},
    **{"is": operator.is_, "is not": operator.is_not},
}


def is_function(obj: Any) -> bool:
    """Return whether `obj` is one of the functions that may be called with data, as its library made it."""
    return any(obj is known for known in _FUNCTIONS)


def opens(obj: Any) -> bool:
    """Return whether `obj` is Pillow's `Image.open`."""
    return _is_genuine(obj, "PIL.Image", "open")


def opens_file(obj: Any) -> bool:
    """Return whether `obj` is Python's `open`."""
    return obj is builtins.open


def loads(obj: Any) -> bool:
    """Return whether `obj` is one of torchvision's functions that open an image."""
    return any(_is_genuine(obj, "torchvision.datasets.folder", name) for name in ("default_loader", "pil_loader"))


def _is_genuine(obj: Any, module: str, name: str) -> bool:
    home = sys.modules.get(module)
    found: Any = getattr(home, name, None)
    if home is None or found is not obj or not isinstance(found, FunctionType):
        return False
    return found.__module__ == module and found.__code__.co_name == name and found.__code__.co_filename == home.__file__


def is_array(value: Any) -> bool:
    """Return whether a value is an array or a row of pandas', which can be taken apart."""
    return type(value) is np.ndarray or (is_pandas(value) and type(value).__name__ == "Series")
