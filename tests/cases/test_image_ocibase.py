"""An OCI image as the base: by digest, every hash checked, its own Python asked."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from stoker.errors import ImageBroken, SpecificationBroken, StokerError
from stoker.image.compression import compressed
from stoker.image.entries import Entry
from stoker.image.oci import Layer, write_layout
from stoker.image.ocibase import lock_oci_base, read_oci_base
from stoker.image.root import namespace_refusal
from stoker.image.store import Store
from tests.conftest import need
from tests.image_roots import tiny_root

PYTHON = "#!/bin/sh\necho 3.12.9\n"


def layer(folder: Path, target: Path, title: str) -> Layer:
    def write(out: object) -> None:
        with tarfile.open(fileobj=out, mode="w|") as tar:  # type: ignore[call-overload]
            for path in sorted(folder.rglob("*")):
                tar.add(path, str(path.relative_to(folder)), recursive=False)

    return Layer(title=title, blob=compressed(write, target, kind="gzip"))


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, str]:
    """A layout of two layers: a shell; then a Python of 3.12 over it, a user 1000, and a passwd file that is a link to this machine's."""
    need(namespace_refusal() is None, "namespaces")
    lower, upper = tiny_root(tmp_path / "lower"), tmp_path / "upper"
    (lower / "usr/bin/python3.12").write_text("#!/bin/sh\nexit 1\n")
    (lower / "etc/shadow").symlink_to("/etc/shadow")
    (lower / "gone").write_text("lower")
    (upper / "usr/bin").mkdir(parents=True)
    (upper / "etc").mkdir()
    (upper / ".wh.gone").touch()
    (upper / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n")
    (upper / "usr/bin/python3.12").write_text(PYTHON)
    (upper / "usr/bin/python3.12").chmod(0o755)
    layers = [layer(folder, tmp_path / f"{folder.name}.gz", folder.name) for folder in (lower, upper)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": [one.blob.diff_id for one in layers]},
    }
    digest = write_layout(tmp_path / "layout", layers, config, name="base:1", annotations={"dev.stoker.lock": "x"})
    return tmp_path / "layout", digest


def contents(additions: tuple[Entry, ...]) -> dict[str, bytes | None]:
    return {entry.path: entry.content if isinstance(entry.content, bytes) else None for entry in additions}


def test_layers_are_taken_as_they_are_and_the_account_goes_on_top(image: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = image
    store = Store(tmp_path / "store")
    base, python_full = lock_oci_base(f"oci:{path}@{digest}", "3.12", store)
    assert (base.kind, base.digest, base.debs, python_full) == ("oci", digest, (), "3.12.9")
    assert str(path) not in repr(base)
    found = read_oci_base(f"oci:{path}@{digest}", store, python="3.12", shell="/bin/bash", digest=digest)
    manifest = json.loads((path / "blobs/sha256" / digest.removeprefix("sha256:")).read_text())
    assert [blob.digest for blob in found.blobs] == [row["digest"] for row in manifest["layers"]]
    assert found.config == {"Env": ["A=1"]}
    assert not (found.root.folder / "gone").exists()
    added = contents(found.additions)
    assert added["etc/passwd"] == b"root:x:0:0::/root:/bin/sh\nstoker:*:1000:1000:Stoker:/home/stoker:/bin/bash\n"
    # The link led to this machine's shadow file: nothing of that comes into the image.
    assert "etc/shadow" not in added
    assert {"home/stoker", "workspace"} <= set(added)


def test_another_image_at_that_place_is_refused(image: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = image
    other = "sha256:" + "1" * 64
    with pytest.raises(SpecificationBroken, match="holds the image"):
        lock_oci_base(f"oci:{path}@{other}", "3.12", Store(tmp_path / "store"))
    with pytest.raises(SpecificationBroken, match="the lock stands on"):
        read_oci_base(f"oci:{path}@{digest}", Store(tmp_path / "store"), python="3.12", shell="/bin/sh", digest=other)


def test_a_python_that_it_does_not_have_is_refused(image: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = image
    with pytest.raises(SpecificationBroken, match=r"/usr/bin/python3\.13"):
        lock_oci_base(f"oci:{path}@{digest}", "3.13", Store(tmp_path / "store"))


@pytest.mark.parametrize("unpacked", [False, True])
def test_a_changed_layer_is_refused_before_anything_of_it_is_run(unpacked: bool, image: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = image
    store = Store(tmp_path / "store")
    if unpacked:
        lock_oci_base(f"oci:{path}@{digest}", "3.12", store)
    manifest = json.loads((path / "blobs/sha256" / digest.removeprefix("sha256:")).read_text())
    blob = path / "blobs/sha256" / manifest["layers"][1]["digest"].removeprefix("sha256:")
    content = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ImageBroken, match="another one"):
        lock_oci_base(f"oci:{path}@{digest}", "3.12", store)
    assert unpacked or not list(store.folder.glob("roots/*"))


@pytest.mark.parametrize("reference", ["", "oci:/x", "oci:/x@sha256:12", "docker://x@sha256:" + "0" * 64, "oci:/nowhere@sha256:" + "0" * 64])
def test_what_names_no_image_by_digest_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises((SpecificationBroken, ImageBroken)):
        lock_oci_base(reference, "3.12", Store(tmp_path / "store"))


def test_a_layer_that_leads_out_is_refused(tmp_path: Path) -> None:
    def write(out: object) -> None:
        with tarfile.open(fileobj=out, mode="w|") as tar:  # type: ignore[call-overload]
            info = tarfile.TarInfo("../../escaped")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))

    hostile = Layer(title="x", blob=compressed(write, tmp_path / "x.gz", kind="gzip"))
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [hostile.blob.diff_id]}}
    digest = write_layout(tmp_path / "hostile", [hostile], config, name="x:1", annotations={"dev.stoker.lock": "x"})
    with pytest.raises(StokerError):
        lock_oci_base(f"oci:{tmp_path / 'hostile'}@{digest}", "3.12", Store(tmp_path / "store"))
    assert not list(tmp_path.rglob("escaped"))
