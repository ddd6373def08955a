"""The door: which commands there are (each one's code is imported when it runs), and how every kind of failure ends."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import click

from stoker import __version__
from stoker.cli.failures import ended
from stoker.errors import nearest


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a command's code is, and its line in the help: listed without importing it."""

    module: str
    attribute: str
    help: str


COMMANDS = {
    "doctor": Entry(module="stoker.cli.doctor", attribute="doctor", help="Say what keeps this machine from training fast, or at all."),
    "resolve": Entry(module="stoker.cli.resolve", attribute="resolve", help="Say which PyTorch and CUDA fit this machine, or another one."),
    "verify": Entry(module="stoker.cli.verify", attribute="verify", help="Measure this machine against what it should give."),
    "diagnose": Entry(module="stoker.cli.diagnose", attribute="diagnose", help="Say where the time of a running training goes."),
    "boost": Entry(module="stoker.cli.boost", attribute="boost", help="Run a training script, unchanged, at full speed."),
    "train": Entry(module="stoker.cli.train", attribute="train", help="Train a recipe; `stoker train --list` names them."),
    "runs": Entry(module="stoker.cli.runs", attribute="runs", help="List, show and compare the runs that were recorded."),
    "repeat": Entry(module="stoker.cli.repeat", attribute="repeat", help="Train again from the record of a run."),
    "export": Entry(module="stoker.cli.export", attribute="export", help="Write a run's model as ONNX and check it against the model."),
}


class Commands(click.Group):
    """A group that imports a command when it is called, and answers an unknown one with the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            like = nearest(args[0], list(COMMANDS))
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {like!r}?" if like else f" There are: {', '.join(COMMANDS)}."))
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="stoker", message="%(prog)s %(version)s")
def stoker() -> None:
    """Train image classifiers at the full speed of the chip, from a bare machine on.

    Talk goes to stderr, data to stdout. Every error has a code of its own: see docs/errors.md.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    try:
        # Not click's own standalone mode: every kind of end is ours to say.
        status: Any = stoker.main(args=arguments, prog_name="stoker", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        status = ended(error, sys.argv if arguments is None else ["stoker", *arguments])
    _leave(status if isinstance(status, int) else 0)


def _leave(status: int) -> None:
    """Exit; a reader of our stdout that went away is not mentioned again when Python closes it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
