"""`stoker image show` and the command line of `stoker image build`: what is told of an image, and which flags exclude each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from stoker.cli.image.build import build
from stoker.cli.image.show import show
from stoker.errors import ImageBroken, LockMissing, UsageError
from stoker.image import oci
from stoker.image.compression import compressed
from stoker.image.configuration import image_configuration
from stoker.image.oci import Layer, write_layout
from tests.unit.test_image_configuration import lock, stack


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The layout of an image with two stacks."""
    one = lock(stack("cu130", "13.0", "580.65.06"), stack("cu126", "12.6", "525.60.13"), variants=("cli", "ssh"))
    layers = [Layer(title="Debian trixie", blob=compressed(lambda out: out.write(b"\0" * 2_000_000), tmp_path / "layer", kind="gzip"))]
    config = image_configuration(one, layers, init=("x",), command=("bash",), labels={}, base={})
    write_layout(tmp_path / "trainer.oci", layers, config, name="team/trainer:latest", annotations={oci.LOCK: one.digest})
    return tmp_path / "trainer.oci"


def test_it_shows_layers_sizes_and_drivers(layout: Path) -> None:
    told = CliRunner().invoke(show, [str(layout)], catch_exceptions=False).output
    assert "team/trainer  sha256:" in told
    assert "cu130: torch 2.13.0, driver 580.65.06 or newer, GPUs sm_75 sm_80 and newer (PTX)" in told
    assert "cu126: torch 2.13.0, driver 525.60.13 or newer (from 580.65.06 on nothing is missing)" in told
    assert "cuda>=12.0,driver>=525.60.13" in told
    assert re.search(r"^Debian trixie +[\d.]+ kB +2\.0 MB", told, re.MULTILINE)


def test_programs_get_json(layout: Path) -> None:
    told = json.loads(CliRunner().invoke(show, [str(layout), "--json"], catch_exceptions=False).output)
    assert [(one["name"], one["driver_min"]) for one in told["stacks"]] == [("cu130", "580.65.06"), ("cu126", "525.60.13")]
    assert told["unpacked_size"] == 2_000_000
    assert told["variants"] == ["cli", "ssh"]


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageBroken):
        CliRunner().invoke(show, [str(tmp_path)], catch_exceptions=False)


def test_a_label_that_was_tampered_with_is_no_bug(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.image.configuration.STACKS", "dev.stoker.lock")
    with pytest.raises(ImageBroken, match=r"dev\.stoker\.lock"):
        CliRunner().invoke(show, [str(layout)], catch_exceptions=False)


@pytest.mark.parametrize("flags", [["--git"], ["--variants", "cli"], ["--bundle", "x"], ["--compression", "gzip"]])
def test_a_bundle_is_taken_as_it_is(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(UsageError, match="--from-bundle"):
        CliRunner().invoke(build, ["--from-bundle", str(tmp_path / "b"), *flags], catch_exceptions=False)


def test_without_a_lock_it_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "stoker.toml").write_text('[image]\nname = "trainer"\n')
    with pytest.raises(LockMissing) as missing:
        CliRunner().invoke(build, ["--file", str(tmp_path / "stoker.toml")], catch_exceptions=False)
    assert "stoker image lock" in missing.value.hint
