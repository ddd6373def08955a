"""A container engine that does what a test wrote down, and remembers what it was called with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.launch.engine import Engine

ID = "c0ffee" * 10
# The words of `run` with what follows it: the id goes where --cidfile says, unless the test says that it fails before.
PROGRAM = f"""#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >> calls
case "$1" in
run)
  for word; do
    [ "$last" = --cidfile ] && file=$word
    [ "$last" = --name ] && name=${{word#stoker-}}
    last=$word
  done
  made() {{ printf {ID} > "$file"; sed "s/NAME/$name/g" row > ps; }}
  . ./behaviour ;;
--version) echo 'podman version 5.0.0' ;;
image) cat image 2>/dev/null || {{ echo 'Error: no such image' >&2; exit 125; }} ;;
ps) cat ps 2>/dev/null || echo '[]' ;;
rm) echo '[]' > ps ;;
esac
"""
ROW = {
    "Id": ID,
    "Names": ["stoker-NAME"],
    "Labels": {"dev.stoker.launch": "1", "dev.stoker.launch.name": "NAME", "dev.stoker.launch.kind": "run"},
    "State": "running",
    "Created": 4e9,
    "StartedAt": 4e9,
}


@dataclass(frozen=True)
class Fake:
    """A `podman` that does what the test wrote down."""

    folder: Path

    def __post_init__(self) -> None:
        """Write the program, where it is not there yet."""
        if not self.program.exists():
            self.folder.mkdir(exist_ok=True)
            self.program.write_text(PROGRAM)
            self.program.chmod(0o755)

    @property
    def program(self) -> Path:
        """What is called."""
        return self.folder / "podman"

    @property
    def engine(self) -> Engine:
        """What Stoker knows of it."""
        return Engine(name="podman", program=str(self.program), version=(5, 0, 0))

    @property
    def calls(self) -> list[str]:
        """The verbs that it was called with, as `run` or `rm --force --volumes ID`; of a run the name."""
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [f"run {line.split('--name ')[1].split()[0]}" if line.startswith("run") else line.partition(" --")[0] for line in lines]

    @property
    def removed(self) -> bool:
        """Whether a container was removed."""
        return any(call.startswith("rm") for call in self.calls)

    def has_image(self) -> None:
        """Give it an image of Stoker's."""
        image = {"Id": "1" * 64, "Architecture": "", "Config": {"User": "stoker", "Labels": {"dev.stoker.variants": "cli"}}}
        (self.folder / "image").write_text(json.dumps([image]))

    def does(self, behaviour: str, **row: Any) -> None:
        """Write down what `run` does, and what `ps` tells afterwards."""
        (self.folder / "behaviour").write_text(behaviour)
        (self.folder / "row").write_text(json.dumps([ROW | row]))
