"""Files that a person names: whole or not there, refused before the work begins, and devices stay devices."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from stoker.cli.image import build as build_cli
from stoker.errors import BuildFailed, ProgramMissing, RunFolderUnwritable, UsageError
from stoker.image import build as pipeline
from stoker.image.build import Order
from stoker.image.compression import compressor_name
from stoker.image.delivery import deliver, need_target
from stoker.image.lock import write_lock
from stoker.image.output import need_outputs
from stoker.image.own import own
from stoker.image.pipeline import Pipeline
from stoker.image.specification import read_specification
from tests.image_locks import lock


def test_a_pipe_is_written_into_and_stays_one(tmp_path):
    """As /dev/null must: a rename in its place breaks the machine of whoever is root."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    deliver(pipe, lambda file: file.write(b"content"))
    reader.join(10)
    assert read == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_descriptor_is_written_into(tmp_path):
    with open(tmp_path / "out", "wb") as file:
        deliver(Path(f"/dev/fd/{file.fileno()}"), lambda out: out.write(b"content"))
        assert os.path.islink(f"/dev/fd/{file.fileno()}")
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_file_is_replaced_in_one_piece(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError):
        deliver(tmp_path / "file", lambda file: file.write(b"x") / 0)
    assert (tmp_path / "file").read_text() == "old"
    deliver(tmp_path / "file", lambda file: file.write(b"new"))
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "file").touch()
    need_target(tmp_path / "new")
    for place, what in ((tmp_path, "it is a folder"), (tmp_path / "a" / "b", "no folder"), (tmp_path / "file" / "x", "no folder")):
        with pytest.raises(RunFolderUnwritable, match=what):
            need_target(place)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--push", "NO PLACE"], UsageError),
        (["--bundle", "no/such/folder/x"], RunFolderUnwritable),
        (["--load", "podman"], ProgramMissing),
    ],
)
def test_a_build_is_not_begun_when_its_result_could_go_nowhere(arguments, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_cli.pipeline, "build", lambda order: pytest.fail("it was built first"))
    done = CliRunner().invoke(build_cli.build, arguments, standalone_mode=False)
    assert isinstance(done.exception, error), done.exception


def test_nothing_is_needed_for_a_layout_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    need_outputs(None, None)


def test_a_folder_that_is_not_ours_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "stoker.toml").write_text('[image]\nname = "trainer"\ntorch = "none"\n')
    said = read_specification(tmp_path / "stoker.toml").digest
    write_lock(tmp_path / "stoker.lock", lock(specification=said, own=own(), machine=os.uname().machine, compression=compressor_name()))
    monkeypatch.setattr(Pipeline, "layers", lambda self: pytest.fail("layers were made first"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for place in ("mine", "stoker.toml", "link", "stoker.toml/x.oci"):
        with pytest.raises(BuildFailed):
            pipeline.build(Order(specification=tmp_path / "stoker.toml", layout=tmp_path / place))
    assert sorted(os.listdir(tmp_path)) == ["link", "mine", "stoker.lock", "stoker.toml"]
