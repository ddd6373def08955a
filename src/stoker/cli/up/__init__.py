"""`stoker up`: which services there are; each one's code is imported when it runs."""

from __future__ import annotations

import click

from stoker.cli.groups import Commands, Entry

COMMANDS = {
    "notebook": Entry(module="stoker.cli.up.notebook", attribute="notebook", help="JupyterLab: one address opens it."),
    "ssh": Entry(module="stoker.cli.up.ssh", attribute="ssh", help="A machine to log in to: `ssh stoker-NAME`, VS Code and all."),
}


@click.command(cls=Commands, table=COMMANDS)
def up() -> None:
    """Start a notebook or an SSH box in the background, safe from the first moment, and say how to get in.

    A second call with the same name finds what runs and says it again. `stoker ps`, `logs`, `stop` and `rm` do the rest.
    """
