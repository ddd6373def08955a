"""The base of an image, really made by mmdebstrap: by root and by an ordinary user, under other circumstances, to the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import BuildFailed, DiskFull
from stoker.image.baselayer import BaseLayer, base_key, make_base
from stoker.image.debian import fetch_debs, lock_base
from stoker.image.lock import Lock, LockedStack, Own, Wheel, read_lock, write_lock
from stoker.image.root import namespace_refusal
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from tests.conftest import need
from tests.image_roots import ORDINARY, SOURCE, may_be_ordinary, ordinary

pytestmark = [pytest.mark.network, pytest.mark.slow]

BUILD = """
import sys
from pathlib import Path
from stoker.errors import StokerError
from stoker.image.baselayer import make_base
from stoker.image.lock import read_lock
from stoker.image.specification import Mirrors
from stoker.image.store import Store
nowhere = Mirrors(debian="/nowhere", security="/nowhere")
try:
    print(make_base(read_lock(Path(sys.argv[1])), Store(Path(sys.argv[2])), mirrors=nowhere).tar)
except StokerError as error:
    print(error.message, error.hint, sep="\\n")
    sys.exit(error.exit_code)
"""
WHEEL = Wheel(name="tiny", version="1", file="tiny-1-py3-none-any.whl", sha256="0" * 64, size=1, index=None, variants=("cli",))
PLAIN = LockedStack(
    name="plain",
    torch=None,
    torchvision=None,
    cuda=None,
    toolkit=None,
    cudnn=None,
    driver_min=None,
    driver_full=None,
    architectures=(),
    ptx=False,
    wheels=(WHEEL,),
)
NOWHERE = Mirrors(debian="/nowhere", security="/nowhere")


@dataclasses.dataclass(frozen=True)
class Locked:
    folder: Path
    """Open to everybody: pytest's own folder is not."""
    lock: Lock
    store: Store
    base: BaseLayer

    def copy_of_store(self, name: str) -> Path:
        """Return a store that has the packages and nothing else."""
        other = self.folder / name
        shutil.copytree(self.store.folder / "files", other / "files")
        for path in (other, *other.rglob("*")):
            os.chown(path, ORDINARY, ORDINARY)
        return other


@pytest.fixture(scope="module")
def locked() -> Iterator[Locked]:
    """A small Debian, locked and made by root."""
    need(os.geteuid() == 0, "root")
    for program in ("mmdebstrap", "apt-get", "dpkg-deb"):
        need(shutil.which(program) is not None, program)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        base = lock_base(suite="trixie", machine="x86_64", packages={"cli": ["python3-minimal"], "ssh": ["openssh-server"]}, mirrors=Mirrors())
        lock = Lock(
            name="small",
            created=1_760_000_000,
            machine="x86_64",
            specification="sha256:" + "0" * 64,
            python="3.13",
            python_full="3.13.5",
            base=base,
            stacks=(PLAIN,),
            variants=("cli", "ssh"),
            prune=(),
            own=Own(version="0", sha256="0" * 64),
            compression="zstandard 0.25.0 level 3",
        )
        write_lock(folder / "stoker.lock", lock)
        store = Store(folder / "store")
        fetch_debs(base.debs, store, mirrors=Mirrors())
        yield Locked(folder, lock, store, make_base(lock, store, mirrors=NOWHERE))


@pytest.fixture(scope="module")
def members(locked: Locked) -> dict[str, tarfile.TarInfo]:
    assert locked.base.tar is not None
    with tarfile.open(locked.base.tar) as tar:
        return {member.name: member for member in tar}


def text(locked: Locked, path: str) -> str:
    return (locked.base.root.folder / path).read_text()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def account(folder: Path, *, subids: str) -> tuple[str, ...]:
    """Return a command that runs the rest with an account for ORDINARY, which this machine itself does not get."""
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + f"tester:x:{ORDINARY}:{ORDINARY}::/tmp:/bin/sh\n")
    (folder / "subids").write_text(subids)
    binds = [("passwd", "/etc/passwd"), ("subids", "/etc/subuid"), ("subids", "/etc/subgid")]
    script = "; ".join(["set -e", "touch /etc/subuid /etc/subgid", *(f"mount --bind {folder}/{name} {place}" for name, place in binds)])
    return ("unshare", "--mount", "--uts", "sh", "-c", f'{script}; hostname elsewhere; exec taskset -c 0 "$@"', "sh")


def test_an_ordinary_user_elsewhere_makes_the_same_bytes(locked: Locked) -> None:
    need(may_be_ordinary(), "a user namespace for an ordinary user")
    need(shutil.which("newuidmap") is not None, "newuidmap")
    store = locked.copy_of_store("ordinary")
    circumstances = {
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "de_DE",
        "TZ": "Pacific/Kiritimati",
        "DEBIAN_FRONTEND": "dialog",
        "PYTHONHASHSEED": "7",
        "TMPDIR": "/var/tmp",
    }
    before = (*account(locked.folder, subids=f"tester:{2**20}:65536\n"), "sh", "-c", 'umask 077; exec "$@"', "sh")
    done = ordinary(BUILD, str(locked.folder / "stoker.lock"), str(store), environment=circumstances, before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    assert locked.base.tar is not None
    assert sha256(Path(done.stdout.strip())) == sha256(locked.base.tar)
    assert not list(Path("/var/tmp").glob("stoker-base-*"))


def test_an_ordinary_user_without_ids_is_told_what_to_ask_for(locked: Locked) -> None:
    need(may_be_ordinary(), "a user namespace for an ordinary user")
    store = locked.copy_of_store("without")
    done = ordinary(BUILD, str(locked.folder / "stoker.lock"), str(store), before=account(locked.folder, subids="other:1:65536\n"))
    assert done.returncode == BuildFailed.exit_code
    assert "tester has no range of 65536 ids in /etc/subuid" in done.stdout
    assert "usermod --add-subuids" in done.stdout


def test_a_second_call_takes_what_is_there(locked: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # where no program is that could make it
    assert make_base(locked.lock, locked.store, mirrors=NOWHERE) == locked.base


def test_another_moment_of_the_lock_is_the_same_base_and_another_package_is_not(locked: Locked) -> None:
    assert base_key(dataclasses.replace(locked.lock, created=1)) == locked.base.key
    less = dataclasses.replace(locked.lock.base, debs=locked.lock.base.debs[1:])
    assert base_key(dataclasses.replace(locked.lock, base=less)) != locked.base.key


def test_exactly_the_locked_packages_are_installed(locked: Locked) -> None:
    rows = [
        dict(line.split(": ", 1) for line in row.splitlines() if line[:1].strip() and ": " in line)
        for row in text(locked, "var/lib/dpkg/status").split("\n\n")
    ]
    installed = {(row["Package"], row["Version"], row["Status"]) for row in rows if row}
    assert installed == {(deb.name, deb.version, "install ok installed") for deb in locked.lock.base.debs}


def test_nothing_of_this_machine_or_moment_is_left(locked: Locked, members: dict[str, tarfile.TarInfo]) -> None:
    assert len({member.mtime for member in members.values()}) == 1
    assert not [name for name in members if name.startswith(("etc/ssh/ssh_host_", "etc/apt/sources", "tmp/", "run/", "dev/"))]
    assert not [name for name, member in members.items() if name.startswith(("var/log/", "var/cache/")) and not member.isdir()]
    assert not [name for name, member in members.items() if member.mode & 0o6000]
    writable = {name for name, member in members.items() if member.mode & 0o002 and not member.issym()}
    assert writable <= {"tmp", "var/tmp", "var/lock", "run/lock"}
    assert all(members[name].mode & 0o1000 for name in writable)
    assert locked.base.tar is not None
    content = locked.base.tar.read_bytes()
    for trace in (b"/tmp/", str(locked.folder).encode()):
        assert trace != b"/tmp/" or b"stoker-base-" not in content
        assert trace == b"/tmp/" or trace not in content
    compiled = [name for name in members if name.endswith(".pyc")]
    assert compiled
    for name in compiled:
        # Flags of PEP 552: compiled files that are checked by time would never be valid again.
        assert (locked.base.root.folder / name).read_bytes()[4] & 1, name


def test_documentation_is_left_out_and_copyright_files_stay(members: dict[str, tarfile.TarInfo]) -> None:
    documents = [name for name, member in members.items() if name.startswith("usr/share/doc/") and member.isreg()]
    assert documents
    assert {Path(name).name for name in documents} == {"copyright"}
    assert not [name for name in members if name.startswith(("usr/share/man/man", "usr/share/locale/de"))]


def test_its_python_runs_in_it(locked: Locked) -> None:
    need(namespace_refusal() is None, "namespaces")
    answer = locked.base.root.run(
        ["python3", "-c", "import sys, json; print(sys.version_info[:2], json.load(sys.stdin), sys.flags.utf8_mode)"], input=b"[1]", timeout_s=30
    )
    assert answer.ok, answer.err
    assert answer.out.decode().startswith("(3, 13) [1]")


def test_the_user_has_no_password_and_is_not_locked(locked: Locked) -> None:
    assert "stoker:x:1000:1000:Stoker:/home/stoker:/bin/bash\n" in text(locked, "etc/passwd")
    assert "\nstoker:*:" in text(locked, "etc/shadow")


def command_lines() -> list[bytes]:
    """Return the command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines.append(path.read_bytes())
    return lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_nothing_behind(locked: Locked, number: signal.Signals) -> None:
    store, place = locked.copy_of_store(f"stopped-{number}"), locked.folder / f"tmp-{number}"
    place.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(place)}
    build = subprocess.Popen([sys.executable, "-c", BUILD, str(locked.folder / "stoker.lock"), str(store)], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(place.glob("stoker-base-*/mmdebstrap.*/usr/bin")):
        assert time.monotonic() < deadline
        assert build.poll() is None, build.stderr
        time.sleep(0.05)
    build.send_signal(number)
    build.communicate(timeout=60)
    deadline = time.monotonic() + 60
    # After kill -9 the kernel ends mmdebstrap; what it left is removed by the next build.
    while any(str(place).encode() in line and b"mmdebstrap" in line for line in command_lines()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if number == signal.SIGINT:
        assert not list(place.iterdir())
    assert not [path for path in store.glob("roots/*") if not path.name.startswith(".") and ".tmp-" not in path.name]
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if str(place) in line]


def test_a_full_disk_is_said_to_be_one(locked: Locked) -> None:
    place = locked.folder / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", place], capture_output=True)
    need(done.returncode == 0, "the right to mount")
    try:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(place)}
        store = locked.copy_of_store("full")
        build = subprocess.run(
            [sys.executable, "-c", BUILD, str(locked.folder / "stoker.lock"), str(store)], env=environment, capture_output=True, text=True
        )
    finally:
        subprocess.run(["umount", place], check=True)
    assert build.returncode == DiskFull.exit_code, build.stdout + build.stderr
    assert not list(store.glob("roots/*/base.tar"))


def test_a_package_that_is_none_is_said_by_name(locked: Locked, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    content = b"no package"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "x").write_bytes(content)
    store.add_file(tmp_path / "x", sha256=digest, name="x")
    deb = dataclasses.replace(locked.lock.base.debs[0], sha256=digest, size=len(content))
    lock = dataclasses.replace(locked.lock, base=dataclasses.replace(locked.lock.base, debs=(deb,)))
    with pytest.raises(BuildFailed, match=deb.name):
        make_base(lock, store, mirrors=NOWHERE)


def test_the_lock_can_be_read_back(locked: Locked) -> None:
    assert read_lock(locked.folder / "stoker.lock").base == locked.lock.base
    assert json.dumps([deb.file for deb in locked.lock.base.debs]).isascii()
