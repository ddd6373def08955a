"""`stoker image lock` with the real uv and apt: an image without PyTorch, small enough to be resolved in seconds."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import PackageGone
from stoker.image import locking
from stoker.image.lock import Base, Lock, lock_text, parse_lock, read_lock
from stoker.image.locking import Upgrade, make_lock
from stoker.image.packages import python_packages
from stoker.image.specification import Mirrors, Specification
from tests.conftest import find_uv, need

SPECIFICATION = """\
[image]
name = "small"
torch = "none"
variants = ["ssh"]
packages = ["einops<0.8"]
"""


@pytest.fixture(autouse=True)
def real_programs() -> None:
    need(find_uv() is not None, "uv")
    need(shutil.which("apt-get") is not None, "apt")
    need(importlib.util.find_spec("zstandard") is not None, "the package zstandard")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "stoker.toml").write_text(SPECIFICATION)
    return folder


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    uv = find_uv()
    assert uv is not None
    environment = {**os.environ, "PATH": f"{uv.parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [sys.executable, "-m", "stoker", "image", "lock", *arguments],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lock(project: Path, *arguments: str) -> Lock:
    process = start(project, *arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return read_lock(project / "stoker.lock")


@pytest.mark.network
def test_an_image_without_torch_is_locked_and_stays_locked(project: Path) -> None:
    """One test, not two: each resolution costs ten seconds."""
    first = lock(project)
    (stack,) = first.stacks
    wheels = {wheel.name: wheel for wheel in stack.wheels}
    assert (stack.name, stack.torch, first.base.suite, first.python) == ("plain", None, "trixie", "3.13")
    assert first.python_full.startswith("3.13.")
    assert wheels["einops"].version.startswith("0.7.")
    assert "cp313" in wheels["numpy"].file
    assert all(wheel.size > 1000 for wheel in stack.wheels)
    assert not {"torch", "torchvision", "triton"} & set(wheels)
    debs = {deb.name: deb for deb in first.base.debs}
    assert debs["openssh-server"].variants == ("ssh",)
    assert debs["libc6"].variants == ("cli",)
    text = (project / "stoker.lock").read_text()
    assert "://" not in text
    # With a package more the old versions stay, though a newer einops is there.
    (project / "stoker.toml").write_text(SPECIFICATION.replace('"einops<0.8"', '"einops", "six"'))
    more = lock(project)
    versions = {wheel.name: wheel.version for wheel in more.stacks[0].wheels}
    assert versions.pop("six")
    assert versions == {name: wheel.version for name, wheel in wheels.items()}
    assert more.base == first.base


@pytest.mark.network
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_being_stopped_leaves_no_lock_and_no_rubbish(project: Path, number: signal.Signals) -> None:
    process = start(project)
    time.sleep(2)
    assert process.poll() is None
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGKILL)
    assert "Traceback" not in err
    assert [path.name for path in project.iterdir()] == ["stoker.toml"]


# --- PyTorch's own indexes, faked by folders ------------------------------------------------------------------------


def put_wheels(folder: Path, versions: Iterable[tuple[str, str]], tag: str = "py3-none-any") -> None:
    """Put a wheel without anything in it for each name and version into a folder."""
    folder.mkdir(parents=True)
    for name, version in versions:
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{stem}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
            wheel.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirrors:
    """A default index with torch 2.7.1 and 2.13.0, and the indexes cu118, cu121 and cu126."""
    monkeypatch.setattr(locking, "lock_base", lambda **said: Base(kind="debian", suite="trixie", digest=None, debs=()))
    monkeypatch.setattr(locking, "python_full", lambda base: "3.13.5")
    names = [line.split(";")[0].split(">")[0].split("[")[0] for line in python_packages("cli") if "python_version" not in line]
    pairs = [("torch", "2.13.0"), ("torchvision", "0.28.0"), ("torch", "2.7.1"), ("torchvision", "0.22.1")]
    put_wheels(tmp_path / "pypi", [*((name, "99.0") for name in names), *pairs])
    tag = "cp313-cp313-manylinux_2_28_x86_64"
    put_wheels(tmp_path / "torch/cu118", [("torch", "2.5.1+cu118"), ("torchvision", "0.20.1+cu118")], tag)
    put_wheels(tmp_path / "torch/cu121", [("torch", "2.5.1+cu121"), ("torchvision", "0.20.1+cu121")], tag)
    put_wheels(tmp_path / "torch/cu126", [("torch", "2.13.0+cu126"), ("torchvision", "0.28.0+cu126")], tag)
    return Mirrors(pypi=f"file://{tmp_path}/pypi", torch=f"file://{tmp_path}/torch")


def locked(mirrors: Mirrors, **said: Any) -> list[tuple[str, str, str | None]]:
    """Lock, and return name, torch's version and index of each stack."""
    specification = Specification(name="a", mirrors=mirrors, **said)
    made = make_lock(specification, old=None, upgrade=Upgrade(), machine="x86_64", now=1, environ=os.environ, tell=print)
    text = lock_text(made)
    assert parse_lock(text) == made
    assert "file:" not in text
    return [(stack.name, wheel.version, wheel.index) for stack in made.stacks for wheel in stack.wheels if wheel.name == "torch"]


def test_a_pair_of_cudas_from_pytorchs_own_indexes(mirrors: Mirrors) -> None:
    assert locked(mirrors, torch="2.5.1", cuda=("11.8", "12.1")) == [("cu121", "2.5.1+cu121", "cu121"), ("cu118", "2.5.1+cu118", "cu118")]


def test_a_universal_image_takes_the_newest_that_it_can_reach(mirrors: Mirrors) -> None:
    assert locked(mirrors, cuda=("12.6", "13.0")) == [("cu130", "2.13.0", None), ("cu126", "2.13.0+cu126", "cu126")]
    gone = Mirrors(pypi=mirrors.pypi, torch=f"{mirrors.torch}/gone")
    assert locked(gone, cuda=("12.6", "13.0")) == [("cu130", "2.13.0", None), ("cu126", "2.7.1", None)]


def test_an_index_that_does_not_answer(mirrors: Mirrors) -> None:
    with pytest.raises(PackageGone, match=r"torch 2\.7\.1 for cu128 is on PyTorch's own index only"):
        locked(mirrors, torch="2.7.1", cuda=("12.8",))
