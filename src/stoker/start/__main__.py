"""`stoker-start [notebook] [sshd] | [PROGRAM ...]`: the entry point of an image. It chooses the stack, says why, and becomes the program."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from itertools import takewhile

from stoker import console
from stoker.errors import Interrupted, ProgramMissing, StokerError, UsageError
from stoker.files import writing
from stoker.host import find_limits
from stoker.start.choice import Choice, choose
from stoker.start.driver import look
from stoker.start.environment import prepared
from stoker.start.home import Person, person
from stoker.start.image import read_image
from stoker.start.services import Service, replace, run_together
from stoker.start.stack import wanted_stack

SERVICES = {"notebook": "stoker.start.notebook", "sshd": "stoker.start.ssh"}
"""Modules with a `service`, imported when they are asked for: TLS and the like would double the time of every start."""
QUIET = "--quiet"
"""Says nothing but errors: for a program that comes in from outside (`podman exec`), through the shims."""
_SHELL = "bash"


def main(arguments: Sequence[str] | None = None) -> None:
    """Start what the container was started for. Exits with the status of the error where it cannot."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_start(words))
    except StokerError as error:
        console.show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)


def _start(words: list[str]) -> int:
    if words[:1] == [QUIET]:
        console.be_quiet()
        words = words[1:]
    who = person(os.environ)
    environment, choice = _environment(who)
    services = _services(words or [_SHELL], environment, who, choice)
    try:
        if len(services) > 1:
            return run_together(services)
        replace(services[0])
    except OSError as error:
        # exec names the last folder of PATH that it looked in.
        program = services[0].command[0] if len(services) == 1 else error.filename
        raise ProgramMissing(f"{program} cannot be started: {error.strerror}", hint="is it in this image, and executable?") from error
    return 0


def _environment(who: Person) -> tuple[dict[str, str], Choice]:
    image = read_image()
    choice = choose(image, look(), wanted_stack(image, os.environ, who.home))
    console.say(f"stoker: stack {choice.stack.says}: {choice.why}")
    for warning in choice.warnings:
        console.warn(warning)
    cores = find_limits().cores
    return prepared(os.environ, stack=choice.stack.name, who=who, cores=cores, machine_cores=os.cpu_count() or cores), choice


def _services(words: list[str], environment: dict[str, str], who: Person, choice: Choice) -> list[Service]:
    """Return what to run: the services whose names stand first, or the program."""
    named = list(takewhile(SERVICES.__contains__, words))
    names, rest = list(dict.fromkeys(named)), words[len(named) :]
    if not names:
        return [Service(command=words, environment=environment)]
    if rest and len(names) > 1:
        raise UsageError(f"{rest[0]!r}: which of {' and '.join(names)} is it for?", hint="options can be given to one service, started alone")
    return [_service(name, rest, environment, who, choice) for name in names]


def _service(name: str, options: list[str], environment: dict[str, str], who: Person, choice: Choice) -> Service:
    with writing(who.home / ".stoker"):
        found = importlib.import_module(SERVICES[name]).service(environment, who, choice)
    assert isinstance(found, Service)
    return Service(command=[*found.command, *options], environment=found.environment)


if __name__ == "__main__":
    main()
