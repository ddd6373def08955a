"""The data set of a script's own class as its code was read: what stands for its samples, and what that rests on."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable
from types import CellType, FunctionType, ModuleType
from typing import Any

from stoker.boost.replay.own import allowed
from stoker.boost.replay.own.picture import Handle, Picture
from stoker.boost.replay.own.program import Program
from stoker.boost.replay.unfit import Unfit

_ABSENT = object()
_HOOKS = ("__getattr__", "__getattribute__", "__getitems__", "__del__", "__setattr__")
_MOST = 50
"""Functions that are followed."""


class Reading:
    """`__getitem__` and `__len__` of one data set, ready to be evaluated."""

    def __init__(self, dataset: Any) -> None:
        """Read the code. Raises Unfit where anything in it is not followed, whether or not it would be run."""
        self.dataset, self.kind = dataset, type(dataset)
        self._check_class()
        self.attributes: set[str] = set()
        """What is read of the data set."""
        self.callables: set[str] = set()
        """Those that are called."""
        self._outside: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._methods: dict[str, Any] = {}
        self._programs: dict[tuple[FunctionType, bool], Program] = {}
        self._under_way: set[FunctionType] = set()
        found, counted = self._function("__getitem__"), self._function("__len__")
        self._item = self._program(found, bound=True)
        # PyTorch asks for the length in this process, with or without us.
        self._length = Program(self, counted, bound=True, keeps=True)

    def _check_class(self) -> None:
        if type(getattr(self.dataset, "__dict__", None)) is not dict:
            raise Unfit("it keeps its attributes in another way")
        for name in _HOOKS:
            if inspect.getattr_static(self.kind, name, _ABSENT) not in (_ABSENT, inspect.getattr_static(object, name, _ABSENT)):
                raise Unfit(f"it has its own {name}")
        if type(self.kind) is not type and inspect.getattr_static(type(self.kind), "__getattribute__") is not type.__getattribute__:
            raise Unfit("it has a metaclass of its own")

    def _function(self, name: str) -> FunctionType:
        found = inspect.getattr_static(self.kind, name, None)
        if not isinstance(found, FunctionType):
            raise Unfit(f"it has no {name} that can be read")
        return found

    def item(self, place: int) -> Any:
        """Return what `dataset[place]` returns, with a `Picture` for its image. Raises Unfit, and what the script's code would raise."""
        return self._item(place)

    def length(self) -> int:
        """Return `len(dataset)`. Raises Unfit, and what the script's code would raise."""
        found = self._length()
        if type(found) is not int and type(found) is not allowed.np.int64:
            raise Unfit(f"its length is a {type(found).__name__}")
        return int(found)

    def follows(self, function: Any) -> bool:
        """Return whether a function is one of the script's that is evaluated."""
        try:
            return isinstance(function, FunctionType) and self.followed(function) is not None
        except Unfit:
            return False

    def current(self) -> bool:
        """Whether the names from outside that the code reads still stand for the same."""
        own = vars(self.dataset)
        return (
            all(space.get(name, _ABSENT) is value for space, name, value in self._outside)
            and all(cell.cell_contents is value for cell, value in self._cells)
            and all(name not in own and inspect.getattr_static(self.kind, name, None) is value for name, value in self._methods.items())
        )

    # --- what the expressions ask -------------------------------------------------------------------------------------

    def own(self, name: str) -> Any:
        found = vars(self.dataset).get(name, _ABSENT)
        if found is _ABSENT:
            found = inspect.getattr_static(self.kind, name, _ABSENT)
        if found is _ABSENT:
            raise Unfit(f"reads {name}, which its data set does not have")
        return found

    def noted(self, name: str, *, called: bool = False) -> None:
        if called:
            self.callables.add(name)
        if hasattr(type(inspect.getattr_static(self.kind, name, None)), "__get__"):
            raise Unfit(f"it computes its attribute {name}")
        self.attributes.add(name)

    def outside(self, function: FunctionType, name: str) -> Any:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        if name in cells:
            try:
                self._cells.append((cells[name], cells[name].cell_contents))
            except ValueError:
                raise Unfit(f"its {function.__qualname__} reads {name}, which has no value yet") from None
            return cells[name].cell_contents
        space = function.__globals__
        found = space.get(name, _ABSENT)
        self._outside.append((space, name, found))
        if found is _ABSENT:
            found = getattr(builtins, name, _ABSENT)
        if found is _ABSENT:
            raise Unfit(f"its {function.__qualname__} reads {name}, which has no value yet")
        return found

    def member(self, module: ModuleType, name: str) -> Any:
        found = vars(module).get(name, _ABSENT)
        if found is _ABSENT:
            raise Unfit(f"reads {module.__name__}.{name}, which is not there")
        self._outside.append((vars(module), name, found))
        return found

    def method(self, name: str) -> Callable[..., Any] | None:
        found = inspect.getattr_static(self.kind, name, None)
        if name in vars(self.dataset):
            return None
        self._methods[name] = found
        if isinstance(found, staticmethod) and isinstance(found.__func__, FunctionType):
            return self._program(found.__func__, bound=False)
        return self._program(found, bound=True) if isinstance(found, FunctionType) else None

    def inherited(self, function: FunctionType, name: str) -> Callable[..., Any]:
        order = self.kind.__mro__
        home = next((place for place, kind in enumerate(order) if vars(kind).get(function.__name__) is function), len(order))
        for kind in order[home + 1 :]:
            if isinstance(found := vars(kind).get(name), FunctionType):
                return self._program(found, bound=True)
        raise Unfit(f"its {function.__qualname__} uses super().{name}, which is not found")

    def followed(self, function: FunctionType) -> Callable[..., Any]:
        return self._program(function, bound=False)

    def called(self, name: str, value: Any) -> Any:
        found = self.own(name)
        if isinstance(value, Picture):
            return value.given_to(found)
        if allowed.loads(found) and (type(value) is str or isinstance(value, allowed.PATHS)):
            return Picture(Handle(str(value)), mode="RGB", loader=found)
        if isinstance(found, FunctionType):
            return self._program(found, bound=False)(value)
        raise Unfit(f"gives a {type(value).__name__} to {name}")

    # ------------------------------------------------------------------------------------------------------------------

    def _program(self, function: FunctionType, *, bound: bool) -> Program:
        key = function, bound
        if key not in self._programs:
            if function in self._under_way or len(self._programs) >= _MOST:
                raise Unfit(f"its {function.__qualname__} calls itself, or too many functions")
            self._under_way.add(function)
            try:
                self._programs[key] = Program(self, function, bound=bound)
            finally:
                self._under_way.discard(function)
        return self._programs[key]
