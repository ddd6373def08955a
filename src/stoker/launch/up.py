"""A service that is up: where it runs, on which port, and what it was started as."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from stoker.errors import LaunchUnfit
from stoker.launch.containers import Container
from stoker.launch.keepers import Keeper
from stoker.launch.request import Port, Request
from stoker.launch.wanted import Wanted


@dataclass(frozen=True, kw_only=True)
class Service:
    """A way into an image."""

    kind: Literal["notebook", "ssh"]
    command: str
    """Its name for the image's entry point (start/__main__.py)."""
    variant: str
    """What an image must have been built with."""
    port: int
    """Inside, and the first one that is tried on this machine."""


NOTEBOOK = Service(kind="notebook", command="notebook", variant="notebook", port=8888)
SSH = Service(kind="ssh", command="sshd", variant="ssh", port=2222)


@dataclass(frozen=True, kw_only=True)
class Up:
    """A service that was started, or ran already."""

    container: Container
    keeper: Keeper
    started: bool
    """Whether it was started now."""
    request: Request | None = None
    """What it was started as, if it was."""

    @property
    def place(self) -> str:
        """Where it runs, for people."""
        return "on this machine itself" if self.container.engine == "local" else f"in {self.container.engine}"

    @property
    def port(self) -> Port:
        """Where it answers. Raises LaunchUnfit where it publishes none."""
        if not self.container.ports:
            raise LaunchUnfit(
                f"{self.container.name} publishes no port", hint=f"`stoker rm --force {self.container.name}`, then the same command again"
            )
        return self.container.ports[0]

    def ignored(self, wanted: Wanted) -> tuple[str, ...]:
        """Return the options that were asked for and that one which runs already was not started with."""
        if self.started:
            return ()
        here, at = self.container, self.port
        asked = (
            ("--port", wanted.port, at.host),
            ("--listen", wanted.listen, at.address),
            ("--image", wanted.image and _plain(wanted.image), _plain(here.image)),
            ("--gpus", wanted.gpus, here.gpus),
            ("--engine", None if wanted.engine == "auto" else wanted.engine, here.engine),
            ("--project", wanted.project and wanted.project.resolve(), here.project and here.project.resolve()),
        )
        return tuple(option for option, said, runs in asked if said is not None and said != runs)


def _plain(image: str) -> str:
    """Return an image's name as every engine would write it."""
    # podman writes out the registry that docker means where there is none; `library` is what that calls a name without an owner.
    name = re.sub(r"^(localhost|[^/]*\.[^/]*/library)/", "", image)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
