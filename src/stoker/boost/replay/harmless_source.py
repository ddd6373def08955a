"""The syntax tree of a function of the user's: found in its file, and proven to be what the function was compiled from."""

from __future__ import annotations

import ast
import functools
import linecache
import types
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.Lambda


class NotFound(Exception):
    """One sentence on why the source cannot be trusted."""


@dataclass(frozen=True)
class _File:
    functions: dict[int, tuple[ast.AST, ...]]
    """By the line at which they begin, decorators included."""
    codes: dict[tuple[str, int], tuple[types.CodeType, ...]]


def trees(function: types.FunctionType) -> list[Function]:
    """Return the syntax trees that a function may come from: one, or all lambdas of its line. Raises NotFound."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        raise NotFound("its source is not there")
    file = _read("".join(lines), code.co_filename)
    if not any(known == code for known in file.codes.get((code.co_name, code.co_firstlineno), ())):
        raise NotFound("its source is not what it was compiled from")
    found = [node for node in file.functions.get(code.co_firstlineno, ()) if _named(node) == code.co_name]
    if not found:
        raise NotFound("it is neither a plain function nor a lambda")
    return [node for node in found if isinstance(node, (ast.FunctionDef, ast.Lambda))]


@functools.lru_cache(maxsize=64)
def _read(text: str, filename: str) -> _File:
    try:
        tree = ast.parse(text)
        top = compile(text, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise NotFound(f"its source cannot be read ({error})") from error
    functions: dict[int, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            functions.setdefault(first, []).append(node)
    codes: dict[tuple[str, int], list[types.CodeType]] = {}
    for code in _inner(top):
        codes.setdefault((code.co_name, code.co_firstlineno), []).append(code)
    return _File({line: tuple(nodes) for line, nodes in functions.items()}, {key: tuple(found) for key, found in codes.items()})


def _inner(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _inner(constant)


def _named(node: ast.AST) -> str:
    return node.name if isinstance(node, ast.FunctionDef) else "<lambda>"
