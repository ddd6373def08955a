"""`stoker verify`: measures this machine against what it should give, in about a minute."""

from __future__ import annotations

import errno
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stoker import console
from stoker.errors import MissingExtra, RunFolderUnwritable, Terminated, UsageError
from stoker.files import write_text_atomically

if TYPE_CHECKING:
    from stoker.bench import Comparison, Verification


@click.command()
@click.option("--quick", is_flag=True, help="Fewer and shorter measurements: some 10 s on a GPU, half a minute on two CPU cores.")
@click.option("--device", metavar="cpu|cuda:N", help="What to verify (default: the first GPU that works, else the CPU).")
@click.option(
    "--output", "folder", type=click.Path(path_type=Path), default=Path("."), help="Folder for verify.html and verify.json (default: this one)."
)
@click.option("--json", "json_path", metavar="FILE|-", help="Where to write the JSON; - prints it instead of the table.")
@click.option("--compare", "old_path", type=click.Path(path_type=Path), metavar="OLD.json", help="Say what changed since an earlier verification.")
def verify(quick: bool, device: str | None, folder: Path, json_path: str | None, old_path: Path | None) -> int:
    """Measure this machine against what it should give.

    Three checks: the handshake (are the numbers right?), feeding (do the loaders keep up?), compute (how much of the ceilings, which are measured
    on the spot, is reached?). Exits with 0 when all is well, 1 when something is low, 2 when something is wrong.
    """
    _import_bench()
    from stoker.bench import compare, read_verification
    from stoker.bench import verify as measure
    from stoker.bench.page import page
    from stoker.runs.strict_json import dumps

    old = read_verification(old_path) if old_path else None  # before a minute is spent, and before it is written over
    target = None if json_path == "-" else Path(json_path) if json_path else folder / "verify.json"
    _writable(folder)
    if target is not None and json_path:
        _writable(target.parent)
        if target.is_dir():
            raise UsageError(f"--json {target} is a folder", hint="give the name of a file, or - for stdout")
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        found = measure(device=device, quick=quick, on_part=lambda part: console.say(f"{part} ..."))
    finally:
        signal.signal(signal.SIGTERM, before)
    compared = compare(old, found) if old else None
    record = found.as_dict() | ({"compared": compared.as_dict()} if compared else {})
    write_text_atomically(folder / "verify.html", page(found, compared))
    if target is None:
        click.echo(dumps(record, indent=1))
    else:
        write_text_atomically(target, dumps(record, indent=1) + "\n")
        _tell(found, compared)
        click.echo(f"\npage: {(folder / 'verify.html').absolute()}\njson: {target.absolute()}")
    return found.exit_code


def _import_bench() -> None:
    """Import what needs torch. Raises MissingExtra, with the cause, where torch is missing or cannot be loaded."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra(
            "PyTorch is not installed, and `stoker verify` measures through it", hint="`stoker resolve` says which one fits"
        ) from error
    except (ImportError, OSError) as error:  # a library of it is missing or of another version
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingExtra(f"PyTorch is installed but cannot be loaded: {why}", hint="`stoker doctor` names the cause and the fix") from error


def _writable(folder: Path) -> None:
    """Make the folder and try it. Raises RunFolderUnwritable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".stoker-verify-"):
            return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # a full disk says so itself when the page is written
        raise RunFolderUnwritable(f"{folder} cannot be written to ({error.strerror or error})", hint="choose another folder with --output") from error


def _terminated(number: int, frame: Any) -> None:
    raise Terminated("stopped by SIGTERM: nothing was written", hint="run the same command again")


def _tell(found: Verification, compared: Comparison | None) -> None:
    """Print the checks as tables, then the verdict."""
    from stoker.bench.page import MARKS, detail, number, shown
    from stoker.runs.columns import bold, table

    for check in found.checks:
        click.echo(f"\n{bold(check.title)}: {MARKS[check.verdict]}. {check.sentence}")
        if check.hint:
            click.echo(f"  hint: {check.hint}")
        rows = [(reading.title, shown(reading), MARKS[reading.verdict], detail(reading)) for reading in check.readings]
        click.echo("\n".join(f"  {line}" for line in table(("measured", "value", "verdict", "beside"), rows, right=(1,), folded=3)))
    for notice in found.notices:
        click.echo(f"\nnotice: {notice}")
    if compared:
        click.echo(f"\n{bold('since')} {compared.old_made}")
        if not compared.same_device:
            click.echo(f"  that was another machine: {compared.old_device}")
        for name, old, new in compared.versions:
            click.echo(f"  {name}: {old} -> {new}")
        for change in compared.beyond:
            click.echo(f"  {change.title}: {number(change.old)} -> {number(change.new)} {change.unit} ({change.ratio:.2f} x)")
        if not compared.beyond:
            click.echo("  no rate changed by more than its spread")
    click.echo(f"\n{bold(f'{found.device.name}: {found.verdict}')} ({found.seconds:.0f} s)")
