"""Where the files of a wheel go in the image: `/opt/stoker/<stack>` as PEP 427 says, with the RECORD of what is really there."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace

from stoker.image.bytecode import pyc_path
from stoker.image.elf import loaded
from stoker.image.entries import Entry, file
from stoker.image.pruning import pruned, shortened
from stoker.image.scripts import check_name, entry_scripts, is_python_script, with_interpreter
from stoker.image.tarball import fault_of_path
from stoker.image.wheel import Member, WheelArchive, normal_name, record_digest
from stoker.image.ziparchive import refusal

INSTALLER = b"stoker\n"
_SCRIPT_LIMIT_BYTES = 2**26
_MODES = {False: 0o644, True: 0o755}
# What makes the environment: a package that brought one of these would be another interpreter, or take Stoker's place.
_RESERVED = ("pyvenv.cfg", "lib64", "lib/python{python}/site-packages/stoker.pth")


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A file of a wheel in the image."""

    entry: Entry
    digest: str
    """As RECORD writes it: `sha256=...`."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A wheel as it stands in a stack, without RECORD and bytecode."""

    archive: WheelArchive
    stack: str
    python: str
    files: Mapping[str, Placed]
    """By path in the image."""

    def sources(self) -> dict[str, bytes]:
        """Return the modules to compile, by path in the image: read (and so checked) now."""
        site = site_packages(self.stack, self.python)
        found = {}
        for path, placed in self.files.items():
            content = placed.entry.content
            if path.startswith(f"{site}/") and path.endswith(".py") and isinstance(content, Member):
                found[path] = content.read()
        return found

    def entries(self, bytecode: Mapping[str, bytes]) -> list[Entry]:
        """Return all entries: the files, their bytecode (of all that is given, what belongs to this wheel), INSTALLER and RECORD."""
        made = {path: placed.entry for path, placed in self.files.items()}
        rows = {path: (placed.digest, placed.entry.size) for path, placed in self.files.items()}
        for path in self.files:
            compiled = pyc_path(path, self.python)
            # A .pyc that the wheel brings itself was made by another Python, and stays: it is what RECORD promises.
            if path.endswith(".py") and compiled in bytecode and compiled not in made:
                made[compiled], rows[compiled] = _made(compiled, bytecode[compiled])
        site, dist_info = site_packages(self.stack, self.python), self.archive.dist_info
        installer, record = f"{site}/{dist_info}/INSTALLER", f"{site}/{dist_info}/RECORD"
        made[installer], rows[installer] = _made(installer, INSTALLER)
        made[record] = file(record, _record(rows, record, site))
        return list(made.values())


def home(stack: str) -> str:
    """Return the folder of a stack, as `opt/stoker/cu130`."""
    return f"opt/stoker/{stack}"


def site_packages(stack: str, python: str) -> str:
    """Return the folder of a stack's packages."""
    return f"{home(stack)}/lib/python{python}/site-packages"


def interpreter(stack: str) -> str:
    """Return the path of a stack's Python, for the first line of scripts."""
    return f"/{home(stack)}/bin/python"


def place(archive: WheelArchive, *, stack: str, python: str, prune: tuple[str, ...]) -> Placement:
    """Return where everything goes that the wheel brings, less what `prune` leaves out. Raises UnsafeArchive."""
    files: dict[str, Placed] = {}
    reserved = {f"{home(stack)}/{path.format(python=python)}" for path in _RESERVED}
    for member in archive.members:
        if pruned(member.name, prune) or member.name == f"{archive.dist_info}/INSTALLER":
            continue
        placed = _placed(archive, member, stack, python)
        if shortened(member.name, prune) and (library := loaded(member)):
            placed = Placed(entry=replace(placed.entry, content=library), digest=f"sha256={library.digest}")
        if placed.entry.path in reserved:
            raise refusal(archive.path, f"{member.name!r} would replace a part of the environment itself")
        if placed.entry.path in files:
            raise refusal(archive.path, f"it brings {placed.entry.path!r} twice")
        if fault := fault_of_path(placed.entry.path):
            raise refusal(archive.path, f"{placed.entry.path!r} {fault}")
        files[placed.entry.path] = placed
    for script in entry_scripts(archive, interpreter(stack)):
        path = f"{home(stack)}/bin/{script.name}"
        if path in files:
            raise refusal(archive.path, f"it brings the program {script.name!r} twice")
        entry = file(path, script.content, mode=0o755)
        files[path] = Placed(entry=entry, digest=_sha256(script.content))
    return Placement(archive=archive, stack=stack, python=python, files=files)


def _placed(archive: WheelArchive, member: Member, stack: str, python: str) -> Placed:
    told = f"{member.algorithm}={member.digest}"
    if archive.data is None or not member.name.startswith(f"{archive.data}/"):
        path = f"{site_packages(stack, python)}/{member.name}"
        return Placed(entry=file(path, member, mode=_MODES[member.executable]), digest=told)
    scheme, _, rest = member.name.removeprefix(f"{archive.data}/").partition("/")
    if scheme == "scripts":
        return _script(archive, member, rest, stack)
    folders = {
        "purelib": site_packages(stack, python),
        "platlib": site_packages(stack, python),
        "headers": f"{home(stack)}/include/site/python{python}/{normal_name(archive.name)}",
        "data": home(stack),
    }
    if scheme not in folders or not rest:
        raise refusal(archive.path, f"{member.name!r} is of a kind that wheels do not have ({', '.join(sorted([*folders, 'scripts']))})")
    path = f"{folders[scheme]}/{rest}"
    if scheme == "data" and rest.startswith("bin/"):
        check_name(archive, rest.removeprefix("bin/"))
    return Placed(entry=file(path, member, mode=_MODES[member.executable]), digest=told)


def _script(archive: WheelArchive, member: Member, name: str, stack: str) -> Placed:
    """Place a ready program; one in Python gets the stack's interpreter."""
    check_name(archive, name)
    path = f"{home(stack)}/bin/{name}"
    if member.size <= _SCRIPT_LIMIT_BYTES and is_python_script(next(member.packed.chunks(), b"")[:100]):
        content = with_interpreter(member.read(), interpreter(stack))
        return Placed(entry=file(path, content, mode=0o755), digest=_sha256(content))
    return Placed(entry=file(path, member, mode=0o755), digest=f"{member.algorithm}={member.digest}")


def _made(path: str, content: bytes) -> tuple[Entry, tuple[str, int]]:
    return file(path, content), (_sha256(content), len(content))


def _sha256(content: bytes) -> str:
    return "sha256=" + record_digest(hashlib.sha256(content).digest())


def _record(rows: Mapping[str, tuple[str, int]], record: str, site: str) -> bytes:
    """Return the RECORD of what is installed: paths from site-packages on, sorted; itself without a hash."""
    # As PEP 376 writes them: what lies outside site-packages, by the way there.
    up = "../" * (site.count("/") - site.split("/lib/")[0].count("/"))
    top = site.split("/lib/")[0]

    def below(path: str) -> str:
        return path.removeprefix(f"{site}/") if path.startswith(f"{site}/") else up + path.removeprefix(f"{top}/")

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(sorted([(below(path), digest, str(size)) for path, (digest, size) in rows.items()] + [(below(record), "", "")]))
    return text.getvalue().encode()
