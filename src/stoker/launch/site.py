"""Where something is to be started: the engine, the image in it, and this machine, all asked at once."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stoker import host
from stoker.errors import EngineMissing, EngineSilent, UsageError
from stoker.host.place import filesystem_root
from stoker.launch.atonce import at_once
from stoker.launch.engine import NAMES, Engine, Image, find_engines, find_image, installed, missing
from stoker.launch.labels import PREFIX
from stoker.launch.monitor import has_folder
from stoker.launch.names import name_of
from stoker.launch.wanted import Wanted

if TYPE_CHECKING:
    from stoker.launch.containers import Container

_LOCAL = "or start without one: --engine local"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one engine said."""

    engine: Engine
    image_name: str
    """As this engine calls it."""
    image: Image | None = None
    """None: it does not have it, or does not answer."""
    containers: tuple[Container, ...] = ()
    """What Stoker started in it, as far as it was asked."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a decision and its checks rest on."""

    wanted: Wanted
    """For which it was looked at."""
    engine: Engine
    """The one that is used."""
    image_name: str
    """As the engine knows it."""
    image: Image | None
    """None: the engine does not have it."""
    containers: tuple[Container, ...] = ()
    """What Stoker started before, running or not: names that are taken. Empty, too, where nothing that is decided hangs on it."""
    uid: int = 0
    """Of the caller; with sudo still root's."""
    memory_bytes: int | None = None
    """What this machine, or the cgroup around us, has."""
    cores: int = 1
    gpus: int = 0
    """NVIDIA GPUs that this machine can give (device nodes)."""
    driver: str | None = None
    """Version of the NVIDIA driver that is loaded."""


def is_local(wanted: Wanted) -> bool:
    """Tell whether the same is to be started without a container: `--engine local`, or `auto` where no engine is installed."""
    return wanted.engine == "local" or (wanted.engine in (None, "auto") and not installed())


def find_site(wanted: Wanted, *, containers: bool = True) -> Site:
    """Ask the engines and read this machine. Not for `local`: see `is_local`.

    `containers`: also what was started before; else only where it is likely to matter, since podman itself refuses a name that is taken.
    The engine is the one that was named; with `auto` the one that has the image, podman before docker, else the first that answers.
    Raises EngineMissing, UsageError (no image is named). An engine that is silent and an image that is missing are findings of the checks.
    """
    _need_image(wanted)
    answers = _answers(wanted, containers)
    chosen = choose(answers)
    limits = host.find_limits()
    return Site(
        wanted=wanted,
        engine=chosen.engine,
        image_name=chosen.image_name,
        image=chosen.image,
        containers=tuple(container for one in answers for container in one.containers),
        uid=os.getuid(),
        memory_bytes=limits.memory_limit_bytes or limits.memory_total_bytes,
        cores=limits.cores,
        gpus=_device_nodes(),
        driver=host.kernel_driver_version(filesystem_root()),
    )


def choose(answers: Sequence[Answer]) -> Answer:
    """Return the engine to use: the first that has the image, else the first that answers, else the first."""
    answering = [one for one in answers if one.engine.answers is None]
    return next((one for one in answering if one.image), (answering or list(answers))[0])


def image_name(wanted: Wanted, engine: str) -> str:
    """Return the image's name as an engine has it: podman puts `localhost/` before what was built here."""
    if wanted.image is not None:
        return wanted.image
    return f"{'localhost/' if engine == 'podman' else ''}{wanted.own_image}:latest"


def _need_image(wanted: Wanted) -> None:
    if wanted.image is None and wanted.own_image is None:
        raise UsageError(
            f"no image is named, and {wanted.project} has no stoker.toml that does",
            hint="--image NAME takes any image; one of your own:\n"
            "stoker image init --variants notebook,ssh && stoker image lock && stoker image build --load podman",
        )


def _answers(wanted: Wanted, containers: bool) -> list[Answer]:
    """Ask the engines in turn until one has the image: what is not needed would cost the time of those that are."""
    named = tuple(name for name in NAMES if wanted.engine in (None, "auto", name))
    found: list[Answer] = []
    for engine in installed(named):
        answer = _answer(wanted, engine, containers or _may_matter(wanted, engine))
        found += [answer] if answer else []
        if answer and answer.image:
            break
    if not found:
        raise missing(named[0]) if len(named) == 1 else EngineMissing("neither podman nor docker is installed", hint=f"install podman, {_LOCAL}")
    return found


def _may_matter(wanted: Wanted, engine: Engine) -> bool:
    """Whether what was started before may be needed: for its names, or to say who has a port or a GPU.

    Several people share the names of one docker; podman's are those of one person, whose containers have their folders here.
    """
    if wanted.kind != "run" or wanted.publish or engine.name == "docker":
        return True
    return has_folder(f"{PREFIX}{name_of(wanted)}") or _device_nodes() > 0


def _answer(wanted: Wanted, engine: Engine, containers: bool) -> Answer | None:
    """Ask an engine for itself, the image and its containers, all at the same time. None: it is podman under docker's name."""
    name = image_name(wanted, engine.name)
    questions: list[Callable[[], Any]] = [lambda: find_engines((engine.name,)), lambda: _image(engine, name)]
    engines, image, *more = at_once(questions + [lambda: _containers(engine)] * containers)
    if not engines:
        return None
    found = engines[0]
    if isinstance(image, EngineSilent):
        found, image = replace(found, answers=found.answers or image.message.partition(": ")[2]), None
    return Answer(engine=found, image_name=name, image=image, containers=more[0] if more else ())


def _image(engine: Engine, name: str) -> Image | EngineSilent | None:
    try:
        return find_image(engine, name)
    except EngineSilent as error:  # said once, by `Engine.answers`
        return error


def _containers(engine: Engine) -> tuple[Container, ...]:
    keeper = importlib.import_module("stoker.launch.engine_keeper").EngineKeeper(engine=engine)
    try:
        found: tuple[Container, ...] = keeper.containers(everything=True)
    except EngineSilent:
        return ()
    return found


def _device_nodes() -> int:
    """Count what a container could be given: device nodes of NVIDIA's driver, or WSL's one for all."""
    try:
        names = os.listdir(filesystem_root() / "dev")
    except OSError:
        return 0
    return sum(bool(re.fullmatch(r"nvidia\d+|dxg", name)) for name in names)
