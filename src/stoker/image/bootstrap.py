"""mmdebstrap: a Debian root made of given packages and nothing else, as a tar; as root, or as anybody who has a range of user ids.

The packages come from a folder with an index of its own, so that no mirror is asked and apt can choose nothing else. They carry no signature there:
each was compared with the hash in the lock when it came into the store, and the lock was made from signed lists.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pwd
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from stoker.errors import BuildFailed, DiskFull, ProgramMissing
from stoker.host.limits import find_limits
from stoker.image.basetar import BUILD_RULES_FILE, DPKG_RULES, RULES_FILE
from stoker.image.lock import Deb
from stoker.image.root import namespace_refusal
from stoker.shell import run

# 25 s here; a slow disk under load needs its time.
_SLOW_S = 1800.0
# An ordinary user's mmdebstrap removes what it made when it is asked to end.
_ENDING_S = 20.0
_LOOK_S = 0.2
_PREFIX = "stoker-base-"
_LEAST_IDS = 65536
# The packages twice, and the root: five times their size with documentation, which goes last.
_MOST_GROWTH = 8

# $1 is the new root, before the first package. Only Debian 13 has these links in a package; in Debian 12 they must be there before (usr-is-merged).
_SETUP = r"""#!/bin/sh
set -eu
for name in bin lib lib64 sbin; do
    mkdir -p "$1/usr/$name"
    ln -s "usr/$name" "$1/$name"
done
"""


def bootstrap(
    debs: Sequence[Deb], paths: Mapping[str, Path], out: BinaryIO, *, created: int, while_waiting: Callable[[], object] = lambda: None
) -> None:
    """Write the tar of a root with these packages, installed, to `out`; `paths` has the files by sha256.

    `while_waiting` is called several times a second; what it raises ends the work and is raised here.

    Raises ProgramMissing, and BuildFailed with mmdebstrap's own words or with what this user lacks; DiskFull.
    """
    mode = _mode()
    with _workplace(_place(sum(deb.size for deb in debs))) as folder:
        sources = _repository(folder, debs, paths)
        hooks = _hooks(folder)
        command = [
            "mmdebstrap",
            f"--mode={mode}",
            "--variant=essential",
            "--format=tar",
            f"--architectures={_architecture(debs)}",
            f"--include={','.join(sorted(deb.name for deb in debs))}",
            *hooks,
            "",
            "-",
            str(sources),
        ]
        code, said = _run(command, folder, out, created, while_waiting)
    if code != 0:
        if "No space left on device" in said:
            raise _full(folder.parent, out)
        raise BuildFailed(
            f"mmdebstrap said no (exit status {code}):\n{_last_words(said)}",
            hint="run the same command again; TMPDIR must allow programs and devices",
        )


def _full(place: Path, out: BinaryIO) -> DiskFull:
    """Return the error for the one of the two disks that is full: that of the root, or that of its tar."""
    if _free(os.fstatvfs(out.fileno())) < _free(os.statvfs(place)):
        hint = "`stoker image cache prune` frees what was not used lately, STOKER_CACHE names another folder; then run the same command again"
        return DiskFull(f"no space left on the disk of the image cache while mmdebstrap wrote {out.name}", hint=hint)
    return DiskFull(
        f"no space left on the disk while mmdebstrap made the root in {place}", hint="free space there, or name another place: TMPDIR=..."
    )


def _free(disk: os.statvfs_result) -> int:
    return disk.f_bavail * disk.f_frsize


def _mode() -> str:
    """Return how mmdebstrap shall work for this user. Raises what this user lacks for it."""
    for program, package in (("mmdebstrap", "mmdebstrap"), ("dpkg-deb", "dpkg"), ("tar", "tar")):
        if shutil.which(program) is None:
            raise ProgramMissing(f"{program} is not there: it makes the base of an image", hint=f"install the package {package}")
    if os.geteuid() == 0:
        return "root"
    if shutil.which("newuidmap") is None:
        raise ProgramMissing("newuidmap is not there: without root it gives the base its owners", hint="install the package uidmap, or build as root")
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise BuildFailed(f"user {os.geteuid()} has no account on this machine", hint="build as a user that has one, or as root") from error
    for file in ("/etc/subuid", "/etc/subgid"):
        if not _has_range(Path(file), name):
            raise BuildFailed(
                f"{name} has no range of {_LEAST_IDS} ids in {file}: the files of an image belong to several users",
                hint=f"have root give one: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name} (any free range), or build as root",
            )
    if refusal := namespace_refusal():
        raise BuildFailed(
            f"{name} may not make a user namespace here: {refusal}",
            hint="allow it (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), or build as root",
        )
    return "unshare"


def _has_range(file: Path, name: str) -> bool:
    try:
        rows = [line.split(":") for line in file.read_text().splitlines()]
    except OSError:
        return False
    return any(len(row) == 3 and row[0] in (name, str(os.geteuid())) and row[2].isdigit() and int(row[2]) >= _LEAST_IDS for row in rows)


def _place(packed_bytes: int) -> Path:
    """Return where to work: TMPDIR, else memory if there is plenty, else the usual place. Thousands of small files are made and removed again."""
    memory, needed = Path("/dev/shm"), packed_bytes * _MOST_GROWTH + 2**30
    if os.environ.get("TMPDIR") or not memory.is_dir() or not os.access(memory, os.W_OK):
        return Path(tempfile.gettempdir()).resolve()
    there = os.statvfs(memory)
    known = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free = int(known[1]) * 1024 if known else 0
    roomy = there.f_bavail * there.f_frsize >= needed and free >= 2 * needed and find_limits().memory_limit_bytes is None
    return memory if roomy and not there.f_flag & os.ST_NOEXEC else Path(tempfile.gettempdir()).resolve()


@contextlib.contextmanager
def _workplace(place: Path) -> Iterator[Path]:
    """Yield a folder that the users of a namespace can reach, too: the store often lies in a home that is closed to them."""
    for parent in (place, *place.parents):
        if os.geteuid() != 0 and not parent.stat().st_mode & stat.S_IXOTH:
            raise BuildFailed(f"{parent} is closed to other users, and mmdebstrap works as several", hint="name an open place, as TMPDIR=/var/tmp")
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))
    try:
        folder.chmod(0o755)
        yield folder
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left on the disk in {place}", hint="free space there, or name another place: TMPDIR=...") from error
        raise
    finally:
        _remove(folder)


def _sweep(place: Path) -> None:
    """Remove what builds that were killed left behind."""
    for left in place.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if left.stat().st_uid == os.geteuid() and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove(left)


def _remove(folder: Path) -> None:
    # Whatever may still be mounted in there is not ours to empty.
    run(["rm", "-rf", "--one-file-system", str(folder)], timeout_s=600)
    if folder.exists() and os.geteuid() != 0:
        # What a killed mmdebstrap left belongs to the users of its namespace.
        run(["mmdebstrap", "--unshare-helper", "rm", "-rf", str(folder)], timeout_s=60)


def _repository(folder: Path, debs: Sequence[Deb], paths: Mapping[str, Path]) -> Path:
    """Lay out the packages with their index; return the list of sources that names them."""
    place = folder / "packages"
    place.mkdir()
    place.chmod(0o755)
    rows = []
    for deb in sorted(debs, key=lambda deb: deb.name):
        file = f"{deb.name}_{deb.sha256[:16]}.deb"
        shutil.copyfile(paths[deb.sha256], place / file)
        (place / file).chmod(0o644)
        rows.append(f"{_control(place / file, deb)}\nFilename: ./{file}\nSize: {deb.size}\nSHA256: {deb.sha256}\n")
    _write(place / "Packages", "\n".join(rows))
    # copy: apt puts the files into the new root, where the programs of the namespace can reach them.
    _write(folder / "sources.list", f"deb [trusted=yes] copy://{place} ./\n")
    return folder / "sources.list"


def _control(file: Path, deb: Deb) -> str:
    """Return the description of a package. deb(5): an ar archive, in which a tar holds the file `control`."""
    try:
        with open(file, "rb") as content:
            content.seek(len(b"!<arch>\n"))
            while header := content.read(60):
                size = int(header[48:58])
                if header.startswith(b"control.tar"):
                    with tarfile.open(fileobj=io.BytesIO(content.read(size))) as tar:
                        text = next(tar.extractfile(member) for member in tar if member.name.removeprefix("./") == "control")
                        return text.read().decode().strip() if text else ""
                content.seek(size + size % 2, os.SEEK_CUR)
    except (ValueError, tarfile.TarError, StopIteration, EOFError):
        pass  # compressed in a way that Python does not know, or no package
    said = run(["dpkg-deb", "--field", str(file)], timeout_s=60)
    if not said.ok:
        raise BuildFailed(f"{deb.file} is no package: {said.err.strip()}", hint="run `stoker image cache prune`, then build again")
    return said.out.strip()


def _hooks(folder: Path) -> list[str]:
    """Return the options that have mmdebstrap set up the root before the first package comes."""
    _write(folder / "setup.sh", _SETUP)
    _write(folder / "rules", DPKG_RULES)
    # A root that does not get whole is thrown away: there is nothing to save from a power cut.
    _write(folder / "build-rules", "force-unsafe-io\n")
    files = {"rules": RULES_FILE, "build-rules": BUILD_RULES_FILE}
    return [
        f'--setup-hook=sh {shlex.quote(str(folder / "setup.sh"))} "$1"',
        *(f'--setup-hook=mkdir -p "$(dirname "$1/{file}")" && cp {shlex.quote(str(folder / name))} "$1/{file}"' for name, file in files.items()),
    ]


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def _architecture(debs: Sequence[Deb]) -> str:
    return next((deb.architecture for deb in debs if deb.architecture != "all"), "amd64")


def _run(command: list[str], folder: Path, out: BinaryIO, created: int, while_waiting: Callable[[], object]) -> tuple[int | None, str]:
    """Run mmdebstrap to its end; whatever interrupts this lets it clear up first."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(created),
        # Debian's packages compile their Python: in the order of a hash, if it is not fixed.
        "PYTHONHASHSEED": "0",
    }
    with open(folder / "log", "w+b") as log:
        # In a session of its own, so that Ctrl-C reaches it through us; when we die, it ends as if asked to.
        process = subprocess.Popen(
            [*_contained(), *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            umask=0o022,
            start_new_session=True,
        )
        deadline, code = time.monotonic() + _SLOW_S, None
        try:
            while code is None and time.monotonic() < deadline:
                while_waiting()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=_LOOK_S)
        finally:
            if code is None:
                _end(process)
        log.seek(0)
        return code, log.read().decode(errors="replace")


def _contained() -> list[str]:
    """Return what keeps mmdebstrap's mounts from this machine, and ends it with us.

    Of root it would mount `/proc`, `/sys` and `/dev/shm` where everybody sees them, and killed, leave them there, for whoever clears up to run into.
    In a namespace they vanish with it. For others mmdebstrap makes one itself, and is asked to end so that it can remove the files of its users.
    """
    if os.geteuid() != 0:
        return ["setpriv", "--pdeathsig", "TERM"]
    if namespace_refusal() is not None:  # then it cannot mount either
        return ["setpriv", "--pdeathsig", "KILL"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"]


def _end(process: subprocess.Popen[bytes]) -> None:
    if os.geteuid() == 0:
        process.kill()
    else:
        process.terminate()
    try:
        process.wait(timeout=_ENDING_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(said: str) -> str:
    """Return the lines that say what went wrong; else the last ones."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"E:|dpkg: error|.*: error|.*cannot ", line)]
    return "\n".join((telling or lines)[-8:])
