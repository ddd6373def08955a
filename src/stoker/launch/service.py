"""What `stoker up` starts: once for each name, found again by the next call, on the next free port."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stoker.errors import EngineFailed, LaunchUnfit, NameTaken, PortTaken, UsageError
from stoker.host.place import read
from stoker.launch import labels
from stoker.launch.checks import before
from stoker.launch.containers import Container
from stoker.launch.defaults import decide, name_of
from stoker.launch.keepers import Keeper, containers, keepers
from stoker.launch.locks import held
from stoker.launch.ports import is_answered, reserved
from stoker.launch.reach import connectable
from stoker.launch.request import Port, Request
from stoker.launch.site import Site, find_site
from stoker.launch.starting import refuse, start
from stoker.launch.table import FILE
from stoker.launch.up import Service, Up
from stoker.launch.waiting import wait_for
from stoker.launch.wanted import Wanted

_ATTEMPTS = 5

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody wants up, and what its own room adds."""

    service: Service
    wanted: Wanted
    complete: Callable[[Request], Request]
    """Adds mounts and variables; changes nothing on this machine."""
    prepare: Callable[[Request], None] = lambda request: None
    """Makes the files that the mounts need."""
    check: bool = True
    """Whether to look before the start what could make it fail."""


def plan(order: Order, site: Site, port: int) -> Request:
    """Decide the whole start, on this port. Raises LaunchUnfit and all that `decide` raises."""
    service, address = order.service, order.wanted.listen or "127.0.0.1"
    published = Port(host=port, inside=service.port, address=address)
    request = decide(replace(order.wanted, detach=True), site, command=(service.command,), ports=(published,))
    _need_fit(service, site, request)
    return order.complete(request)


def bring_up(order: Order, *, on_line: Tell) -> Up:
    """Start a service, or find the one of that name that runs; one that has ended is removed first. Raises NameTaken, PortTaken, StartRefused, ...

    Of two calls at once with one name the second waits for the first and finds what that one started.
    """
    name = name_of(order.wanted)
    with held("up", name, wait=True):
        try:
            site = find_site(order.wanted)
        except UsageError:
            # No image is named: what runs already needs none.
            if running := settled(order.service, order.wanted, containers(keepers(order.wanted.engine or "auto"))):
                return running
            raise
        if running := settled(order.service, order.wanted, site.containers):
            return running
        site = replace(site, containers=tuple(one for one in site.containers if one.name != name))
        return _started(order, site, on_line)


def bring_up_here(service: Service, wanted: Wanted, *, prepare: Callable[[], object], start_at: Callable[[int], Container]) -> Up:
    """Do the same without a container. `prepare` may take minutes; then `start_at` starts it on a port of this machine.

    Raises NameTaken, PortTaken and what those raise.
    """
    with held("up", name_of(wanted), wait=True):
        if running := settled(service, wanted, containers(keepers())):
            return running
        prepare()
        with reserved(wanted.port or service.port, wanted.listen or "127.0.0.1", only=wanted.port is not None) as port:
            container = start_at(port)
            up = Up(container=container, keeper=keepers(container.engine)[0], started=True)
            # The port is kept for it until it listens itself.
            wait_for(up, lambda: is_answered(port, connectable(up.port.address)) or None)
    return up


def settled(service: Service, wanted: Wanted, among: tuple[Container, ...]) -> Up | None:
    """Return the service of this name that runs; remove one that does not, and return None. Raises NameTaken, EngineFailed."""
    name = name_of(wanted)
    old = next((one for one in among if one.name == name), None)
    if old is None:
        return None
    (keeper,) = keepers(old.engine)
    if old.kind != service.kind:
        raise NameTaken(
            f"{name} is the name of another {old.kind or 'container'} ({old.state})",
            hint=f"choose another name: --name NAME; or remove that one: `stoker rm{' --force' * old.running} {name}`",
        )
    if _is_others(old):
        raise NameTaken(f"{name} is somebody else's ({old.engine}, {old.state})", hint="choose another name: --name NAME")
    if wanted.name is None and wanted.project and old.project and old.project.resolve() != wanted.project.resolve():
        # Nobody chose this name: two folders are called the same.
        raise NameTaken(f"{name} is for another project, {old.project} ({old.state})", hint="choose a name for this one: --name NAME")
    if old.running:
        return Up(container=old, keeper=keeper, started=False)
    return _removed(old, keeper)


def _is_others(container: Container) -> bool:
    """Whether another person of this machine started it: all who may use docker see each other's containers."""
    if os.getuid() == 0 or container.home is None:
        return False
    try:
        return container.home.stat().st_uid != os.getuid()
    except PermissionError:
        return True
    except OSError:
        return False


def _removed(old: Container, keeper: Keeper) -> Up | None:
    """Remove one that does not run, unless it runs by now: an engine goes on with a start whose caller was killed."""
    try:
        keeper.remove(old)
    except EngineFailed:
        now = next((one for one in keeper.containers(everything=False) if one.id == old.id), None)
        if now is None or not now.running:
            raise
        return Up(container=now, keeper=keeper, started=False)
    return None


def _started(order: Order, site: Site, on_line: Tell) -> Up:
    first, only = order.wanted.port or order.service.port, order.wanted.port is not None
    for attempt in range(_ATTEMPTS):
        with reserved(first + attempt * (not only), order.wanted.listen or "127.0.0.1", only=only) as port:
            request = plan(order, site, port)
            order.prepare(request)
            if order.check and attempt == 0:
                refuse(before(request, site), on_line=on_line)
            try:
                container = start(request, site.engine, on_line=on_line)
            except PortTaken:
                # Somebody who is not of ours was faster.
                if only or attempt + 1 == _ATTEMPTS:
                    raise
                continue
            (keeper,) = keepers(container.engine)
            return Up(container=container, keeper=keeper, started=True, request=request)
    raise AssertionError("unreachable")


def _need_fit(service: Service, site: Site, request: Request) -> None:
    has = site.image.labels.get(labels.VARIANTS, "").split() if site.image else [service.variant]
    if service.variant not in has:
        raise LaunchUnfit(
            f"the image {request.image} has no {service.kind}"
            + (f", only {', '.join(has)}" if has else ": it was not built by `stoker image build`"),
            hint=_with_variant(service, site, has),
        )
    if site.engine.name == "docker" and site.engine.rootless:
        raise LaunchUnfit(
            f"rootless docker runs everything as root inside, and the {service.kind} does not run as root",
            hint="podman without root can do this: install it, or name it with --engine podman",
        )
    if request.account.uid == 0:
        raise LaunchUnfit(f"the {service.kind} does not run as root", hint="leave out --user, or name another account: `--user 1000:1000`")
    if request.home is None:
        raise LaunchUnfit(
            f"the {service.kind} needs a home: its {'token' if service.kind == 'notebook' else 'host key'} is kept there, and read from there",
            hint="leave out `--home none`, or name an empty folder: `--home DIR`",
        )


def _with_variant(service: Service, site: Site, has: Sequence[str]) -> str:
    """Return the one command that makes the project's own image with the variant, or else a new one."""
    made = f"stoker image lock && stoker image build --load {site.engine.name}"
    project = site.wanted.project
    if site.wanted.image is None and project is not None and has:
        listed = ", ".join(f'"{one}"' for one in (*has, service.variant))
        if re.search(r"^variants = \[.*\]$", read(project / FILE) or "", re.MULTILINE):
            return f"cd {shlex.quote(str(project))} && sed -i 's/^variants = .*/variants = [{listed}]/' {FILE} && {made}"
        return f"write variants = [{listed}] into {project / FILE}, then in its folder: {made}"
    new = f"stoker image init --variants {service.variant} && {made}"
    return f"one with it, in a folder without a {FILE}: {new}\nany image is started by `stoker run -p PORT -- PROGRAM`"
