"""Taking away what was started: the container with its log. Projects, homes and runs stay."""

from __future__ import annotations

from stoker.errors import LaunchUnfit
from stoker.launch import ssh
from stoker.launch.containers import Container
from stoker.launch.keepers import Keeper
from stoker.launch.monitor import forget_folder
from stoker.launch.stops import forget_stop


def remove(keeper: Keeper, container: Container, *, force: bool) -> bool:
    """Remove one; False: somebody was faster. What runs is an error without `force`, and killed with it.

    Raises LaunchUnfit, EngineFailed, EngineSilent.
    """
    if not force:
        must_have_ended(container)
    removed = keeper.remove(container)
    if container.kind == "ssh":
        ssh.forget(container.name)
    forget_stop(container.id)
    forget_folder(container.container)
    return removed


def must_have_ended(container: Container) -> None:
    """Raise LaunchUnfit for one that runs."""
    if container.running:
        raise LaunchUnfit(
            f"{container.name} still runs",
            hint=f"`stoker stop {container.name}` gives it time to save; `stoker rm --force {container.name}` kills it",
        )
