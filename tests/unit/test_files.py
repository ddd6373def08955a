"""Files in one piece, and what is no file: a device or a pipe stays one."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from stoker.files import write_text_atomically


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    """As /dev/null must: a rename in its place breaks the machine of whoever is root."""
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_text_atomically(pipe, "content")
    reader.join(60)
    assert read == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_descriptor_is_written_into(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file:
        write_text_atomically(Path(f"/dev/fd/{file.fileno()}"), "content")
        assert os.path.islink(f"/dev/fd/{file.fileno()}")
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_file_is_replaced_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "\ud800")
    assert path.read_text() == "old"
    with path.open() as reader:
        write_text_atomically(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]
