"""Taking away what was started: the container with its log. Projects, homes and runs stay."""

from __future__ import annotations

from stoker.errors import LaunchUnfit
from stoker.launch import ssh
from stoker.launch.containers import Container
from stoker.launch.keepers import Keeper
from stoker.launch.locks import held
from stoker.launch.monitor import forget_folder
from stoker.launch.stops import forget_stop


def remove(keeper: Keeper, container: Container, *, force: bool) -> bool:
    """Remove one; False: somebody was faster. What runs is an error without `force`, and killed with it.

    Raises LaunchUnfit, EngineFailed, EngineSilent.
    """
    if not force:
        must_have_ended(container)
    removed = keeper.remove(container, force=force)
    if container.kind == "ssh":
        ssh.forget(container.name)
    forget_stop(container.id)
    forget_folder(container.container)
    return removed


def is_starting(container: Container) -> bool:
    """Whether a start of ours is making it at this moment."""
    if container.state != "created" or container.engine == "local":
        return False
    with held("names", container.container, wait=False) as ours:
        return not ours


def must_have_ended(container: Container) -> None:
    """Raise LaunchUnfit for one that runs, or is being started."""
    if is_starting(container):
        raise LaunchUnfit(f"{container.name} is being started", hint=f"wait a moment; or `stoker rm --force {container.name}`")
    if container.running:
        raise LaunchUnfit(
            f"{container.name} still runs",
            hint=f"`stoker stop {container.name}` gives it time to save; `stoker rm --force {container.name}` kills it",
        )
