"""`stoker image age`: whether a rebuild is due."""

from __future__ import annotations

import datetime

import click

from stoker import console
from stoker.errors import ScanIncomplete
from stoker.image.age import MOST_DAYS, Age
from stoker.image.age import age as age_of
from stoker.image.checks.subject import read_lock_of
from stoker.image.lock import LOCK_FILE
from stoker.image.scan import scan
from stoker.runs.columns import bold, printable

_DUE = {True: "due", False: "not due"}


@click.command()
@click.argument("image", default=LOCK_FILE)
@click.option("--days", type=click.IntRange(min=0), default=MOST_DAYS, show_default=True, help="How old its packages may be.")
@click.option("--scan", "with_scan", is_flag=True, help="Also look up which fixes are out (needs the network).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def age(image: str, days: int, with_scan: bool, as_json: bool) -> int:
    """Say how old an image's packages are, and whether a rebuild is due.

    IMAGE is a stoker.lock (default: the one here), the folder of an OCI layout, or the name of an image that podman or docker has. Exits with 0
    when nothing is due, with 1 when a rebuild is.
    """
    lock = read_lock_of(image)
    scanned = scan(lock, on_part=lambda part: console.say(f"{part} ...")) if with_scan else None
    today = datetime.datetime.now(datetime.timezone.utc).date()
    found = age_of(lock, today=today, most_days=days, pending=scanned.vulnerabilities if scanned else ())
    if as_json:
        console.emit(found.as_dict())
    else:
        click.echo("\n".join(_lines(found)))
    if scanned and scanned.gaps and not found.due:
        raise ScanIncomplete(f"not everything could be looked up: {scanned.gaps[0].reason}", hint="`stoker image scan` tells all of it")
    return 1 if found.due else 0


def _lines(found: Age) -> list[str]:
    past, days = found.days >= 0, abs(found.days)
    told = f"{days} day{'s' * (days != 1)} {'ago' if past else 'in the future'}"
    head = f"locked {found.locked}, {told}: {f'a rebuild is {_DUE[found.due]}' if past or found.due else 'its age is not known'}"
    return [
        bold(head),
        *(
            line
            for reason in found.reasons
            for line in (f"{'- ' if reason.due else '  note: '}{printable(reason.what)}", f"    {printable(reason.fix)}")
        ),
    ]
