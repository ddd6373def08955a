"""The door: which commands there are (each one's code is imported when it runs), and how every kind of failure ends."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from stoker import __version__
from stoker.cli.failures import ended
from stoker.cli.groups import Commands, Entry

COMMANDS = {
    "doctor": Entry(module="stoker.cli.doctor", attribute="doctor", help="Say what keeps this machine from training fast, or at all."),
    "resolve": Entry(module="stoker.cli.resolve", attribute="resolve", help="Say which PyTorch and CUDA fit this machine, or another one."),
    "verify": Entry(module="stoker.cli.verify", attribute="verify", help="Measure this machine against what it should give."),
    "diagnose": Entry(module="stoker.cli.diagnose", attribute="diagnose", help="Say where the time of a running training goes."),
    "boost": Entry(module="stoker.cli.boost", attribute="boost", help="Run a training script, unchanged, at full speed."),
    "up": Entry(module="stoker.cli.up", attribute="up", help="Start a notebook or an SSH box and print its address."),
    "run": Entry(module="stoker.cli.run", attribute="run", help="Run a program in a container, here or in the background."),
    "ps": Entry(module="stoker.cli.ps", attribute="ps", help="List what was started."),
    "logs": Entry(module="stoker.cli.logs", attribute="logs", help="Show what a container wrote, and why it died."),
    "stop": Entry(module="stoker.cli.stop", attribute="stop", help="Stop, with time to save, and say what was saved."),
    "rm": Entry(module="stoker.cli.rm", attribute="rm", help="Remove containers; files, notebooks and runs stay."),
    "exec": Entry(module="stoker.cli.exec", attribute="execute", help="Run one more program in a running container."),
    "shell": Entry(module="stoker.cli.shell", attribute="shell", help="Open a shell in a running container."),
    "train": Entry(module="stoker.cli.train", attribute="train", help="Train a recipe; `stoker train --list` names them."),
    "runs": Entry(module="stoker.cli.runs", attribute="runs", help="List, show and compare the runs that were recorded."),
    "repeat": Entry(module="stoker.cli.repeat", attribute="repeat", help="Train again from the record of a run."),
    "export": Entry(module="stoker.cli.export", attribute="export", help="Write a run's model as ONNX and check it against the model."),
    "image": Entry(module="stoker.cli.image", attribute="image", help="Lock, build and check container images, without a daemon."),
    "stack": Entry(module="stoker.cli.stack", attribute="stack", help="Inside an image: show or choose the PyTorch stack that is used."),
}


@click.command(cls=Commands, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="stoker", message="%(prog)s %(version)s")
def stoker() -> None:
    """Train image classifiers at the full speed of the chip, from a bare machine on.

    Talk goes to stderr, data to stdout. Every error has a code of its own: see docs/errors.md.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    _open_streams()
    try:
        # Not click's own standalone mode: every kind of end is ours to say.
        status: Any = stoker.main(args=arguments, prog_name="stoker", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        status = ended(error, sys.argv if arguments is None else ["stoker", *arguments])
    _leave(status if isinstance(status, int) else 0)


def _open_streams() -> None:
    """Let what the shell closed (`>&-`) lead nowhere: else the next file that is opened would be our output.

    Programs that we start have it closed, as they would without us.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one's
            setattr(sys, name, os.fdopen(nowhere, "w" if number else "r"))


def _leave(status: int) -> None:
    """Exit; a reader of our stdout that went away, or a disk that is full, is not mentioned again when Python closes it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
