"""Which names are a function's own: the rules by which Python itself decides whether a name is local."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from stoker.boost.replay.harmless_values import Value


class Scope:
    """The variables of a function, a lambda or a comprehension."""

    def __init__(self, outer: Scope | None, locals_: set[str], *, comprehension: bool = False) -> None:
        self.outer, self.locals, self.comprehension = outer, locals_, comprehension
        self.values: dict[str, Value] = {}

    def find(self, name: str) -> Scope | None:
        scope: Scope | None = self
        while scope is not None and name not in scope.locals:
            scope = scope.outer
        return scope


def assigned(tree: Any) -> set[str]:
    """Return the names that a function makes its own: assigned anywhere in it but in functions and comprehensions inside."""
    arguments = tree.args
    found = {one.arg for one in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]}
    for node in _own(tree.body if isinstance(tree.body, list) else [tree.body]):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) or (isinstance(node, ast.ExceptHandler) and node.name):
            found.add(str(node.name))
    return found


def _own(nodes: list[Any]) -> Iterator[ast.AST]:
    for node in nodes:
        yield node
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            inside = [walrus.target for walrus in ast.walk(node) if isinstance(walrus, ast.NamedExpr)]
            yield from inside
            yield from _own([node.generators[0].iter])
        elif not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _own(list(ast.iter_child_nodes(node)))


def bound(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
