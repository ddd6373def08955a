"""Whether many objects still hold the very objects they held: asked before every batch, so it is one loop and no tree of calls."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any


class Glance:
    """What was held by whom. In code that runs once a training step every call costs what it takes to fetch it into the caches."""

    def __init__(self) -> None:
        self._held: list[tuple[Callable[[Any], Any], Any, Any]] = []
        self._orders: list[tuple[Any, tuple[Any, ...]]] = []
        self._empty: list[Any] = []
        self._lists: list[tuple[Any, tuple[Any, ...]]] = []
        self._more: list[Callable[[], bool]] = []

    def holds(self, get: Callable[[Any], Any], key: Any, found: Any) -> None:
        """`get(key)` must go on to be the object `found`."""
        self._held.append((get, key, found))

    def holds_functions(self, kind: type, names: tuple[str, ...], found: tuple[Any, ...]) -> None:
        """The class `kind` must go on to have these attributes, None for those that it has not."""

        def function(name: str) -> Any:
            return getattr(kind, name, None)

        self._held += [(function, name, value) for name, value in zip(names, found, strict=True)]

    def holds_items(self, container: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> None:
        """A dict must go on to hold the same keys in the same order with the same objects, a list the same objects."""
        if isinstance(container, (dict, list)) and not container:
            self._empty.append(container)
        elif isinstance(container, dict):
            self._orders.append((container, tuple(container)))
            self._held += [(container.get, key, value) for key, value in container.items()]
        elif isinstance(container, list):
            self._lists.append((container, tuple(container)))

    def asks(self, unchanged: Callable[[], bool]) -> None:
        """`unchanged` must go on to say True."""
        self._more.append(unchanged)

    def joins(self, other: Glance) -> None:
        """All that `other` looks at."""
        self._held += other._held
        self._orders += other._orders
        self._empty += other._empty
        self._lists += other._lists
        self._more += other._more

    def same(self) -> bool:
        """Return whether all is held as it was. What was replaced by an equal object counts as another."""
        if any(self._empty):
            return False
        for container, keys in self._orders:
            if tuple(container) != keys:
                return False
        for items, inner in self._lists:
            if len(items) != len(inner) or not all(map(is_, items, inner)):
                return False
        for get, key, found in self._held:
            if get(key) is not found:
                return False
        return all(unchanged() for unchanged in self._more)
