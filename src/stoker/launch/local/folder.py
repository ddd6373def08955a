"""The folder of one job in Stoker's home, `.stoker/local/NAME/`: what it was started as, its log, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stoker.errors import NameTaken
from stoker.files import write_text_atomically, writing
from stoker.host.place import read
from stoker.launch.home import default_home

_PLACE = ".stoker/local"
_LEFT_S = 3600.0
# What the fields of a record may be, by how their types are written.
_FITS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: type(value) is str,
    "bool": lambda value: type(value) is bool,
    "int": lambda value: type(value) is int,
    "int | None": lambda value: value is None or type(value) is int,
    "float": lambda value: type(value) in (int, float),
    "Sequence[str]": lambda value: type(value) is tuple and _are(str, value),
    "Sequence[int]": lambda value: type(value) is tuple and _are(int, value),
    "Mapping[str, str]": lambda value: type(value) is dict and _are(str, (*value, *value.values())),
}
_ABOUT, _STARTED, _ENDED, _LOG = "job.json", "started.json", "ended.json", "log"


@dataclass(frozen=True, kw_only=True)
class About:
    """What a job was started as; nothing of it is secret: values of the person's variables are not in it."""

    id: str
    labels: Mapping[str, str]
    environment: str
    """The folder of the Python environment that it uses."""
    command: Sequence[str]
    folder: str
    """Where the program runs."""
    created: float
    """Seconds since 1970."""
    machine: str = ""
    """Where it was started (`here()`): homes are shared between machines and containers, process numbers are not."""
    set: Mapping[str, str] = field(default_factory=dict)
    """Variables that the program gets on top of those of the supervisor."""
    unset: Sequence[str] = ()
    cores: Sequence[int] = ()
    """The cores that it may use; empty: all."""
    memory_bytes: int | None = None
    """Its memory limit."""
    data_bytes: int | None = None
    """The same as a limit for each process (RLIMIT_DATA), where there is no control group for all of them."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """The processes of a job, each with its number and when it began (in clock ticks since the machine did)."""

    pid: int
    start: int
    supervisor: int
    supervisor_start: int
    moment: float
    """Seconds since 1970."""
    boot: str
    """The boot of the machine: after another one the numbers are those of others."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended."""

    code: int
    """Exit status; 128 + N: signal N."""
    moment: float
    oom_killed: bool = False
    """The kernel killed for want of memory meanwhile."""
    told: str = ""
    """Why there is no exit status of the program's own; else empty."""


class Folder:
    """One job's folder. Records are written whole or not at all; one that cannot be read counts as not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Return the job's name."""
        return self.path.name

    @property
    def log(self) -> Path:
        """Return what it wrote."""
        return self.path / _LOG

    @property
    def about(self) -> About | None:
        """Return what it was started as."""
        return _read(self.path / _ABOUT, About)

    @property
    def started(self) -> Started | None:
        """Return its processes; None: it has not been started."""
        return _read(self.path / _STARTED, Started)

    @property
    def processes(self) -> Started | None:
        """Return its processes where their numbers mean what they meant: on the machine that started it, in the boot that started it."""
        about, started = self.about, self.started
        return started if about and started and about.machine == here() and started.boot == boot() else None

    @property
    def ended(self) -> Ended | None:
        """Return how it ended; None: it runs, or nobody saw its end."""
        return _read(self.path / _ENDED, Ended)

    def write(self, record: Started | Ended) -> None:
        """Write a record. Raises DiskFull, RunFolderUnwritable."""
        names = {Started: _STARTED, Ended: _ENDED}
        write_text_atomically(self.path / names[type(record)], json.dumps(asdict(record)), durable=False)

    def log_tail(self, most_bytes: int) -> str:
        """Return the end of what it wrote."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
                return file.read(most_bytes).decode(errors="replace")
        except OSError:
            return ""

    def remove(self) -> bool:
        """Remove it at once and with all that is in it; False: it was gone already."""
        gone = self.path.with_name(f".{self.name}.{os.getpid()}.gone")
        try:
            os.rename(self.path, gone)
        except FileNotFoundError:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True


def here() -> str:
    """Return what tells this machine, or the container around this process, from others that may share the home."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{os.uname().nodename} {namespace}"


def boot() -> str:
    """Return what tells this boot of the machine from others."""
    return read(Path("/proc/sys/kernel/random/boot_id")) or ""


def jobs_folder() -> Path:
    """Return the folder of all jobs' folders."""
    return default_home(os.getuid()) / _PLACE


def folders() -> tuple[Folder, ...]:
    """Return the folder of every job that there is."""
    with contextlib.suppress(OSError):
        return tuple(Folder(path) for path in sorted(jobs_folder().iterdir()) if path.is_dir() and not path.name.startswith("."))
    return ()


def make(name: str, about: About) -> Folder:
    """Make the folder of a job, whole: of two that want the same name at once, one gets it. Raises NameTaken, DiskFull, RunFolderUnwritable."""
    path = jobs_folder() / name
    growing = path.with_name(f".{name}.{about.id}")
    with writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(path.parent)
        growing.mkdir(mode=0o700)
    try:
        with writing(path):
            (growing / _ABOUT).write_text(json.dumps(asdict(about)))
        os.rename(growing, path)
    except FileExistsError as error:
        raise _taken(name) from error
    except OSError as error:
        if path.exists():
            raise _taken(name) from error
        raise
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return Folder(path)


def _sweep(place: Path) -> None:
    """Remove what somebody left half-made, or half-removed, who was killed."""
    for path in place.glob(".*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _LEFT_S:
                shutil.rmtree(path)


def _taken(name: str) -> NameTaken:
    return NameTaken(f"there is something called {name} already", hint=f"`stoker rm {name}` removes it when it has ended; or take another name")


def _read(path: Path, kind: type[Any]) -> Any:
    """Return a record, None when it is not there or says something else."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        record = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    # A container that has this home can write here, too.
    return record if all(_FITS[str(field.type)](getattr(record, field.name)) for field in fields(record)) else None


def _are(kind: type, values: Iterable[object]) -> bool:
    return all(type(value) is kind for value in values)
