"""What was asked for, complete: the command line over the environment over the table `[launch]` of the project's `stoker.toml`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stoker.errors import BadValue, MountRefused, UsageError
from stoker.launch.mounts import checked_project
from stoker.launch.names import name_of
from stoker.launch.table import read_defaults, read_engine
from stoker.launch.wanted import Wanted

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


def with_defaults(said: Wanted, environ: Mapping[str, str]) -> Wanted:
    """Return what the command line says over what the environment (STOKER_ENGINE) and the table `[launch]` of the project's `stoker.toml` say.

    The project is absolute afterwards. Raises SpecificationBroken, UnknownName and BadValue (stoker.toml), BadValue, MountRefused (project).
    """
    if said.restart and said.kind == "run" and not said.detach:
        raise UsageError("--restart is for programs in the background", hint="add -d")
    if said.listen and said.kind == "run" and not said.publish:
        raise UsageError("--listen is the address of ports that are published, and none is", hint="add -p PORT")
    project = checked_project(said.project or _here())
    team = read_defaults(project)
    # A team may name variables that only some of its people have.
    team = replace(team, environment=tuple(name for name in team.environment if _variable(name) in environ))
    own = replace(said, project=project, environment=tuple(_set(name, environ) for name in said.environment), env_file=said.env_file)
    wanted = own.over(Wanted(engine=_engine_of(environ)).over(team))
    name_of(wanted)
    return replace(wanted, engine=read_engine(wanted.engine or "auto"), env_file=_file(wanted.env_file))


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise MountRefused(
            f"the working directory cannot be used: {error.strerror}", hint="go into the project's folder, or name it: --project DIR"
        ) from error


def _engine_of(environ: Mapping[str, str]) -> str | None:
    named = environ.get("STOKER_ENGINE") or None
    try:
        return read_engine(named) if named else None
    except BadValue as error:
        raise BadValue(f"STOKER_ENGINE: {error.message}", hint=error.hint) from error


def _variable(text: str) -> str:
    """Return a variable's name. Its value on a command line would stand in `ps`, in the shell's history and in `inspect`."""
    name, equals, _ = text.partition("=")
    if not re.fullmatch(_VARIABLE, name):
        raise BadValue(f"-e {name!r:.100} is no name of a variable", hint="letters, digits and _, as -e HF_TOKEN")
    if equals:
        raise BadValue(
            f"-e {name}=... would show the value to everybody", hint=f"{name}=... stoker ... -e {name}, or put it into a file: --env-file FILE"
        )
    return name


def _set(text: str, environ: Mapping[str, str]) -> str:
    name = _variable(text)
    if name not in environ:
        raise BadValue(f"-e {name}: it is not set here", hint=f"export {name}=..., then run the same command again")
    return name


def _file(path: Path | None) -> Path | None:
    path = path and Path(os.path.expanduser(path))
    if path is not None and not path.is_file():
        raise BadValue(f"--env-file {path}: there is no such file", hint="write NAME=VALUE, one a line, and `chmod 600` it")
    return path and path.absolute()
