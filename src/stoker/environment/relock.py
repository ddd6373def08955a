"""The locks made anew: the head of each says which PyTorch it is for, pyproject.toml says what else is in it."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

from stoker import files
from stoker.console import say
from stoker.environment.installer import Installer, find_installer
from stoker.environment.stacks import read_stacks
from stoker.errors import SetupError

_COMPILE = ("pip", "compile", "--quiet", "--universal", "--python-version", "3.10", "--generate-hashes")
# A lock that names no index works behind any mirror.
_PLAIN = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-package", "stoker")


def relock(root: Path) -> None:
    """Resolve every stack and uv itself with hashes, and write `locks/`. Raises SetupError; a lock is replaced whole or not at all."""
    installer = find_installer(root)
    for stack in read_stacks(root / "locks"):
        pins = f"torch=={stack.torch}\ntorchvision=={stack.torchvision}\n"
        _lock(root, installer, stack.lock, ["-c"], pins, ["--extra", "dev", "pyproject.toml"])
    _lock(root, installer, root / "locks/uv.txt", [], "uv\n", [])


def _lock(root: Path, installer: Installer, lock: Path, flag: list[str], text: str, sources: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wanted, out = Path(folder) / "wanted.in", Path(folder) / "lock.txt"
        wanted.write_text(text)
        installer.run([*_COMPILE, *_PLAIN, "-o", str(out), *flag, str(wanted), *sources], folder=root)
        resolved = out.read_text()
    if found := re.search(r"^.*(://|--index|--find-links).*$", resolved, re.MULTILINE):
        raise SetupError(f"the new lock names an address: {found.group(0)[:200]}", hint="unset the direct references or links in your uv settings")
    head = [line for line in lock.read_text().splitlines() if line.startswith("#") and not line.startswith("# locked:")]
    files.write_text_atomically(lock, "\n".join([*head, f"# locked: {time.strftime('%Y-%m-%d')}", ""]) + resolved)
    count = len(re.findall(r"^[a-z0-9]", resolved, re.MULTILINE))
    say(f"{lock.relative_to(root)}: {count} pinned versions")
