"""An image tried: every package imported by the image's own Python, and `stoker verify --quick`, both as an ordinary user without network."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stoker import shell
from stoker.image.checks import inside
from stoker.image.checks.contents import Contents
from stoker.image.checks.finding import Finding, finding
from stoker.image.checks.ownership import PREFIX, Ownership, site_packages
from stoker.image.checks.remaking import Guarded
from stoker.image.checks.subject import Subject, open_layers
from stoker.image.lock import FILE_TIME, Lock, LockedStack
from stoker.image.root import Root
from stoker.image.store import Store
from stoker.image.unpacking import unpack_layers

USER = 1000
_IMPORTS_S = 300.0
_MOST_SAID = 2000
# Top-level folders that badly packed wheels bring along, and that nobody imports.
_NOT_MEANT = ("test", "tests", "testing", "docs", "doc", "examples", "benchmarks", "scripts", "bin", "share", "include", "etc")
_WORSE_THAN_LOW = 2
"""Exit status of `stoker verify`: 1 is "something is low", which the machine may be to blame for; 2 is "something is wrong"."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a program of the image did."""

    code: int | None
    """Exit status; None: it did not start, or ran past its time limit."""
    out: str
    err: str


class Runner(Protocol):
    """Something that runs programs of an image."""

    def __call__(self, arguments: Sequence[str], *, timeout_s: float) -> Said:
        """Run a program as an ordinary user, with /tmp to write to and nothing else."""


@contextlib.contextmanager
def running(subject: Subject, store: Store) -> Iterator[tuple[Runner, Root | None]]:
    """Yield what runs the programs of an image: its engine, or for a layout its root, unpacked for that long (then also that root)."""
    if subject.layout is None:
        assert subject.engine is not None
        yield _Container(engine=subject.engine, image=subject.digest), None
        return
    with store.scratch() as folder:
        root = folder / "root"
        root.mkdir()
        unpack_layers(open_layers(subject.layout), root)
        guarded = Guarded(folder=root, created=FILE_TIME, user=USER)
        yield _Unpacked(root=guarded), guarded


@dataclass(frozen=True, kw_only=True)
class _Container:
    engine: str
    image: str

    def __call__(self, arguments: Sequence[str], *, timeout_s: float) -> Said:
        shut = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        # torch.compile loads what it wrote to /tmp; loaders hand batches over by shared memory, of which 64 MB are there otherwise.
        room = ["--tmpfs", "/tmp:rw,exec,mode=1777", "--shm-size", "1g"]
        start = ["run", "--rm", *shut, *room, "--user", f"{USER}:{USER}", "--env", "HOME=/tmp", "--workdir", "/tmp", "--entrypoint", arguments[0]]
        done = shell.run([self.engine, *start, self.image, *arguments[1:]], timeout_s=timeout_s)
        return Said(code=done.code, out=done.out, err=done.err)


@dataclass(frozen=True, kw_only=True)
class _Unpacked:
    root: Root

    def __call__(self, arguments: Sequence[str], *, timeout_s: float) -> Said:
        done = self.root.run(arguments, timeout_s=timeout_s)
        return Said(code=done.code, out=done.out.decode(errors="replace"), err=done.err)


def judge_imports(lock: Lock, contents: Contents, ownership: Ownership, run: Runner) -> list[Finding]:
    """Import every package of every stack."""
    found = []
    for stack in lock.stacks:
        modules = modules_of(lock, stack, contents, ownership)
        problems = _import(modules, stack, run) if modules else []
        found += finding(
            "import",
            f"packages of the stack {stack.name} cannot be imported",
            problems,
            "a library or another package is missing, or two do not fit together: the message names it; add it to stoker.toml",
        )
    return found


def modules_of(lock: Lock, stack: LockedStack, contents: Contents, ownership: Ownership) -> list[str]:
    """Return the modules that the wheels of a stack bring for others to import, as `torch` and `google.protobuf`."""
    site = site_packages(lock, stack) + "/"
    paths = [path[len(site) :] for path in ownership.wheels if path.startswith(site) and path in contents.nodes]
    packages = {path.rpartition("/")[0] for path in paths if path.endswith("/__init__.py")}
    single = {found[1] for path in paths if (found := re.fullmatch(r"([A-Za-z]\w*)(?:\.py|\.cpython-\d+[\w-]*\.so|\.abi3\.so)", path))}
    top = {package for package in packages if "/" not in package}
    # In a folder without __init__.py (a namespace of several wheels) the packages are one deeper.
    deeper = {package for package in packages if package.count("/") == 1 and package.partition("/")[0] not in top}
    return sorted(
        name
        for name in single | {package.replace("/", ".") for package in top | deeper}
        if all(part.isidentifier() for part in name.split(".")) and not name.startswith("_") and name.partition(".")[0] not in _NOT_MEANT
    )


def _import(modules: Sequence[str], stack: LockedStack, run: Runner) -> list[str]:
    source = Path(inside.__file__).read_text(encoding="utf-8")
    said = run([f"/{PREFIX}/{stack.name}/bin/python", "-c", source, *modules], timeout_s=_IMPORTS_S)
    problems = {}
    for line in said.out.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            problems[str(told["module"])] = told["problem"]
    silent = [module for module in modules if module not in problems]
    if silent:
        how = "no end" if said.code is None else f"exit status {said.code}"
        return [f"{silent[0]}: {how} ({_last_line(said)})", *(f"{module}: not tried" for module in silent[1:2])]
    return [f"{module}: {problem}" for module, problem in problems.items() if problem]


def judge_verification(lock: Lock, run: Runner, timeout_s: float) -> list[Finding]:
    """Let the newest stack measure itself: are its numbers right, does it train?"""
    stack = next((stack for stack in lock.stacks if stack.torch), None)
    if stack is None:
        return []
    command = [f"/{PREFIX}/{stack.name}/bin/python", "-m", "stoker", "verify", "--quick", "--json", "-", "--output", "/tmp"]
    said = run(command, timeout_s=timeout_s)
    if said.code in (0, 1):
        return []
    how = f"no end within {timeout_s:g} s" if said.code is None else f"exit status {said.code}"
    return finding(
        "verify",
        "`stoker verify --quick` finds something wrong in the image"
        if said.code == _WORSE_THAN_LOW
        else "`stoker verify --quick` fails in the image",
        [f"{stack.name}: {how}: {told}" for told in _wrong(said.out) or [_last_line(said)]],
        "run it in a container of this image to see all that it says: `stoker verify --quick`",
    )


def _wrong(verification: str) -> list[str]:
    """What a verification calls wrong, in its own words; nothing where it wrote none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        checks = json.loads(verification)["checks"]
        return [f"{check['title']}: {check['sentence']}" for check in checks if check["verdict"] == "wrong"]
    return []


def _last_line(said: Said) -> str:
    lines = [line for line in said.err[-_MOST_SAID:].splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
