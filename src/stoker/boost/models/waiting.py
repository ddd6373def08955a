"""How long this process has waited for batches: no part of a step that arithmetic could make shorter."""

from __future__ import annotations

import sys


def waited_s() -> float:
    """Return the seconds waited for replayed loaders so far; 0.0 when none is replayed."""
    # The replay is another part, which may be off or broken: it is looked for, not imported.
    iterator = sys.modules.get("stoker.boost.replay.account")
    found = getattr(iterator, "waited_s", None)
    return float(found()) if found is not None else 0.0
