"""JSON as every program reads it: NaN and infinity, which JSON does not have, become null."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON. Numbers of numpy and torch become plain ones, whatever else JSON does not know becomes text."""
    return json.dumps(_strict(value), indent=indent, default=_number_or_text, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    return value


def _number_or_text(value: Any) -> Any:
    item = getattr(value, "item", None)  # a scalar of numpy or torch, which this room does not import
    with contextlib.suppress(ValueError, TypeError, RuntimeError):
        return _strict(item()) if callable(item) else str(value)
    return str(value)
