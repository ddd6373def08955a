"""Layers of wheels against another installer's work, on a full disk, and stopped in the middle."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import DiskFull
from stoker.image.layers import LayerPlan, make_layer
from stoker.image.lock import Wheel
from tests.conftest import find_uv, need
from tests.image_wheels import HOST_ROOT, PYTHON, record, wheel_files, write_wheel

zstandard = pytest.importorskip("zstandard")

HOME = "opt/stoker/cpu"
SITE = f"lib/python{PYTHON}/site-packages"
FILES = {
    "demo/__init__.py": b"ANSWER = 42\n",
    "demo/cli.py": b"def main():\n    print('ran')\n    return 7\n",
    "demo/tool": b"#!/bin/sh\n",
    "demo/ä b,c.txt": b"text",
    "demo-1.0.data/scripts/ready": b"#!python\nimport demo\nprint(demo.ANSWER)\n",
    "demo-1.0.data/data/share/demo/kernel.json": b"{}",
    "demo-1.0.data/headers/demo.h": b"int x;",
    "demo-1.0.data/purelib/pure.py": b"",
    "demo-1.0.data/platlib/plat.py": b"",
    "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\ndemo = demo.cli:main\n",
}
STOPPED = """
import sys, time
from pathlib import Path
from tests.image_wheels import HOST_ROOT
from tests.cases.test_image_wheel_layers import plan_of
from stoker.image.layers import make_layer
plan, files = plan_of(Path(sys.argv[1]))
make_layer(plan, Path(sys.argv[2]), files=files, root=HOST_ROOT, progress=lambda done: (print(done, flush=True), time.sleep(0.2)))
"""


def plan_of(*paths: Path) -> tuple[LayerPlan, dict[str, Path]]:
    """The plan of one layer of these wheels."""
    digests = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}
    wheels = tuple(
        Wheel(name=path.name.split("-")[0], version="1.0", file=path.name, sha256=digest, size=path.stat().st_size, index=None, variants=("cli",))
        for digest, path in sorted(digests.items(), key=lambda item: item[1].name)
    )
    return LayerPlan(key="0" * 64, title="demo", stack="cpu", python=PYTHON, wheels=wheels, prune=()), digests


def unpacked(layer: Path, folder: Path) -> Path:
    """The stack's folder, unpacked from a layer."""
    tar = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(layer.read_bytes())).read()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder / HOME


def tree(folder: Path) -> dict[str, tuple[bytes, bool]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
    }


def rows(record: bytes) -> dict[str, str]:
    return {row[0]: row[1] for row in csv.reader(record.decode().splitlines()) if ".pyc" not in row[0]}


def test_a_layer_holds_what_uv_installs(tmp_path: Path) -> None:
    uv = find_uv()
    need(uv is not None, "uv")
    wheel = write_wheel(tmp_path, files=FILES, modes={"demo/tool": 0o100755})
    environment = tmp_path / "environment"
    quiet = {"capture_output": True, "check": True}
    subprocess.run([str(uv), "venv", "--no-project", "--python", sys.executable, str(environment)], **quiet)  # type: ignore[call-overload]
    fresh = tree(environment)
    subprocess.run([str(uv), "pip", "install", "--offline", "--python", str(environment), str(wheel)], **quiet)  # type: ignore[call-overload]
    theirs = {path: held for path, held in tree(environment).items() if path not in fresh}
    plan, files = plan_of(wheel)
    make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT)
    ours = tree(unpacked(tmp_path / "layer", tmp_path / "image"))

    info = f"{SITE}/demo-1.0.dist-info"
    # uv's own notes; direct_url.json because the wheel was named by its path.
    extra = {".lock", *(f"{info}/{name}" for name in ("REQUESTED", "direct_url.json", "uv_cache.json"))}
    assert set(ours) == set(theirs) - extra
    own_words = {"bin/demo", "bin/ready", f"{info}/RECORD", f"{info}/INSTALLER"}
    assert {path: ours[path] for path in set(ours) - own_words} == {path: theirs[path] for path in set(ours) - own_words}
    assert ours["bin/demo"][1]
    assert ours["bin/ready"][1]
    mine, other = rows(ours[f"{info}/RECORD"][0]), rows(theirs[f"{info}/RECORD"][0])
    assert set(mine) == set(other) - {path.removeprefix(f"{SITE}/") for path in extra}
    differ = {path for path in mine if mine[path] != other[path]}
    assert differ == {"../../../bin/demo", "../../../bin/ready", "demo-1.0.dist-info/INSTALLER"}


def test_scripts_and_bytecode_work_where_they_belong(tmp_path: Path) -> None:
    plan, files = plan_of(write_wheel(tmp_path, files=FILES))
    make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT)
    home = unpacked(tmp_path / "layer", tmp_path / "image")
    environ = {**os.environ, "PYTHONPATH": str(home / SITE)}
    ran = subprocess.run([sys.executable, str(home / "bin/demo")], capture_output=True, text=True, env=environ)
    assert (ran.returncode, ran.stdout) == (7, "ran\n")
    assert subprocess.run([sys.executable, str(home / "bin/ready")], capture_output=True, text=True, env=environ).stdout == "42\n"
    assert (home / "bin/demo").read_text().startswith(f"#!/{HOME}/bin/python\n")
    # Bytecode that Python would find stale it would write anew.
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*.pyc")}
    done = subprocess.run([sys.executable, "-v", "-c", "import demo.cli, pure, plat"], capture_output=True, text=True, env=environ)
    assert done.stderr.count(f"code object from '{home}") == 4
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.pyc")} == before


@pytest.fixture(scope="module")
def large_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel whose layer does not fit on a small disk."""
    held = wheel_files("large", files={f"large/{number}.bin": random.Random(number).randbytes(1_000_000) for number in range(8)})
    members = [*held.items(), ("large-1.0.dist-info/RECORD", record(held, "large-1.0.dist-info"))]
    path = tmp_path_factory.mktemp("large") / "large-1.0-py3-none-any.whl"
    # Not packed: the contents are noise.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_a_full_disk_leaves_no_layer(large_wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True).returncode == 0
    need(mounted, "the right to mount a small tmpfs (root)")
    try:
        plan, files = plan_of(large_wheel)
        with pytest.raises(DiskFull, match="no space left"):
            make_layer(plan, place / "layer", files=files, root=HOST_ROOT)
        assert [*place.iterdir()] == []
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def stopped(large_wheel: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of making a layer."""
    repository = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(large_wheel), str(tmp_path / "layer")],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline() or not (tmp_path / "layer").exists() or (tmp_path / "layer").stat().st_size < 1000:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
    yield process
    process.kill()
    process.communicate()


def test_an_interrupt_leaves_no_layer(stopped: subprocess.Popen[str], tmp_path: Path) -> None:
    stopped.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert "KeyboardInterrupt" in stopped.communicate(timeout=60)[1]
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "layer").exists()


def test_a_killed_process_leaves_a_file_that_is_no_whole_layer_and_the_next_one_starts_anew(
    stopped: subprocess.Popen[str], large_wheel: Path, tmp_path: Path
) -> None:
    # In a build that file lies in a scratch folder of the store, which goes with its process.
    stopped.kill()
    stopped.communicate(timeout=60)
    plan, files = plan_of(large_wheel)
    again = make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT)
    assert again == dataclasses.replace(make_layer(plan, tmp_path / "other", files=files, root=HOST_ROOT), path=again.path)
    assert hashlib.sha256((tmp_path / "layer").read_bytes()).hexdigest() == again.digest.removeprefix("sha256:")
