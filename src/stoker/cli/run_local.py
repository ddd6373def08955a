"""`stoker run` without a container: the same program in an environment of this machine."""

from __future__ import annotations

import click

from stoker import console
from stoker.cli.launch_options import How
from stoker.cli.locked import locked_of
from stoker.launch.containers import Container
from stoker.launch.local import job, planned, starting
from stoker.launch.wanted import Wanted


def run_local(wanted: Wanted, how: How, program: tuple[str, ...]) -> int | Container:
    """Return the exit status of a program in the foreground, what was started in the background, or 0 where only the command is shown."""
    decided, locked = job.decide(wanted, command=program), locked_of(wanted.project)
    if how.dry_run or how.explain:
        click.echo(planned.command_text(decided, locked, explained=how.explain))
        return 0
    begin = starting.start if wanted.detach else starting.run
    return begin(decided, locked, on_line=console.say)
