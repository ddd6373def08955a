"""Somebody at a machine that has an engine: `stoker` as they type it, and what the engine then has."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.image_engines import Engine, wait_for

PERSON = 4242
"""Owns the project, has no account in the image, and is nobody that this machine knows."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A project, a home, an engine, and a program to type commands into."""

    engine: Engine
    folder: Path
    """Where everybody may enter: pytest's own is root's alone."""
    uid: int = PERSON
    named: str = "pets"
    """The project's folder."""
    others: frozenset[str] = frozenset()
    """Containers that were there before."""
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def project(self) -> Path:
        """The folder in which commands are typed."""
        return self.folder / self.named

    @property
    def person(self) -> Path:
        """The person's own home."""
        return self.folder / "person"

    @property
    def home(self) -> Path:
        """What containers have as their home."""
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that is typed here."""
        own = {
            "HOME": str(self.person),
            "STOKER_HOME": str(self.home),
            "STOKER_SSH_FOLDER": str(self.person / ".ssh"),
            "STOKER_ENGINE": self.engine.command[0],
        }
        unwanted = ("SUDO_", "SSH_", "XDG_")
        return {name: value for name, value in {**self.engine.environment, **own}.items() if not name.startswith(unwanted)}

    def stoker(self, *words: str, status: int | None = 0, said: str = "", limit_s: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
        """Type a `stoker` command; `said` goes into its stdin, `more` are variables. It must end with `status` (None: any)."""
        command, environment = [sys.executable, "-m", "stoker", *words], {**self.environment, **more}
        done = subprocess.run(command, cwd=self.project, env=environment, input=said, capture_output=True, text=True, timeout=limit_s)
        assert status in (None, done.returncode), f"{words} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Type a `stoker` command and do not wait for its end."""
        command, pipe = [sys.executable, "-m", "stoker", *words], subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=self.project, env=self.environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self.begun.append(process)
        return process

    def run(self, *words: str, status: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """Type `stoker run` with the image of the tests."""
        return self.stoker("run", "--image", self.engine.image, *words, status=status, **more)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what `stoker ps --all` lists, by name."""
        listed = json.loads(self.stoker("ps", "--all", "--json").stdout)
        return {row["name"]: row for row in listed if row["container"] not in self.others}

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the engine knows about a container of ours."""
        done = self.engine.run("inspect", f"stoker-{name}")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    def containers(self) -> list[str]:
        """Return the names of the engine's containers, dead ones too, but for those of before."""
        return sorted(set(names(self.engine)) - self.others)

    def write(self, name: str, text: str) -> Path:
        """Put a file into the project, as its owner would."""
        path = self.project / name
        path.write_text(text)
        os.chown(path, self.uid, self.uid)
        return path

    def wait_until_it_says(self, name: str, what: str, limit_s: float = 60) -> str:
        """Wait until a container has written something."""
        return str(wait_for(lambda: what in (said := self.stoker("logs", name).stdout) and said, f"{what!r} in the log of {name}", limit_s))

    def end(self) -> None:
        """Stop what was typed and remove what was started."""
        for process in self.begun:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if left := self.containers():
            self.engine.run("rm", "--force", "--volumes", *left)


@contextlib.contextmanager
def desk_at(engine: Engine, *, uid: int = PERSON, named: str = "pets") -> Iterator[Desk]:
    """Sit down, and clean up at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        desk = Desk(engine=engine, folder=folder, uid=uid, named=named, others=frozenset(names(engine)))
        for made in (desk.project, desk.person):
            made.mkdir()
        os.chown(desk.project, uid, uid)
        try:
            yield desk
        finally:
            desk.end()


def names(engine: Engine) -> list[str]:
    """Return the names of all containers of an engine."""
    return engine.run("ps", "--all", "--format", "{{.Names}}").stdout.split()
