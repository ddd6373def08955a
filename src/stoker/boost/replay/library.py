"""The functions of torchvision, timm and PIL as they were when they were first met: a script that replaces one means it, and is left alone."""

from __future__ import annotations

import sys
from typing import Any

_MODULES = (
    *("torchvision.transforms.functional", "torchvision.transforms._functional_pil", "torchvision.transforms._functional_tensor"),
    *("torchvision.transforms.v2.functional", "torchvision.datasets.folder", "PIL.Image"),
    *("timm.data.transforms", "timm.data.random_erasing", "timm.data.auto_augment"),
)
_met: dict[str, list[tuple[Any, str, Any]]] = {}


def replaced() -> str | None:
    """Return the name of a function that is another one than when its module was first met; None where all are the same."""
    for name in _MODULES:
        module = sys.modules.get(name)
        if module is None:
            continue
        if name not in _met:
            _met[name] = _functions(module)
        for owner, attribute, function in _met[name]:
            if vars(owner).get(attribute) is not function:
                return f"{getattr(owner, '__module__', None) or owner.__name__}.{attribute}".replace("PIL.Image.", "PIL.Image.Image.")
    return None


def forget() -> None:
    """Meet the modules anew."""
    _met.clear()


def _functions(module: Any) -> list[tuple[Any, str, Any]]:
    owners = [module]
    if module.__name__ == "PIL.Image":
        owners = [module.Image]  # the module's own names change while it finds its plugins
    return [(owner, name, value) for owner in owners for name, value in list(vars(owner).items()) if callable(value) and not isinstance(value, type)]
