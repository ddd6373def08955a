"""`stoker image check`: an image against its lock, and what should not be in it."""

from __future__ import annotations

from pathlib import Path

import click

from stoker import console
from stoker.errors import ImageBroken
from stoker.image.build import built_layout
from stoker.image.check import VERIFY_S, Checked
from stoker.image.check import check as examine
from stoker.image.checks.finding import Finding
from stoker.image.checks.subject import ENGINES
from stoker.image.lock import LOCK_FILE, read_lock
from stoker.runs.columns import bold, printable


@click.command()
@click.argument("image", required=False)
@click.option("--lock", "lock_path", type=click.Path(path_type=Path), default=None, help="Compare with this lock (default: the one in the image).")
@click.option("--engine", type=click.Choice(ENGINES), default=None, help="Whose image it is (default: podman's, else docker's).")
@click.option("--no-run", is_flag=True, help="Read it only: run none of its programs.")
@click.option(
    "--time-limit",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    default=VERIFY_S,
    show_default=True,
    help="How long `stoker verify --quick` may take in it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def check(image: str | None, lock_path: Path | None, engine: str | None, no_run: bool, time_limit: float, as_json: bool) -> None:
    """Compare an image with its lock, look for what should not be in it, and try it.

    IMAGE is the folder of an OCI layout or the name of an image that podman or docker has (default: the layout of the stoker.lock here). Versions
    and hashes of all files are compared, every package is imported, `stoker verify --quick` is run; a second CUDA, files that anybody may write
    to, setuid programs, secrets and root as user are found. Exits with 67 when anything is wrong.
    """
    lock = read_lock(lock_path or Path(LOCK_FILE)) if lock_path or image is None else None
    name = image or str(built_layout(lock_path or Path(LOCK_FILE), lock)) if lock else str(image)
    found = examine(name, lock=lock, engine=engine, try_it=not no_run, verify_s=time_limit, on_part=lambda part: console.say(f"{part} ..."))
    if as_json:
        console.emit(found.as_dict())
    else:
        click.echo("\n".join(_lines(found)))
    if found.findings:
        count = len(found.findings)
        raise ImageBroken(
            f"{found.image}: {count} thing{'s are' if count > 1 else ' is'} wrong with this image",
            hint="each is listed above with what to do about it",
        )


def _lines(found: Checked) -> list[str]:
    lock = "the lock that it carries itself (--lock compares it with yours)" if found.own_lock else "the lock"
    listed = found.wheels - found.proven
    proof = f"{found.proven} wheels compared with the wheels themselves" + (f", {listed} with the lists in the image" if listed else "")
    if found.same_layers:
        proof += f"; {found.same_layers} of {found.layers} layers are, to the bit, those made of this lock here"
    count = f"{len(found.findings) or 'no'} finding{'s' * (len(found.findings) != 1)}"
    return [
        *(line for one in found.findings for line in _finding(one)),
        f"{bold(printable(found.image))}  {found.digest}",
        f"{found.files} files, {found.packages} packages, compared with {lock}: {proof}",
        *([] if found.own_compared else ["Stoker's own files and bytecode were not compared: the lock is another Stoker's, which alone can tell"]),
        f"its programs were {'' if found.tried else 'not '}run; {count}",
    ]


def _finding(one: Finding) -> list[str]:
    return [f"{bold(printable(one.what))}  [{one.rule}]", *(f"  {printable(line)}" for line in one.evidence), f"  fix: {printable(one.fix)}", ""]
