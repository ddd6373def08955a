"""The options that `stoker run` and `stoker up` share, and what they were given as one value."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stoker.launch.asked import with_defaults
from stoker.launch.wanted import Wanted

if TYPE_CHECKING:
    from stoker.launch.request import Kind


@dataclass(frozen=True, kw_only=True)
class How:
    """What a command does with a decision."""

    check: bool
    """Whether the checks before the start run (`--no-check`: they do not)."""
    dry_run: bool
    """Print the command, start nothing."""
    explain: bool
    """Print the command with a comment for each option, start nothing."""
    as_json: bool
    """Say on stdout, as JSON, what was started."""
    at_start: tuple[str, ...] = ()
    """The options on the command line that nothing tells of what runs already."""


_OPTIONS = (
    click.option("--name", metavar="NAME", help="Of what is started, for ps, logs, stop and so on (default: the folder's name and the kind)."),
    click.option("--image", metavar="IMAGE", help="Default: [launch] image, else [image] name of stoker.toml."),
    click.option("--engine", metavar="auto|podman|docker|local", help="Default: the one that has the image, podman before docker; none: local."),
    click.option("--project", type=click.Path(path_type=Path), metavar="DIR", help="The folder at /workspace (default: the working directory)."),
    click.option("--data", multiple=True, metavar="PATH", help="Read-only at /data; several: /data/NAME."),
    click.option("-v", "--volume", "volumes", multiple=True, metavar="HOST:INSIDE[:ro]", help="One more folder or file."),
    click.option("--home", metavar="DIR|none", help="The folder at /home/stoker, kept between starts (default: one for all of yours)."),
    click.option("--gpus", metavar="all|none|0|0,2|UUID|0:1", help="Default: all, where there are any."),
    click.option("--memory", metavar="SIZE|none", help="Default: 90 % of this machine's."),
    click.option("--cpus", callback=lambda context, option, text: text and _cpus(text), metavar="N|all", help="Default: all."),
    click.option("--shm", metavar="SIZE|auto", help="Shared memory for loader workers (default: computed)."),
    click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images a batch, to compute --shm."),
    click.option("--workers", type=click.IntRange(min=0), metavar="N", help="Loader workers, to compute --shm."),
    click.option("--pids", type=click.IntRange(min=1), metavar="N", help="Processes and threads at most (default: 4096)."),
    click.option("--user", metavar="UID[:GID]", help="Who runs inside (default: you)."),
    click.option("-e", "--env", "environment", multiple=True, metavar="NAME", help="Pass this variable on with the value it has here."),
    click.option("--env-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Variables with values, as NAME=VALUE lines."),
    click.option("--listen", metavar="ADDRESS", help="Where ports are published (default: 127.0.0.1, this machine only)."),
    click.option("--stop-timeout", "stop_timeout_s", type=click.IntRange(min=0), metavar="SECONDS", help="To save in, when it is stopped."),
    click.option("--restart/--no-restart", default=None, help="Start again by itself, also after a reboot."),
    click.option("--writable/--read-only", default=None, help="Whether the container's own root may be written to (default: no)."),
    click.option("--no-check", is_flag=True, help="Start without looking first."),
    click.option("--dry-run", is_flag=True, help="Print the command that would be run, ready to paste."),
    click.option("--explain", is_flag=True, help="The same, with a comment for each option."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
)
_AT_START = {
    "data": "--data",
    "volumes": "-v",
    "home": "--home",
    "memory": "--memory",
    "cpus": "--cpus",
    "shm": "--shm",
    "batch": "--batch",
    "workers": "--workers",
    "pids": "--pids",
    "user": "--user",
    "environment": "-e",
    "env_file": "--env-file",
    "stop_timeout_s": "--stop-timeout",
    "restart": "--restart",
    "writable": "--writable",
}
_HOW = ("no_check", "dry_run", "explain", "as_json")
_NAMES = tuple(field for field in Wanted.__dataclass_fields__ if field != "kind")


def _cpus(text: str) -> float:
    """Read `--cpus`; `all` is 0, which also takes back a limit of stoker.toml."""
    try:
        return 0.0 if text == "all" else float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no number of CPUs: write 4, 1.5 or all") from error


def _how(given: dict[str, Any], said: Wanted) -> How:
    at_start = tuple(option for field, option in _AT_START.items() if getattr(said, field) not in (None, ()))
    return How(check=not given["no_check"], dry_run=given["dry_run"], explain=given["explain"], as_json=given["as_json"], at_start=at_start)


def launch_options(kind: Kind) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the shared options to a command, which gets them as `wanted: Wanted` (with the defaults of stoker.toml) and `how: How`.

    Options of the command's own that are named as a field of Wanted (`port`, `publish`, `detach`) go into it, too; all others it gets as usual.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**given: Any) -> Any:
            how = {name: given.pop(name) for name in _HOW}
            said = Wanted(kind=kind, **{name: given.pop(name) for name in _NAMES if name in given})
            wanted = with_defaults(said, os.environ)
            return function(wanted=wanted, how=_how(how, said), **given)

        # click shows what was added last first: the command's own options are to stand before those that it shares.
        own, command.__click_params__ = getattr(function, "__click_params__", []), []  # type: ignore[attr-defined]
        for option in reversed(_OPTIONS):
            command = option(command)
        command.__click_params__ += own  # type: ignore[attr-defined]
        return command

    return decorate
