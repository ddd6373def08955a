"""The environment `.venv` of a source tree: made from the lock that fits the machine, whole or not at all, and told when it is out of date.

`./stoker` and `./dev` run this with any Python >= 3.10 before a package is installed: standard library only. A new environment
grows in `.venv.new` and takes its place by a rename when it is complete, so a set-up that is interrupted leaves the old one as it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from stoker import console, files, shell
from stoker.environment.installer import Installer, find_installer, free_bytes, no_space
from stoker.environment.relock import relock
from stoker.environment.stacks import Choice, Stack, choose, read_stacks
from stoker.environment.tail import follow
from stoker.errors import SetupError, StokerError
from stoker.host import filesystem_root, find_driver, find_gpus

LOOK = ".venv.look"
_STAMP = "stoker-ready"
# What a build of our own package depends on, beside the lock.
_BUILD_FILES = ("pyproject.toml", "setup.py", "native/*.c", "native/*.h")
# The bash in ./stoker hashes the same files in the same order.
_KEY_FILES = ("locks/*.txt", *_BUILD_FILES)
_FROM_SOURCE = "import sys; sys.path.insert(0, sys.argv.pop(1) + '/src'); from stoker.cli import main; main()"
# What the commands need of the lock that work without PyTorch: the doctor, the catalogue, those of images and containers. Some megabytes.
_LOOKING = ("click", "markdown-it-py", "mdurl", "nvidia-ml-py", "psutil", "pygments", "rich", "tomli", "zstandard")


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What an environment was made for; written last, so it stands only in a complete one."""

    key: str
    """The situation in which ./stoker starts it without asking further."""
    stack: str
    lock: str
    """Hash of the lock (or of the requirements) that it was made from."""
    build: str
    """Hash of the files from which our own package was built into it."""
    python: str
    """The Python that it stands on."""

    def text(self) -> str:
        """Return the file's text."""
        return f"{self.key}\nstack: {self.stack}\nlock: {self.lock}\nbuild: {self.build}\npython: {self.python}\n"

    @classmethod
    def read(cls, environment: Path) -> Stamp | None:
        """Return the stamp of an environment, or None when it has none that can be read."""
        try:
            key, *lines = (environment / _STAMP).read_text().splitlines()
            found = dict(line.split(": ", 1) for line in lines)
            return cls(key=key, stack=found["stack"], lock=found["lock"], build=found["build"], python=found["python"])
        except (OSError, ValueError, KeyError):
            return None


def lock_digest() -> str | None:
    """Return `sha256:...` of the lock that the running environment was made from; None in an environment of somebody's own."""
    stamp = Stamp.read(Path(sys.prefix))
    return f"sha256:{stamp.lock}" if stamp else None


def prepare(root: Path) -> Path:
    """Make the tree's `.venv` fit this machine and this source, and return its folder. Raises SetupError, DriverTooOld, UnknownName."""
    venv = root / ".venv"
    with _alone(root) as keep_open:
        key, stamp = ready_key(root), Stamp.read(venv)
        if stamp and stamp.key == key and starts(venv):
            return venv
        choice = _choice(root)
        stack = choice.stack
        wanted = Stamp(key=key, stack=stack.name, lock=_hash([stack.lock]), build=_hash(_found(root, _BUILD_FILES)), python=_base_python())
        if stamp and _still_good(venv, stamp, wanted):
            _refresh(root, venv, stamp, wanted, keep_open)
            return venv
        if venv.exists() and stamp is None:
            raise SetupError(
                f"{venv} is there, but ./stoker did not make it",
                hint="move it away to have one made, or use it yourself: `uv pip install -e '.[all]'`, then `stoker`",
            )
        _check_python(stack)
        _announce(root, choice)
        started = time.monotonic()
        installer = find_installer(root, keep_open=keep_open)
        with growing(venv) as new:
            _fill(root, new, stack, installer)
            check_imports(new, stack.check)
            (new / _STAMP).write_text(wanted.text())
        console.say(f"{venv} is ready after {time.monotonic() - started:.0f} s")
    return venv


def prepare_beside(root: Path, name: str, requirements: Sequence[str], python: str) -> Path:
    """Make an environment of its own for tests with other packages (not locked by hash), and return its folder. Raises SetupError."""
    venv = root / name
    with _alone(root) as keep_open:
        files_hash = _hash(_found(root, _BUILD_FILES))
        asked = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
        wanted = Stamp(key=f"{asked} {files_hash} {root}", stack=name, lock=asked, build=files_hash, python=python)
        if (stamp := Stamp.read(venv)) and stamp.key == wanted.key and starts(venv):
            return venv
        console.say(f"setting up {venv}: {', '.join(requirements)} (not locked)")
        installer = find_installer(root, keep_open=keep_open)
        with growing(venv) as new:
            create_empty(root, new, python, installer)
            installer.run(["pip", "install", "--python", str(new / "bin/python"), *requirements, "-e", ".[dev]"], folder=root)
            (new / _STAMP).write_text(wanted.text())
    return venv


def prepare_looking(root: Path) -> Path:
    """Make `.venv.look`, in which the doctor and others run while there is no `.venv`: a few small packages of the lock. Raises SetupError."""
    venv = root / LOOK
    with _alone(root) as keep_open:
        pins = _entries(read_stacks(root / "locks")[0].lock, _LOOKING)
        asked = hashlib.sha256(pins.encode()).hexdigest()
        wanted = Stamp(key=f"{asked} {root}", stack="none", lock=asked, build="source", python=_base_python())
        if (stamp := Stamp.read(venv)) and stamp == wanted and starts(venv):
            return venv
        console.say(f"making {venv.name} (a few small packages: PyTorch is not needed for this)")
        installer = find_installer(root, keep_open=keep_open)
        with growing(venv) as new:
            create_empty(root, new, sys.executable, installer)
            with tempfile.TemporaryDirectory() as folder:
                lock = Path(folder) / "look.txt"
                lock.write_text(pins)
                installer.run(["pip", "install", "--quiet", "--python", str(new / "bin/python"), "--require-hashes", "-r", str(lock)], folder=root)
            # So that programs which it starts find us, too.
            next(new.glob("lib/python*/site-packages")).joinpath("stoker.pth").write_text(f"{root / 'src'}\n")
            (new / _STAMP).write_text(wanted.text())
    return venv


def _entries(lock: Path, names: Sequence[str]) -> str:
    """Return a lock's entries for some packages, with their hashes."""
    found = [re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", lock.read_text(), re.MULTILINE | re.DOTALL) for name in names]
    return "".join(entry.group(0) for entry in found if entry)


def ready_key(root: Path) -> str:
    """Return what decides whether `.venv` can be started at once, as the bash in ./stoker writes it."""
    try:
        # As bash reads it: without the newlines at the end.
        driver = (filesystem_root() / "sys/module/nvidia/version").read_text().rstrip("\n")
    except OSError:
        driver = ""
    asked = "|".join(os.environ.get(name, "") for name in ("STOKER_STACK", "STOKER_PYTHON"))
    return f"1|{root}|{asked}|{driver}|{_hash(_found(root, _KEY_FILES))}"


def _choice(root: Path) -> Choice:
    driver = find_driver()
    gpus = find_gpus() if driver.version else ()
    asked = os.environ.get("STOKER_STACK")
    return choose(read_stacks(root / "locks"), driver=driver, gpus=gpus, machine=platform.machine(), asked=asked)


def _still_good(venv: Path, stamp: Stamp, wanted: Stamp) -> bool:
    """Whether the environment's packages are the wanted ones, on a Python that is there and is the one asked for."""
    same_python = stamp.python == wanted.python or not os.environ.get("STOKER_PYTHON")
    return stamp.lock == wanted.lock and same_python and _tree_of(stamp) == _tree_of(wanted) and starts(venv)


def _tree_of(stamp: Stamp) -> str:
    """A tree that was copied or moved brings an environment along that points to the old place."""
    return stamp.key.split("|")[1] if stamp.key.count("|") >= 4 else ""


def _refresh(root: Path, venv: Path, stamp: Stamp, wanted: Stamp, keep_open: tuple[int, ...]) -> None:
    """Build our own package again when its build files changed, and note the new situation."""
    if stamp.build != wanted.build:
        console.say("building Stoker's own package again: its build files changed")
        _install_self(root, venv, find_installer(root, keep_open=keep_open))
    noted = Stamp(key=wanted.key, stack=wanted.stack, lock=wanted.lock, build=wanted.build, python=stamp.python)
    files.write_text_atomically(venv / _STAMP, noted.text(), durable=False)


def _check_python(stack: Stack) -> None:
    here = sys.version_info[:2]
    if not stack.python_min <= here <= stack.python_max:
        low, high = ".".join(map(str, stack.python_min)), ".".join(map(str, stack.python_max))
        raise SetupError(
            f"{sys.executable} is Python {here[0]}.{here[1]}, and {stack} is for Python {low} to {high}",
            hint=f"install one of these and name it: `STOKER_PYTHON=python{high} ./stoker ...`",
        )


def _announce(root: Path, choice: Choice) -> None:
    stack = choice.stack
    console.say(f"setting up .venv in {root} (once; after that Stoker starts at once)")
    console.say(f"  python  {platform.python_version()} ({_base_python()})")
    console.say(f"  stack   {stack}: {choice.why}")
    fetched, taken, free = stack.download_bytes / 1e9, stack.disk_bytes / 1e9, free_bytes(root) / 1e9
    console.say(f"  size    {fetched:.1f} GB to fetch if none is cached, {taken:.1f} GB on the disk, {free:.0f} GB free")


def _fill(root: Path, new: Path, stack: Stack, installer: Installer) -> None:
    """Create the environment and install the locked packages and our own."""
    create_empty(root, new, sys.executable, installer)
    wanted = ["--python", str(new / "bin/python"), "--require-hashes", "-r", str(stack.lock)]
    _check_space(root, stack, installer, wanted)
    # Compiled now, by all cores: the first import of torch takes 5 s otherwise, 1.5 s so (2 cores; compiling all takes 11 s).
    # `install` and not `sync`: into a new environment both put the same, but only `sync` would remove packages if the Python were another's.
    installer.run(["pip", "install", "--compile-bytecode", *wanted], folder=root)
    _install_self(root, new, installer)


def create_empty(root: Path, new: Path, python: str, installer: Installer) -> None:
    """Create an empty environment, and refuse to go on when its Python is not its own: packages would go to the system's."""
    installer.run(["venv", "--quiet", "--relocatable", "--no-project", "--python", python, str(new)], folder=root)
    if not starts(new):
        raise SetupError(
            f"an environment that was made with {python} does not use its own folder {new}, or does not start",
            hint="this Python is a wrapper or broken: name another one with STOKER_PYTHON",
        )


def _install_self(root: Path, venv: Path, installer: Installer) -> None:
    python = str(venv / "bin/python")
    installer.run(["pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "-e", "."], folder=root)


def _check_space(root: Path, stack: Stack, installer: Installer, wanted: Sequence[str]) -> None:
    """Refuse before the download when the disk is too small. What is in uv's cache already is linked and takes no more room."""
    cache = Path(installer.ask(["cache", "dir"], folder=root).strip().splitlines()[-1] or root)
    tight = [folder for folder in (root, cache) if free_bytes(folder) < stack.disk_bytes]
    if tight and "Would download" in installer.ask(["pip", "install", "--dry-run", *wanted], folder=root):
        raise no_space(tight[0], stack.disk_bytes, "there is not enough room on the disk for the environment")


def check_imports(venv: Path, modules: Sequence[str]) -> None:
    """Import what the stack says must import, so that a broken set-up is known now."""
    code = f"import {', '.join(modules)}" if modules else "pass"
    status, said = follow([str(venv / "bin/python"), "-I", "-c", code], folder=venv, variables=dict(os.environ))
    if status != 0:
        died = f"it died of signal {-status}" if status < 0 else f"it ended with status {status}"
        raise SetupError(
            f"`{code}` failed in the new environment ({died}):\n" + "\n".join(said.strip().splitlines()[-6:]),
            hint="the message above names what is missing on this machine (a system library, or an instruction that its CPU lacks)",
        )


@contextlib.contextmanager
def growing(venv: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `venv` if the block succeeds and vanishes if it fails."""
    new, old = venv.with_name(f"{venv.name}.new"), venv.with_name(f"{venv.name}.old")
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        yield new
        if venv.exists():
            os.rename(venv, old)
        os.rename(new, venv)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    if old.exists():
        console.say("removing the environment that it replaces")
        shutil.rmtree(old, ignore_errors=True)


def _alone(root: Path) -> contextlib.AbstractContextManager[tuple[int, ...]]:
    """Let one set-up at a time work in this tree."""

    def refused(error: OSError) -> StokerError:
        return SetupError(
            f"{root} cannot be written to ({error.strerror}), and the environment is made there",
            hint="copy or clone the tree to a folder of your own",
        )

    return alone(root / ".venv.lock", mode=0o666, refused=refused, waits="another set-up is at work in this tree; waiting for it")


@contextlib.contextmanager
def alone(lock: Path, *, mode: int, refused: Callable[[OSError], StokerError], waits: str) -> Iterator[tuple[int, ...]]:
    """Let one process at a time make an environment; yields the descriptors that hold the lock, which uv is to hold too: it may outlive us.

    `refused` makes the error for a lock file that cannot be opened; `waits` is said to one that has to wait.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    except OSError as error:
        raise refused(error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(waits)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield (descriptor,)
    finally:
        os.close(descriptor)


def starts(venv: Path) -> bool:
    """Whether the environment's Python is still there, starts, and is its own: one that is a wrapper's may be the system's."""
    found = shell.run([str(venv / "bin/python"), "-I", "-c", "import os, sys; print(os.path.realpath(sys.prefix))"], timeout_s=60)
    return found.ok and found.out.rstrip("\n") == os.path.realpath(venv)


def _base_python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _found(root: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(root.glob(pattern))]


def _hash(paths: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _refusal(error: OSError, root: Path) -> SetupError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(root, None, f"the environment could not be written: {error}")
    return SetupError(f"the environment could not be made: {error}", hint=f"see to it that {root} and what is in it can be read and written by you")


def _stop(number: int, frame: FrameType | None) -> None:
    # So that SIGTERM too ends uv and takes the half-made environment away.
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> None:
    """`ROOT run ARGUMENTS...` prepares and becomes stoker, `ROOT look ...` in the small environment; `prepare`, `beside`, `lock` are for ./dev."""
    root, action, *rest = arguments
    signal.signal(signal.SIGTERM, _stop)
    try:
        if action == "beside":
            prepare_beside(Path(root), rest[0], rest[2:], rest[1])
            return
        if action == "lock":
            relock(Path(root))
            return
        venv = prepare_looking(Path(root)) if action == "look" else prepare(Path(root))
    except KeyboardInterrupt:
        console.say("\nthe set-up was interrupted; the same command starts it again, and what was fetched is kept")
        sys.exit(130)
    except (StokerError, OSError) as error:
        refusal = error if isinstance(error, StokerError) else _refusal(error, Path(root))
        console.show_error(refusal)
        sys.exit(refusal.exit_code)
    if action in ("run", "look"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        python = str(venv / "bin/python")
        os.execv(python, [python, *([str(venv / "bin/stoker")] if action == "run" else ["-c", _FROM_SOURCE, root]), *rest])
