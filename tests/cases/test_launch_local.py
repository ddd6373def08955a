"""`--engine local` with the real uv: the environment of a small lock, made once, whole or not at all, and programs that run in it."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.cli.locked import locked_of
from stoker.errors import SetupError, StackUnfit
from stoker.image.lock import Base, Lock, LockedStack, Wheel, write_lock
from stoker.image.own import own
from stoker.image.store import Store
from stoker.launch.local import environment, job, marks, starting
from stoker.launch.local.keeper import LocalKeeper
from stoker.launch.local.locked import Locked
from stoker.launch.local.processes import wait_until
from stoker.launch.wanted import Wanted
from tests.conftest import REPOSITORY, find_uv, need

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
SAYS = "import os, sys, small; print(small.WORD, sys.prefix)"

pytestmark = pytest.mark.usefixtures("nobody_elses_jobs")


@pytest.fixture(autouse=True)
def uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = find_uv()
    need(found is not None, "uv")
    assert found is not None
    # The program and not its shim: that is a wrapper that needs pyenv's settings.
    monkeypatch.setenv("PATH", f"{found.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))


@pytest.fixture
def without_gcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels take seconds to build, and one test looks at them."""
    program = tmp_path / "no/gcc"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def small_wheel(word: str) -> bytes:
    """A package of one line."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("small.py", f"WORD = {word!r}\n")
        archive.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            "small-1.0.dist-info/RECORD", "small.py,,\nsmall-1.0.dist-info/METADATA,,\nsmall-1.0.dist-info/WHEEL,,\nsmall-1.0.dist-info/RECORD,,\n"
        )
    return held.getvalue()


def stored(content: bytes, name: str) -> str:
    """Put a file into the store, as a build has left it there, and return its hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    store = Store()
    store.folder.mkdir(parents=True, exist_ok=True)
    source = store.folder / name
    source.write_bytes(content)
    store.add_file(source, sha256=sha256, name=name)
    source.unlink()
    return sha256


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a lock of one package that no index knows."""
    folder = tmp_path / "work"
    folder.mkdir()
    content = small_wheel("hello")
    file = "small-1.0-py3-none-any.whl"
    wheel = Wheel(name="small", version="1.0", file=file, sha256=stored(content, file), size=len(content), index=None, variants=("cli",))
    stack = LockedStack(
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
        wheels=(wheel,),
    )
    lock = Lock(
        name="small",
        created=1_790_000_000,
        machine=platform.machine(),
        specification="sha256:" + "0" * 64,
        python=PYTHON,
        python_full=f"{PYTHON}.99",
        base=Base(kind="debian", suite="trixie", digest=None, debs=()),
        stacks=(stack,),
        variants=("cli",),
        prune=(),
        own=own(),
        compression="zstandard 0.25.0 level 3",
    )
    write_lock(folder / "stoker.lock", lock)
    return folder


def ran(project: Path, *words: str, **wishes: object) -> tuple[int, list[str]]:
    """Run in the foreground; the exit status, and what was told."""
    told: list[str] = []
    wanted = Wanted(kind="run", project=project, **wishes)  # type: ignore[arg-type]
    return starting.run(job.decide(wanted, command=words), locked_of(project), on_line=told.append), told


def test_a_program_gets_exactly_what_the_lock_names(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, told = ran(project, "python", "-c", SAYS)
    word, prefix = capfd.readouterr().out.split()
    assert (code, word) == (0, "hello")
    assert told == ["local: plain (no PyTorch): nothing in it needs a GPU"]
    listed = subprocess.run(
        [f"{prefix}/bin/python", "-c", "import importlib.metadata as m; print(sorted(d.name for d in m.distributions()))"],
        capture_output=True,
        text=True,
    )
    assert listed.stdout.strip() == "['small', 'stoker']"
    if shutil.which("gcc"):
        assert len(list(Path(prefix).glob("lib/python*/site-packages/stoker/**/*.so"))) >= 2
    asks = "from stoker.environment.venv import lock_digest; print(lock_digest())"
    digest = subprocess.run([f"{prefix}/bin/python", "-c", asks], capture_output=True, text=True, check=True).stdout.strip()
    assert digest == locked_of(project).digest  # type: ignore[union-attr]
    made = Path(prefix).stat().st_ctime_ns
    in_the_background(project)
    assert Path(prefix).stat().st_ctime_ns == made, "it was made once more"


def in_the_background(project: Path) -> None:
    """A job from start to rm."""
    keeper = LocalKeeper()
    script = "import signal, sys, time, small\nsignal.signal(15, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
    script += "print(small.WORD, flush=True)\ntime.sleep(600)"
    decided = job.decide(Wanted(kind="run", project=project), command=("python", "-c", script))
    started = starting.start(decided, locked_of(project), on_line=lambda line: None)
    assert (started.state, started.name, started.image) == ("running", "work-run", "stoker.lock (plain)")
    assert wait_until(lambda: "hello" in keeper.log_text(started, lines=None), timeout_s=30)
    keeper.stop(started, grace_s=30)
    (ended,) = keeper.containers(everything=True)
    assert (ended.state, ended.exit_code, keeper.log_text(ended, lines=1)) == ("exited", 0, "saved\n")
    assert keeper.remove(ended)
    assert keeper.containers(everything=True) == ()


@pytest.mark.usefixtures("without_gcc")
def test_another_file_under_the_locked_name_is_refused(project: Path) -> None:
    locked = as_it_was(project)
    other = project / "other"
    other.write_bytes(small_wheel("other"))
    (wheel,) = locked.wheels("plain")
    with pytest.raises(SetupError, match=r"(?i)hash"):
        environment.prepare(replace(locked, wheels=lambda stack: [replace(wheel, path=other)]))
    assert not environment.plan(locked).ready
    assert not environment.plan(locked).folder.exists()


@pytest.mark.usefixtures("without_gcc")
def test_another_stoker_is_put_into_the_environment_that_is_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = as_it_was(project), replace(as_it_was(project), own="1" * 64)
    made = environment.prepare(before)
    (made.folder / "kept").touch()
    script = next(made.folder.glob("lib/python*/site-packages/stoker/__init__.py"))
    script.write_text("older = True")
    running = subprocess.Popen(["sleep", "60"], env={**os.environ, marks.NAME: "x", "VIRTUAL_ENV": str(made.folder)})
    environment.prepare(after)
    running.kill()
    running.wait()
    assert "stays the older one" in capsys.readouterr().err
    assert script.read_text() == "older = True"
    assert environment.prepare(after).folder == made.folder
    assert "older" not in script.read_text()
    assert (made.folder / "kept").exists()
    assert environment.plan(after).ready


def test_what_was_not_used_for_long_is_removed(tmp_path: Path) -> None:
    now = time.time()
    for name, days in (("old/plain", 31), ("busy/plain", 31), ("new/plain", 29), ("own/plain", 31)):
        stamp = tmp_path / "cache/local" / name / "stoker-ready"
        stamp.parent.mkdir(parents=True)
        stamp.touch()
        os.utime(stamp, (now, now - days * 86400))
    running = subprocess.Popen(["sleep", "60"], env={**os.environ, marks.NAME: "x", "VIRTUAL_ENV": str(tmp_path / "cache/local/busy/plain")})
    environment.remove_unused(tmp_path / "cache/local/own/plain")
    running.kill()
    running.wait()
    assert sorted(path.parent.name for path in (tmp_path / "cache/local").glob("*/plain")) == ["busy", "new", "own"]


def test_a_lock_for_another_processor(project: Path) -> None:
    locked = locked_of(project)
    assert locked is not None
    with pytest.raises(StackUnfit, match="sparc"):
        environment.plan(replace(locked, image=replace(locked.image, machine="sparc")))


def as_it_was(project: Path) -> Locked:
    """The lock with a hash of Stoker that stays, also while somebody works on its source."""
    locked = locked_of(project)
    assert locked is not None
    return replace(locked, own="0" * 64)


@pytest.mark.usefixtures("without_gcc")
def test_two_at_once_make_one_and_one_that_was_killed_is_made_anew(project: Path) -> None:
    code = "import sys\nfrom tests.cases.test_launch_local import *\nprint(environment.prepare(as_it_was(Path(sys.argv[1]))).folder)"
    variables = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"}
    first = subprocess.Popen([sys.executable, "-c", code, str(project)], env=variables, stderr=subprocess.DEVNULL, start_new_session=True)
    locked = as_it_was(project)
    place = environment.plan(locked).folder
    assert wait_until(lambda: place.with_name("plain.new").exists(), timeout_s=30)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not environment.plan(locked).ready
    both = [subprocess.Popen([sys.executable, "-c", code, str(project)], env=variables, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [out.strip() for out, _ in said] == [str(place)] * 2
    assert sum("is ready after" in err for _, err in said) == 1
    assert not place.with_name("plain.new").exists()
