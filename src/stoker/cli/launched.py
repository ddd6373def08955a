"""What the commands share that look after what was started: which engines they ask, and what they say of those that do not answer."""

from __future__ import annotations

from collections.abc import Mapping

import click

from stoker import console
from stoker.errors import EngineSilent
from stoker.launch.keepers import CHOICES

_WHOSE = "Whose containers (default: STOKER_ENGINE, else of all that there are)."
ENGINE = click.option("--engine", metavar="|".join(CHOICES), default="auto", envvar="STOKER_ENGINE", help=_WHOSE)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def say_silent(silent: Mapping[str, EngineSilent]) -> None:
    """Say whose containers are missing in a list."""
    for error in silent.values():
        console.say(f"note: {error.message} (its containers are not shown)")
