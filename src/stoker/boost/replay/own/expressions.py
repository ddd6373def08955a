"""Expressions of a `__getitem__`, made into functions of what its variables hold."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Protocol

from stoker.boost.replay import harmless_names as names
from stoker.boost.replay.own import allowed
from stoker.boost.replay.own.picture import Handle, Picture
from stoker.boost.replay.unfit import Unfit

Variables = dict[str, Any]
Evaluate = Callable[[Variables], Any]
_ABSENT = object()
_SYMBOLS: dict[type, str] = {
    **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%"},
    **{ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="},
    **{ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not"},
}


class Reader(Protocol):
    """What knows the data set: `program.py`."""

    def own(self, name: str) -> Any:
        """Return an attribute of the data set. Raises Unfit, and KeyError where it is not there."""
        ...

    def noted(self, name: str, *, called: bool = False) -> None:
        """An attribute of the data set is read, or called, somewhere in the code. Raises Unfit for one that is computed."""
        ...

    def outside(self, function: FunctionType, name: str) -> Any:
        """Return what a name that is not a function's own stands for, as it was when the code was read. Raises Unfit."""
        ...

    def member(self, module: ModuleType, name: str) -> Any:
        """The same of a name in a module. Raises Unfit."""
        ...

    def method(self, name: str) -> Callable[..., Any] | None:
        """Return a method of the data set's class as it is evaluated; None where `name` is no method. Raises Unfit."""
        ...

    def inherited(self, function: FunctionType, name: str) -> Callable[..., Any]:
        """Return what `super().name` is within `function`. Raises Unfit."""
        ...

    def followed(self, function: FunctionType) -> Callable[..., Any]:
        """Return a function of the script's as it is evaluated. Raises Unfit."""
        ...

    def called(self, name: str, value: Any) -> Any:
        """Return what the data set's attribute `name` makes of `value`. Raises Unfit."""
        ...


class Expressions:
    """The expressions of one function."""

    def __init__(self, reader: Reader, function: FunctionType, own: set[str], dataset: str | None) -> None:
        """`own`: the names that are variables of the function; `dataset`: the one that stands for the data set."""
        self._reader, self._function, self._own, self._dataset = reader, function, own, dataset

    def refused(self, node: ast.AST, what: str) -> Unfit:
        """Return the reason with its place in the script."""
        code = self._function.__code__
        return Unfit(f"its {code.co_name} {what} ({Path(code.co_filename).name}:{getattr(node, 'lineno', code.co_firstlineno)})")

    def value(self, node: ast.expr) -> Evaluate:
        """Return the function that evaluates `node`. Raises Unfit for what is not followed, wherever in the code it stands."""
        maker = _EXPRESSIONS.get(type(node))
        if maker is None:
            raise self.refused(node, f"has `{ast.unparse(node)}` in it")
        return self._placed(node, maker(self, node))

    def _placed(self, node: ast.expr, evaluate: Evaluate) -> Evaluate:
        if isinstance(node, (ast.Constant, ast.Name)):
            return evaluate

        def placed(variables: Variables) -> Any:
            try:
                return evaluate(variables)
            except Unfit as reason:
                if str(reason).startswith("its "):
                    raise
                raise self.refused(node, str(reason)) from None

        return placed

    def _fixed(self, node: ast.expr) -> Any:
        """Return what a name or a dotted name outside of the function stands for; `_ABSENT` for any other expression."""
        if isinstance(node, ast.Name) and node.id not in self._own:
            return self._reader.outside(self._function, node.id)
        if isinstance(node, ast.Attribute):
            base = self._fixed(node.value)
            if isinstance(base, ModuleType):
                return self._reader.member(base, node.attr)
        return _ABSENT

    def _is_dataset(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self._dataset

    def _is_super(self, node: ast.expr) -> bool:
        """Whether `node` is `super()`, or `super(ItsClass, self)`."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or self._fixed(node.func) is not super or node.keywords:
            return False
        if not node.args:
            return True
        kind = self._fixed(node.args[0])
        return (
            isinstance(kind, type)
            and len(node.args) == 2
            and self._is_dataset(node.args[1])
            and vars(kind).get(self._function.__name__) is self._function
        )

    def _constant(self, node: Any) -> Evaluate:
        value = node.value
        return lambda variables: value

    def _name(self, node: Any) -> Evaluate:
        name = node.id
        if self._is_dataset(node):
            raise self.refused(node, "hands the data set itself on")
        if name in self._own:
            return lambda variables: _found(variables, name)
        return self._kept(node, self._reader.outside(self._function, name))

    def _kept(self, node: ast.expr, value: Any) -> Evaluate:
        """A value from outside of the data set: as it was when the code was read, so one that cannot change."""
        if not allowed.is_fixed(value):
            raise self.refused(node, f"reads {ast.unparse(node)}, which is a {type(value).__name__}")
        return lambda variables: value

    def _attribute(self, node: Any) -> Evaluate:
        name = node.attr
        fixed = self._fixed(node)
        if fixed is not _ABSENT:
            return self._kept(node, fixed)
        if self._is_dataset(node.value):
            self._reader.noted(name)
            own = self._reader.own
            return lambda variables: own(name)
        base = self.value(node.value)
        return lambda variables: allowed.field(base(variables), name)

    def _subscript(self, node: Any) -> Evaluate:
        base, key = self.value(node.value), self.value(node.slice)
        return lambda variables: allowed.item(base(variables), key(variables))

    def _slice(self, node: Any) -> Evaluate:
        parts = [self.value(part) if part is not None else (lambda variables: None) for part in (node.lower, node.upper, node.step)]
        return lambda variables: slice(*(part(variables) for part in parts))

    def _tuple(self, node: Any) -> Evaluate:
        kind = tuple if isinstance(node, ast.Tuple) else list
        parts = [(self.value(part.value), True) if isinstance(part, ast.Starred) else (self.value(part), False) for part in node.elts]

        def evaluate(variables: Variables) -> Any:
            found: list[Any] = []
            for part, many in parts:
                value = part(variables)
                if many and type(value) not in (tuple, list):
                    raise Unfit(f"takes a {type(value).__name__} apart")
                found.extend(value if many else (value,))
            return kind(found)

        return evaluate

    def _dict(self, node: Any) -> Evaluate:
        if not all(isinstance(key, ast.Constant) for key in node.keys):
            raise self.refused(node, "makes a dict whose keys are computed")
        keys, values = [key.value for key in node.keys], [self.value(value) for value in node.values]
        return lambda variables: {key: value(variables) for key, value in zip(keys, values, strict=True)}

    def _binary(self, node: Any) -> Evaluate:
        symbol = _SYMBOLS.get(type(node.op))
        if symbol is None:
            raise self.refused(node, f"has `{ast.unparse(node)}` in it")
        one, other = self.value(node.left), self.value(node.right)
        return lambda variables: allowed.operated(symbol, one(variables), other(variables))

    def _compare(self, node: Any) -> Evaluate:
        if len(node.ops) != 1:
            raise self.refused(node, f"has `{ast.unparse(node)}` in it")
        symbol, one, other = _SYMBOLS[type(node.ops[0])], self.value(node.left), self.value(node.comparators[0])
        return lambda variables: allowed.operated(symbol, one(variables), other(variables))

    def _unary(self, node: Any) -> Evaluate:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda variables: not allowed.truth(value(variables))
        if isinstance(node.op, ast.USub):
            return lambda variables: allowed.negative(value(variables))
        raise self.refused(node, f"has `{ast.unparse(node)}` in it")

    def _both(self, node: Any) -> Evaluate:
        values, stops = [self.value(part) for part in node.values], isinstance(node.op, ast.Or)

        def evaluate(variables: Variables) -> Any:
            for value in values[:-1]:
                found = value(variables)
                if allowed.truth(found) is stops:
                    return found
            return values[-1](variables)

        return evaluate

    def _either(self, node: Any) -> Evaluate:
        test, one, other = self.value(node.test), self.value(node.body), self.value(node.orelse)
        return lambda variables: one(variables) if allowed.truth(test(variables)) else other(variables)

    def _text(self, node: Any) -> Evaluate:
        parts = [self.value(part) for part in node.values]
        return lambda variables: "".join(part(variables) for part in parts)

    def _formatted(self, node: Any) -> Evaluate:
        if node.conversion != -1:
            raise self.refused(node, f"has `{ast.unparse(node)}` in it")
        value = self.value(node.value)
        form = self.value(node.format_spec) if node.format_spec is not None else (lambda variables: "")

        def evaluate(variables: Variables) -> str:
            found = value(variables)
            if not allowed.is_atom(found) and not isinstance(found, allowed.PATHS):
                raise Unfit(f"makes a text of a {type(found).__name__}")
            return format(found, form(variables))

        return evaluate

    # --- calls --------------------------------------------------------------------------------------------------------

    def _call(self, node: Any) -> Evaluate:
        if any(isinstance(one, ast.Starred) for one in node.args) or any(one.arg is None for one in node.keywords):
            raise self.refused(node, f"has `{ast.unparse(node)}` in it")
        if isinstance(node.func, ast.Attribute) and self._is_super(node.func.value):
            return self._handed(node, self._reader.inherited(self._function, node.func.attr))
        if isinstance(node.func, ast.Attribute) and self._is_dataset(node.func.value):
            return self._of_dataset(node, node.func.attr)
        fixed = self._fixed(node.func)
        if fixed is not _ABSENT:
            return self._of_outside(node, fixed)
        if isinstance(node.func, ast.Attribute) and node.func.attr in allowed.METHODS:
            return self._of_value(node, node.func.attr)
        raise self.refused(node, f"calls {ast.unparse(node.func)}")

    def _arguments(self, node: Any) -> tuple[list[Evaluate], dict[str, Evaluate]]:
        return [self.value(one) for one in node.args], {one.arg: self.value(one.value) for one in node.keywords}

    def _handed(self, node: Any, function: Callable[..., Any]) -> Evaluate:
        values, keywords = self._arguments(node)
        return lambda variables: function(*(one(variables) for one in values), **{key: one(variables) for key, one in keywords.items()})

    def _of_dataset(self, node: Any, name: str) -> Evaluate:
        method = self._reader.method(name)
        if method is not None:
            return self._handed(node, method)
        self._reader.noted(name, called=True)
        if len(node.args) != 1 or node.keywords:
            raise self.refused(node, f"calls {ast.unparse(node.func)} with more than an image")
        value, called = self.value(node.args[0]), self._reader.called
        return lambda variables: called(name, value(variables))

    def _of_outside(self, node: Any, called: Any) -> Evaluate:
        values, keywords = self._arguments(node)
        if allowed.opens(called) and len(values) == 1 and not keywords:
            return lambda variables: Picture(_handle(values[0](variables)))
        if allowed.loads(called) and len(values) == 1 and not keywords:
            return lambda variables: Picture(_handle(values[0](variables)), mode="RGB", loader=called)
        if allowed.opens_file(called):
            return self._opened(node)
        if called is len and len(node.args) == 1 and self._is_dataset(node.args[0]):
            raise self.refused(node, "asks for its own length")
        if allowed.is_function(called):
            return lambda variables: allowed.function(
                called, [one(variables) for one in values], {key: one(variables) for key, one in keywords.items()}
            )
        if isinstance(called, FunctionType) and not names.closed(called) and not called.__module__.startswith("torchvision."):
            return self._handed(node, self._reader.followed(called))
        raise self.refused(node, f"calls {ast.unparse(node.func)}")

    def _opened(self, node: Any) -> Evaluate:
        """`open(path, "rb")`."""
        modes = [*node.args[1:], *(one.value for one in node.keywords if one.arg == "mode")]
        if len(modes) != 1 or not isinstance(modes[0], ast.Constant) or modes[0].value != "rb" or len(node.args) + len(node.keywords) != 2:
            raise self.refused(node, f"has `{ast.unparse(node)}` in it")
        path = self.value(node.args[0])
        return lambda variables: _handle(path(variables))

    def _of_value(self, node: Any, name: str) -> Evaluate:
        base = self.value(node.func.value)
        values, keywords = self._arguments(node)

        def evaluate(variables: Variables) -> Any:
            found = base(variables)
            given = [one(variables) for one in values]
            if isinstance(found, Picture) and name == "convert" and len(given) == 1 and not keywords:
                return found.converted(given[0])
            return allowed.method(found, name, given, {key: one(variables) for key, one in keywords.items()})

        return evaluate


def _found(variables: Variables, name: str) -> Any:
    if name not in variables:
        raise Unfit(f"reads {name}, which has no value yet")
    return variables[name]


def _handle(path: Any) -> Handle:
    if type(path) is Handle and not path.closed:
        return path
    if type(path) is not str and not isinstance(path, allowed.PATHS):
        raise Unfit(f"opens a {type(path).__name__}")
    return Handle(str(path))


_EXPRESSIONS: dict[type, Callable[[Expressions, Any], Evaluate]] = {
    ast.Constant: Expressions._constant,
    ast.Name: Expressions._name,
    ast.Attribute: Expressions._attribute,
    ast.Subscript: Expressions._subscript,
    ast.Slice: Expressions._slice,
    ast.Tuple: Expressions._tuple,
    ast.List: Expressions._tuple,
    ast.Dict: Expressions._dict,
    ast.BinOp: Expressions._binary,
    ast.Compare: Expressions._compare,
    ast.UnaryOp: Expressions._unary,
    ast.BoolOp: Expressions._both,
    ast.IfExp: Expressions._either,
    ast.JoinedStr: Expressions._text,
    ast.FormattedValue: Expressions._formatted,
    ast.Call: Expressions._call,
}
