"""A stop with time to save, and what came of it."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from stoker.launch import ssh_entries
from stoker.launch.containers import Container
from stoker.launch.keepers import Keeper
from stoker.launch.saved import Saved, saved_since
from stoker.launch.stops import note_stop


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """What a stop came to."""

    container: Container
    """As it was before."""
    ran: bool
    """False: there was nothing to stop."""
    gone: bool = False
    """Somebody removed it in the meantime."""
    exit_code: int | None = None
    took_s: float = 0.0
    grace_s: int = 0
    saved: tuple[Saved, ...] = ()
    """Checkpoints that were written since the stop began, the newest first."""
    returns: bool = False
    """It is started again when the machine boots."""

    @property
    def killed(self) -> bool:
        """Whether it did not end within its time."""
        return self.exit_code == 128 + signal.SIGKILL


def stop(keeper: Keeper, container: Container, *, grace_s: int | None = None) -> Stopped:
    """Stop one: SIGTERM, its grace (of its label, where none is given), SIGKILL. Raises EngineFailed, EngineSilent."""
    if not container.running:
        return Stopped(container=container, ran=False, exit_code=container.exit_code)
    seconds = container.grace_s if grace_s is None else grace_s
    began, clock = time.time(), time.monotonic()
    note_stop(container.id)
    keeper.stop(container, grace_s=seconds)
    took_s = time.monotonic() - clock
    if container.kind == "ssh":
        ssh_entries.forget(container.name)
    after = next((one for one in keeper.containers(everything=True) if one.id == container.id), None)
    return Stopped(
        container=container,
        ran=True,
        gone=after is None,
        exit_code=after.exit_code if after else None,
        took_s=took_s,
        grace_s=seconds,
        saved=saved_since(container.project, began) if container.project else (),
        returns=after is not None and keeper.returns(container),
    )
