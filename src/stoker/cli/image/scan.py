"""`stoker image scan`: known vulnerabilities of everything in an image."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stoker import console
from stoker.errors import ScanIncomplete, VulnerabilitiesFound
from stoker.image.checks.subject import read_lock_of
from stoker.image.lock import LOCK_FILE
from stoker.image.scan import KINDS, Scanned
from stoker.image.scan import scan as look_up
from stoker.image.specification import SPECIFICATION_FILE, Mirrors, read_specification
from stoker.runs.columns import bold, printable, table

_ONLY = {"python": ("pypi",), "debian": ("deb",)}


@click.command()
@click.argument("image", default=LOCK_FILE)
@click.option("--osv", type=click.Path(path_type=Path), multiple=True, metavar="FILE.zip", help="OSV's file of an ecosystem, instead of its server.")
@click.option("--report", type=click.Path(path_type=Path), multiple=True, metavar="FILE", help="What trivy or grype found (their JSON).")
@click.option("--only", type=click.Choice(list(_ONLY)), default=None, help="Look up one kind of packages only.")
@click.option("--ignore", metavar="ID", multiple=True, help="A vulnerability that you have judged, by any of its names.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def scan(image: str, osv: tuple[Path, ...], report: tuple[Path, ...], only: str | None, ignore: tuple[str, ...], as_json: bool) -> None:
    """Look up known vulnerabilities of everything in an image.

    IMAGE is a stoker.lock (default: the one here), the folder of an OCI layout, or the name of an image that podman or docker has. Python packages
    are looked up in OSV, Debian packages in what Debian has published since. Exits with 69 when there is something to mend, and with 68 when
    something could not be looked up: that is never "nothing found".
    """
    kinds = _ONLY[only] if only else tuple(KINDS)
    found = look_up(
        read_lock_of(image),
        osv=osv,
        reports=report,
        kinds=kinds,
        ignored=ignore,
        mirrors=_mirrors(image),
        on_part=lambda part: console.say(f"{part} ..."),
    )
    if as_json:
        console.emit(found.as_dict())
    else:
        click.echo("\n".join(_lines(found)))
    _end(found)


def _mirrors(image: str) -> Mirrors:
    """The mirrors of the stoker.toml that lies beside the lock, if there is one."""
    path = Path(image) if os.path.isdir(image) else Path(image).parent
    return read_specification(path / SPECIFICATION_FILE).mirrors if os.path.isfile(path / SPECIFICATION_FILE) else Mirrors()


def _lines(found: Scanned) -> list[str]:
    rows = [
        (one.package, one.version, one.id, one.severity, one.fixed or "not mended", ", ".join(one.aliases[:2]), one.summary)
        for one in found.vulnerabilities
    ]
    head = ("package", "version", "vulnerability", "severity", "mended in", "also", "what")
    waiting = f"{len(found.unmended)} more are known for which Debian has no fix yet (--json lists them)"
    return [
        *(table(head, rows, folded=6, drop=5) if rows else []),
        *([""] if rows else []),
        *([waiting] if found.unmended else []),
        *(f"looked up: {printable(told)}" for told in found.looked_up),
        *(f"{bold('NOT looked up')}: {KINDS[gap.kind]}: {printable(gap.reason)}" for gap in found.gaps),
        *([] if rows or found.gaps else ["nothing found"]),
    ]


def _end(found: Scanned) -> None:
    missing = f"{len(found.gaps)} thing{'s' * (len(found.gaps) != 1)} could not be looked up"
    if found.vulnerabilities:
        packages = len({(one.kind, one.package) for one in found.vulnerabilities})
        told = f"{len(found.vulnerabilities)} known vulnerabilities in {packages} packages" + (f"; and {missing}" if found.gaps else "")
        raise VulnerabilitiesFound(
            told, hint="`stoker image lock --upgrade PACKAGE` takes the version that mends it; --ignore ID leaves out what you have judged"
        )
    if found.gaps:
        raise ScanIncomplete(
            f"{missing}, so that nothing can be said about it",
            hint="the reason stands above; --osv and --report take files where there is no network",
        )
