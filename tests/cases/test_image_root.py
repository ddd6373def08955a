"""Programs run in an unpacked root, which stays as it is: as root, as somebody else, and as root of a container that may not mount."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import BuildFailed
from stoker.image.root import Root, namespace_refusal
from tests.conftest import need
from tests.image_roots import SOURCE, may_be_ordinary, ordinary, tiny_root

TRIAL = """
import json, sys, time
from pathlib import Path
from stoker.image.root import Root
root = Root(folder=Path(sys.argv[1]), created=77)
shown = root.run(["sh", "-c", sys.argv[3]], input=b"sent", timeout_s=20, environment={"MORE": "1"}, mounts={"/mnt/deep/place": Path(sys.argv[2])})
start = time.monotonic()
slow = root.run(["sh", "-c", "sleep 60 & sleep 60"], timeout_s=0.5)
print(json.dumps([shown.code, shown.out.decode(), shown.err, slow.code, time.monotonic() - start]))
"""
SCRIPT = """
cat; echo; id -u; echo "$HOME $SOURCE_DATE_EPOCH $TZ $MORE"; umask; cat /mnt/deep/place/file
echo kept > /tmp/new && cat /tmp/new
for place in /etc/new /usr/bin/sh /new /mnt/deep/place/file; do (echo x > "$place") 2>/dev/null && echo "wrote $place"; done
[ -e /home ] && echo "sees the host"
exit 9
"""
AS_USER = """
import sys
from pathlib import Path
from stoker.image.root import Root
answer = Root(folder=Path(sys.argv[1]), created=0).run(["sh", "-c", "id -u; id -G; cat /proc/self/status"], timeout_s=30, user=1000)
print(answer.out.decode())
"""
SLEEPER = """
import sys
from pathlib import Path
from stoker.image.root import Root
Root(folder=Path(sys.argv[1]), created=0).run(["sleep", "98.7"], timeout_s=99)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A root in a place that is open to everybody, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        (Path(place) / "given").mkdir()
        (Path(place) / "given/file").write_text("given\n")
        yield tiny_root(Path(place) / "root")


def state(folder: Path) -> str:
    rows = [(str(path), path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.rglob("*"))]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def judged(done: subprocess.CompletedProcess[str], *, writable: bool = False) -> None:
    assert done.returncode == 0, done.stderr
    code, out, _, slow, seconds = json.loads(done.stdout)
    lines = [line for line in out.splitlines() if not (writable and line.startswith("wrote"))]
    assert lines == ["sent", "0", "/tmp 77 UTC 1", "0022", "given", "kept"]
    assert code == 9
    assert slow is None
    assert seconds < 10


@pytest.mark.parametrize("who", ["root", "ordinary", "root without mounts"])
def test_a_program_runs_and_leaves_nothing(folder: Path, who: str) -> None:
    before = state(folder)
    arguments = [str(folder), str(folder.parent / "given"), SCRIPT]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    if who == "ordinary":
        need(may_be_ordinary(), "a user namespace for an ordinary user")
        judged(ordinary(TRIAL, *arguments))
    else:
        need(os.geteuid() == 0, "root")
        without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"] if who == "root without mounts" else []
        done = subprocess.run([*without, sys.executable, "-c", TRIAL, *arguments], env=environment, capture_output=True, text=True, umask=0o077)
        # Without mounts it runs in a copy: what is written there is gone with it.
        judged(done, writable=bool(without))
    assert state(folder) == before
    assert {path.name for path in folder.parent.iterdir()} == {"root", "given"}
    assert (folder.parent / "given/file").read_text() == "given\n"


def test_large_input_and_output_do_not_block(folder: Path) -> None:
    need(namespace_refusal() is None, "namespaces")
    root = Root(folder=folder, created=0)
    answer = root.run(["sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; cat"], input=bytes(5_000_000), timeout_s=30)
    assert (answer.code, len(answer.out), len(answer.err)) == (0, 8_000_000, 3_000_000)


def test_a_crash_and_a_missing_program_are_answers(folder: Path) -> None:
    need(namespace_refusal() is None, "namespaces")
    root = Root(folder=folder, created=0)
    assert root.run(["sh", "-c", "kill -SEGV $$"], timeout_s=30).code == 128 + 11
    missing = root.run(["no-such-program"], timeout_s=30)
    assert missing.code == 127
    assert "no-such-program" in missing.err


def test_it_has_no_network_and_sees_no_process_of_the_host(folder: Path) -> None:
    need(namespace_refusal() is None, "namespaces")
    out = Root(folder=folder, created=0).run(["cat", "/proc/net/dev"], timeout_s=30).out.decode()
    assert [line.split(":")[0].strip() for line in out.splitlines()[2:]] in (["lo"], [])


@pytest.mark.parametrize("without", [(), ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")], ids=["mounts", "no mounts"])
def test_as_a_user_it_has_no_rights(folder: Path, without: tuple[str, ...]) -> None:
    need(os.geteuid() == 0 and namespace_refusal() is None, "root with namespaces")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([*without, sys.executable, "-c", AS_USER, str(folder)], env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1000", "1000"]
    if not without:
        assert {"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"} <= set(lines)


def test_a_root_whose_tmp_is_a_link_is_refused(folder: Path) -> None:
    (folder / "tmp").rmdir()
    (folder / "tmp").symlink_to("/etc")
    with pytest.raises(BuildFailed, match="no folder tmp"):
        Root(folder=folder, created=0).run(["true"], timeout_s=5)


def test_it_dies_with_its_caller(folder: Path) -> None:
    need(namespace_refusal() is None, "namespaces")
    caller = subprocess.Popen([sys.executable, "-c", SLEEPER, str(folder)], env={**os.environ, "PYTHONPATH": str(SOURCE)})
    assert await_sleepers(1)
    caller.kill()
    caller.wait()
    assert await_sleepers(0)


def await_sleepers(count: int) -> bool:
    for _ in range(200):
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
        if sum(line == b"sleep\x0098.7\x00" for line in lines) == count:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("place", ["/etc", "/mnt", "/mnt/../etc", "mnt/x", "/"])
def test_a_mount_elsewhere_is_refused(folder: Path, place: str) -> None:
    with pytest.raises(ValueError, match="not below /mnt"):
        Root(folder=folder, created=0).run(["true"], timeout_s=5, mounts={place: Path("/")})


def test_what_is_no_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="is no root"):
        Root(folder=tmp_path, created=0).run(["true"], timeout_s=5)
