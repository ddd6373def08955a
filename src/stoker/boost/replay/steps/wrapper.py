"""Objects of the user's that hand their argument on to one attribute and do nothing else, as the presets of torchvision's reference scripts do."""

from __future__ import annotations

import ast
import inspect
from types import FunctionType
from typing import Any

import torch

from stoker.boost.replay.harmless_source import NotFound, trees

_ABSENT = object()


def handed_on(transform: Any) -> tuple[Any] | None:
    """Return the one object that `transform` is to be replaced with: `self.NAME` where its class has `def __call__(self, x): return self.NAME(x)`.

    None for everything else: other code, modules (their hooks would be called), attributes that are computed.
    """
    kind = type(transform)
    own = getattr(transform, "__dict__", None)
    call = inspect.getattr_static(kind, "__call__", None)
    if type(own) is not dict or not isinstance(call, FunctionType) or isinstance(transform, (FunctionType, type, torch.nn.Module)):
        return None
    name = _only_attribute(call)
    if name is None or name not in own or inspect.getattr_static(kind, name, _ABSENT) is not _ABSENT:
        return None
    if inspect.getattr_static(kind, "__getattribute__") is not object.__getattribute__:
        return None
    return (own[name],)


def _only_attribute(call: FunctionType) -> str | None:
    """Return NAME where the body of `call` is `return self.NAME(x)` and nothing else but a docstring."""
    try:
        found = trees(call)
    except NotFound:
        return None
    if len(found) != 1 or not isinstance(found[0], ast.FunctionDef) or found[0].decorator_list or call.__defaults__ or call.__kwdefaults__:
        return None
    *before, last = found[0].body
    takes = found[0].args
    given = [one.arg for one in takes.args]
    if len(set(given)) != 2 or takes.posonlyargs or takes.vararg or takes.kwonlyargs or takes.kwarg:
        return None
    match last:
        case ast.Return(value=ast.Call(func=ast.Attribute(value=ast.Name(id=own), attr=name), args=[ast.Name(id=handed)], keywords=[])):
            return name if [own, handed] == given and all(map(_is_text, before)) else None
    return None


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
