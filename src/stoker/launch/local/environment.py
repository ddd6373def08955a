"""The Python environment of a stoker.lock on this machine: made by uv in the cache folder, whole or not at all, each file checked by hash."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stoker import console, settings
from stoker.environment.installer import Installer
from stoker.environment.venv import Stamp, alone, check_imports, create_empty, growing
from stoker.errors import CacheUnwritable, StackUnfit, StokerError
from stoker.files import write_text_atomically
from stoker.launch.local.interpreter import find_python
from stoker.launch.local.locked import Locked, LockedWheel
from stoker.launch.local.processes import marked
from stoker.start import Choice, ImageStack, choose, look
from stoker.start.stack import wanted_stack

_STAMP = "stoker-ready"
_KEPT_S = 30 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python environment."""

    folder: Path
    """With `bin/python` in it."""
    stack: str | None
    """The stack of the lock that it holds; None: it is the one that Stoker itself runs in."""
    says: str
    """One line for people: what it is and why."""
    warnings: tuple[str, ...] = ()
    without_gpu: str | None = None
    """Why programs of the stack can use no GPU; None: they can. Not asked for Stoker's own environment."""
    ready: bool = True
    """Whether it is there; else it is still to be made."""


def plan(locked: Locked | None) -> Environment:
    """Return the environment to use, made or not: the one of the lock for the stack that fits this machine, else Stoker's own.

    Raises StackUnfit, UnknownName.
    """
    if locked is None:
        return Environment(folder=Path(sys.prefix), stack=None, says=f"no stoker.lock here: the environment is Stoker's own ({sys.prefix})")
    if locked.image.machine != platform.machine():
        raise StackUnfit(
            f"the stoker.lock is for {locked.image.machine}, this machine is {platform.machine()}", hint="lock it on a machine of this kind"
        )
    choice = _choice(locked)
    folder = place(locked, choice.stack)
    return Environment(
        folder=folder,
        stack=choice.stack.name,
        says=f"{choice.stack.says}: {choice.why}",
        warnings=choice.warnings,
        without_gpu=choice.without_gpu,
        ready=_is_ready(folder, locked.own),
    )


def prepare(locked: Locked | None) -> Environment:
    """Return the environment to use, made now where it is not there.

    Raises as `plan`, `Locked.wheels` and `Locked.installer`; SetupError, CacheUnwritable.
    """
    planned = plan(locked)
    if locked is None or planned.stack is None:
        return planned
    if planned.ready:
        # By this one sees which environments are in use.
        with contextlib.suppress(OSError):
            os.utime(planned.folder / _STAMP)
        return planned
    stack = next(one for one in locked.image.stacks if one.name == planned.stack)
    with _alone(planned.folder) as keep_open:
        # Another process may have made it while we waited.
        stamp = Stamp.read(planned.folder) if _is_there(planned.folder) else None
        if stamp is None:
            _make(locked, stack, planned.folder, keep_open)
            remove_unused(planned.folder)
        elif stamp.build != locked.own:
            _renew_own(locked, stamp, planned.folder, keep_open)
    return replace(planned, ready=True)


def place(locked: Locked, stack: ImageStack) -> Path:
    """Return where the environment of a stack is: under the digest of its lock."""
    return _all() / locked.digest.removeprefix("sha256:")[:32] / stack.name


def remove_unused(but: Path) -> None:
    """Remove environments that nothing was started in for long, and no process runs in. Any of them can be made again."""
    busy = {process.environment.get("VIRTUAL_ENV") for process in marked()}
    for stamp in sorted(_all().glob(f"*/*/{_STAMP}")):
        folder = stamp.parent
        if folder != but and str(folder) not in busy and stamp.stat().st_mtime < time.time() - _KEPT_S:
            console.say(f"removing an environment that was not used for {_KEPT_S // 86400:.0f} days: {folder}")
            # Without its stamp it counts as not there, however far the removal gets.
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def _all() -> Path:
    return settings.cache_folder() / "local"


def _choice(locked: Locked) -> Choice:
    return choose(locked.image, look(), wanted_stack(locked.image, os.environ, settings.home_folder()))


def _is_there(folder: Path) -> bool:
    return Stamp.read(folder) is not None and (folder / "bin/python").exists()


def _is_ready(folder: Path, own: str) -> bool:
    stamp = Stamp.read(folder)
    return stamp is not None and stamp.build == own and (folder / "bin/python").exists()


def _renew_own(locked: Locked, stamp: Stamp, folder: Path, keep_open: tuple[int, ...]) -> None:
    """Put this Stoker into an environment that has another one; not under a job that runs in it."""
    if any(process.environment.get("VIRTUAL_ENV") == str(folder) for process in marked()):
        console.say("another job runs in this environment: the Stoker in it stays the older one until that has ended")
        return
    console.say("putting this Stoker into the environment, which has another one")
    _install(folder, [locked.own_wheel()], replace(locked.installer(), keep_open=keep_open), renew=True)
    write_text_atomically(folder / _STAMP, replace(stamp, build=locked.own).text(), durable=False)


def _make(locked: Locked, stack: ImageStack, folder: Path, keep_open: tuple[int, ...]) -> None:
    begun = time.monotonic()
    console.say(f"making the environment of stoker.lock: {stack.says} (once; it is kept in {folder})")
    installer = replace(locked.installer(), keep_open=keep_open)
    # First: without it gigabytes would be fetched in vain.
    python = find_python(locked.python, locked.python_full, installer, folder.parent)
    wheels = [*locked.wheels(stack.name), locked.own_wheel()]
    with growing(folder) as new:
        create_empty(folder.parent, new, python, installer)
        _install(new, wheels, installer)
        if stack.torch:
            check_imports(new, ("torch",))
        stamp = Stamp(key="local", stack=stack.name, lock=locked.digest.removeprefix("sha256:"), build=locked.own, python=python)
        (new / _STAMP).write_text(stamp.text())
    console.say(f"it is ready after {time.monotonic() - begun:.0f} s")


def _install(environment: Path, wheels: Sequence[LockedWheel], installer: Installer, *, renew: bool = False) -> None:
    """Put exactly these files into an environment: no index is asked, nothing is resolved, and uv compares each hash once more."""
    with tempfile.TemporaryDirectory(dir=environment, prefix=".wheels-") as place:
        folder = Path(place)
        for wheel in wheels:
            (folder / wheel.file).symlink_to(wheel.path)
        pins = folder / "requirements.txt"
        pins.write_text("".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels))
        into = ["--python", str(environment / "bin/python"), "--no-config", "--no-deps", "--require-hashes", "--compile-bytecode"]
        into += ["--reinstall"] if renew else []
        try:
            installer.run(["pip", "install", *into, "--no-index", "--find-links", str(folder), "-r", str(pins)], folder=folder)
        except StokerError as error:
            if "compatible" not in error.message and "platform" not in error.message:
                raise
            raise StackUnfit(
                f"a wheel of the stoker.lock does not fit this machine: {error.message}",
                hint="the image's glibc is newer than this machine's: start it in a container (podman or docker), or lock it for an older Debian",
            ) from error


def _alone(folder: Path) -> contextlib.AbstractContextManager[tuple[int, ...]]:
    """Let one process at a time make this environment."""

    def refused(error: OSError) -> StokerError:
        return CacheUnwritable(
            f"{folder.parent} cannot be written to ({error.strerror}), and the environment is made there", hint="STOKER_CACHE names another folder"
        )

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(error) from error
    waits = "another process is making this environment; waiting for it"
    return alone(folder.with_name(f"{folder.name}.lock"), mode=0o600, refused=refused, waits=waits)
