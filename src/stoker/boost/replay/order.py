"""Whether this PyTorch's DataLoader works in an order that is known: the sources of its functions are compared with those that were read."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from stoker.boost.replay.orders import ORDERS

_TOKEN = re.compile(
    r"""(?P<string>[rRbBuUfF]{0,2}(?:\"{3}(?:\\.|(?!\"{3}).)*\"{3}|'{3}(?:\\.|(?!'{3}).)*'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))"""
    r"""|(?P<comment>[#][^\n]*)""",
    re.DOTALL,
)
_HEAD = re.compile(r"(async\s+def|def|class)\b")
_SHOWN = 3


def known_order() -> str | None:
    """Return None where the DataLoader of the running PyTorch works in an order that replay knows, else the reason in a sentence."""
    strange: list[str] = []
    changed = ""
    for name, known in ORDERS.items():
        try:
            function = live(name)
            is_known = source_hash(function) in known
        except (ImportError, AttributeError, OSError, TypeError, ValueError):
            function, is_known = None, False
        if not is_known:
            strange.append(name.partition(":")[2])
            changed = changed or _elsewhere(name, function)
    if not strange:
        return None
    more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
    what = f"{', '.join(strange[:_SHOWN])}{more} of torch {torch.__version__} "
    if changed:
        return what + f"was replaced ({changed}): the inner order of its DataLoader is not known"
    return what + f"{'is' if len(strange) == 1 else 'are'} not as in a release that is known: the inner order of its DataLoader is not known"


def live(name: str) -> Callable[..., Any]:
    """Return the function of the running program that `module:Class.method` names. Raises ImportError and AttributeError."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    return getattr(found, "__func__", found)


def source_hash(function: Callable[..., Any]) -> str:
    """Return the hash of the source of a Python function as `text_hash` makes it; what wraps a function is not looked through.

    Raises TypeError for what has no code of Python's, OSError where the source cannot be read, ValueError where its end cannot be found.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        raise TypeError(f"{function!r} is not a function of Python's")
    lines = linecache.getlines(code.co_filename, getattr(function, "__globals__", None))
    if not 0 < code.co_firstlineno <= len(lines):
        raise OSError(f"the source of {code.co_name} is not there")
    return text_hash(block(lines, code.co_firstlineno), code.co_name)


def block(lines: Sequence[str], first: int) -> str:
    """Return the lines of the function that begins, decorators included, at line `first` (counted from 1). Raises ValueError when none does."""
    start = lines[first - 1]
    indent = len(start) - len(start.lstrip())
    inside = False
    for number in range(first - 1, len(lines)):
        text = lines[number].lstrip()
        if not text or len(lines[number]) - len(text) > indent:
            continue
        if inside and text[0] not in "#)]}":
            return "".join(lines[first - 1 : number])
        inside = inside or bool(_HEAD.match(text))
    if not inside:
        raise ValueError(f"no function begins at line {first}")
    return "".join(lines[first - 1 :])


def text_hash(text: str, name: str) -> str:
    """Return 16 hexadecimal digits for the source of a function: the same whatever Python reads it, whatever its comments and docstrings say.

    Indentation and order stay. Raises ValueError when `text` does not hold the function `name` from head to end.
    """
    return hashlib.sha256(plain(text, name).encode()).hexdigest()[:16]


def plain(text: str, name: str) -> str:
    """Return what `text_hash` hashes. Raises ValueError as it does."""
    kept, behind = [], 0
    for token in _TOKEN.finditer(text):
        if token["comment"] is None and not _is_docstring(text, token):
            continue
        kept.append(text[behind : token.start()])
        behind = token.end()
    kept.append(text[behind:])
    lines = [line.rstrip() for line in "".join(kept).splitlines() if line.strip()]
    indent = len(lines[0]) - len(lines[0].lstrip())
    bare = _TOKEN.sub("", "\n".join(lines))
    # A quote that is left over: a string that reaches beyond the end.
    if "'" in bare or '"' in bare or not (f"def {name}(" in bare or f"class {name}" in bare):
        raise ValueError(f"the source of {name} is not whole")
    return "\n".join(line[indent:] for line in lines)


def _is_docstring(text: str, token: re.Match[str]) -> bool:
    before, after = text[: token.start()].rpartition("\n")[2], text[token.end() :].partition("\n")[0]
    return not before.strip() and not after.strip() and text[: token.start()].rstrip().endswith(":")


def _elsewhere(name: str, function: Callable[..., Any] | None) -> str:
    """Return the file of a function that does not come from where PyTorch has it."""
    code = getattr(function, "__code__", None)
    own = getattr(importlib.import_module(name.partition(":")[0]), "__file__", None)
    if code is None or own is None or code.co_filename == own:
        return ""
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"
