"""JupyterLab on this machine itself: with TLS and a token as in the image, and on the loopback address unless another one is named."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from stoker import console
from stoker.errors import LaunchUnfit, ServiceUnfit
from stoker.launch import reach
from stoker.launch.gpus import NONE
from stoker.launch.local.environment import Environment
from stoker.launch.local.job import Job
from stoker.start import look, notebook
from stoker.start.certificate import NAMES_VARIABLE
from stoker.start.choice import no_card
from stoker.start.home import Person
from stoker.start.services import Service

_PROGRAM = "bin/jupyter-lab"


def service(job: Job, environment: Environment, variables: Mapping[str, str]) -> Service:
    """Make token and certificate in the job's home and return JupyterLab's command and variables; the token is in neither.

    Raises ServiceUnfit (root, certificate), LaunchUnfit (no JupyterLab in the environment), RunFolderUnwritable.
    """
    check(environment)
    uid = os.getuid()
    who = Person(uid=uid, name=_name(uid), home=job.home, shell=os.environ.get("SHELL") or "/bin/bash")
    others = reach.names(job.ports[0].address)
    if others and not variables.get(NAMES_VARIABLE):
        variables = {**variables, NAMES_VARIABLE: " ".join(others)}
    # It tells the port and the file of a container; what `up` prints is right.
    console.be_quiet()
    try:
        made = notebook.jupyterlab(environment.folder / _PROGRAM, variables, who, _without_gpu(job, environment))
    finally:
        console.be_quiet(False)
    own = {
        # What the person's own JupyterLab is configured to (no token, another address) does not count for this one.
        "JUPYTER_CONFIG_DIR": str(job.home / ".jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    return Service(command=[*made.command, *options(job)], environment={**made.environment, **own})


def check(environment: Environment) -> None:
    """Raise ServiceUnfit or LaunchUnfit when JupyterLab cannot be started."""
    if os.getuid() == 0:
        raise ServiceUnfit(
            "JupyterLab does not run as root: whoever gets into it would have the whole machine",
            hint="start it as an ordinary user (`sudo -u NAME stoker up notebook`), or in a container: `--engine podman`",
        )
    if environment.ready and not os.access(environment.folder / _PROGRAM, os.X_OK):
        own = "install it there: `uv pip install jupyterlab`; or describe the environment: `stoker image init`, `stoker image lock`"
        raise LaunchUnfit(
            f"the environment has no JupyterLab ({environment.says})",
            hint='add "notebook" to `variants` in stoker.toml, then run `stoker image lock`' if environment.stack else own,
        )


def options(job: Job) -> list[str]:
    """Return the options that the image has in its settings files."""
    port = job.ports[0]
    return [
        f"--ServerApp.ip={port.address}",
        f"--ServerApp.port={port.host}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={job.project}",
        "--ServerApp.open_browser=False",
        "--ServerApp.use_redirect_file=False",
        "--ServerApp.allow_unauthenticated_access=False",
        "--PasswordIdentityProvider.allow_password_change=False",
        # What is in the environment is for the lock to say.
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]


def planned(job: Job, environment: Environment) -> tuple[str, ...]:
    """Return the command as `service` will, without making anything."""
    pem = job.home / notebook.STATE / "tls.pem"
    tls = [f"--ServerApp.certfile={pem}", f"--ServerApp.keyfile={pem}"]
    return (str(environment.folder / _PROGRAM), *tls, *options(job))


def _without_gpu(job: Job, environment: Environment) -> str | None:
    if job.gpus == NONE:
        return "it was started with `--gpus none`"
    return environment.without_gpu if environment.stack else no_card(look())


def _name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
