"""The notes in words: the line at the exit and --explain. Pure: notes in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stoker.boost.notes import Note
from stoker.boost.parts import PARTS, Asked, active

_PERIOD_S = 0.001
"""A span of time shorter than this gives no rate."""


def totals(notes: Sequence[Note]) -> dict[str, Any]:
    """Return the sums over all notes: counts of loaders, `images`, `waited_s`, `plain_s` (one core, the script's own way), `images_per_s`.

    What was not measured is not there.
    """
    loaders = [note for note in notes if note.kind == "loader"]
    replayed = [note for note in loaders if note.outcome == "applied"]
    found: dict[str, Any] = {
        "loaders_replayed": len(replayed),
        "loaders_declined": len([note for note in loaders if note.outcome in ("declined", "dropped", "failed")]),
    }
    images = sum(note.numbers.get("images", 0) for note in replayed)
    if images:
        found["images"] = images
        found["waited_s"] = sum(note.numbers.get("waited_s", 0.0) for note in replayed)
        plain_s = [_plain_s(note) for note in replayed if note.numbers.get("images")]
        if plain_s and None not in plain_s:
            found["plain_s"] = sum(value for value in plain_s if value is not None)
        spans = [note.numbers for note in replayed if "first_s" in note.numbers and "last_s" in note.numbers]
        if spans:
            period_s = max(span["last_s"] for span in spans) - min(span["first_s"] for span in spans)
            if period_s > _PERIOD_S:
                found["images_per_s"] = images / period_s
    return found


def line(notes: Sequence[Note], asked: str, process: str = "") -> str | None:
    """Return what is said at the exit; None when nothing was looked at. `asked`: the tier; `process`: the name of a child process."""
    if not any(note.kind in ("loader", "model") for note in notes):
        return None
    found = totals(notes)
    said = [_loaders(found), *_feeding(found), *_models(notes)]
    where = f" ({process})" if process else ""
    return f"stoker boost{where}: " + " | ".join([asked, *(text for text in said if text)])


def explanation(notes: Sequence[Note], request: Asked, versions: str, process: str = "") -> list[str]:
    """Return the lines of --explain: every note, under the loader or model that it is about, and the parts that were to stay off."""
    where = f" ({process})" if process else ""
    lines = [f"stoker boost{where}: tier {request.tier}, {versions}"]
    if request.off:
        lines.append(f"  switched off: {', '.join(sorted(request.off))}")
    if all(note.kind == "process" for note in notes):
        lines.append(f"  nothing was looked at: {_unseen(active(request))}")
    subjects: dict[tuple[str, str, str], list[Note]] = {}
    for note in notes:
        subjects.setdefault((note.kind, note.where, note.what), []).append(note)
    for (kind, place, what), about in subjects.items():
        lines.append("  " + " ".join(text for text in (kind, place, what) if text))
        for note in about:
            lines.append(f"    {note.part}: {note.outcome}: {note.why}")
            numbers = _numbers(note)
            if numbers:
                lines.append(f"      {numbers}")
    return lines


def _unseen(parts: frozenset[str]) -> str:
    """Return what did not happen in a process of which nothing was noted, as far as these parts would have seen it."""
    models = [name for name in parts if PARTS[name] != "exact"]
    seen = [*(["no DataLoader was iterated"] if "loader" in parts else []), *(["no model was trained"] if models else [])]
    return f"{' and '.join(seen)} in this process" if seen else "no part that looks at anything is on"


def _plain_s(note: Note) -> float | None:
    """Return what making the note's images the script's own way costs one core, from the batches that were made both ways."""
    seconds, images = note.numbers.get("check_plain_s"), note.numbers.get("check_images")
    return seconds / images * note.numbers["images"] if seconds and images else None


def _loaders(found: dict[str, Any]) -> str:
    replayed, declined = found["loaders_replayed"], found["loaders_declined"]
    if not replayed and not declined:
        return ""
    text = f"{replayed} loader{'' if replayed == 1 else 's'} replayed"
    return f"{text}, {declined} declined (--explain says why)" if declined else text


def _feeding(found: dict[str, Any]) -> list[str]:
    if "images" not in found:
        return []
    waited = f"waited for data {_seconds(found['waited_s'])}"
    if "plain_s" in found:
        waited += f", making it the script's own way takes about {_seconds(found['plain_s'])} of one core"
    images = f"{found['images']:,} images"
    return [waited, f"{images}, {found['images_per_s']:,.0f} images/s" if "images_per_s" in found else images]


def _models(notes: Sequence[Note]) -> list[str]:
    looked_at = [note for note in notes if note.kind == "model"]
    kept = [note for note in looked_at if note.outcome == "kept"]
    if not kept:
        return ["the arithmetic stays as it was (--explain says why)"] if looked_at else []
    parts = dict.fromkeys(note.part + (f" {note.numbers['ratio']:.2f}x" if "ratio" in note.numbers else "") for note in kept)
    return [f"kept {', '.join(parts)}"]


def _numbers(note: Note) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in note.numbers.items() if name not in ("first_s", "last_s"))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 9.995 else f"{value:,.0f} s"
