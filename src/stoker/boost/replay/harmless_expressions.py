"""Expressions of a function: where each value comes from, and whether anybody else sees what is done with it."""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Callable
from typing import Any, Protocol

from stoker.boost.replay import harmless_names as names
from stoker.boost.replay.harmless_scopes import Scope, assigned, bound
from stoker.boost.replay.harmless_source import Function
from stoker.boost.replay.harmless_values import ATOMS, MADE, SHARED, TENSOR, Value, of

NOTHING = Value()
_ABSENT = object()
_INERT = (list, tuple, dict, type, types.FunctionType, types.BuiltinFunctionType)
"""What operators do nothing of their own with."""


class Refused(Exception):
    """One clause on what somebody else could see."""


class Judge(Protocol):
    """What decides about live objects: `harmless.py`."""

    def called(self, callee: Any, values: list[Value], keywords: dict[str, Value]) -> Value:
        """Return what calling a live object gives. Raises Refused."""
        ...

    def handed(self, value: Value) -> None:
        """Something of a library gets this value, and may call it with anything. Raises Refused."""
        ...

    def attribute(self, obj: Any, name: str) -> Value:
        """Return what an attribute of a live object is. Raises Refused."""
        ...

    def read(self, space: Any, name: str, obj: Any) -> None:
        """Keep that the code reads a variable that lives outside of it."""
        ...

    def draw(self, name: str) -> None:
        """Keep that something that may draw is used."""
        ...


class Expressions:
    """The expressions of one function, for arguments of known kinds."""

    def __init__(self, judge: Judge, function: types.FunctionType, tree: Function) -> None:
        self._judge, self._function, self._tree = judge, function, tree
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        self._cells = dict(cells)
        parts = function.__qualname__.split(".")
        self._class = parts[-2].lstrip("_") if len(parts) > 1 and parts[-2] != "<locals>" else ""
        self._returned = NOTHING
        self._scope = Scope(None, set())
        self._inner: dict[int, Scope] = {}

    def body(self, tree: Function) -> None:
        """Read the statements of a function. Raises Refused."""
        raise NotImplementedError

    # --- expressions --------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Value:
        """Return what is known of an expression's value. Raises Refused."""
        handler = _EXPRESSIONS.get(type(node))
        if handler is None:
            raise Refused(f"has {shown(node)} in it")
        return handler(self, node)

    def _operand(self, node: ast.expr) -> Value:
        """A value on which an operator works: data only, for an operator of somebody's class may do anything."""
        value = self.value(node)
        for other in value.others:
            if type(other) not in _INERT:
                raise Refused(f"works on {ast.unparse(node)}, a {type(other).__name__}")
        return value

    def _constant(self, node: Any) -> Value:
        return NOTHING

    def _name(self, node: Any) -> Value:
        scope = self._scope.find(node.id)
        if scope is not None:
            return scope.values.get(node.id, NOTHING)
        if node.id in self._cells:
            try:
                obj = self._cells[node.id].cell_contents
            except ValueError:
                raise Refused(f"reads {node.id}, which has no value yet") from None
            self._judge.read(self._cells[node.id], "cell_contents", obj)
            return of(obj)
        space = self._function.__globals__
        obj = space.get(node.id, _ABSENT)
        if obj is _ABSENT:
            obj = getattr(builtins, node.id, _ABSENT)
        else:
            self._judge.read(space, node.id, obj)
        if obj is _ABSENT:
            raise Refused(f"reads {node.id}, which has no value yet")
        return of(obj)

    def _attribute(self, node: Any) -> Value:
        base, name = self.value(node.value), node.attr
        if name.startswith("__") and not name.endswith("__") and self._class:
            name = f"_{self._class}{name}"
        found: Value | None = None
        for other in base.others:
            if type(other) in (list, tuple, dict):
                raise Refused(f"uses {ast.unparse(node)}, of a container of objects")
            one = self._judge.attribute(other, name)
            found = one if found is None else found | one
        if found is not None and not base.solid:
            return found
        if name not in names.MEMBERS:
            raise Refused(f"uses {ast.unparse(node)}")
        if names.writes(name, tensor=False):
            raise Refused(f"hands {ast.unparse(node)} on")
        self._judge.draw(name)
        kept = Value(base.kind)
        return kept if found is None else found | kept

    def _subscript(self, node: Any) -> Value:
        self._operand(node.slice)
        base = self.value(node.value)
        for other in base.others:
            if type(other) not in (list, tuple, dict):
                raise Refused(f"uses {ast.unparse(node)}, of a {type(other).__name__}")
        return self._element(base)

    def _element(self, value: Value) -> Value:
        """What iterating or indexing gives."""
        found = Value(MADE if value.kind == ATOMS else value.kind, solid=value.solid)
        for other in value.others:
            items = _items(other)
            if items is None:
                raise Refused(f"goes through a {type(other).__name__}")
            for item in items:
                found |= of(item)
        return found

    def _call(self, node: Any) -> Value:
        positional = [self.value(one.value if isinstance(one, ast.Starred) else one) for one in node.args]
        keywords = {one.arg or "**": self.value(one.value) for one in node.keywords}
        self._check_keywords(node, keywords)
        starred = any(isinstance(one, ast.Starred) for one in node.args) or "**" in keywords
        if isinstance(node.func, ast.Name) and self._scope.find(node.func.id) is None and node.func.id in ("getattr", "super"):
            return self._lookup(node)
        if isinstance(node.func, ast.Attribute):
            method = self._method(node, positional, keywords)
            if method is not None:
                return method
        callee = self.value(node.func)
        if callee.void:
            return callee
        if not callee.calls and (callee.kind != MADE or not callee.others):
            raise Refused(f"calls {ast.unparse(node.func)}, which could be anything")
        given = _worst([*positional, *keywords.values()])
        if callee.calls and callee.kind == MADE and (given.kind >= TENSOR or given.others):
            raise Refused(f"hands what others hold to {ast.unparse(node.func)}")
        result = Value(max(given.kind, callee.kind)) if callee.calls else Value(solid=False)
        if starred:
            positional, keywords = [self._element(given) | given], {"**": given}
        for other in callee.others:
            result |= self._judge.called(other, positional, keywords)
        return result

    def _check_keywords(self, node: ast.Call, keywords: dict[str, Value]) -> None:
        for keyword in node.keywords:
            if keyword.arg == "out":
                self._change(keywords["out"], "what is given as out=")
            if keyword.arg == "device" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value in (None, "cpu")):
                is_own = isinstance(keyword.value, ast.Attribute) and keyword.value.attr == "device"
                if not is_own or self.value(keyword.value.value).others:  # type: ignore[attr-defined]
                    raise Refused("chooses a device")
            if keyword.arg == "inplace" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                for value in [*map(self.value, node.args[:1]), *(keywords[one] for one in keywords if one in ("input", "tensor", "img"))]:
                    self._change(value, "what it is given")

    def _method(self, node: ast.Call, positional: list[Value], keywords: dict[str, Value]) -> Value | None:
        """Return what a method of data gives; None when it is called on a live object."""
        assert isinstance(node.func, ast.Attribute)
        base, name = self.value(node.func.value), node.func.attr
        if base.others:
            if base.solid:
                raise Refused(f"calls {ast.unparse(node.func)}, which could be anything")
            return None
        if name not in names.MEMBERS:
            raise Refused(f"calls {ast.unparse(node.func)}")
        if name in ("to", "type") and not all(value.only_dtype for value in [*positional, *keywords.values()]):
            raise Refused(f"calls {ast.unparse(node)}, which may choose a device")
        self._judge.draw(name)
        if names.writes(name, tensor=base.kind == TENSOR):
            self._change(base, ast.unparse(node.func.value))
        given = _worst([*positional, *keywords.values()])
        if any(value.kind >= TENSOR for value in positional[1:]):
            raise Refused(f"hands what others hold to {ast.unparse(node.func)}, which may write into it")
        for value in [*positional, *keywords.values()]:
            self._judge.handed(value)
        if names.writes(name, tensor=False):
            self._absorb(node.func.value, given)
        if name in ("clone", "item", "tolist", "sum", "mean"):
            return NOTHING
        return Value(max(base.kind, SHARED if given.kind == ATOMS else given.kind))

    def _lookup(self, node: ast.Call) -> Value:
        assert isinstance(node.func, ast.Name)
        fixed = node.args[1] if len(node.args) in (2, 3) and not node.keywords else None
        genuine = node.func.id == "getattr" and "getattr" not in {**self._function.__globals__, **self._cells}
        if genuine and isinstance(fixed, ast.Constant) and isinstance(fixed.value, str):
            found = self._attribute(ast.Attribute(value=node.args[0], attr=fixed.value, ctx=ast.Load()))
            return found | self.value(node.args[2]) if len(node.args) == 3 else found
        raise Refused(f"calls {ast.unparse(node)}")

    def _operation(self, node: Any) -> Value:
        parts = [self._operand(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        worst = _worst(parts)
        if isinstance(node, ast.BoolOp):
            return worst
        # Adding lists gives a list of the same elements; of tensors and numbers it gives new ones.
        return Value(SHARED, worst.others) if worst.kind == SHARED or worst.others else NOTHING

    def _compare(self, node: Any) -> Value:
        if all(isinstance(one, (ast.Is, ast.IsNot)) for one in node.ops):
            for part in (node.left, *node.comparators):
                self.value(part)
            return NOTHING
        return self._operation(node)

    def _either(self, node: Any) -> Value:
        self._operand(node.test)
        return self.value(node.body) | self.value(node.orelse)

    def _display(self, node: Any) -> Value:
        parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        unpacked = [part.value for part in parts if isinstance(part, ast.Starred)]
        if isinstance(node, ast.Dict):
            unpacked += [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
        worst = _worst([*map(self.value, parts), *(self._element(self.value(part)) for part in unpacked)])
        others = tuple(one for one in worst.others if type(one) not in (list, tuple, dict))
        return Value(worst.held().kind, (list(others),) if others else ())

    def _parts(self, node: Any) -> Value:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self._operand(part)
        return NOTHING

    def _starred(self, node: Any) -> Value:
        return self.value(node.value)

    def _walrus(self, node: Any) -> Value:
        value, scope = self.value(node.value), self._scope
        while self._scope.comprehension and self._scope.outer is not None:
            self._scope = self._scope.outer
        self._set(node.target.id, value)
        self._scope = scope
        return value

    def _function_value(self, node: Any) -> Value:
        """A function inside the function: read for arguments that others hold, so that it may be called with anything."""
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            if self.value(default).others:
                raise Refused("gives a function inside it an object as default")
        if any(isinstance(part, ast.Call) for one in [*given, node] for part in ast.walk(_annotation(one))):
            raise Refused("calls something in an annotation")
        outer, returned = self._scope, self._returned
        self._scope = self._inner.setdefault(id(node), Scope(outer, assigned(node) | {one.arg for one in given}))
        self._scope.values.update({one.arg: Value(SHARED) for one in given})
        self._returned = NOTHING
        try:
            self.body(node)
            if self._returned.others:
                raise Refused("has a function inside it that returns an object")
        finally:
            self._scope, self._returned = outer, returned
        return Value(SHARED, calls=True)

    def _comprehension(self, node: Any) -> Value:
        outer = self._scope
        targets = {name for generator in node.generators for name in bound(generator.target)}
        self._scope = self._inner.setdefault(id(node), Scope(outer, targets, comprehension=True))
        try:
            for generator in node.generators:
                if generator.is_async:
                    raise Refused("is asynchronous")
                # The first one is evaluated outside; to read it inside would take its own target for an outer name.
                inside, self._scope = self._scope, outer if generator is node.generators[0] else self._scope
                source = self.value(generator.iter)
                self._scope = inside
                self._store(generator.target, self._element(source))
                for test in generator.ifs:
                    self._operand(test)
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            worst = _worst([self.value(part) for part in parts])
        finally:
            self._scope = outer
        if worst.others:
            raise Refused("collects objects")
        return worst.held()

    # --- stores -------------------------------------------------------------------------------------------------------

    def _store(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._set(target.id, value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self._store(part, self._element(value))
        elif isinstance(target, ast.Starred):
            self._store(target.value, value)
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            base = self.value(target.value)
            self._change(base, ast.unparse(target))
            if isinstance(target, ast.Subscript):
                self._operand(target.slice)
            self._absorb(target.value, value)
        else:
            raise Refused(f"assigns to {ast.unparse(target)}")

    def _set(self, name: str, value: Value) -> None:
        scope = self._scope.find(name)
        if scope is None:
            raise Refused(f"assigns to {name}, which is not its own")
        scope.values[name] = scope.values[name] | value if name in scope.values else value

    def _change(self, value: Value, what: str) -> None:
        if value.others:
            raise Refused(f"changes {what}, which lives on outside of it")
        if value.kind >= TENSOR:
            raise Refused(f"changes {what}, which others hold")

    def _absorb(self, holder: ast.expr, value: Value) -> None:
        """Put something into a container. What others hold would come out of it, or of what else is the same container, as if it were its own."""
        if value.kind >= TENSOR or value.others:
            raise Refused(f"puts what others hold into {ast.unparse(holder)}")


def _annotation(node: ast.AST) -> ast.AST:
    return getattr(node, "annotation", None) or getattr(node, "returns", None) or ast.Pass()


def _items(obj: Any) -> Any:
    if type(obj) in (list, tuple):
        return obj
    if type(obj) is dict:
        return [*obj.keys(), *obj.values()]
    modules = getattr(obj, "_modules", None)
    if isinstance(modules, dict) and type(obj).__module__.startswith("torch.nn") and type(obj).__name__ in ("ModuleList", "Sequential"):
        return list(modules.values())
    return None


def _worst(values: list[Value]) -> Value:
    found = Value(max((value.kind for value in values), default=MADE))
    for value in values:
        found |= Value(MADE, value.others)
    return found


def shown(node: ast.AST) -> str:
    shown = {ast.Global: "`global`", ast.Nonlocal: "`nonlocal`", ast.Import: "an import", ast.ImportFrom: "an import", ast.ClassDef: "a class"}
    return shown.get(type(node), f"`{type(node).__name__.lower()}`")


_EXPRESSIONS: dict[type, Callable[[Expressions, Any], Value]] = {
    ast.Constant: Expressions._constant,
    ast.Name: Expressions._name,
    ast.Attribute: Expressions._attribute,
    ast.Subscript: Expressions._subscript,
    ast.Call: Expressions._call,
    ast.BinOp: Expressions._operation,
    ast.UnaryOp: Expressions._operation,
    ast.BoolOp: Expressions._operation,
    ast.Compare: Expressions._compare,
    ast.IfExp: Expressions._either,
    ast.Tuple: Expressions._display,
    ast.List: Expressions._display,
    ast.Set: Expressions._display,
    ast.Dict: Expressions._display,
    ast.Slice: Expressions._parts,
    ast.JoinedStr: Expressions._parts,
    ast.FormattedValue: Expressions._parts,
    ast.Starred: Expressions._starred,
    ast.NamedExpr: Expressions._walrus,
    ast.Lambda: Expressions._function_value,
    ast.ListComp: Expressions._comprehension,
    ast.SetComp: Expressions._comprehension,
    ast.DictComp: Expressions._comprehension,
    ast.GeneratorExp: Expressions._comprehension,
}
