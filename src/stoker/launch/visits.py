"""Another program in a container that runs, with this terminal: `exec` and `shell`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from stoker.errors import BadValue, UsageError
from stoker.launch import attached
from stoker.launch.containers import Container
from stoker.launch.keepers import Keeper

SHELL = ("sh", "-c", 'if [ -x "${SHELL:-}" ]; then exec "$SHELL"; fi; if command -v bash >/dev/null; then exec bash; fi; exec sh')
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def visit(
    keeper: Keeper,
    container: Container,
    words: Sequence[str],
    *,
    interactive: bool = False,
    terminal: bool | None = None,
    environment: Sequence[str] = (),
    folder: str | None = None,
    user: str | None = None,
) -> int:
    """Run a program inside to its end and return its exit status. `terminal` None: where stdin and stdout are one.

    Without a terminal of its own inside, signals (Ctrl-C too) are given to it there: engines would only leave it alone.
    Raises LaunchUnfit, ProgramMissing, BadValue, UsageError.
    """
    if not words:
        raise UsageError("there is no program to run", hint=f"stoker exec {container.name} python --version")
    here = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal and not sys.stdin.isatty():
        raise UsageError("stdin is no terminal", hint="leave -t out")
    session = keeper.exec_session(
        container,
        words,
        interactive=interactive or (here if terminal is None else terminal),
        terminal=here if terminal is None else terminal,
        environment=[_checked(name) for name in environment],
        folder=folder,
        user=user,
    )
    if session.terminal or not session.mark:
        return attached.run(session.words, environment=session.environment)
    # What reads from this terminal must stay in its foreground.
    apart = not (interactive and sys.stdin.isatty())
    return attached.run(
        session.words, environment=session.environment, on_signal=lambda number: keeper.signal(container, session, number), apart=apart
    )


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadValue(f"--env {name.partition('=')[0]}: only names are taken", hint="a command line is seen by all: export it, then --env NAME")
    if name not in os.environ:
        raise BadValue(f"--env {name}: there is no such variable in this shell", hint=f"export {name}=... first")
    return name
