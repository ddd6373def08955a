"""Bundles: all of an image in one file, the same bytes each time; whatever was changed in one is noticed, and nothing of it kept."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.errors import HashMismatch, ImageBroken, StokerError, UnsafeArchive
from stoker.image import oci
from stoker.image.bundle import open_bundle, write_bundle
from stoker.image.compression import compressed
from stoker.image.configuration import image_configuration
from stoker.image.lock import Base, Deb, Lock, LockedStack, Own, Wheel, read_lock, write_lock
from stoker.image.oci import Layer, Layout, read_layout, write_layout
from stoker.image.specification import read_specification
from stoker.image.store import Store
from tests.image_layouts import File, tar_of

WHEEL, DEB = b"wheel " * 1000, b"deb " * 1000
COPYRIGHT = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Expat\n"
Members = dict[str, bytes]


def sha256(content: bytes) -> str:
    """The hash in hex."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with specification and lock, whose packages are in the store."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "stoker.toml").write_text('[image]\nname = "team/tiny"\ntorch = "none"\nrequirements = "more.txt"\n')
    (folder / "more.txt").write_text("six\n")
    store = Store()
    for content, name in ((WHEEL, "six-1.17.0-py3-none-any.whl"), (DEB, "tini_1_amd64.deb")):
        (tmp_path / name).write_bytes(content)
        store.add_file(tmp_path / name, sha256=sha256(content), name=name)
    wheel = Wheel(
        name="six",
        version="1.17.0",
        file="six-1.17.0-py3-none-any.whl",
        sha256=sha256(WHEEL),
        size=len(WHEEL),
        index=None,
        variants=("cli",),
    )
    deb = Deb(
        name="tini",
        version="1",
        architecture="amd64",
        file="pool/main/t/tini/tini_1_amd64.deb",
        sha256=sha256(DEB),
        size=len(DEB),
        archive="debian",
        variants=("cli",),
    )
    stack = LockedStack(
        name="plain",
        torch=None,
        torchvision=None,
        cuda=None,
        toolkit=None,
        cudnn=None,
        driver_min=None,
        driver_full=None,
        architectures=(),
        ptx=False,
        wheels=(wheel,),
    )
    write_lock(
        folder / "stoker.lock",
        Lock(
            name="team/tiny",
            created=1_760_000_000,
            machine="x86_64",
            specification=read_specification(folder / "stoker.toml").digest,
            python="3.13",
            python_full="3.13.5",
            base=Base(kind="debian", suite="trixie", digest=None, debs=(deb,)),
            stacks=(stack,),
            variants=("cli",),
            prune=(),
            own=Own(version="0.1.0", sha256="0" * 64),
            compression="zstandard 0.25.0 level 3",
        ),
    )
    return folder


@pytest.fixture
def layout(project: Path, tmp_path: Path) -> Layout:
    """The image of that lock, of one small layer."""
    lock = read_lock(project / "stoker.lock")
    tar = tar_of({"usr/share/doc/tini/copyright": File(COPYRIGHT)})
    layers = [Layer(title="one", blob=compressed(lambda out: out.write(tar), tmp_path / "layer", kind="gzip"))]
    config = image_configuration(lock, layers, init=("x",), command=("bash",), labels={}, base={})
    write_layout(project / "tiny.oci", layers, config, name="team/tiny:latest", annotations={oci.LOCK: lock.digest})
    return read_layout(project / "tiny.oci")


@pytest.fixture
def bundle(project: Path, layout: Layout, tmp_path: Path) -> Path:
    """Its bundle."""
    write_bundle(tmp_path / "tiny.bundle", specification=project / "stoker.toml", layout=layout)
    return tmp_path / "tiny.bundle"


def members(bundle: Path) -> Members:
    """The files of a bundle."""
    with tarfile.open(bundle) as archive:
        return {member.name: content.read() for member in archive if (content := archive.extractfile(member))}


def written(path: Path, files: Members, *, more: Callable[[tarfile.TarFile], object] | None = None) -> Path:
    """A tar with these files."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if more:
            more(archive)
    return path


def test_another_machine_gets_the_same_image_and_its_packages(
    project: Path, layout: Layout, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "other cache"))
    (tmp_path / "other").mkdir()
    target = open_bundle(bundle, tmp_path / "other")
    assert target == tmp_path / "other" / "tiny.oci"
    assert read_layout(target).digest == layout.digest
    for name in ("stoker.toml", "more.txt"):
        assert (tmp_path / "other" / name).read_bytes() == (project / name).read_bytes()
    store = Store()
    for content in (WHEEL, DEB):
        path = store.file(sha256(content))
        assert path is not None
        assert path.read_bytes() == content
    # And that machine can make the bundle again, to the byte.
    write_bundle(tmp_path / "again", specification=tmp_path / "other" / "stoker.toml", layout=read_layout(target))
    assert (tmp_path / "again").read_bytes() == bundle.read_bytes()


def test_a_bundle_holds_everything(bundle: Path) -> None:
    held = members(bundle)
    names = set(held)
    assert {"project/stoker.toml", "project/stoker.lock", "project/more.txt", "sbom.cdx.json", "sbom.spdx.json", "README", "bundle.json"} < names
    assert {"wheels/six-1.17.0-py3-none-any.whl", "debs/tini_1_amd64.deb", "layout/index.json", "layout/oci-layout"} < names
    assert [name for name in names if name.startswith("wheels/stoker-")]
    # Licences are read from the image.
    licences = {one["name"]: one["licenseDeclared"] for one in json.loads(held["sbom.spdx.json"])["packages"]}
    assert (licences["tini"], licences["six"]) == ("MIT", "NOASSERTION")


@pytest.mark.parametrize(
    "changed", ["wheels/six-1.17.0-py3-none-any.whl", "debs/tini_1_amd64.deb", "project/stoker.lock", "layout/index.json", "README"]
)
def test_a_changed_file_is_noticed_and_nothing_is_kept(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    files = members(bundle)
    files[changed] = bytes([files[changed][0] ^ 1]) + files[changed][1:]
    refused(tmp_path, monkeypatch, written(tmp_path / "changed", files), HashMismatch)


def test_a_changed_file_whose_hash_was_changed_too_is_noticed_by_the_lock(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = members(bundle)
    files["wheels/six-1.17.0-py3-none-any.whl"] = b"evil"
    told = json.loads(files["bundle.json"])
    told["files"]["wheels/six-1.17.0-py3-none-any.whl"] = {"sha256": sha256(b"evil"), "size": 4}
    files["bundle.json"] = json.dumps(told).encode()
    refused(tmp_path, monkeypatch, written(tmp_path / "changed", files), HashMismatch)


def test_a_missing_file_is_noticed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = members(bundle)
    del files["debs/tini_1_amd64.deb"]
    refused(tmp_path, monkeypatch, written(tmp_path / "changed", files), ImageBroken)


def test_a_file_that_is_not_listed_a_link_and_one_twice_are_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("wheels/evil")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)

    files = members(bundle)
    refused(tmp_path, monkeypatch, written(tmp_path / "a", files | {"wheels/evil.whl": b"x"}), UnsafeArchive)
    refused(tmp_path, monkeypatch, written(tmp_path / "b", files, more=link), UnsafeArchive)
    twice = tarfile.TarInfo("README")
    refused(tmp_path, monkeypatch, written(tmp_path / "c", files, more=lambda archive: archive.addfile(twice)), UnsafeArchive)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "wheels/../../evil", "layout/blobs/sha256/../../evil", "project/..", "project/a/../../../b", "project//etc", "home/x"],
)
def test_a_listed_name_that_leads_elsewhere_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files = members(bundle)
    told = json.loads(files["bundle.json"])
    told["files"][name] = {"sha256": sha256(b"x"), "size": 1}
    files["bundle.json"] = json.dumps(told).encode()
    refused(tmp_path, monkeypatch, written(tmp_path / "changed", files | {name: b"x"}), UnsafeArchive)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\0" * 10240])
def test_what_is_no_bundle_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    (tmp_path / "changed").write_bytes(content)
    refused(tmp_path, monkeypatch, tmp_path / "changed", ImageBroken)


def test_one_that_was_cut_short_is_an_error_of_ours(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bundle.read_bytes()
    for part in (0.2, 0.5, 0.9):
        (tmp_path / "changed").write_bytes(content[: int(len(content) * part)])
        refused(tmp_path, monkeypatch, tmp_path / "changed", ImageBroken)


@pytest.mark.parametrize("told", [b"[]", b"{}", b"null", b'{"format": 2}', b'{"format": 1, "files": []}', b'{"format": 1, "files": {"README": {}}}'])
def test_a_broken_list_is_an_error_of_ours(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bytes) -> None:
    refused(tmp_path, monkeypatch, written(tmp_path / "changed", members(bundle) | {"bundle.json": told}), ImageBroken)


def test_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ImageBroken, match="nothing"):
        open_bundle(tmp_path / "nothing", tmp_path)


def test_another_specification_that_lies_there_is_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "stoker.toml").write_text("mine")
    with pytest.raises(ImageBroken, match=r"stoker\.toml"):
        open_bundle(bundle, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["stoker.toml"]


def test_a_layout_of_another_lock_is_not_bundled(project: Path, layout: Layout, tmp_path: Path) -> None:
    index = json.loads((project / "tiny.oci" / "index.json").read_text())
    index["manifests"][0]["annotations"][oci.LOCK] = "sha256:" + "1" * 64
    (project / "tiny.oci" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ImageBroken):
        write_bundle(tmp_path / "b", specification=project / "stoker.toml", layout=read_layout(project / "tiny.oci"))
    assert not (tmp_path / "b").exists()


def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path, error: type[StokerError]) -> None:
    """See that a bundle is refused, and that neither store nor folder has anything of it."""
    cache, folder = tmp_path / "other cache", tmp_path / "other"
    monkeypatch.setenv("STOKER_CACHE", str(cache))
    folder.mkdir(exist_ok=True)
    with pytest.raises(error):
        open_bundle(bundle, folder)
    assert not list(folder.iterdir())
    assert not [one for one in Store().kept() if one.kind != "partial"]
    assert not (tmp_path / "evil").exists()
