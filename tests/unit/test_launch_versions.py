"""An engine's version that is remembered: for the very file that told it, and for no other."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from stoker.launch import versions
from stoker.launch.engine import find_engines
from stoker.launch.versions import identity, remember, remembered


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `podman` that is a binary, and says nothing of use."""
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(versions, "_SETTLED_S", -3600.0)
    path = tmp_path / "programs/podman"
    path.parent.mkdir()
    shutil.copy("/bin/true", path)
    return path


def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache/engines/podman"


def test_a_version_is_remembered_for_the_file_that_told_it(program: Path) -> None:
    file = identity(str(program))
    assert remembered("podman", file) == ()
    remember("podman", file, (4, 3, 1))
    assert remembered("podman", identity(str(program))) == (4, 3, 1)
    assert remembered("docker", file) == ()


def test_another_file_is_asked(program: Path, tmp_path: Path) -> None:
    remember("podman", identity(str(program)), (4, 3, 1))
    before = program.stat()
    # As an update does: another file of the same size and times under the same name.
    other = tmp_path / "other"
    shutil.copy(program, other)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, program)
    assert remembered("podman", identity(str(program))) == ()


def test_a_file_that_was_written_over_in_its_place_is_asked(program: Path) -> None:
    remember("podman", identity(str(program)), (4, 3, 1))
    before = program.stat()
    time.sleep(0.05)
    with program.open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered("podman", identity(str(program))) == ()


def test_the_same_file_at_another_place_is_asked(program: Path, tmp_path: Path) -> None:
    remember("podman", identity(str(program)), (4, 3, 1))
    os.link(program, tmp_path / "link")
    assert remembered("podman", identity(str(tmp_path / "link"))) == ()


def test_what_may_call_another_program_is_never_remembered(program: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\nexec flatpak-spawn --host podman "$@"\n')
    assert identity(str(script)) is None
    assert identity(str(tmp_path / "nowhere")) is None
    assert identity(str(tmp_path)) is None
    remember("podman", None, (4, 3, 1))
    assert not cache(tmp_path).exists()


def test_a_file_that_is_being_written_is_not_remembered(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_SETTLED_S", 2.0)
    assert identity(str(program)) is None


@pytest.mark.parametrize(
    "content", [b"", b"\0\xff\xfe", b"4.3.1\n", b"IDENTITY\n", b"IDENTITY\nnine\n", b"IDENTITY\n4.3.1\nmore\n", b"IDENTITY\n" + b"1" * 5000]
)
def test_what_lies_there_and_is_none_is_asked_again(program: Path, tmp_path: Path, content: bytes) -> None:
    file = identity(str(program))
    remember("podman", file, (4, 3, 1))
    cache(tmp_path).write_bytes(content.replace(b"IDENTITY", str(file).encode()))
    assert remembered("podman", file) == ()
    remember("podman", file, (4, 3, 1))
    assert remembered("podman", file) == (4, 3, 1)


def test_a_place_that_cannot_be_written_costs_nothing_but_the_time(program: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    remember("podman", identity(str(program)), (4, 3, 1))
    assert remembered("podman", identity(str(program))) == ()


def test_what_is_remembered_is_believed_without_a_call(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    (found,) = find_engines(("podman",))  # `true --version` tells that of its package
    assert found.version == remembered("podman", identity(str(program))) != ()
    remember("podman", identity(str(program)), (5, 4, 2))
    (found,) = find_engines(("podman",))
    assert (found.version, found.answers) == ((5, 4, 2), None)
