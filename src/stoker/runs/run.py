"""A run: the folder in which a training writes down what it is, how it goes and what came of it."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from stoker.errors import RunBroken, RunBusy, RunFolderUnwritable, RunMissing, UsageError, nearest
from stoker.files import write_text_atomically, writing
from stoker.runs import strict_json
from stoker.runs.journal import Journal
from stoker.runs.lock import Lock

_NAME = re.compile(r"\w[\w.+-]{0,126}")


class Run:
    """A run folder. `find` and `all_runs` only read; `create` and `hold` take its lock, without which nothing is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self._lock = Lock(path / ".lock")
        self._metrics = Journal(path / "metrics.jsonl")
        self._writing = threading.RLock()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, root: Path, *, run_id: str | None, record: dict[str, Any]) -> Run:
        """Make a run folder under `root`, take its lock and write `record` as run.json with status `running`.

        Without `run_id` the name is made of the time, the recipe and four random hex digits. Raises RunBusy when a training writes
        into a folder of that name, UsageError when the name is taken or no name, RunFolderUnwritable, DiskFull.
        """
        _make_root(root)
        if run_id is None:
            path = _new_folder(root, str(record.get("recipe") or "run"))
        else:
            path = root / _checked(run_id)
            _free_for_new(path)
        run = cls(path)
        run.hold()
        try:
            if (path / "run.json").exists():  # somebody was faster, and has ended already
                _free_for_new(path)
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            defaults: dict[str, Any] = {"started": started, "ended": None, "result": None, "choices": [], "resumed_from": []}
            run._write({"id": run.id, **defaults, **record, "status": "running"} | {"id": run.id})
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def find(cls, root: Path, name: str) -> Run:
        """Return the run called `name` under `root`: its id, a beginning or end that only one id has, or "last" (the newest).

        Takes no lock. Raises RunMissing, which names the runs that are near, and UsageError for a name that is a path.
        """
        everything = all_runs(root)
        if not everything:
            raise RunMissing(f"there is no run in {root}", hint="make one with `stoker train`, or say where the runs are with --root")
        if name == "last":
            return everything[0]
        _checked(name)
        by_id = {run.id: run for run in everything}
        if name in by_id:
            return by_id[name]
        fitting = [key for key in by_id if key.startswith(name)] or [key for key in by_id if key.endswith(name)]
        if len(fitting) == 1:
            return by_id[fitting[0]]
        if fitting:
            raise RunMissing(f"{name!r} fits {len(fitting)} runs: {_listed(fitting)}", hint="write more letters of the one you mean")
        near = nearest(name, list(by_id)) or everything[0].id
        raise RunMissing(f"there is no run {name!r} in {root}", hint=f"did you mean {near}? `stoker runs` lists all {len(by_id)}")

    def hold(self) -> None:
        """Take the lock, to write into a run that exists. Raises RunBusy, which names the process that has it."""
        with self._reaching():
            self._lock.acquire()
        for left in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
            with contextlib.suppress(OSError):
                left.unlink()

    def close(self) -> None:
        """Let go of the lock. Calling it twice does no harm."""
        self._lock.release()

    def holder(self) -> str | None:
        """Return which process writes into this run now ("process 123 on host"), or None."""
        return self._lock.holder()

    def record(self) -> dict[str, Any]:
        """Return run.json. Raises RunBroken when it is no JSON object or cannot be read."""
        path = self.path / "run.json"
        hint = f"move the folder away if it is of no use: mv {self.path} {self.path}.broken"
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise RunBroken(f"{path} is missing", hint=hint) from error
        except OSError as error:
            raise RunBroken(f"{path} cannot be read ({error.strerror})", hint=hint) from error
        except (ValueError, RecursionError) as error:
            raise RunBroken(f"{path} is no JSON ({error})", hint=hint) from error
        if not isinstance(record, dict):
            raise RunBroken(f"{path} holds a {type(record).__name__}, not a record", hint=hint)
        return record

    def status(self) -> str:
        """Return the record's status; `died` when it says running but nobody holds the lock; `broken` when it cannot be read."""
        try:
            status = str(self.record().get("status"))
            if status == "running" and self.holder() is None:
                status = str(self.record().get("status"))  # it may have ended between the two looks
                return "died" if status == "running" else status
        except RunBroken:
            return "broken"
        return status

    def update(self, **fields: Any) -> None:
        """Set fields of run.json, in one piece: whoever reads meets the old record or the new one. NaN and infinity become null."""
        with self._writing:
            self._must_hold()
            self._write(self.record() | fields)

    def log(self, kind: str, **values: Any) -> None:
        """Append a line to metrics.jsonl, handed to the system before this returns. Raises RunMissing, DiskFull."""
        with self._writing, self._reaching():
            self._must_hold()
            self._metrics.add(kind, values)

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines of steps after `step`: a resumed training goes through them again. Lines without a step stay."""
        with self._writing, self._reaching():
            self._must_hold()
            self._metrics.keep(lambda value: not _after(value, step))

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl (of one kind). Lines that are torn, by a kill -9 while they were written, are left out."""
        return [value for value in self._metrics.lines() if kind is None or value.get("kind") == kind]

    def _write(self, record: dict[str, Any]) -> None:
        with self._reaching():
            write_text_atomically(self.path / "run.json", strict_json.dumps(record, indent=1) + "\n")

    def _must_hold(self) -> None:
        if not self._lock.mine:
            raise RuntimeError(f"{self} is written to without its lock: call hold() first")
        if not self.path.is_dir():
            raise self._gone()

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Say in words that the folder is gone."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._gone() from error

    def _gone(self) -> RunMissing:
        return RunMissing(
            f"the run folder {self.path} is gone: it was removed or renamed while the run was in use",
            hint="start the training again; do not remove the folder of a run that `stoker runs` shows as running",
        )


def all_runs(root: Path) -> list[Run]:
    """Return the runs under `root`, newest first; none when there is no such folder. Broken ones are among them (`status()` tells)."""
    try:
        folders = [path for path in root.iterdir() if (path / "run.json").exists() or (path / ".lock").exists()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise RunMissing(f"{root} cannot be read ({error.strerror})", hint="look at its owner and mode, or name another with --root") from error
    return sorted((Run(folder) for folder in folders), key=lambda run: (_started(run), run.id), reverse=True)


def _started(run: Run) -> float:
    """Return when the run started, in seconds since 1970; of a broken one, when its folder was last changed."""
    with contextlib.suppress(RunBroken, ValueError, OSError, OverflowError):
        return datetime.fromisoformat(str(run.record().get("started"))).timestamp()
    with contextlib.suppress(OSError):
        return run.path.stat().st_mtime
    return 0.0


def _make_root(root: Path) -> None:
    with writing(root / "run"):
        try:
            if not root.exists():
                root.mkdir(parents=True, exist_ok=True)
                (root / ".gitignore").write_text("*\n")  # checkpoints belong into no commit, and a run must not make its own tree dirty
        except (FileExistsError, NotADirectoryError) as error:
            raise RunFolderUnwritable(
                f"{root} is no folder, or lies under a file", hint="choose another folder with the environment variable STOKER_RUNS"
            ) from error
    if not root.is_dir():
        raise RunFolderUnwritable(f"{root} is no folder", hint="choose another folder with the environment variable STOKER_RUNS")


def _new_folder(root: Path, recipe: str) -> Path:
    """Make a folder of a name that nobody else has: mkdir succeeds for one process only."""
    while True:
        path = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9._+-]+', '-', recipe)[:60]}-{secrets.token_hex(2)}"
        with writing(path), contextlib.suppress(FileExistsError):
            path.mkdir()
            return path


def _free_for_new(path: Path) -> None:
    """Make the folder `path`, or take an empty one; anything in it stays untouched and is an error."""
    with writing(path), contextlib.suppress(FileExistsError):
        path.mkdir()
    if holder := Lock(path / ".lock").holder():
        raise RunBusy(f"another training writes into {path} now: {holder}", hint="wait for it, stop it, or choose another name with --run")
    if not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir()):
        hint = f"go on with it by `--resume {path.name}`, or choose another name with --run"
        raise UsageError(f"there is already a run called {path.name} in {path.parent}", hint=hint)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name or name == "last":
        raise UsageError(
            f"{name!r} cannot be the name of a run", hint="a name has letters, digits, '.', '_', '+' and '-', no '/' and no '..', and is not 'last'"
        )
    return name


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" and more" if len(names) > 5 else "")


def _after(value: dict[str, Any], step: int) -> bool:
    at = value.get("step")
    return isinstance(at, (int, float)) and at > step
