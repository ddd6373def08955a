"""What engines say when they refuse a start, as errors that one can act on."""

from __future__ import annotations

import re

from stoker.errors import DiskFull, EngineFailed, ImageMissing, NameTaken, PortTaken, ProgramMissing, StokerError
from stoker.launch.engine import Engine, last_line, silent
from stoker.launch.request import Request

_REFUSALS: tuple[tuple[str, type[StokerError], str], ...] = (
    (
        r"\bname\b.*\bis already in use|already in use by",
        NameTaken,
        "`stoker ps -a` says by what; `stoker rm NAME` removes it, or take another --name",
    ),
    (r"address already in use|port is already allocated|ports are not available", PortTaken, "`ss -ltnp` says by whom; or take another port"),
    (
        r"no such image|image not known|unable to find image|pull access denied",
        ImageMissing,
        "`stoker image build --load ENGINE` makes the project's own",
    ),
    (r"no space left", DiskFull, "`df -h` says which disk; then run the same command again"),
    (
        r"executable file .*not found|no such file or directory: .*exec",
        ProgramMissing,
        "the program is looked for in the image's PATH: is it installed there?",
    ),
    (r"unresolvable CDI|could not select device driver|nvidia-container", EngineFailed, "`stoker doctor` says why containers get no GPU"),
)
"""What engines say, in the order in which it is looked for."""


def refused(request: Request, engine: Engine, said: str) -> StokerError:
    """Return the error for what an engine said."""
    told = last_line(said) or "it said nothing"
    if re.search(r"cannot connect|is the docker daemon running|connection refused|permission denied while trying", said, re.IGNORECASE):
        return silent(engine.name, said)
    for pattern, error, hint in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return error(f"{engine.name} did not start {request.name}: {told}", hint=hint)
    return EngineFailed(f"{engine.name} did not start {request.name}: {told}", hint="the command itself: add --dry-run")
