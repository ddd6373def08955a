"""What the build made by the image's own programs, bytecode and Stoker's kernels, made again and compared: Python runs bytecode unasked."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.image.bytecode import bytecode_of_groups, pyc_path
from stoker.image.checks.contents import Contents
from stoker.image.checks.finding import Finding, finding
from stoker.image.checks.ownership import Ownership
from stoker.image.lock import Lock, LockedStack, Wheel
from stoker.image.own import HOME, kernels, own_files
from stoker.image.placement import place
from stoker.image.root import Answer, Root
from stoker.image.store import Store
from stoker.image.wheel import read_wheel

_FIX = "build the image again from its stoker.lock, and change nothing in it by hand: `stoker image build`"
_NATIVE = "stoker/native/"


# linux/sockios.h and linux/if.h: SIOCSIFFLAGS with IFF_UP. The kernel then gives it 127.0.0.1 itself.
_LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True, kw_only=True)
class Guarded(Root):
    """A stranger's root: none of its programs runs as root, and they can talk to each other (ranks, kernels), as they could in a container."""

    user: int

    @contextlib.contextmanager
    def _entered(self, mounts: Mapping[str, Path], user: int | None) -> Iterator[list[str]]:
        with super()._entered(mounts, user) as command:
            # Where the namespaces are made and nothing of the image runs yet. Without namespaces it is the host's network, which is up.
            inside = command.index("sh") if "sh" in command else 0
            up = [sys.executable, "-I", "-S", "-c", _LOOPBACK] if inside else []
            yield [*command[:inside], *up, *command[inside:]]

    def run(
        self,
        arguments: Sequence[str],
        *,
        input: bytes = b"",
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
        user: int | None = None,
    ) -> Answer:
        """Run a program as Root does, as the user unless it is said otherwise."""
        return super().run(arguments, input=input, timeout_s=timeout_s, environment=environment, mounts=mounts, user=user or self.user)


def judge_made(lock: Lock, contents: Contents, ownership: Ownership, root: Root, store: Store) -> list[Finding]:
    """Make bytecode and kernels again, from the wheels in the store and from this Stoker's source, and compare.

    Only an image of this very Stoker: another one may compile otherwise.
    """
    if not ownership.own:
        return []
    groups = [sources for stack in lock.stacks for wheel in stack.wheels if (sources := _sources(wheel, stack, lock, store))]
    own = own_files()
    groups.append({f"{HOME}/{path}": content for path, content in own.items() if path.endswith(".py")})
    made = bytecode_of_groups(root, lock.python, groups)
    sources = {path.removeprefix(_NATIVE): content for path, content in own.items() if path.startswith(_NATIVE)}
    made |= {f"{HOME}/{path}": content for path, content in kernels(root, sources).items()}
    return finding("altered-file", "bytecode or kernels are not what their sources give", _differing(made, contents), _FIX)


def _sources(wheel: Wheel, stack: LockedStack, lock: Lock, store: Store) -> dict[str, bytes]:
    """The modules of a wheel by path; none where the store does not have it. Those with bytecode of the wheel's own keep that."""
    path = store.file(wheel.sha256, size=wheel.size)
    if path is None:
        return {}
    placement = place(read_wheel(path, file_name=wheel.file), stack=stack.name, python=lock.python, prune=lock.prune)
    return {name: source for name, source in placement.sources().items() if pyc_path(name, lock.python) not in placement.files}


def _differing(made: Mapping[str, bytes], contents: Contents) -> list[str]:
    there = {path: contents.nodes.get(path) for path in made}
    return [
        f"/{path}{'' if node else ' (missing)'}"
        for path, node in there.items()
        if node is None or node.sha256 != hashlib.sha256(made[path]).hexdigest()
    ]
