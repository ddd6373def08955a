"""What both services of `stoker up` do the same way: start in a container or on this machine, or only show the command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import click

from stoker import console
from stoker.cli.launch_options import How
from stoker.launch.command import Option
from stoker.launch.ports import next_free
from stoker.launch.request import Request
from stoker.launch.service import Order, bring_up, plan
from stoker.launch.site import find_site, is_local
from stoker.launch.starting import command_of
from stoker.launch.up import Up


def bring_up_as_wanted(order: Order, how: How, *, own_files: bool = False) -> Up:
    """Start a service, or find the one that runs. `own_files`: a certificate is to be mounted. Raises what `bring_up` raises."""
    up = _brought_up(order, own_files)
    if ignored := up.ignored(order.wanted):
        name = up.container.name
        console.warn(f"{name} runs already, started with other values of {', '.join(ignored)}: `stoker stop {name}` first, then these count")
    if how.at_start and not up.started:
        name = up.container.name
        console.warn(f"{name} runs already, and {', '.join(how.at_start)} count when it is started only: `stoker stop {name}` first")
    return up


def show_plan(order: Order, *, explain: bool, also: Callable[[Request], Sequence[Option]] = lambda request: ()) -> None:
    """Print the engine's command, ready to paste; nothing is started or written. `also`: commands that must have run before."""
    wanted = order.wanted
    port = wanted.port or next_free(order.service.port, wanted.listen or "127.0.0.1")
    if is_local(wanted):
        from stoker.cli.up.here import plan_here
        from stoker.environment.whole import enter_whole

        enter_whole(sys.argv[1:])
        click.echo(plan_here(order, port, explain=explain))
        return
    site = find_site(wanted)
    request = plan(order, site, port)
    command = command_of(request, site.engine)
    command = replace(command, before=(*command.before, *also(request)))
    click.echo(command.explained() if explain else command.text())


def _brought_up(order: Order, own_files: bool) -> Up:
    if not is_local(order.wanted):
        return bring_up(order, on_line=console.say)
    # The room `image`, which reads the lock, takes a third of a second that no start of a container should wait for.
    from stoker.cli.up.here import start_here
    from stoker.environment.whole import enter_whole

    enter_whole(sys.argv[1:])
    return start_here(order, own_files=own_files)
