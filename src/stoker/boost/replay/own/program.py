"""A `__getitem__` of the script's as it is evaluated: statement by statement, with nothing in it that anybody could see running."""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from stoker.boost.replay.harmless_scopes import assigned
from stoker.boost.replay.harmless_source import NotFound, trees
from stoker.boost.replay.own import allowed
from stoker.boost.replay.own.expressions import Evaluate, Expressions, Reader, Variables
from stoker.boost.replay.own.picture import Handle, Picture
from stoker.boost.replay.unfit import Unfit

Run = Callable[[Variables], bool]
"""Does one statement; True: the function has returned."""
_RESULT = "return"
"""Where the variables hold what is returned: no name of Python's."""
_MESSAGE = "stops with an exception"


class Program(Expressions):
    """One function. Calling it evaluates it."""

    def __init__(self, reader: Reader, function: FunctionType, *, bound: bool, keeps: bool = False) -> None:
        """`bound`: its first parameter is the data set; `keeps`: what it sets in it is left out. Raises Unfit for what is not followed."""
        tree = _tree(function)
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
        if any(one.kind is not one.POSITIONAL_OR_KEYWORD for one in parameters) or (bound and not parameters) or tree.decorator_list:
            raise Unfit(f"its {function.__qualname__} is decorated, or has parameters that are not followed")
        dataset = parameters.pop(0).name if bound else None
        if keeps and dataset is not None:
            tree = _without_attributes(tree, dataset)
        names = assigned(tree)
        super().__init__(reader, function, names, dataset)
        if dataset is not None and _stores(tree, dataset):
            raise self.refused(tree, f"assigns to {dataset}")
        self._parameters = [one.name for one in parameters]
        self._defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
        if not all(map(allowed.is_fixed, self._defaults.values())):
            raise self.refused(tree, "has an object as default")
        self._body = self._all(tree.body)

    def __call__(self, *values: Any, **keywords: Any) -> Any:
        """Return what the function returns. Raises Unfit where it does something that is not followed, and what its operations raise."""
        if len(values) > len(self._parameters) or not keywords.keys() <= set(self._parameters[len(values) :]):
            raise Unfit(f"calls {self._function.__qualname__} with arguments that do not fit")
        variables = {**self._defaults, **dict(zip(self._parameters, values, strict=False)), **keywords}
        self._body(variables)
        return variables.get(_RESULT)

    # --- statements ---------------------------------------------------------------------------------------------------

    def _all(self, statements: list[ast.stmt]) -> Run:
        runs = [run for statement in statements if (run := self._statement(statement)) is not None]
        return lambda variables: any(run(variables) for run in runs)

    def _statement(self, node: ast.stmt) -> Run | None:
        maker = _STATEMENTS.get(type(node))
        if maker is None:
            raise self.refused(node, f"has `{ast.unparse(node).splitlines()[0]}` in it")
        return maker(self, node)

    def _expression(self, node: Any) -> Run | None:
        if isinstance(node.value, ast.Constant):
            return None
        value = self.value(node.value)

        def run(variables: Variables) -> bool:
            value(variables)
            return False

        return run

    def _return(self, node: Any) -> Run:
        value: Evaluate = self.value(node.value) if node.value is not None else (lambda variables: None)

        def run(variables: Variables) -> bool:
            variables[_RESULT] = value(variables)
            return True

        return run

    def _assign(self, node: Any) -> Run | None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is None:
            return None
        value, stores = self.value(node.value), [self._store(target) for target in targets]

        def run(variables: Variables) -> bool:
            found = value(variables)
            for store in stores:
                store(variables, found)
            return False

        return run

    def _augmented(self, node: Any) -> Run | None:
        if not isinstance(node.target, ast.Name):
            raise self.refused(node, f"changes {ast.unparse(node.target)}")
        value = ast.BinOp(left=ast.Name(id=node.target.id, ctx=ast.Load()), op=node.op, right=node.value)
        return self._assign(ast.copy_location(ast.Assign(targets=[node.target], value=ast.copy_location(value, node)), node))

    def _store(self, target: ast.expr) -> Callable[[Variables, Any], None]:
        if isinstance(target, ast.Name):
            return lambda variables, value: variables.__setitem__(target.id, value)
        if not isinstance(target, (ast.Tuple, ast.List)) or any(isinstance(part, ast.Starred) for part in target.elts):
            raise self.refused(target, f"changes {ast.unparse(target)}")
        parts = [self._store(part) for part in target.elts]

        def store(variables: Variables, value: Any) -> None:
            if type(value) not in (tuple, list) and not allowed.is_array(value):
                raise self.refused(target, f"takes a {type(value).__name__} apart")
            for part, found in zip(parts, value, strict=True):
                part(variables, found)

        return store

    def _if(self, node: Any) -> Run:
        test, one, other = self.value(node.test), self._all(node.body), self._all(node.orelse)
        return lambda variables: one(variables) if allowed.truth(test(variables)) else other(variables)

    def _with(self, node: Any) -> Run:
        if not isinstance(node.items[0].optional_vars, ast.Name):
            raise self.refused(node, f"has `{ast.unparse(node).splitlines()[0]}` in it")
        value, name = self.value(node.items[0].context_expr), node.items[0].optional_vars.id
        body = self._all(node.body) if len(node.items) == 1 else self._with(ast.copy_location(ast.With(node.items[1:], node.body), node))

        def run(variables: Variables) -> bool:
            found = value(variables)
            handle = found.handle if isinstance(found, Picture) else found
            if not isinstance(handle, Handle) or (isinstance(found, Picture) and (found.mode is not None or found.chain)):
                raise self.refused(node, "enters something with `with` that is no file")
            variables[name] = found
            stopped = body(variables)
            handle.closed = True
            return stopped

        return run

    def _raise(self, node: Any) -> Run:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        known = getattr(builtins, kind.id, None) if isinstance(kind, ast.Name) and kind.id not in self._own else None
        if not (isinstance(known, type) and issubclass(known, Exception)) or node.cause is not None:
            raise self.refused(node, f"has `{ast.unparse(node)}` in it")
        if isinstance(node.exc, ast.Call):
            self._arguments(node.exc)

        def run(variables: Variables) -> bool:
            raise self.refused(node, _MESSAGE)

        return run

    def _assert(self, node: Any) -> Run:
        test = self.value(node.test)
        if node.msg is not None:
            self.value(node.msg)

        def run(variables: Variables) -> bool:
            if not allowed.truth(test(variables)):
                raise self.refused(node, _MESSAGE)
            return False

        return run

    def _pass(self, node: Any) -> Run | None:
        return None


def _tree(function: FunctionType) -> ast.FunctionDef:
    try:
        found = trees(function)
    except NotFound as reason:
        raise Unfit(f"its {function.__qualname__} cannot be read: {reason}") from None
    if len(found) != 1 or not isinstance(found[0], ast.FunctionDef):
        raise Unfit(f"its {function.__qualname__} is no plain function")
    return found[0]


def _without_attributes(tree: ast.FunctionDef, dataset: str) -> ast.FunctionDef:
    """Return `tree` with variables in place of the data set's attributes that it sets."""
    mine = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == dataset]
    stored = {node.attr for node in mine if isinstance(node.ctx, ast.Store)}

    class Renamed(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            if isinstance(node.value, ast.Name) and node.value.id == dataset and node.attr in stored:
                return ast.copy_location(ast.Name(id=f"{dataset}.{node.attr}", ctx=node.ctx), node)
            return self.generic_visit(node)

    return Renamed().visit(copy.deepcopy(tree)) if stored else tree


def _stores(tree: ast.AST, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load) for node in ast.walk(tree))


_STATEMENTS: dict[type, Callable[[Program, Any], Run | None]] = {
    ast.Expr: Program._expression,
    ast.Return: Program._return,
    ast.Assign: Program._assign,
    ast.AnnAssign: Program._assign,
    ast.AugAssign: Program._augmented,
    ast.If: Program._if,
    ast.With: Program._with,
    ast.Raise: Program._raise,
    ast.Assert: Program._assert,
    ast.Pass: Program._pass,
}
