"""The recipes that `stoker train` knows, in one visible list; each is a function that returns a whole configuration."""

from __future__ import annotations

from collections.abc import Callable

from stoker.errors import UnknownName, nearest
from stoker.train.recipe import Recipe
from stoker.train.recipes import cifar10, digits, folder

RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits.digits,
    "cifar10.small": cifar10.small,
    "cifar10.small1": cifar10.small1,
    "cifar10.resnet18": cifar10.resnet18,
    "cifar10.speedrun": cifar10.speedrun,
    "folder": folder.folder,
}

DEFAULT = "digits"


def recipe(name: str) -> Recipe:
    """Return the recipe of that name. Raises UnknownName with the nearest one."""
    if name not in RECIPES:
        found = nearest(name, tuple(RECIPES))
        raise UnknownName(
            f"there is no recipe `{name}`",
            hint=f"did you mean `{found}`? `stoker train --list` prints them all" if found else "`stoker train --list` prints them all",
        )
    return RECIPES[name]()
