"""Signing: what cosign is asked, and what is refused before it is. A fake cosign writes down its arguments."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stoker.cli.image.sign import sign as sign_it
from stoker.cli.image.verify import verify as verify_it
from stoker.errors import EngineFailed, ImageBroken, ProgramMissing, UsageError
from stoker.image.oci import read_layout
from stoker.image.signing import Signer, bundle_path, sign, verify
from tests.image_layouts import TinyImage
from tests.image_locks import hashed, lock

REFERENCE = f"registry.example/team/trainer@sha256:{hashed('image')}"
_PROGRAM = """#!%s
import json, os, sys
with open(os.environ["FAKE_COSIGN"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "--bundle" in sys.argv and sys.argv[1] == "sign-blob":
    open(sys.argv[sys.argv.index("--bundle") + 1], "w").write("{}")
if os.environ.get("FAKE_COSIGN_FAILS"):
    sys.exit("Error: no matching signatures")
"""


@pytest.fixture
def cosign(tmp_path, monkeypatch):
    """A cosign that writes down what it is asked; returns a function that reads it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cosign").write_text(_PROGRAM % sys.executable)
    (folder / "cosign").chmod(0o755)
    said = tmp_path / "asked"
    said.touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_COSIGN", str(said))
    return lambda: [json.loads(line) for line in said.read_text().splitlines()]


@pytest.fixture
def layout(tmp_path) -> Path:
    return TinyImage(lock()).write(tmp_path / "trainer.oci")


def test_an_image_in_a_registry(cosign):
    assert sign(REFERENCE, Signer(key="cosign.key")) == REFERENCE
    assert verify(REFERENCE, Signer(key="cosign.pub")) == f"sha256:{hashed('image')}"
    sign(REFERENCE, Signer())
    verify(REFERENCE, Signer(identity="me@example.org", issuer="https://issuer.example"))
    sign(REFERENCE, Signer(key="k", log=True))
    assert cosign() == [
        ["sign", "--yes", "--key", "cosign.key", "--tlog-upload=false", REFERENCE],
        ["verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", REFERENCE],
        ["sign", "--yes", REFERENCE],
        ["verify", "--certificate-identity", "me@example.org", "--certificate-oidc-issuer", "https://issuer.example", REFERENCE],
        ["sign", "--yes", "--key", "k", REFERENCE],
    ]


def test_a_layout_is_signed_by_its_manifest(cosign, layout):
    bundle = sign(str(layout), Signer(key="cosign.key"))
    assert bundle == str(bundle_path(layout)) == f"{layout}.sigstore.json"
    digest = read_layout(layout).digest
    assert verify(str(layout), Signer(key="cosign.pub")) == digest
    manifest = str(layout / "blobs/sha256" / digest.partition(":")[2])
    assert cosign() == [
        ["sign-blob", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--bundle", bundle, manifest],
        ["verify-blob", "--key", "cosign.pub", "--insecure-ignore-tlog=true", "--bundle", bundle, manifest],
    ]


def test_a_layout_with_other_bytes_than_were_signed_is_refused(cosign, layout):
    sign(str(layout), Signer(key="k"))
    layer = read_layout(layout).manifest["layers"][0]
    path = layout / "blobs/sha256" / layer["digest"].partition(":")[2]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageBroken, match="other bytes than were signed"):
        verify(str(layout), Signer(key="k"))


def test_a_layout_without_signature_is_refused(cosign, layout):
    with pytest.raises(ImageBroken, match="no signature"):
        verify(str(layout), Signer(key="k"))
    assert cosign() == []


@pytest.mark.parametrize("use", [sign, verify])
def test_a_tag_is_neither_signed_nor_verified(cosign, use):
    with pytest.raises(UsageError, match="no digest"):
        use("registry.example/team/trainer:latest", Signer(key="k"))
    assert cosign() == []


@pytest.mark.parametrize("signer", [Signer(), Signer(identity="me"), Signer(issuer="x")])
def test_a_signature_of_anybody_is_none(cosign, signer):
    with pytest.raises(UsageError, match="who made it"):
        verify(REFERENCE, signer)
    assert cosign() == []


def test_what_cosign_refuses_is_refused_in_its_words(cosign, monkeypatch):
    monkeypatch.setenv("FAKE_COSIGN_FAILS", "1")
    with pytest.raises(EngineFailed, match="no matching signatures"):
        verify(REFERENCE, Signer(key="k"))


def test_without_cosign(monkeypatch, tmp_path, layout):
    monkeypatch.setenv("PATH", str(tmp_path))
    for target in (REFERENCE, str(layout)):
        with pytest.raises(ProgramMissing, match="cosign is not installed"):
            sign(target, Signer(key="k"))


def test_the_commands(cosign, layout):
    done = CliRunner().invoke(sign_it, [str(layout), "--key", "cosign.key"])
    assert (done.exit_code, done.stdout) == (0, f"{layout}.sigstore.json\n")
    done = CliRunner().invoke(verify_it, [str(layout), "--key", "cosign.pub"])
    assert (done.exit_code, done.stdout) == (0, f"{read_layout(layout).digest}\n")
