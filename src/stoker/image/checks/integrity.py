"""Files: what the lock's packages brought, to the bit; and what nobody brought."""

from __future__ import annotations

import fnmatch
import re

from stoker.image.checks.contents import Contents, Node
from stoker.image.checks.finding import REBUILD, Finding, finding
from stoker.image.checks.ownership import PREFIX, Ownership
from stoker.image.entries import Entry
from stoker.image.lock import Lock
from stoker.image.own import HOME, KERNELS
from stoker.image.pruning import pruned

# What dpkg may be told to leave out, and what Debian's packages generate and change themselves.
_MAY_BE_MISSING = re.compile(
    r"usr/share/(doc|man|info|locale|lintian|bug|doc-base|linda|gnome/help|pixmaps|icons|applications|menu|help)/.*|etc/.*|var/.*"
)
_PROGRAM_PLACES = re.compile(r"(usr/)?(local/)?(s?bin|games|libexec|lib(32|64|x32)?)/.*")
_LOADED = re.compile(r".*\.(so(\.[0-9.]+)?|py|pyc|pth)")
# What tells the linker to look elsewhere, for every program.
_LINKERS = re.compile(r"etc/ld\.so\.preload|etc/ld\.so\.conf(\.d/.*)?")
_OWN_PLACES = re.compile(rf"{PREFIX}/(bin|lib|share)/")
# The kernels are the compiler's work, and RECORD follows from them.
_MADE_IN_THE_BUILD = re.compile(rf"{HOME}/({'|'.join(map(re.escape, KERNELS))})\.so|{HOME}/[^/]+\.dist-info/(RECORD|INSTALLER)")
# Of installed distributions (PEP 376, 610, 627): no wheel has their hashes.
_WRITTEN_AT_INSTALLATION = re.compile(r".*\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)")
_BYTECODE = re.compile(r"(?:(.*)/)?__pycache__/([^/]+)\.cpython-\d+(?:\.opt-\d)?\.pyc")
# PEP 552: it holds a hash of its source, and Python compares it. What is not compared must stand in a RECORD, with its own hash.
_CHECKED = 0b11
# What makes a stack an environment (PEP 405).
_FRAME = re.compile(rf"{PREFIX}/[^/]+/(pyvenv\.cfg|bin/(python3?|python3\.\d+|activate.*|Activate\.ps1)|lib64|lib/[^/]+/site-packages/stoker\.pth)")


def judge_files(lock: Lock, contents: Contents, ownership: Ownership) -> list[Finding]:
    """Compare every file that the lock accounts for, and look for those in its folders that it does not."""
    return [
        *_wheels(lock, contents, ownership),
        *_own(contents, ownership),
        *_debs(contents, ownership),
        *_strays(lock, contents, ownership),
        *_programs(lock, contents, ownership),
    ]


def _wheels(lock: Lock, contents: Contents, ownership: Ownership) -> list[Finding]:
    altered, missing = [], []
    for path, expected in ownership.wheels.items():
        node = contents.nodes.get(path)
        if _WRITTEN_AT_INSTALLATION.fullmatch(path):
            continue
        if node is None or node.kind != "file":
            if not pruned(path, lock.prune) and not _BYTECODE.fullmatch(path):
                missing.append(f"/{path} ({expected.owner})")
        elif expected.hashes and node.sha256 not in expected.hashes:
            altered.append(f"/{path} ({expected.owner})")
    unlisted = [f"{name}: no RECORD" for name in ownership.unlisted]
    return [
        *finding("altered-file", "files are not as their wheels brought them", altered, REBUILD),
        *finding("missing-file", "files of the wheels are missing", [*missing, *unlisted], REBUILD),
    ]


def _own(contents: Contents, ownership: Ownership) -> list[Finding]:
    """Stoker's own files, the entry point among them; and what else lies where they do."""
    if not ownership.own:
        return []
    there = {path: contents.nodes.get(path) for path in ownership.own}
    altered = [f"/{path}" for path, node in there.items() if node is not None and node.sha256 not in ownership.own[path].hashes]
    settings = {entry.path: entry for entry in ownership.settings}
    altered += [f"/{path}" for path, entry in settings.items() if _differs(entry, contents.nodes.get(path))]
    strays = [
        f"/{node.path}"
        for node in contents.nodes.values()
        if node.kind in ("file", "symlink")
        and _OWN_PLACES.match(node.path)
        and node.path not in ownership.own
        and node.path not in settings
        and not _MADE_IN_THE_BUILD.fullmatch(node.path)
        and _source(node.path) not in ownership.own
    ]
    return [
        *finding("altered-file", "Stoker's own files are not those of its version", altered, REBUILD),
        *finding("missing-file", "Stoker's own files are missing", [f"/{path}" for path, node in there.items() if node is None], REBUILD),
        *finding("unknown-file", "files lie among Stoker's own that are not of its version", strays, REBUILD),
    ]


def _differs(entry: Entry, node: Node | None) -> bool:
    """Whether it is another kind of thing, leads elsewhere, or is no program where it should be one."""
    if node is None:
        return entry.kind == "symlink"  # a file that is not there is called missing
    if node.kind != entry.kind:
        return True
    return node.target != entry.target if entry.kind == "symlink" else (node.mode ^ entry.mode) & 0o111 != 0


def _debs(contents: Contents, ownership: Ownership) -> list[Finding]:
    altered, missing, rules = [], [], _exclusions(contents)
    for path, expected in ownership.debs.items():
        node = contents.find(path)
        if node is None:
            if not _MAY_BE_MISSING.fullmatch(path) and not _excluded(path, rules):
                missing.append(f"/{path} ({expected.owner})")
        elif node.kind != "symlink" and node.md5 not in expected.hashes:  # dpkg-divert and alternatives make links
            altered.append(f"/{path} ({expected.owner})")
    return [
        *finding("altered-file", "files are not as Debian's packages brought them", altered, REBUILD),
        *finding("missing-file", "files of Debian's packages are missing", missing, REBUILD),
    ]


def _exclusions(contents: Contents) -> list[tuple[bool, re.Pattern[str]]]:
    """What dpkg is told to leave out of this image, and what of that not (dpkg(1), --path-exclude): the last rule that fits decides."""
    places = sorted(path for path in contents.texts if path.startswith("etc/dpkg/dpkg.cfg"))
    lines = [line for path in places for line in (contents.text(path) or "").splitlines()]
    rules = [found for line in lines if (found := re.fullmatch(r"\s*path-(exclude|include)\s*[= ]\s*/?(\S+)\s*", line))]
    return [(rule[1] == "exclude", re.compile(fnmatch.translate(rule[2]))) for rule in rules]


def _excluded(path: str, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    return next((excluded for excluded, pattern in reversed(rules) if pattern.match(path)), False)


def _strays(lock: Lock, contents: Contents, ownership: Ownership) -> list[Finding]:
    """Files in a stack that no wheel brought: Python imports what lies there, whoever put it."""
    places = tuple(f"{PREFIX}/{stack.name}/" for stack in lock.stacks)
    strays = [
        f"/{node.path}"
        for node in contents.nodes.values()
        if node.kind in ("file", "symlink") and node.path.startswith(places) and not _accounted(node, contents, ownership)
    ]
    return finding("unknown-file", "files lie among the Python packages that no package of the lock brought", strays, REBUILD)


def _accounted(node: Node, contents: Contents, ownership: Ownership) -> bool:
    if node.path in ownership.wheels or _WRITTEN_AT_INSTALLATION.fullmatch(node.path) or _FRAME.fullmatch(node.path):
        return True
    return _source(node.path) in contents.nodes and int.from_bytes(node.head[4:8], "little") == _CHECKED


def _source(path: str) -> str | None:
    """Return the module that bytecode was made of; None for what is no bytecode of a module beside it."""
    found = _BYTECODE.fullmatch(path)
    return "/".join(part for part in (found[1], f"{found[2]}.py") if part) if found else None


def _programs(lock: Lock, contents: Contents, ownership: Ownership) -> list[Finding]:
    """What runs in the system's folders and no package brought. Where dpkg's lists are gone nothing can be said: their absence is found elsewhere."""
    if not ownership.programs:
        return []
    # An image of somebody else's may have a Python of its own, outside of every package.
    runs = _runs_on_debian if lock.base.kind == "debian" else _is_program
    strays = [
        f"/{node.path}"
        for node in contents.nodes.values()
        if node.kind in ("file", "symlink")
        and runs(node, contents)
        and contents.real(node.path) not in ownership.programs
        and node.path not in ownership.programs
    ]
    return finding(
        "unknown-program",
        "programs, or what programs load, lie in the system's folders, and no package brought them",
        strays,
        "install them by stoker.toml, or remove them",
    )


def _is_program(node: Node, contents: Contents) -> bool:
    return node.kind == "file" and node.mode & 0o111 != 0 and _PROGRAM_PLACES.fullmatch(node.path) is not None


def _runs_on_debian(node: Node, contents: Contents) -> bool:
    """Whether it is a program, or something that programs load unasked: by the linker, or by Python."""
    if _is_program(node, contents) or (_LINKERS.fullmatch(node.path) and node.size):
        return True
    if not _PROGRAM_PLACES.fullmatch(node.path) or (node.target or "").startswith("/etc/alternatives/"):
        return False
    source = _source(node.path)
    return _LOADED.fullmatch(node.path) is not None and not (source in contents.nodes if source else False)
