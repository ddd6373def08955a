"""One function read line by line: every statement in it, until what is known of its variables changes no more."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from stoker.boost.replay import harmless_names as names
from stoker.boost.replay.harmless_expressions import NOTHING, Expressions, Refused, shown
from stoker.boost.replay.harmless_scopes import Scope, assigned
from stoker.boost.replay.harmless_source import Function
from stoker.boost.replay.harmless_values import SHARED, Value

_PASSES = 8


class Walk(Expressions):
    """The reading of one function."""

    def result(self, arguments: dict[str, Value]) -> Value:
        """Return what the function returns. Raises Refused."""
        self._scope = Scope(None, assigned(self._tree) | set(arguments))
        self._scope.values.update(arguments)
        for _ in range(_PASSES):
            before = self._state()
            self.body(self._tree)
            if self._state() == before:
                return self._returned
        raise Refused("is too entangled to follow")

    def _state(self) -> list[Any]:
        scopes = [self._scope, *self._inner.values()]
        values = [self._returned, *(value for scope in scopes for value in scope.values.values())]
        return [(value.kind, len(value.others), value.only_dtype, value.calls) for value in values]

    def body(self, tree: Function) -> None:
        if isinstance(tree, ast.Lambda):
            self._returned |= self.value(tree.body)
            return
        for statement in tree.body:
            self._statement(statement)

    # --- statements ---------------------------------------------------------------------------------------------------

    def _statement(self, node: ast.stmt) -> None:
        handler = _STATEMENTS.get(type(node))
        if handler is None:
            raise Refused(f"has {shown(node)} in it")
        handler(self, node)

    def _all(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _expression(self, node: Any) -> None:
        self.value(node.value)

    def _return(self, node: Any) -> None:
        if node.value is not None:
            self._returned |= self.value(node.value)

    def _assign(self, node: Any) -> None:
        if node.value is None:  # an annotation alone
            return
        value = self.value(node.value)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            self._store(target, value)

    def _augmented(self, node: Any) -> None:
        value = self._operand(node.value)
        if isinstance(node.target, ast.Name):
            old = self._operand(node.target)
            self._change(old, node.target.id)
            if value.kind == SHARED or value.others:
                self._absorb(node.target, value)
            self._store(node.target, old | value)
        else:
            self._store(node.target, value)

    def _if(self, node: Any) -> None:
        self._operand(node.test)
        self._all(node.body)
        self._all(node.orelse)

    def _for(self, node: Any) -> None:
        self._store(node.target, self._element(self.value(node.iter)))
        self._all(node.body)
        self._all(node.orelse)

    def _try(self, node: Any) -> None:
        self._all(node.body)
        for handler in node.handlers:
            if handler.type is not None:
                self.value(handler.type)
            if handler.name is not None:
                self._set(handler.name, NOTHING)
            self._all(handler.body)
        self._all(node.orelse)
        self._all(node.finalbody)

    def _with(self, node: Any) -> None:
        for item in node.items:
            call = item.context_expr
            callee = self.value(call.func) if isinstance(call, ast.Call) and not call.args and not call.keywords else NOTHING
            if item.optional_vars is not None or not callee.others or not all(map(_no_gradients, callee.others)):
                raise Refused("enters a context with `with`")
        self._all(node.body)

    def _raise(self, node: Any) -> None:
        for part in (node.exc, node.cause):
            if part is not None:
                self.value(part)

    def _assert(self, node: Any) -> None:
        self._operand(node.test)
        if node.msg is not None:
            self.value(node.msg)

    def _delete(self, node: Any) -> None:
        for target in node.targets:
            if not isinstance(target, ast.Name):
                self._store(target, NOTHING)

    def _define(self, node: Any) -> None:
        if node.decorator_list:
            raise Refused(f"decorates {node.name}")
        self._set(node.name, self._function_value(node))

    def _pass(self, node: Any) -> None:
        return


def _no_gradients(obj: Any) -> bool:
    return isinstance(obj, type) and obj.__name__ in ("no_grad", "inference_mode") and names.own_class(obj, "torch.autograd.grad_mode")


_STATEMENTS: dict[type, Callable[[Walk, Any], None]] = {
    ast.Expr: Walk._expression,
    ast.Return: Walk._return,
    ast.Assign: Walk._assign,
    ast.AnnAssign: Walk._assign,
    ast.AugAssign: Walk._augmented,
    ast.If: Walk._if,
    ast.While: Walk._if,
    ast.For: Walk._for,
    ast.Try: Walk._try,
    ast.With: Walk._with,
    ast.Raise: Walk._raise,
    ast.Assert: Walk._assert,
    ast.Delete: Walk._delete,
    ast.FunctionDef: Walk._define,
    ast.Pass: Walk._pass,
    ast.Break: Walk._pass,
    ast.Continue: Walk._pass,
}
