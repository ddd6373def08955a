"""`stoker image diff`: what differs between two locks."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stoker import console
from stoker.image.difference import difference
from stoker.image.lock import LOCK_FILE, read_lock


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path), default=LOCK_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Say what differs between two locks: versions, sizes, drivers and GPUs lost or gained, and which layers are used again.

    NEW is the stoker.lock of the working directory if it is left out. A folder stands for the stoker.lock in it. Sizes are those of the packages
    as they are fetched.
    """
    found = difference(*(read_lock(path / LOCK_FILE if os.path.isdir(path) else path) for path in (old, new)))
    if as_json:
        console.emit(found.as_dict())
    else:
        click.echo("\n".join(found.lines()))
