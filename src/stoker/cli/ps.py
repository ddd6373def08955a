"""`stoker ps`: what was started."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import click

from stoker import console
from stoker.cli.launched import ENGINE, JSON, say_silent
from stoker.launch import ssh_entries
from stoker.launch.containers import Container
from stoker.launch.keepers import keepers, listed
from stoker.runs.columns import table
from stoker.runs.durations import ago

_HEAD = ("name", "kind", "state", "gpus", "address", "image", "engine", "project")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those too that ended.")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
@ENGINE
@JSON
def ps(everything: bool, quiet: bool, engine: str, as_json: bool) -> None:
    """List the notebooks, SSH boxes and programs that were started, the newest first; without -a those that run."""
    among = keepers(engine)
    entries = ssh_entries.written()
    found, silent = listed(among)
    answered = {keeper.name for keeper in among} - set(silent)
    ssh_entries.clean(entries, [one.name for one in found if one.kind == "ssh"], answered)
    shown = [one for one in found if everything or one.running]
    if as_json:
        console.emit([as_dict(one) for one in shown])
    elif quiet:
        click.echo("".join(f"{one.name}\n" for one in shown), nl=False)
    elif shown:
        click.echo("\n".join(table(_HEAD, [_row(one) for one in shown], folded=None, drop=5)))
    else:
        console.say(f"Nothing runs; {len(found)} ended: `stoker ps -a`." if found else "Nothing was started yet: `stoker up` and `stoker run` do.")
    say_silent(silent)


def as_dict(container: Container) -> dict[str, Any]:
    """Return what programs are told of a container."""
    fields = dataclasses.asdict(container)
    fields["labels"] = dict(container.labels)
    return fields | {"running": container.running, "address": _address(container)}


def _row(container: Container) -> tuple[str, ...]:
    project = str(container.project or "")
    return (container.name, container.kind, _state(container), container.gpus, _address(container), container.image, container.engine, project)


def _state(container: Container) -> str:
    if container.running:
        age = ago(time.time() - container.started) if container.started else ""
        return f"{container.state} {age}".strip()
    code = "" if container.exit_code is None else f" ({container.exit_code})"
    age = f" {ago(time.time() - container.ended)} ago" if container.ended else ""
    return f"{container.state}{code}{age}"


def _address(container: Container) -> str:
    """Return where it is reached, without what is secret."""
    if container.kind == "ssh":
        return f"ssh {ssh_entries.host_of(container.name)}"
    scheme = "https://" if container.kind == "notebook" else ""
    return " ".join(f"{scheme}{port.text}" for port in container.ports)
