"""The verbs of podman and docker: both have the same words for them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from stoker import shell
from stoker.errors import EngineFailed, EngineSilent, LaunchUnfit
from stoker.launch import labels
from stoker.launch.containers import Container, from_docker, from_podman
from stoker.launch.ending import Ending
from stoker.launch.engine import ANSWER_S, Engine, last_line, rows_of, silent
from stoker.launch.evidence import gather
from stoker.launch.session import Session

START = ("/opt/stoker/bin/stoker-start", "--quiet")
"""Of our images: what comes in from outside gets the environment that the container's own program has."""
_MARK = "STOKER_EXEC"
_OURS = ("--filter", f"label={labels.LAUNCH}=1")
_GONE = re.compile(r"no such container|no container with (name or )?id|container .* (does not exist|not found)|no such object", re.IGNORECASE)
_AWAY = re.compile(r"cannot connect|connection refused|is the docker daemon running|permission denied while trying|dial unix|EOF$", re.IGNORECASE)
# A container that is being removed, or was removed by somebody else while we asked.
_REMOVING = re.compile(r"removal of container .* is already in progress|container .* is marked for removal", re.IGNORECASE)
_TRIES = 5
# What Debian's ncurses-base knows: under another name full-screen programs do not start.
_TERMINALS = re.compile(r"(xterm|screen|tmux|rxvt|linux|vt\d+)([-.].*)?")
# To the one that has our mark in its environment, and no parent in the container. In words that the smallest shell has.
# A process that is becoming another program has no environment for less than a moment: it is looked at once more.
_SIGNAL_INSIDE = """
told=3
for process in /proc/[0-9]*; do
  case "$(cat "$process/status")" in *PPid:[[:space:]]0*)
    given=$(cat "$process/environ")
    [ "$given" ] || given=$(cat "$process/environ")
    case $given in *"$1"*) kill "-$2" "${process#/proc/}"; told=0;; esac;;
  esac
done
exit $told
"""
_NOBODY = 3


@dataclass(frozen=True, kw_only=True)
class EngineKeeper:
    """podman or docker."""

    engine: Engine

    @property
    def name(self) -> str:
        """podman or docker."""
        return self.engine.name

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        """Return what Stoker started; without `everything` only what runs. Raises EngineSilent."""
        every = ("--all",) if everything else ()
        if self.name == "podman":
            return tuple(from_podman(row) for row in rows_of(self._ask("ps", *every, *_OURS, "--format", "json")))
        ids = self._ask("ps", *every, *_OURS, "--quiet", "--no-trunc").split()
        return tuple(from_docker(row) for row in rows_of(self._ask("inspect", "--type", "container", *ids))) if ids else ()

    def stop(self, container: Container, *, grace_s: int) -> None:
        """Send SIGTERM, wait `grace_s` seconds, then SIGKILL; return when it has ended. Raises EngineFailed, EngineSilent."""
        if container.state == "paused":
            self._run("unpause", container.id)  # what sleeps cannot save anything, and podman does not stop it
        self._change("stop", "-t", str(grace_s), container.id, timeout_s=grace_s + 60.0)

    def returns(self, container: Container) -> bool:
        """Tell whether one that was stopped is started again when the machine boots. Raises nothing.

        podman-restart.service starts all with the policy `always` (seen with 4.3), docker's daemon none that a person stopped.
        """
        policy = ("inspect", "--type", "container", "--format", "{{.HostConfig.RestartPolicy.Name}}")
        return self.name == "podman" and self._run(*policy, container.id).out.strip() == "always"

    def kill(self, container: Container, number: int) -> None:
        """Send a signal to the program that it was started for. Raises nothing."""
        self._run("kill", "--signal", str(int(number)), container.id)

    def remove(self, container: Container, *, force: bool = False) -> bool:
        """Remove it with its log, killing what runs, with `force` also what runs since; False: it was gone. Raises EngineFailed, EngineSilent."""
        # One that was seen not to run, and runs by now, is somebody's start: without force the engine refuses.
        words = ("--force",) if force or container.state not in ("created", "exited") else ()
        if container.running:
            self.kill(container, signal.SIGKILL)  # podman would wait for the stop timeout
        return self._change("rm", *words, "--volumes", container.id, timeout_s=120.0)

    def log_text(self, container: Container, *, lines: int | None) -> str:
        """Return what it wrote, the last `lines` of it (None: all); empty when it is gone."""
        done = self._run("logs", *(() if lines is None else ("--tail", str(lines))), container.id)
        # The container's own stderr comes on stderr, and without a way to know which line was when.
        return done.out + done.err if done.ok else ""

    def log_session(self, container: Container, *, follow: bool, lines: int | None, timestamps: bool, since: str | None) -> Session:
        """Return the program that shows its log; with `follow` until it ends."""
        options = [*(["--follow"] if follow else []), *(["--timestamps"] if timestamps else [])]
        options += [*([] if lines is None else ["--tail", str(lines)]), *(["--since", since] if since else [])]
        return Session(words=(self.engine.program, "logs", *options, container.id))

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
        if container.state != "running":
            hint = f"{self.name} unpause {container.container}" if container.state == "paused" else f"`stoker logs {container.name}` says why"
            raise LaunchUnfit(f"{container.name} does not run ({container.state})", hint=hint)
        mark = f"{_MARK}={os.urandom(8).hex()}"
        names = [*environment, *(["TERM"] if terminal and _TERMINALS.fullmatch(os.environ.get("TERM", "")) else [])]
        options = [*(["--interactive"] if interactive else []), *(["--tty"] if terminal else []), "--env", mark]
        options += [part for name in names for part in ("--env", name)]
        options += [*(["--workdir", folder] if folder else []), *(["--user", user] if user else [])]
        started = START if container.ours else ()
        return Session(words=(self.engine.program, "exec", *options, container.id, *started, *words), terminal=terminal, mark=mark)

    def signal(self, container: Container, session: Session, number: int) -> bool:
        """Send a signal to what an `exec_session` started inside; False: it is not there, or not yet. Raises nothing."""
        return self._run("exec", container.id, "sh", "-c", _SIGNAL_INSIDE, "sh", session.mark, str(number)).code != _NOBODY

    def ending(self, container: Container) -> Ending:
        """Return the facts of how it ended, from everything that can still be read. Raises nothing."""
        return gather(self.engine, container)

    def _ask(self, *words: str) -> str:
        """Return an engine's answer. Raises EngineSilent."""
        for _ in range(_TRIES):
            done = self._run(*words)
            # docker tells of the others, or [], when one was removed in between; podman fails, and says nothing.
            if done.ok or (_GONE.search(done.err) and done.out.strip()):
                return done.out
            if not _GONE.search(done.err):
                break
        raise silent(self.name, done.err)

    def _change(self, *words: str, timeout_s: float) -> bool:
        """Have the engine change something; False: the container is gone. Raises EngineFailed, EngineSilent."""
        done = self._run(*words, timeout_s=timeout_s)
        if done.ok and not _GONE.search(done.err):
            return True
        if _GONE.search(done.err) or _REMOVING.search(done.err):
            return False
        raise self._refused(done)

    def _refused(self, done: shell.Outcome) -> EngineFailed | EngineSilent:
        if _AWAY.search(done.err.strip()):
            return silent(self.name, done.err)
        return EngineFailed(f"`{done.command}` failed: {last_line(done.err) or 'it said nothing'}", hint="run the command by hand to see more")

    def _run(self, *words: str, timeout_s: float = ANSWER_S) -> shell.Outcome:
        return shell.run([self.engine.program, *words], timeout_s=timeout_s)
