"""`stoker rm`: away with containers; what they worked on stays."""

from __future__ import annotations

import click

from stoker import console
from stoker.cli.launched import ENGINE
from stoker.errors import UsageError
from stoker.launch.keepers import find_all, keepers, listed
from stoker.launch.removal import is_starting, must_have_ended, remove


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("-f", "--force", is_flag=True, help="Kill what still runs.")
@click.option("--ended", is_flag=True, help="All that do not run.")
@ENGINE
def rm(names: tuple[str, ...], force: bool, ended: bool, engine: str) -> None:
    """Remove containers with their logs. Projects, runs, notebooks and the home stay."""
    if bool(names) == ended:
        raise UsageError("names, or --ended, not both" if ended else "name what is to be removed, or say --ended", hint="stoker rm NAME")
    among = keepers(engine)
    names = names or tuple(one.id for one in listed(among)[0] if not one.running and not is_starting(one))
    found = find_all(among, names)
    for _, container in found if not force else ():
        must_have_ended(container)  # all are looked at before the first is gone
    for keeper, container in found:
        if not remove(keeper, container, force=force):
            console.say(f"{container.name}: was gone already")
        click.echo(container.name)
