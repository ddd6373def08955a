"""`stoker logs`: what a container wrote, and why it died."""

from __future__ import annotations

import click

from stoker import console
from stoker.cli.launched import ENGINE, JSON
from stoker.launch import attached
from stoker.launch.containers import Container
from stoker.launch.ending import why
from stoker.launch.keepers import Keeper, find, keepers


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends.")
@click.option("-n", "--tail", "lines", metavar="N", type=click.IntRange(min=0), default=None, help="Only the last lines.")
@click.option("-t", "--timestamps", is_flag=True, help="With the time of each line.")
@click.option("--since", metavar="TIME", default=None, help="What came after a moment: 10m, 2026-11-21T10:00:00.")
@ENGINE
@JSON
@click.pass_context
def logs(context: click.Context, name: str, follow: bool, lines: int | None, timestamps: bool, since: str | None, engine: str, as_json: bool) -> None:
    """Show what a container wrote, and, where it died, why: out of memory, shared memory, GPU, disk, killed by whom, or its own exit status."""
    keeper, container = find(keepers(engine), name)
    if as_json:
        log = keeper.log_text(container, lines=lines)
        console.emit({"name": container.name, "state": container.state, "exit_code": container.exit_code, "why": _why(keeper, container), "log": log})
        return
    session = keeper.log_session(container, follow=follow, lines=lines, timestamps=timestamps, since=since)
    status = attached.run(session.words, environment=session.environment)
    # The person has seen enough; what is shown ended by itself otherwise, and so may the container.
    if status < 128 and (reason := _why(keeper, _now(keeper, container))):
        console.say(f"{container.name}: {reason}")
    context.exit(status)


def _now(keeper: Keeper, container: Container) -> Container:
    return next((one for one in keeper.containers(everything=True) if one.id == container.id), container)


def _why(keeper: Keeper, container: Container) -> str | None:
    return why(keeper.ending(container))
