"""`stoker image cache`: what image builds keep on the disk, and making room."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from stoker import console
from stoker.environment.installer import free_bytes
from stoker.errors import UsageError
from stoker.image.store import Kept, Store
from stoker.runs.columns import table
from stoker.runs.durations import ago

_KINDS = {"file": "wheels and .debs", "layer": "layers", "root": "unpacked roots", "partial": "broken-off downloads"}
_UNITS_S = {"h": 3600, "d": 86400, "w": 7 * 86400}
_UNITS_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DEFAULT_AGE = "30d"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group(invoke_without_command=True)
@_JSON
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Show how much of what was kept there is. Everything in it can be made or fetched again.

    STOKER_CACHE names another folder for it.
    """
    if context.invoked_subcommand:
        return
    store = Store()
    found = store.kept()
    sums = {kind: [one.size for one in found if one.kind == kind] for kind in _KINDS}
    if as_json:
        console.emit(
            {
                "folder": str(store.folder),
                "bytes": sum(one.size for one in found),
                "kinds": {kind: {"count": len(sizes), "bytes": sum(sizes)} for kind, sizes in sums.items()},
            }
        )
        return
    rows = [(_KINDS[kind], str(len(sizes)), _size(sum(sizes))) for kind, sizes in sums.items() if sizes]
    click.echo(
        "\n".join(
            table(("kept", "count", "size"), [*rows, ("together", str(len(found)), _size(sum(map(sum, sums.values()))))], right=(1, 2), folded=0)
        )
    )
    click.echo(f"in {store.folder}; the disk has {_size(free_bytes(store.folder))} free")


@cache.command("list")
@_JSON
def list_kept(as_json: bool) -> None:
    """List everything, the longest unused first."""
    found = Store().kept()
    if as_json:
        console.emit([_as_dict(one) for one in found])
    elif found:
        click.echo("\n".join(_table(found)))
    else:
        console.say(f"{Store().folder} is empty.")


@cache.command()
@click.option("--older-than", metavar="AGE", help=f"What was not used for so long, as 12h, 30d, 2w. Without --keep and --all: {_DEFAULT_AGE}.")
@click.option("--keep", metavar="SIZE", help="The longest unused, until at most so much is left, as 20G.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@_JSON
def prune(older_than: str | None, keep: str | None, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Make room: remove what was not used lately. Waits for builds that run."""
    if everything and (older_than or keep):
        raise UsageError("--all leaves nothing to choose by --older-than and --keep", hint="one or the other")
    age = older_than or (None if everything or keep else _DEFAULT_AGE)
    gone = Store().prune(
        older_than_s=_read("--older-than", age, r"(\d+(?:\.\d+)?)\s*([hdw])", _UNITS_S, "12h, 30d or 2w") if age else None,
        keep_bytes=int(_read("--keep", keep, r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?[Bb])?", _UNITS_BYTES, "500M or 20G")) if keep else None,
        dry_run=dry_run,
    )
    if as_json:
        console.emit({"dry_run": dry_run, "bytes": sum(one.size for one in gone), "removed": [_as_dict(one) for one in gone]})
        return
    if dry_run and gone:
        click.echo("\n".join(_table(gone)))
    done = "would be removed" if dry_run else "removed"
    what = f"{len(gone)} {'entry' if len(gone) == 1 else 'entries'}, {_size(sum(one.size for one in gone))}: {done}" if gone else "nothing to remove"
    click.echo(what + (f" (nothing was unused for {age})" if age and not gone else ""))


def _read(option: str, text: str, pattern: str, units: dict[str, int], example: str) -> float:
    found = re.fullmatch(pattern, text.strip())
    if not found:
        raise UsageError(f"{option} {text}: no such amount", hint=f"{option} takes {example}")
    return float(found[1]) * units[found[2]]


def _table(found: tuple[Kept, ...]) -> list[str]:
    rows = [(one.kind, one.name or one.key[:12], _size(one.size), ago(time.time() - one.used)) for one in found]
    return table(("kind", "name", "size", "used"), rows, right=(2, 3), folded=1)


def _as_dict(one: Kept) -> dict[str, Any]:
    return {"kind": one.kind, "key": one.key, "name": one.name, "bytes": one.size, "used": one.used, "path": str(one.path)}


def _size(count: int) -> str:
    """Return an amount in the unit that leaves few digits."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"
