"""The package as pip and uv install it from the source tree: with a compiler, without one, and what the wheel holds."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

from tests.conftest import REPOSITORY, need

SHIPPED = ("src", "native", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what a build reads, so that nothing built lands in this tree."""
    root = tmp_path / "source tree"
    root.mkdir()
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.egg-info")
    for name in SHIPPED:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, root / name, ignore=ignored)
        elif path.exists():
            shutil.copy2(path, root / name)
    (root / "README.md").touch()
    return root


def build(source: Path, folder: Path, **variables: str) -> Path:
    """Build a wheel as every front end does: through the backend that pyproject.toml names. Needs no network."""
    folder.mkdir()
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=source, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def runs(wheel: Path, folder: Path) -> Path:
    """Unpack the wheel and run the command from it; returns the folder."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    code = "import sys; from stoker.cli import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(folder)}, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("stoker ")
    where = subprocess.run(
        [sys.executable, "-c", "import stoker; print(stoker.__file__)"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(folder)
    return folder


def test_with_a_compiler(source: Path, tmp_path: Path) -> None:
    need(shutil.which("cc") is not None or shutil.which("gcc") is not None, "a C compiler")
    wheel = build(source, tmp_path / "dist")
    assert "linux" in wheel.name  # a wheel for this platform, not for any
    folder = runs(wheel, tmp_path / "unpacked")
    (library,) = (folder / "stoker/data").glob("_augment*.so")
    assert ctypes.CDLL(str(library)).stoker_augment_version() >= 1


def test_without_a_compiler(source: Path, tmp_path: Path) -> None:
    folder = runs(build(source, tmp_path / "dist", CC="/bin/false"), tmp_path / "unpacked")
    assert list((folder / "stoker/data").glob("_augment*")) == []


def test_the_wheel_holds_the_whole_source_and_its_facts(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(source, tmp_path / "dist", CC="/bin/false")) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith("/METADATA")).rpartition("/")[0]
        metadata, entries = archive.read(f"{info}/METADATA").decode(), archive.read(f"{info}/entry_points.txt").decode()
    wanted = {path.relative_to(source / "src").as_posix() for path in (source / "src/stoker").rglob("*") if path.is_file()}
    assert wanted <= names
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert "Requires-Dist: torch>=2.5" in metadata
    assert "stoker = stoker.cli:main" in entries
    assert f"{info}/licenses/LICENSE" in names


def test_pip_installs_it_from_the_source_tree(source: Path, tmp_path: Path) -> None:
    need(importlib.util.find_spec("ensurepip") is not None, "ensurepip (apt install python3-venv), for a pip")
    venv, lent, target = tmp_path / "venv", tmp_path / "lent", tmp_path / "target"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    # The build backend of this environment, and nothing else of it: needs no network, and pip sees nothing to remove.
    lent.mkdir()
    site = Path(setuptools.__file__).parent.parent
    for path in (site / "setuptools", *site.glob("setuptools-*.dist-info")):
        (lent / path.name).symlink_to(path)
    asked = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), "."]
    variables = os.environ | {"CC": "/bin/false", "PYTHONPATH": str(lent)}
    done = subprocess.run([str(venv / "bin/python"), "-m", "pip", *asked], cwd=source, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(target / "bin/stoker"), "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(target)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("stoker ")
