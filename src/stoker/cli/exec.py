"""`stoker exec`: one more program in a container that runs."""

from __future__ import annotations

import click

from stoker.cli.launched import ENGINE
from stoker.launch.keepers import find, keepers
from stoker.launch.visits import visit


@click.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Hand stdin on (default: with a terminal).")
@click.option("-t", "--tty", "terminal", is_flag=True, default=None, help="With a terminal (default: where stdin and stdout are one).")
@click.option("-T", "--no-tty", "no_terminal", is_flag=True, help="Without a terminal.")
@click.option("-e", "--env", "environment", metavar="NAME", multiple=True, help="Hand on a variable of this shell, by its name.")
@click.option("-w", "--workdir", "folder", metavar="FOLDER", default=None, help="Folder inside to start in.")
@click.option("-u", "--user", metavar="UID", default=None, help="Account inside (default: that of the container).")
@ENGINE
@click.argument("name")
@click.argument("words", metavar="PROGRAM [ARGUMENTS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def execute(
    context: click.Context,
    name: str,
    words: tuple[str, ...],
    interactive: bool,
    terminal: bool | None,
    no_terminal: bool,
    environment: tuple[str, ...],
    folder: str | None,
    user: str | None,
    engine: str,
) -> None:
    """Run a program in a container that runs, with this terminal; its exit status is this command's."""
    keeper, container = find(keepers(engine), name)
    context.exit(
        visit(
            keeper,
            container,
            words[1:] if words[0] == "--" else words,
            interactive=interactive,
            terminal=False if no_terminal else terminal,
            environment=environment,
            folder=folder,
            user=user,
        )
    )
