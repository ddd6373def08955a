"""What is asked of boost: by the environment that `stoker boost` sets, or by a line in the script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker.boost.guard import say
from stoker.boost.parts import TIERS, Tier, unknown_part, unknown_tier

_OFF = ("", "0", "off", "false", "no")
_ON = ("1", "on", "true", "yes")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What boost may do in this process, and what it says about it."""

    tier: Tier | None
    """None: nothing is changed; with `record`, only recorded."""
    off: frozenset[str] = frozenset()
    """Parts that stay off: names of `parts.PARTS`."""
    explain: bool = False
    """Tell at the exit what was recognised, applied and declined, and why."""
    report: Path | None = None
    """Absolute path of the JSON report."""
    record: Path | None = None
    """Folder in which losses and step times are recorded."""
    quiet: bool = False
    """No line at the exit."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Request | None:
        """Return what the STOKER_BOOST variables ask for; None when that is nothing, or (said once on stderr) nothing that is known."""
        asked = environment.get("STOKER_BOOST", "").strip().lower()
        record = _path(environment, "STOKER_BOOST_RECORD")
        tier: Tier | None = "exact" if asked in _ON else next((known for known in TIERS if known == asked), None)
        if tier is None and record is None and asked in (*_OFF, "record"):
            return None
        if tier is None and asked not in (*_OFF, "record"):
            say("request", f"boost stays off: in STOKER_BOOST, {unknown_tier(asked)}")
            return None
        off = frozenset(name.strip() for name in environment.get("STOKER_BOOST_OFF", "").split(",") if name.strip())
        wrong = unknown_part(sorted(off))
        if wrong:
            say("request", f"boost stays off: in STOKER_BOOST_OFF, {wrong}")
            return None
        return cls(
            tier=tier,
            off=off,
            explain=_flag(environment, "STOKER_BOOST_EXPLAIN"),
            report=_path(environment, "STOKER_BOOST_REPORT"),
            record=record,
            quiet=_flag(environment, "STOKER_BOOST_QUIET"),
        )


def forbidden(environment: Mapping[str, str]) -> bool:
    """Whether the environment says outright that nothing is to be changed: it then wins over `on()` in the script."""
    asked = environment.get("STOKER_BOOST")
    return asked is not None and asked.strip().lower() in (*_OFF[1:], "record")


def _flag(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() not in _OFF


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    # Absolute now: the script may change its folder.
    value = environment.get(name, "")
    return Path(value).absolute() if value else None
