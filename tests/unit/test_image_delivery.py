"""Files that a person names: what cannot be written is refused before the work begins."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from stoker.cli.image import build as build_cli
from stoker.errors import BuildFailed, ProgramMissing, RunFolderUnwritable, UsageError
from stoker.files import need_target
from stoker.image import build as pipeline
from stoker.image.build import Order
from stoker.image.compression import compressor_name
from stoker.image.lock import write_lock
from stoker.image.output import need_outputs
from stoker.image.own import own
from stoker.image.pipeline import Pipeline
from stoker.image.specification import read_specification
from tests.image_locks import lock


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
    pytest.importorskip("zstandard")
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
