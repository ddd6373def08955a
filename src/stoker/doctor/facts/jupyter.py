"""Jupyter servers: from their command lines, the files they write when they start, and their configurations."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from stoker.doctor.facts.processes import Process
from stoker.host.place import read

_PROGRAMS = frozenset({"jupyter-lab", "jupyter-notebook", "jupyter-server", "jupyter-nbclassic"})
_MODULES = frozenset({"jupyterlab", "notebook", "jupyter_server", "nbclassic"})
_SETTING = re.compile(
    r"^\s*c\.(?:ServerApp|NotebookApp|LabApp|IdentityProvider|PasswordIdentityProvider)\.(ip|token|password|hashed_password)"
    r"\s*=\s*u?(['\"])(.*?)\2\s*(?:#.*)?$",
    re.MULTILINE,
)
_FLAG = re.compile(r"--(?:(?:ServerApp|NotebookApp|LabApp|IdentityProvider|PasswordIdentityProvider)\.)?(ip|token|password|hashed_password)")
_MOST_FILES = 50


@dataclass(frozen=True, kw_only=True)
class Jupyter:
    """A Jupyter server that runs, or a configuration that will start one."""

    source: str
    """What was read: a command line, a runtime file or a configuration."""
    pid: int | None = None
    """None: it does not run."""
    address: str | None = None
    """What it listens on, as 0.0.0.0 or localhost."""
    port: int | None = None
    token: bool | None = None
    """Whether it asks for a token; None: not known."""
    password: bool | None = None
    """Whether it asks for a password; None: not known."""
    uid: int | None = None


def is_server(arguments: tuple[str, ...]) -> bool:
    """Tell whether a command line starts a Jupyter server of its own; one below JupyterHub is let in by the hub, so it is left out."""
    names = [argument.rpartition("/")[2] for argument in arguments[:6]]
    if any("jupyterhub" in name or "labhub" in name for name in names):
        return False
    python = bool(names) and names[0].startswith("python")
    program = next((name for name in names[python:] if not (python and name.startswith("-"))), None)
    if program in _PROGRAMS:
        return True
    pairs = list(itertools.pairwise(names))
    return any((first == "jupyter" and f"jupyter-{second}" in _PROGRAMS) or (first == "-m" and second in _MODULES) for first, second in pairs)


def find_servers(root: Path, processes: list[Process], homes: list[Path]) -> tuple[Jupyter, ...]:
    """Return the servers that run; where none does, the configurations that would open one. `homes` are below `root`."""
    written = [found for home in homes for found in _configured(root, home)]
    running = _running(root, homes)
    servers = []
    for process in processes:
        told = running.get(process.pid) or _from_arguments(process)
        servers.append(replace(_completed(told, written), uid=process.uid))
    return tuple(servers) or tuple(found for found in written if found.token is False)


def _running(root: Path, homes: list[Path]) -> dict[int, Jupyter]:
    """Read the files jpserver-PID.json that a server writes when it starts (nbserver-PID.json before version 1)."""
    found = {}
    for home in homes:
        for file in _files(home / ".local/share/jupyter/runtime", ("jpserver-*.json", "nbserver-*.json")):
            if told := _from_runtime(root, file):
                found[told.pid or 0] = told
    return found


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    try:
        return [file for pattern in patterns for file in sorted(folder.glob(pattern))][:_MOST_FILES]
    except OSError:
        return []


def _from_runtime(root: Path, file: Path) -> Jupyter | None:
    try:
        told = json.loads(read(file) or "")
        return Jupyter(
            source=_shown(root, file),
            pid=int(told["pid"]),
            address=str(told["hostname"]),
            port=int(told["port"]),
            token=bool(told["token"]),
            password=bool(told["password"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _from_arguments(process: Process) -> Jupyter:
    """Read what a command line says; of a token only whether it is empty."""
    given = _given(process.arguments)
    name = next((argument.rpartition("/")[2] for argument in process.arguments if "jupyter" in argument or "notebook" in argument), "jupyter")
    password = given.get("password") or given.get("hashed_password")
    return Jupyter(
        source=f"/proc/{process.pid}/cmdline: {name}",
        pid=process.pid,
        address=given.get("ip"),
        token=bool(given["token"]) if "token" in given else None,
        password=True if password else None,
    )


def _given(arguments: tuple[str, ...]) -> dict[str, str]:
    """Return ip, token and password of a command line, whose options are written --ip=X or --ip X."""
    given = {}
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if found := _FLAG.fullmatch(name):
            following = arguments[number + 1] if number + 1 < len(arguments) else ""
            given[found[1]] = (value if equals else following).strip("'\"")
    return given


def _completed(server: Jupyter, written: list[Jupyter]) -> Jupyter:
    """Fill in from the configurations what a command line does not say. What the server wrote itself is whole."""
    if server.port is not None:
        return server
    password = server.password or any(found.password for found in written)
    token = server.token if server.token is not None else False if any(found.token is False for found in written) else None
    address = server.address or next((found.address for found in written if found.address), None)
    return replace(server, password=password, token=token, address=address)


def _configured(root: Path, home: Path) -> list[Jupyter]:
    """Read the configurations of one home and of the machine."""
    folders = (home / ".jupyter", root / "etc/jupyter", root / "usr/local/etc/jupyter")
    names = [f"jupyter_{kind}_config.{end}" for kind in ("server", "notebook", "lab") for end in ("py", "json")]
    files = [folder / name for folder in folders for name in names]
    return [found for file in files if (text := read(file)) and (found := _from_configuration(_shown(root, file), text))]


def _from_configuration(source: str, text: str) -> Jupyter | None:
    values = _from_json(text) if source.endswith(".json") else {found[1]: found[3] for found in _SETTING.finditer(text)}
    if not values:
        return None
    password = bool(values.get("password") or values.get("hashed_password"))
    return Jupyter(source=source, address=values.get("ip"), token=bool(values["token"]) if "token" in values else None, password=password)


def _from_json(text: str) -> dict[str, str]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    sections = told.values() if isinstance(told, dict) else []
    wanted = ("ip", "token", "password", "hashed_password")
    return {name: section[name] for section in sections if isinstance(section, dict) for name in wanted if isinstance(section.get(name), str)}


def _shown(root: Path, file: Path) -> str:
    return f"/{file.relative_to(root)}" if file.is_relative_to(root) else str(file)
