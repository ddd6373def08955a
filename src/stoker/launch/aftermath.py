"""What comes after a start: the container that was made, why a program ended, and what a start left that failed.

Apart from `starting`, since no start shall wait for its import.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from stoker import shell
from stoker.errors import EngineFailed, EngineSilent, NameTaken, StokerError
from stoker.launch import names
from stoker.launch.containers import Container
from stoker.launch.ending import why
from stoker.launch.engine import Engine
from stoker.launch.engine_keeper import EngineKeeper
from stoker.launch.interruption import ENDING, uninterrupted
from stoker.launch.monitor import forget_folder
from stoker.launch.refusals import refused
from stoker.launch.request import Request
from stoker.launch.stops import forget_stop

_REMOVAL_S = 300.0
_LOOK_S = 0.1
_GOES_ON_S = {"podman": 0.0, "docker": 1.5}
"""How long an engine may still be making a container whose caller is gone: docker's daemon ends what it has begun."""
_NOT_STARTED = (125, 126, 127)
"""What `run` of either engine exits with where no program began. A program may end with them, too, but then its container is still there."""


def found(engine: Engine, identity: str) -> Container:
    """Return the container of an id. Raises EngineFailed where there is none any more, EngineSilent where the engine no longer answers."""
    try:
        listed = EngineKeeper(engine=engine).containers(everything=True)
    except EngineSilent as error:
        raise EngineSilent(f"{engine.name} started {identity[:12]}, and then: {error.message}", hint="when it answers again: stoker ps -a") from None
    made = next((one for one in listed if identity and one.id.startswith(identity)), None)
    if made is None:
        raise EngineFailed(f"{engine.name} started it, and it is gone already", hint=f"somebody removed it, or look: {engine.name} ps -a")
    return made


def ended(request: Request, engine: Engine, identity: str, code: int, on_line: Callable[[str], None], signals: Sequence[int] = ()) -> int:
    """Say why it ended and remove it; leave it alone where only the terminal was let go (Ctrl-P Ctrl-Q) or the engine's program was killed.

    `signals`: those that came to this run. Returns its exit status.
    """
    keeper = EngineKeeper(engine=engine)
    container = next((one for one in keeper.containers(everything=True) if one.id.startswith(identity)), None)
    if container is None:
        if code in _NOT_STARTED:
            raise not_started(request, engine, code)
        return code
    number = _ended_by(signals)
    # With a terminal docker's program passes nothing on: it ends itself, and what runs inside was not told.
    lost = number is not None and request.terminal and engine.name == "docker"
    unread = container.running and code != 0 and (lost or _reader_is_gone())
    if unread:
        # As it would have ended without a container around it; the engine's program was, what runs inside was not.
        keeper.stop(container, grace_s=container.grace_s)
    elif container.running:
        on_line(f"{container.name} goes on: stoker logs -f {container.name}, stoker stop {container.name}")
        return code
    if code and not unread:
        ending = replace(keeper.ending(container), signals=tuple(signals))
        if reason := why(ending):
            on_line(f"{container.name}: {reason}")
        if code in _NOT_STARTED and (number or ending.cut_off):
            # A key that came before the program was not seen by us: docker hands it to what is to become the program.
            code = 128 + (number or signal.SIGINT)
    keeper.remove(container)
    forget_stop(container.id)
    forget_folder(container.container)
    return code


def leave_interrupted(request: Request, engine: Engine, begun: float, signals: Sequence[int]) -> None:
    """End as a run in the foreground to which a signal came before there was a container, and remove one that the engine makes all the same.

    Else the name would be taken by it, and the program be started under the next one. Returns where no such signal came.
    Raises KeyboardInterrupt, SystemExit (128 + N).
    """
    number = _ended_by(signals)
    if number is None:
        return
    with uninterrupted():
        clean(request, engine, made_since(begun, request, engine))
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _ended_by(signals: Sequence[int]) -> int | None:
    return next((number for number in signals if number in ENDING), None)


def _reader_is_gone() -> bool:
    """Whether who read our output went away, as `head` does when it has enough."""
    asked = select.poll()
    asked.register(1, 0)
    return any(happened & select.POLLERR for _, happened in asked.poll(0))


def not_started(request: Request, engine: Engine, code: int) -> StokerError:
    """Return the error for a container that was never made; the engine's own words went to the terminal."""
    forget_folder(request.container)
    if holder := _holder(request, engine):
        return names.taken(holder)
    return EngineFailed(f"{engine.name} did not start it (exit status {code}); what it said stands above", hint="the command itself: add --dry-run")


def refusal(request: Request, engine: Engine, said: str) -> StokerError:
    """Return the error for what an engine said instead of starting it; of a name that is taken, by what."""
    error = refused(request, engine, said)
    holder = _holder(request, engine) if isinstance(error, NameTaken) else None
    return names.taken(holder) if holder else error


def clean(request: Request, engine: Engine, identity: str) -> None:
    """Remove what a start left that did not come to its end. Raises nothing."""
    if identity:
        shell.run([engine.program, "rm", "--force", "--volumes", identity], timeout_s=_REMOVAL_S)
    forget_folder(request.container)


def made_since(begun: float, request: Request, engine: Engine) -> str:
    """Return the id of a container that was made in the moment before the engine wrote it down: nobody else's, since its name is held."""
    until = time.monotonic() + _GOES_ON_S[engine.name]
    while not (made := _made_since(begun, request, engine)) and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return made


def _made_since(begun: float, request: Request, engine: Engine) -> str:
    made = (one for one in _listed(engine) if one.container == request.container and (one.created or 0.0) >= begun)
    return next((one.id for one in made if not one.running), "")


def _holder(request: Request, engine: Engine) -> Container | None:
    return next((one for one in _listed(engine) if one.container == request.container), None)


def _listed(engine: Engine) -> tuple[Container, ...]:
    try:
        return EngineKeeper(engine=engine).containers(everything=True)
    except EngineSilent:
        return ()
