"""`stoker run`: a program in a container, here with its terminal or in the background."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from stoker import console
from stoker.cli.launch_options import How, launch_options
from stoker.errors import UsageError
from stoker.launch.atonce import at_once
from stoker.launch.site import Site, find_site, is_local
from stoker.launch.wanted import Wanted

if TYPE_CHECKING:
    from stoker.launch.command import Command
    from stoker.launch.containers import Container

_LATER = ("stoker.host.driver", "stoker.host.limits", "stoker.launch.defaults", "stoker.launch.checks", "stoker.launch.starting")
"""Imported while the engines are asked: each takes as long as the other, and a start shall not be felt."""


@click.command(context_settings={"allow_interspersed_args": False})
@launch_options("run")
@click.option("-d", "--detach", is_flag=True, help="In the background; see `stoker logs`, `stoker stop`.")
@click.option("-p", "--publish", multiple=True, metavar="[HOST:]PORT", help="A port inside that answers here, on 127.0.0.1 unless --listen.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="-- PROGRAM [ARGUMENTS]...")
def run(wanted: Wanted, how: How, program: tuple[str, ...]) -> int:
    """Run a program in a container of this project's image.

    \b
    stoker run -- python train.py --its arguments
    stoker run -d --restart --name night --gpus 0,2 -- python train.py

    The project's folder is /workspace inside, and files belong to you. In the foreground the terminal, signals and the exit status are the program's
    own, nothing of the container stays, and when the program fails the last line says why. A team's defaults: the table [launch] of stoker.toml.
    """
    _fill_stdin()
    if not program:
        raise UsageError("there is no program to run", hint="stoker run -- python train.py")
    if is_local(wanted):
        # Only here: it reads locks and makes environments.
        from stoker.cli.run_local import run_local
        from stoker.environment.whole import enter_whole

        enter_whole(sys.argv[1:])
        ended = run_local(wanted, how, program)
    else:
        ended = _run(wanted, how, program)
    if isinstance(ended, int):
        # Nobody who waits for the program's end shall wait for Python's last look for garbage, some 8 ms.
        gc.freeze()
        return ended
    _say_started(ended, how)
    return ended.exit_code or 0


def _run(wanted: Wanted, how: How, program: tuple[str, ...]) -> int | Container:
    """Return the exit status of a program in the foreground, what was started in the background, or 0 where only the command is shown."""
    site = _site(wanted, shown=how.dry_run or how.explain)
    from stoker.launch import starting
    from stoker.launch.checks import before
    from stoker.launch.defaults import decide
    from stoker.launch.publishing import published

    with published(wanted.publish, wanted.listen) as ports:
        request = decide(wanted, site, command=program, ports=ports, terminal=_has_terminal())
        if how.dry_run or how.explain:
            _show(starting.command_of(request, site.engine), how)
            return 0
        if how.check:
            starting.refuse(before(request, site), on_line=console.say)
        begin = starting.start if wanted.detach else starting.run
        return begin(request, site.engine, on_line=console.say, rename=wanted.name is None)


def _fill_stdin() -> None:
    """Put nothing where stdin was closed (`<&-`): else the next file that is opened would be the program's input."""
    if sys.stdin is None:
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)


def _has_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _site(wanted: Wanted, *, shown: bool) -> Site:
    # What is only shown is refused by no engine: the names that are taken must be known.
    questions: list[Callable[[], Any]] = [lambda: find_site(wanted, containers=shown), lambda: [importlib.import_module(module) for module in _LATER]]
    site: Site = at_once(questions)[0]
    return site


def _show(command: Command, how: How) -> None:
    if how.as_json:
        console.emit({"command": command.argv, "options": [{"words": one.words, "why": one.why} for one in command.options]})
    else:
        click.echo(command.explained() if how.explain else command.text())


def _say_started(container: Container, how: How) -> None:
    if how.as_json:
        console.emit(_facts(container))
        return
    click.echo(container.name)
    if container.exit_code:
        console.warn(f"{container.name} has ended already: stoker logs {container.name}")
        return
    console.say(f"stoker logs -f {container.name}   # what it writes\nstoker stop {container.name}      # with {container.grace_s} s to save")


def _facts(container: Container) -> dict[str, Any]:
    return {
        "name": container.name,
        "id": container.id,
        "engine": container.engine,
        "state": container.state,
        "image": container.image,
        "ports": [port.text for port in container.ports],
        "command": list(container.command),
    }
