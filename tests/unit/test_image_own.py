"""Stoker's own files in an image: the same from a source tree and from a wheel, changed by every change of the source, by nothing else."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from stoker import __version__
from stoker.errors import BuildFailed
from stoker.image import own as module
from stoker.image.entries import Entry
from stoker.image.own import KERNELS, own, own_entries, own_files, own_wheel
from stoker.image.root import Answer, Root

REPOSITORY = Path(__file__).resolve().parents[2]


class HostRoot:
    """The root of an image whose programs are those of this machine."""

    def run(self, arguments: Sequence[str], *, input: bytes = b"", timeout_s: float, **_: Any) -> Answer:
        """Run it here."""
        done = subprocess.run(arguments, input=input, capture_output=True, timeout=timeout_s)
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr.decode())


class NoCompiler:
    """The root of an image without gcc."""

    def run(self, arguments: Sequence[str], **_: Any) -> Answer:
        """Say what the script says then."""
        done = subprocess.run([*arguments], input=b"", capture_output=True, env={"PATH": "/nowhere"})
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr.decode())


def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the source tree, as which the module then sees itself."""
    copy = tmp_path / "tree"
    shutil.copytree(REPOSITORY / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info"))
    shutil.copytree(REPOSITORY / "native", copy / "native")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    monkeypatch.setattr(module, "_TREE", copy)
    monkeypatch.setattr(module, "_PACKAGE", copy / "src" / "stoker")
    return copy


BYTECODE = {"stoker/__pycache__/shell.cpython-313.pyc": b"code"}


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    """The entries, with kernels of this machine's gcc."""
    return own_entries(cast(Root, HostRoot()), BYTECODE)


def test_the_kernels_are_those_of_setup_py() -> None:
    assignment = next(
        node
        for node in ast.parse((REPOSITORY / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KERNELS"
    )
    theirs = cast(Mapping[str, str], ast.literal_eval(assignment.value))
    assert {name.replace(".", "/"): path.removeprefix("native/") for name, path in theirs.items()} == KERNELS


def test_rubbish_in_a_source_tree_changes_nothing_and_a_changed_line_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = own()
    copy = tree(tmp_path, monkeypatch)
    assert own() == here
    for name in ("shell.py~", ".shell.py.swp", "shell.py.orig", "data/_augment.cpython-313-x86_64-linux-gnu.so", "__pycache__/shell.cpython-313.pyc"):
        (copy / "src" / "stoker" / name).parent.mkdir(exist_ok=True)
        (copy / "src" / "stoker" / name).write_bytes(b"rubbish")
    assert own() == here
    (copy / "native" / "pool.c").write_text((copy / "native" / "pool.c").read_text() + "\n")
    changed = own()
    assert changed != here
    with open(copy / "src" / "stoker" / "shell.py", "a") as file:
        file.write("\n")
    assert own() not in (here, changed)


def test_installed_from_a_wheel_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, copy, site = own(), tree(tmp_path, monkeypatch), tmp_path / "site"
    shutil.copy(REPOSITORY / "setup.py", copy)
    shutil.copy(REPOSITORY / "README.md", copy)
    command = ["setup.py", "-q", "build_py", "--build-lib", str(site), "dist_info", "--output-dir", str(site)]
    made = subprocess.run([sys.executable, *command], cwd=copy, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    shutil.rmtree(copy)
    code = "from stoker.image.own import own; print(own().version, own().sha256)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(site)}, cwd=tmp_path)
    assert done.stdout.split() == [here.version, here.sha256], done.stderr


def test_without_the_c_source_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tree(tmp_path, monkeypatch)
    shutil.rmtree(copy / "native")
    with pytest.raises(BuildFailed, match=r"augment\.c"):
        own()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_entries_are_an_installed_distribution_with_kernels(tmp_path: Path, entries: list[Entry]) -> None:
    for entry in entries:
        path = tmp_path / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(entry.content, bytes)
        path.write_bytes(entry.content)
    site = tmp_path / "opt/stoker/lib"
    for row in (site / f"stoker-{__version__}.dist-info/RECORD").read_text().splitlines():
        name, hashed, size = row.rsplit(",", 2)
        content = (site / name).read_bytes()
        if hashed:
            assert hashed == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert int(size) == len(content)
    code = (
        "import importlib.metadata as m, stoker, sys\n"
        "from stoker.data.kernel import kernel, Kernel\n"
        "assert isinstance(kernel(), Kernel), kernel()\n"
        "points = {(p.group, p.name, p.value) for p in m.distribution('stoker').entry_points}\n"
        "assert ('torch.backends', 'stoker', 'stoker.door:open_door') in points and ('console_scripts', 'stoker', 'stoker.cli:main') in points\n"
        "print(stoker.__file__, m.version('stoker'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(site)}, cwd=tmp_path)
    assert done.stdout.split() == [str(site / "stoker/__init__.py"), __version__], done.stderr


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_kernel_is_the_same_every_time_and_holds_nothing_of_this_machine(entries: list[Entry]) -> None:
    assert own_entries(cast(Root, HostRoot()), BYTECODE) == entries, "the compiler's bytes differ from one run to the next"
    assert [entry.path for entry in entries if entry.path.endswith(".so")]
    for entry in entries:
        if entry.path.endswith(".so"):
            assert isinstance(entry.content, bytes)
            assert b"/tmp/" not in entry.content
            assert str(REPOSITORY).encode() not in entry.content


def test_an_image_without_a_compiler_has_no_kernels() -> None:
    entries = own_entries(cast(Root, NoCompiler()), {})
    assert entries
    assert not [entry.path for entry in entries if entry.path.endswith(".so")]


def test_a_compiler_that_refuses_is_quoted() -> None:
    class Broken:
        def run(self, arguments: Sequence[str], **_: Any) -> Answer:
            return Answer(code=1, out=b"", err="augment.c:1: error: no such thing\n")

    with pytest.raises(BuildFailed, match="no such thing"):
        own_entries(cast(Root, Broken()), {})


def test_the_wheel_of_ourselves_is_one_that_installs(tmp_path: Path) -> None:
    name, files = own_wheel()
    assert name == f"stoker-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(tmp_path / name)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 or "No module named pip" in done.stderr, done.stderr
    assert set(files) == {*own_files(), f"stoker-{__version__}.dist-info/RECORD"}


def test_the_sources_travel_to_the_compiler_with_plain_names() -> None:
    with tarfile.open(fileobj=io.BytesIO(module._tar({"b.c": b"2", "a.c": b"1"}))) as archive:
        assert archive.getnames() == ["a.c", "b.c"]
