"""JupyterLab in a container: a token in a file, TLS, and hosts by name; the settings that never change are in `image/rootfs/etc/jupyter`."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from stoker import console
from stoker.errors import ServiceUnfit
from stoker.start.certificate import find_certificate, is_address, server_names
from stoker.start.choice import Choice
from stoker.start.environment import STACKS
from stoker.start.home import Person, own_folder, put_once, temporary_folder
from stoker.start.panel import without_gpu
from stoker.start.services import Service

PORT = 8888
TOKEN = Path("/run/stoker/token")
TOKEN_VARIABLE = "STOKER_TOKEN_FILE"
STATE = ".stoker/notebook"
_SHORTEST = 16
_JUPYTER_TOKEN = "JUPYTER_TOKEN"


def service(environment: Mapping[str, str], who: Person, choice: Choice, *, stacks: Path = STACKS) -> Service:
    """Return JupyterLab of a stack of the image. Raises as `jupyterlab`; ServiceUnfit for a stack without it."""
    program = stacks / choice.stack.name / "bin/jupyter-lab"
    if not os.access(program, os.X_OK):
        raise ServiceUnfit(
            f"the stack {choice.stack.name} of this image has no JupyterLab",
            hint='build it with the variant "notebook": `variants = ["cli", "notebook"]` in stoker.toml',
        )
    return jupyterlab(program, environment, who, choice.without_gpu)


def jupyterlab(program: Path, environment: Mapping[str, str], who: Person, no_gpu: str | None) -> Service:
    """Make what JupyterLab needs and return its command line and environment. Raises ServiceUnfit, RunFolderUnwritable.

    The token is in neither: whoever may inspect the container or list its processes reads both. `no_gpu`: why programs can use none.
    """
    if who.uid == 0:
        raise ServiceUnfit("JupyterLab does not run as root", hint="start the container as the image's own user: leave out --user")
    folder = own_folder(who.home / STATE)
    names = server_names(environment)
    certificate = find_certificate(environment, folder, names)
    token = token_file(environment, folder)
    told = f", certificate SHA-256 {certificate.fingerprint}" if certificate.fingerprint else ""
    console.say(f"JupyterLab: https://{names[0]}:{PORT}/lab (or the port that you published), token in {token}{told}")
    kept = {name: value for name, value in environment.items() if name != _JUPYTER_TOKEN}
    options = [f"--ServerApp.certfile={certificate.certificate}", f"--ServerApp.keyfile={certificate.key}", *_hosts(names)]
    panel = without_gpu(no_gpu, folder, environment) if no_gpu else {}
    return Service(command=[str(program), *options], environment={**kept, **panel, "JUPYTER_TOKEN_FILE": str(token)})


def token_file(environment: Mapping[str, str], folder: Path) -> Path:
    """Return a file of mode 0600 with the token and nothing else: what was mounted, else what the first start made. Raises ServiceUnfit."""
    if environment.get(_JUPYTER_TOKEN):
        console.warn(f"{_JUPYTER_TOKEN} can be read by all who may inspect this container; mount the token as {TOKEN} instead")
        return _copy(environment[_JUPYTER_TOKEN], _JUPYTER_TOKEN)
    given = Path(environment.get(TOKEN_VARIABLE) or TOKEN)
    if given.exists() or environment.get(TOKEN_VARIABLE):
        try:
            return _copy(given.read_text(encoding="utf-8"), str(given))
        except (OSError, ValueError) as error:
            raise ServiceUnfit(f"the token file {given} cannot be read: {error}", hint=f"uid {os.getuid()} must be able to read it") from error
    path = folder / "token"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = _written(Path(place) / "token", secrets.token_urlsafe(32))
            put_once(made, path)
    path.chmod(0o600)
    return path


def _copy(text: str, source: str) -> Path:
    """Keep a given token in a file of this container: Jupyter takes the line break at the end of a file as a part of the token."""
    token = text.strip()
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ServiceUnfit(
            f"the token of {source} is no token of at least {_SHORTEST} letters, digits and signs",
            hint="make one with `openssl rand -hex 32`, or give none: the first start makes one",
        )
    return _written(temporary_folder("notebook") / "token", token)


def _written(path: Path, token: str) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return path


def _hosts(names: tuple[str, ...]) -> list[str]:
    """Return the options for the names by which a browser may ask; any other `Host` is refused, which stops DNS rebinding.

    Jupyter cannot be told single addresses: where one other than the loopback's is named, it takes all of them.
    """
    hosts = [name for name in names if not is_address(name)]
    remote = any(is_address(name) for name in names if name not in ("127.0.0.1", "::1"))
    return [*(f"--ServerApp.local_hostnames={name}" for name in hosts), *(["--ServerApp.allow_remote_access=True"] if remote else [])]
