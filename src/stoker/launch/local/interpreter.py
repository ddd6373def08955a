"""The Python that a lock is for: this machine's own, else one that uv fetches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stoker import console
from stoker.environment.installer import Installer
from stoker.errors import SetupError

_NEVER = "UV_PYTHON_DOWNLOADS"


def find_python(minor: str, full: str, installer: Installer, folder: Path) -> str:
    """Return the path of Python `full` (as `3.13.5`), else of any `minor` (`3.13`), which takes the same wheels. Raises SetupError."""
    if found := _there(full, installer, folder):
        return found
    if found := _there(minor, installer, folder):
        console.say(f"  python  {found} ({minor}, not {full} as in the lock: the packages are the same)")
        return found
    console.say(f"  python  fetching {minor}: this machine has none")
    fetching = replace(installer, variables={name: value for name, value in installer.variables.items() if name != _NEVER})
    try:
        fetching.run(["python", "install", minor], folder=folder)
    except SetupError as error:
        raise SetupError(
            f"the stoker.lock is for Python {minor}, which this machine does not have, and it could not be fetched:\n{error.message}",
            hint=f"install it (`apt install python{minor} python{minor}-venv`), or tell uv where to fetch it (UV_PYTHON_INSTALL_MIRROR); "
            "a container has its own: `--engine podman`",
        ) from error
    if found := _there(minor, installer, folder):
        return found
    raise SetupError(f"uv fetched Python {minor}, and does not find it", hint=f"`uv python find {minor}` says why")


def _there(version: str, installer: Installer, folder: Path) -> str | None:
    """Return the path of such a Python on this machine; none of a virtual environment, which may vanish."""
    said = installer.ask(["python", "find", "--system", "--no-project", "--no-config", "--no-python-downloads", version], folder=folder)
    # Warnings about others that do not start (shims) may stand around it.
    return next((line for line in reversed(said.splitlines()) if line.startswith("/") and Path(line).exists()), None)
