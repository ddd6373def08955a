"""The speed of Stoker for scripts that know nothing of it: on and off in this process. See docs/boost.md."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stoker.boost import session
from stoker.boost.parts import TIERS, Tier, unknown_part, unknown_tier
from stoker.boost.request import Request, forbidden
from stoker.errors import UnknownName

__all__ = ["off", "on"]

_HINT = "import stoker.boost; stoker.boost.on(tier='exact', off=['loader'])"


def on(tier: Tier = "exact", off: Iterable[str] = (), *, explain: bool = False, report: str | os.PathLike[str] | None = None) -> None:
    """Switch boost on in this process, for loaders and models that are used from now on; with another tier than before, switch to it.

    `off`: parts that stay off (`stoker.boost.parts.PARTS`). `explain`: tell at the exit what was recognised, applied and declined.
    `report`: a JSON file with the same. STOKER_BOOST_OFF, _EXPLAIN, _REPORT, _RECORD and _QUIET in the environment add to what is given;
    STOKER_BOOST=off (or `record`) there keeps everything off. Raises UnknownName for a tier or part that does not exist, and nothing else.
    """
    names = frozenset([off] if isinstance(off, str) else off)
    if tier not in TIERS:
        raise UnknownName(unknown_tier(tier), hint=_HINT)
    wrong = unknown_part(sorted(names))
    if wrong:
        raise UnknownName(wrong, hint=_HINT)
    if forbidden(os.environ):
        return
    outer = Request.from_environment({**os.environ, "STOKER_BOOST": tier})
    if outer is None:  # it has been said why
        return
    request = replace(outer, off=outer.off | names, explain=explain or outer.explain)
    if report is not None:
        request = replace(request, report=Path(report).absolute())
    session.switch_on(request)


def off() -> None:
    """Switch boost off: every attribute that was replaced is again the object that it was. Batches that are under way stay valid."""
    session.switch_off()
