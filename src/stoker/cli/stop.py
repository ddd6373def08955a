"""`stoker stop`: an end with time to save."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from stoker import console
from stoker.cli.launched import ENGINE, JSON
from stoker.doctor.sizes import size
from stoker.errors import UsageError
from stoker.launch.atonce import at_once
from stoker.launch.keepers import find_all, keepers, listed
from stoker.launch.stopping import Stopped
from stoker.launch.stopping import stop as stop_one
from stoker.runs.durations import spoken


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that run.")
@click.option(
    "-t", "--time", "grace_s", metavar="SECONDS", type=click.IntRange(min=0), default=None, help="Time to save (default: as it was started)."
)
@ENGINE
@JSON
def stop(names: tuple[str, ...], everything: bool, grace_s: int | None, engine: str, as_json: bool) -> None:
    """Tell programs to end (SIGTERM), give them time to save, and say what was saved. What does not end in time is killed."""
    if bool(names) == everything:
        raise UsageError("name what is to be stopped, or say --all" if everything is False else "names, or --all, not both", hint="stoker stop NAME")
    among = keepers(engine)
    names = names or tuple(one.id for one in listed(among)[0] if one.running)
    found = find_all(among, names)
    for _, one in found:
        if one.running:
            console.say(f"stopping {one.name}: up to {one.grace_s if grace_s is None else grace_s} s to save")
    results = at_once([partial(stop_one, keeper, one, grace_s=grace_s) for keeper, one in found])
    if as_json:
        console.emit([_as_dict(result) for result in results])
        return
    for result in results:
        _say(result)
        click.echo(result.container.name)


def _say(result: Stopped) -> None:
    name = result.container.name
    if not result.ran or result.gone:
        console.say(f"{name}: " + ("was removed in the meantime" if result.gone else f"does not run ({result.container.state})"))
        return
    if result.killed:
        console.warn(f"{name} did not end within {result.grace_s} s and was killed; `stoker stop -t SECONDS` gives it more time")
    else:
        console.say(f"{name}: ended after {spoken(result.took_s)} with {result.exit_code}")
    if result.returns:
        console.say(f"{name}: podman starts it again when this machine boots (--restart); `stoker rm {name}` prevents that")
    for saved in result.saved:
        console.say(f"{name}: saved {saved.path} ({size(saved.size_bytes)})")
    if not result.saved and result.container.kind == "run" and result.container.project:
        console.say(f"{name}: no checkpoint was written under {result.container.project} since the stop began")


def _as_dict(result: Stopped) -> dict[str, Any]:
    saved = [{"path": str(one.path), "bytes": one.size_bytes, "written": one.written} for one in result.saved]
    fields = {"name": result.container.name, "id": result.container.id, "engine": result.container.engine, "ran": result.ran, "gone": result.gone}
    return fields | {
        "exit_code": result.exit_code,
        "killed": result.killed,
        "returns": result.returns,
        "seconds": round(result.took_s, 2),
        "saved": saved,
    }
