"""`stoker up ssh`: an SSH box in the background, and the command that logs in."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from stoker import console
from stoker.cli.launch_options import How, launch_options
from stoker.cli.up.start import bring_up_as_wanted, show_plan
from stoker.launch import reach
from stoker.launch import ssh as room
from stoker.launch.keys import find_keys
from stoker.launch.service import Order
from stoker.launch.ssh import Box
from stoker.launch.up import SSH, Up
from stoker.launch.wanted import Wanted


@click.command()
@launch_options("ssh")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help=f"On this machine (default: {SSH.port}, or the next that is free).")
@click.option("--key", "named", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="A public key that may log in (default: yours).")
def ssh(wanted: Wanted, how: How, named: tuple[Path, ...]) -> None:
    """Start a machine to log in to, and print the command that does, once it answers.

    Keys only, no password, no root. The keys of your agent and of ~/.ssh may log in (also those of authorized_keys); where
    none of them is on this machine, one is made. `ssh stoker-NAME`, scp, rsync and VS Code's
    Remote-SSH find it: an entry is written into ~/.ssh/stoker.conf, which ~/.ssh/config includes, and taken away by `stoker stop` and `stoker rm`.
    """
    keys = find_keys(named)
    order = Order(
        service=SSH,
        wanted=wanted,
        complete=room.complete,
        prepare=lambda request: room.prepare(request, keys),
        check=how.check,
    )
    if how.dry_run or how.explain:
        show_plan(order, explain=how.explain, also=lambda request: room.keys_commands(request.name, keys))
        return

    up = bring_up_as_wanted(order, how)
    box = room.wait(up, keys)
    for line in _told(up, box):
        console.say(line)
    if how.as_json:
        console.emit(_facts(up, box))
    else:
        click.echo(shlex.join(box.command))


def _told(up: Up, box: Box) -> list[str]:
    at = up.port
    lines = [f"{box.entry.name}: SSH {up.place} " + ("answers; the project is /workspace" if box.started else "runs already")]
    if box.included.obstacle:
        lines.append(f"{box.included.config} could not be made to include its entry ({box.included.obstacle}): for VS Code add that line by hand")
    if not box.entry.identities:
        lines.append("none of the keys that may log in is on this machine: this command works where one of them is")
    way = reach.way_here(os.environ)
    if way and reach.is_loopback(at.address):
        lines.append(f"from the machine that you came from: `ssh -J {way} -p {at.host} {box.entry.user}@{at.address}`")
    if not reach.is_loopback(at.address):
        lines.append(f"it listens on {at.text}: {reach.audience(at.address)} can ask it; only these keys open it")
        lines.append(
            f"from there: `ssh -p {at.host} {box.entry.user}@{(reach.names(at.address) or (at.address,))[-1]}`, host key {box.entry.host_key}"
        )
    return lines


def _facts(up: Up, box: Box) -> dict[str, object]:
    return {
        "name": box.entry.name,
        "command": list(box.command),
        "host": box.entry.host,
        "address": box.entry.address,
        "port": box.entry.port,
        "user": box.entry.user,
        "host_key": box.entry.host_key,
        "included": box.included.obstacle is None,
        "listen": up.port.text,
        "engine": up.container.engine,
        "container": up.container.container,
        "project": up.container.project,
        "home": up.container.home,
        "started": box.started,
    }
