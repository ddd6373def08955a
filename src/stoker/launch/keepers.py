"""Who keeps what was started: podman, docker, and this machine itself, all with the same verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from stoker.errors import ContainerMissing, EngineSilent, UsageError, nearest
from stoker.launch.atonce import at_once
from stoker.launch.containers import Container
from stoker.launch.engine import NAMES, has_run, installed, missing
from stoker.launch.engine_keeper import EngineKeeper
from stoker.launch.local.keeper import LocalKeeper
from stoker.launch.session import Session

if TYPE_CHECKING:
    from stoker.launch.ending import Ending

CHOICES = ("auto", *NAMES, "local")
_SHORTEST_ID = 4


class Keeper(Protocol):
    """podman, docker or this machine. None of the verbs raises because the container is gone in the meantime, unless it says so."""

    @property
    def name(self) -> str:
        """podman, docker or local."""
        ...

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        """Return what Stoker started; without `everything` only what runs. Raises EngineSilent."""
        ...

    def stop(self, container: Container, *, grace_s: int) -> None:
        """Send SIGTERM, wait `grace_s` seconds, then SIGKILL; return when it has ended. Raises EngineFailed, EngineSilent."""
        ...

    def returns(self, container: Container) -> bool:
        """Tell whether one that was stopped is started again when the machine boots. Raises nothing."""
        ...

    def kill(self, container: Container, number: int) -> None:
        """Send a signal to the program that it was started for; nothing happens where that is gone. Raises nothing."""
        ...

    def remove(self, container: Container, *, force: bool = False) -> bool:
        """Remove it with its log, killing what runs, with `force` also what runs since; False: it was gone. Raises EngineFailed, EngineSilent."""
        ...

    def log_text(self, container: Container, *, lines: int | None) -> str:
        """Return what it wrote, the last `lines` of it (None: all); empty when it is gone."""
        ...

    def log_session(self, container: Container, *, follow: bool, lines: int | None, timestamps: bool, since: str | None) -> Session:
        """Return the program that shows its log; with `follow` until it ends. Raises LaunchUnfit where it cannot be shown so."""
        ...

    def exec_session(
        self,
        container: Container,
        words: Sequence[str],
        *,
        interactive: bool,
        terminal: bool,
        environment: Sequence[str],
        folder: str | None,
        user: str | None,
    ) -> Session:
        """Return the program that runs `words` inside; `environment` are names, whose values are those of this process. Raises LaunchUnfit."""
        ...

    def signal(self, container: Container, session: Session, number: int) -> bool:
        """Send a signal to what an `exec_session` started (engines pass none on); False: it is not there, or not yet. Raises nothing."""
        ...

    def ending(self, container: Container) -> Ending:
        """Return the facts of how it ended, from everything that can still be read. Raises nothing."""
        ...


def keepers(wanted: str = "auto") -> tuple[Keeper, ...]:
    """Return those that there are (auto; this machine itself last), or the one that is named. Asks none. Raises EngineMissing, UsageError."""
    if wanted not in CHOICES:
        like = nearest(wanted, CHOICES)
        raise UsageError(f"there is no engine {wanted!r}", hint=f"did you mean {like}?" if like else f"there are: {', '.join(CHOICES)}")
    engines = tuple(EngineKeeper(engine=engine) for engine in installed() if wanted == engine.name or (wanted == "auto" and has_run(engine)))
    if wanted in NAMES and not engines:
        raise missing(wanted)
    return (*engines, LocalKeeper()) if wanted in ("auto", "local") else engines


def containers(among: Sequence[Keeper], *, everything: bool = True) -> tuple[Container, ...]:
    """Return what was started, the newest first. Raises as `listed`."""
    return listed(among, everything=everything)[0]


def listed(among: Sequence[Keeper], *, everything: bool = True) -> tuple[tuple[Container, ...], dict[str, EngineSilent]]:
    """Return what was started, the newest first, and the engines that did not answer. All are asked at once.

    Raises EngineSilent when none of the engines answers and nothing else was found.
    """
    asked = at_once([partial(_asked, keeper, everything) for keeper in among])
    silent = {keeper.name: answer for keeper, answer in zip(among, asked, strict=True) if isinstance(answer, EngineSilent)}
    found = [container for answer in asked if not isinstance(answer, EngineSilent) for container in answer]
    if silent and not found and not any(keeper.name in NAMES and keeper.name not in silent for keeper in among):
        raise next(iter(silent.values()))
    return tuple(sorted(found, key=lambda container: container.created or 0.0, reverse=True)), silent


def find(among: Sequence[Keeper], name: str) -> tuple[Keeper, Container]:
    """Return a container by the person's name, the engine's name, or the beginning of its id. Raises ContainerMissing, EngineSilent, UsageError."""
    return find_all(among, (name,))[0]


def find_all(among: Sequence[Keeper], names: Sequence[str]) -> list[tuple[Keeper, Container]]:
    """Return containers as `find` does, each once; a name that is wrong is an error before anything is done to another."""
    found, silent = listed(among)
    chosen = dict.fromkeys(_chosen(name, found, silent) for name in names)
    return [(next(keeper for keeper in among if keeper.name == found[index].engine), found[index]) for index in chosen]


def _chosen(name: str, found: Sequence[Container], silent: Mapping[str, EngineSilent]) -> int:
    matching = [index for index, one in enumerate(found) if name in (one.name, one.container)]
    matching = matching or [index for index, one in enumerate(found) if len(name) >= _SHORTEST_ID and one.id.startswith(name)]
    if not matching:
        raise _unknown(name, found, silent)
    if len(matching) > 1:
        raise _ambiguous(name, [found[index] for index in matching])
    return matching[0]


def _asked(keeper: Keeper, everything: bool) -> tuple[Container, ...] | EngineSilent:
    try:
        return keeper.containers(everything=everything)
    except EngineSilent as error:
        return error


def _unknown(name: str, found: Sequence[Container], silent: Mapping[str, EngineSilent]) -> ContainerMissing:
    like = nearest(name, [container.name for container in found])
    passed = "".join(f"; {error.message}" for error in silent.values())
    hint = next((error.hint for error in silent.values()), f"did you mean {like}?" if like else "`stoker ps -a` lists what there is")
    return ContainerMissing(f"there is no container {name!r}{passed}", hint=hint)


def _ambiguous(name: str, matching: Sequence[Container]) -> UsageError:
    places = ", ".join(f"{container.engine} {container.id[:12]}" for container in matching)
    engines = {container.engine for container in matching}
    hint = "say --engine podman|docker|local" if len(engines) == len(matching) else "name it by the beginning of its id"
    return UsageError(f"{name!r} fits several: {places}", hint=hint)
