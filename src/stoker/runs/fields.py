"""Fields of a record as what they should be: a record may come from another version, or from an editor."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """Return `value` when it is a finite number, else None: records of killed runs hold null and NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def part(record: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a field when it is a dictionary, else an empty one."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def listed(record: dict[str, Any], name: str) -> list[Any]:
    """Return a field when it is a list, else an empty one."""
    value = record.get(name)
    return value if isinstance(value, list) else []
