"""Renderers: a request as the command of one engine. Pure functions of request and engine."""

from __future__ import annotations

from typing import Protocol

from stoker.launch.command import Command
from stoker.launch.engine import Engine
from stoker.launch.engines import docker, podman
from stoker.launch.request import Request


class Renders(Protocol):
    """One engine's syntax."""

    def command(self, request: Request, engine: Engine) -> Command:
        """The command that starts `request`. Raises LaunchUnfit when this version of the engine cannot."""


RENDERERS: dict[str, Renders] = {"podman": podman, "docker": docker}


def render(request: Request, engine: Engine) -> Command:
    """The command that starts `request` with `engine`. Raises LaunchUnfit."""
    return RENDERERS[engine.name].command(request, engine)
