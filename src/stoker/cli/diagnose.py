"""`stoker diagnose`: where the time of a training goes, and what would make it shorter."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from stoker import console
from stoker.errors import RunFolderUnwritable, StokerError, UsageError
from stoker.files import write_text_atomically


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
@click.option("--pid", type=click.IntRange(min=1), help="Look at a process that runs already, from outside.")
@click.option("--seconds", type=click.FloatRange(min=0.5, max=3600), default=20.0, show_default=True, help="How long to look, after the warm-up.")
@click.option("--skip-steps", type=click.IntRange(min=0), default=5, show_default=True, help="Steps of warm-up that do not count.")
@click.option(
    "--then", type=click.Choice(("go", "stop")), default="go", show_default=True, help="Let the program go on after the verdict, or end it."
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for diagnose.html and diagnose.json (default: a new one, diagnosis-TIME).")
@click.option("--json", "json_to", metavar="FILE", help="Write JSON to FILE too; - is stdout, and the program's own output then goes to stderr.")
def diagnose(program: tuple[str, ...], pid: int | None, seconds: float, skip_steps: int, then: str, output: Path | None, json_to: str | None) -> int:
    """Say where the time of a training goes, and what would make it shorter.

    \b
    stoker diagnose -- python train.py     starts a program and watches its training from inside
    stoker diagnose --pid 4711             looks at a running one from outside

    The verdict comes as soon as the window is over; the program goes on to its end, with everything put back as it was, and its exit status
    is ours.
    """
    if (pid is None) == (not program):
        raise UsageError(
            "nothing to diagnose" if pid is None else "a program and --pid were given: only one can be diagnosed",
            hint="stoker diagnose -- python train.py, or stoker diagnose --pid NUMBER",
        )
    folder = _folder(output)
    if pid is not None:
        from stoker.diagnosis.process import observe_process

        try:
            _tell(observe_process(pid, seconds=seconds, boost=_boost()), folder, json_to, to_stdout=json_to != "-")
        finally:
            _remove_if_empty(folder)
        return 0
    return _run(program, seconds, skip_steps, then == "stop", folder, json_to)


def _run(program: tuple[str, ...], seconds: float, skip: int, then_stop: bool, folder: Path, json_to: str | None) -> int:
    from stoker.diagnosis.program import Program

    raw = Path(tempfile.mkdtemp(prefix="raw-", dir=folder))
    out = sys.stderr.fileno() if json_to == "-" else None

    def tell(observation: object) -> None:
        try:
            _tell(observation, folder, json_to, to_stdout=False)
        except StokerError as error:  # a full disk, say: the program goes on, and its exit status is ours
            console.show_error(error)

    try:
        watched = Program(arguments=program, seconds=seconds, skip=skip, folder=raw, boost=_boost(), out=out)
        return watched.run(tell, then_stop=then_stop)
    finally:
        shutil.rmtree(raw, ignore_errors=True)
        _remove_if_empty(folder)


def _tell(observation: object, folder: Path, json_to: str | None, *, to_stdout: bool) -> None:
    """Judge, write the files, and say it: on stderr where stdout belongs to the program."""
    import json

    from stoker.diagnosis.observation import Observation
    from stoker.diagnosis.page import page
    from stoker.diagnosis.summary import summary
    from stoker.diagnosis.verdict import judge

    assert isinstance(observation, Observation)
    diagnosis = judge(observation)
    value = {"diagnosis": diagnosis.as_dict(), "observation": observation.as_dict()}
    write_text_atomically(folder / "diagnose.html", page(observation, diagnosis), durable=False)
    write_text_atomically(folder / "diagnose.json", json.dumps(value, indent=1, default=str), durable=False)
    if json_to == "-":
        console.emit(value)
    elif json_to:
        write_text_atomically(Path(json_to), json.dumps(value, indent=1, default=str), durable=False)
    lines = ["", *summary(observation, diagnosis), "", f"page: {folder / 'diagnose.html'}"]
    for line in lines:
        if to_stdout:
            click.echo(line)
        else:
            console.say(line)


def _folder(output: Path | None) -> Path:
    """Make the folder now: a program is not run for hours to find that there is nowhere to write."""
    stem = f"diagnosis-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = output or next(path for path in (Path(stem + end) for end in ("", *(f"-{number}" for number in range(2, 1000)))) if not path.exists())
    try:
        folder.mkdir(parents=True, exist_ok=output is not None)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if output is None and isinstance(error, FileExistsError):  # another one took the name in this moment
            return _folder(output)
        raise RunFolderUnwritable(f"{folder} cannot be written to ({error.strerror})", hint="choose another folder with --output") from error
    return folder


def _remove_if_empty(folder: Path) -> None:
    """The program or the process was not there: nothing is left behind."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _boost() -> bool:
    from stoker.cli import COMMANDS

    return "boost" in COMMANDS
