"""From the small environment of a source tree into the whole one: for a command that turns out to need more than the small one has."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from stoker.environment.venv import LOOK

# As ./stoker calls it.
_ENTER = "import sys; sys.path.insert(0, sys.argv[1] + '/src'); from stoker.environment.venv import main; main(sys.argv[1:])"


def enter_whole(arguments: Sequence[str]) -> None:
    """Become `stoker ARGUMENTS` in `.venv`, which is made where it is not there. Where this does not run in `.venv.look`, nothing happens."""
    look = Path(sys.prefix)
    if look.name != LOOK:
        return
    # Not the Python of the small environment, which lacks pip.
    python = os.path.realpath(sys.executable)
    os.execv(python, [python, "-I", "-B", "-c", _ENTER, str(look.parent), "run", *arguments])
