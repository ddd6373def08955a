"""`stoker up notebook --engine local`: the same without a container, in the environment of stoker.lock."""

from __future__ import annotations

from stoker import console
from stoker.cli.locked import locked_of
from stoker.errors import LaunchUnfit
from stoker.launch.local import environment, job, planned
from stoker.launch.local import starting as local
from stoker.launch.service import Order, bring_up_here
from stoker.launch.up import Up


def start_here(order: Order, *, own_files: bool) -> Up:
    """Start a service on this machine itself, or find the one that runs. Raises LaunchUnfit and what `bring_up_here` raises."""
    wanted = order.wanted
    # Says of ssh that it needs a container before minutes are spent on an environment.
    job.decide(wanted, port=order.service.port)
    if own_files:
        raise LaunchUnfit("--cert and --key are for containers", hint="leave them out: the notebook on this machine makes its own certificate")
    locked = locked_of(wanted.project)
    return bring_up_here(
        order.service,
        wanted,
        prepare=lambda: environment.prepare(locked),
        start_at=lambda port: local.start(job.decide(wanted, port=port), locked, on_line=console.say),
    )


def plan_here(order: Order, port: int, *, explain: bool) -> str:
    """Return the command that would be run, ready to paste."""
    return planned.command_text(job.decide(order.wanted, port=port), locked_of(order.wanted.project), explained=explain)
