"""Signatures by the real cosign, of Debian 13: a layout and an image in a registry, whole and spoilt."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from stoker.errors import EngineFailed, ImageBroken
from stoker.image.debian import fetch_debs, lock_base
from stoker.image.oci import read_layout
from stoker.image.signing import Signer, bundle_path, sign, verify
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from tests.conftest import need
from tests.image_layouts import TinyImage
from tests.image_locks import lock

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def cosign(tmp_path_factory) -> Path:
    """The folder of the cosign that is installed, else of Debian's."""
    found = shutil.which("cosign")
    if found:
        return Path(found).parent
    need(all(shutil.which(program) for program in ("apt-get", "dpkg")), "cosign, or apt and dpkg to fetch Debian's")
    folder = tmp_path_factory.mktemp("cosign")
    base = lock_base(suite="trixie", machine="x86_64", packages={"cli": ["cosign"]}, mirrors=Mirrors())
    deb = next(deb for deb in base.debs if deb.name == "cosign")
    path = fetch_debs([deb], Store(folder / "store"), mirrors=Mirrors())[deb.sha256]
    subprocess.run(["dpkg", "-x", str(path), str(folder)], check=True)
    return folder / "usr/bin"


@pytest.fixture
def key(cosign, tmp_path, monkeypatch) -> Path:
    """A key pair without password; returns the private one."""
    monkeypatch.setenv("PATH", f"{cosign}:{os.environ['PATH']}")
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    subprocess.run(["cosign", "generate-key-pair"], cwd=tmp_path, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return tmp_path / "cosign.key"


@pytest.fixture
def layout(tmp_path) -> Path:
    return TinyImage(lock()).write(tmp_path / "trainer.oci")


def other_key(key: Path) -> Path:
    """Another pair's public key."""
    folder = key.parent / "other"
    folder.mkdir()
    subprocess.run(["cosign", "generate-key-pair"], cwd=folder, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return folder / "cosign.pub"


def test_a_layout(key, layout):
    public = Signer(key=str(key.with_suffix(".pub")))
    sign(str(layout), Signer(key=str(key)))
    assert verify(str(layout), public) == read_layout(layout).digest
    with pytest.raises(EngineFailed):
        verify(str(layout), Signer(key=str(other_key(key))))


def test_another_image_under_the_signature_of_one(key, layout, tmp_path):
    sign(str(layout), Signer(key=str(key)))
    other = TinyImage(lock(name="other")).write(tmp_path / "other.oci")
    shutil.copy(bundle_path(layout), bundle_path(other))
    with pytest.raises(EngineFailed):
        verify(str(other), Signer(key=str(key.with_suffix(".pub"))))


def test_a_layer_replaced_after_signing(key, layout):
    sign(str(layout), Signer(key=str(key)))
    blob = layout / "blobs/sha256" / read_layout(layout).manifest["layers"][0]["digest"].partition(":")[2]
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageBroken):
        verify(str(layout), Signer(key=str(key.with_suffix(".pub"))))


@pytest.fixture
def registry(tmp_path):
    """A registry on this machine; returns its address."""
    program = shutil.which("docker-registry")
    need(program is not None and shutil.which("skopeo") is not None, "docker-registry and skopeo")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    settings = tmp_path / "registry.yml"
    settings.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\nhttp: {{addr: '{address}'}}\n")
    process = subprocess.Popen([str(program), "serve", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                    break
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def test_an_image_in_a_registry(key, layout, registry):
    reference = f"{registry}/team/trainer@{read_layout(layout).digest}"
    copy = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{registry}/team/trainer:1"]
    subprocess.run(copy, check=True, capture_output=True)
    public = Signer(key=str(key.with_suffix(".pub")))
    with pytest.raises(EngineFailed):
        verify(reference, public)
    sign(reference, Signer(key=str(key)))
    assert verify(reference, public) == read_layout(layout).digest
    with pytest.raises(EngineFailed):
        verify(reference, Signer(key=str(other_key(key))))
