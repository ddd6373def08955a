"""`stoker shell`: a shell in a container that runs."""

from __future__ import annotations

import click

from stoker.cli.launched import ENGINE
from stoker.launch.keepers import find, keepers
from stoker.launch.visits import SHELL, visit


@click.command()
@click.argument("name")
@click.option("-w", "--workdir", "folder", metavar="FOLDER", default=None, help="Folder inside to start in.")
@click.option("-u", "--user", metavar="UID", default=None, help="Account inside (default: that of the container).")
@ENGINE
@click.pass_context
def shell(context: click.Context, name: str, folder: str | None, user: str | None, engine: str) -> None:
    """Open a shell in a container that runs: that of its account, else bash, else sh."""
    keeper, container = find(keepers(engine), name)
    context.exit(visit(keeper, container, SHELL, interactive=True, terminal=None, folder=folder, user=user))
