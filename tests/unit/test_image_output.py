"""Loading and pushing: what engines are told, what they say when they refuse, the archive that docker gets."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
from pathlib import Path

import pytest

from stoker.errors import EngineFailed, ImageBroken, ProgramMissing, UsageError
from stoker.image import oci
from stoker.image.compression import Compression, compressed
from stoker.image.oci import Layer, Layout, read_layout, write_layout
from stoker.image.output import load, push, unpacked, write_docker_archive


@pytest.fixture(params=["zstd", "gzip"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    """An image with two layers."""
    return written(tmp_path, request.param)


def written(tmp_path: Path, kind: Compression) -> Layout:
    """An image with two layers, one of them larger than what is read at once."""
    contents = [os.urandom(10), os.urandom(1000) * 5000]
    layers = [
        Layer(title=str(number), blob=compressed(lambda out, content=content: out.write(content), tmp_path / f"layer{number}", kind=kind))  # type: ignore[misc]
        for number, content in enumerate(contents)
    ]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.blob.diff_id for layer in layers]}}
    write_layout(tmp_path / "a.oci", layers, config, name="team/trainer:latest", annotations={oci.LOCK: "sha256:" + "0" * 64})
    return read_layout(tmp_path / "a.oci")


def called(tmp_path: Path) -> list[str]:
    """The command lines of the programs."""
    return (tmp_path / "called").read_text().splitlines()


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> Path:
    """A program of that name in PATH; what it was called with goes to `called`, what it read to `read`."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return path


def test_the_archive_for_docker_holds_the_layers_unpacked(layout: Layout) -> None:
    held = io.BytesIO()
    write_docker_archive(layout, "trainer:latest", held)
    with tarfile.open(fileobj=io.BytesIO(held.getvalue())) as archive:
        files = {member.name: content.read() for member in archive if (content := archive.extractfile(member))}
    manifest = json.loads(files["manifest.json"])[0]
    assert manifest["RepoTags"] == ["trainer:latest"]
    assert json.loads(files[manifest["Config"]]) == layout.config
    assert manifest["Config"] == layout.manifest["config"]["digest"].removeprefix("sha256:") + ".json"
    hashes = ["sha256:" + hashlib.sha256(files[path]).hexdigest() for path in manifest["Layers"]]
    assert hashes == layout.config["rootfs"]["diff_ids"]


def test_a_layer_is_read_back_whole_in_pieces_of_any_size(layout: Layout) -> None:
    for piece_bytes in (1 << 20, 65_537):
        for layer in layout.layers:
            told, size = hashlib.sha256(), 0
            with unpacked(layer) as content:
                while piece := content.read(piece_bytes):
                    assert len(piece) <= piece_bytes
                    told.update(piece)
                    size += len(piece)
            assert (f"sha256:{told.hexdigest()}", size) == (layer.blob.diff_id, layer.blob.unpacked_size)


def test_a_layer_that_was_cut_short_is_no_bug(tmp_path: Path) -> None:
    layout = written(tmp_path, "zstd")
    blob = layout.layers[1].blob.path
    content = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageBroken):
        write_docker_archive(layout, "trainer:latest", io.BytesIO())


def test_docker_reads_the_archive(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "docker", f"cat > {tmp_path}/read")
    assert load(layout, "docker") == "team/trainer:latest"
    assert called(tmp_path) == ["load --quiet"]
    with tarfile.open(tmp_path / "read") as archive:
        assert len(archive.getnames()) == 4


def test_a_docker_that_refuses_at_once_is_quoted(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    program(tmp_path, monkeypatch, "docker", f"echo '{said}' >&2; exit 1")
    with pytest.raises(EngineFailed, match="Cannot connect") as refused:
        load(layout, "docker")
    assert "service" in refused.value.hint


@pytest.mark.parametrize("loaded", ["localhost/team/trainer:latest", "localhost/a.oci:latest", "sha256:0123"])
def test_podman_reads_the_layout_and_gives_it_the_image_s_name(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: str) -> None:
    program(tmp_path, monkeypatch, "podman", f'[ "$1" = load ] && echo "Loaded image: {loaded}"; exit 0')
    name = "localhost/team/trainer:latest"
    assert load(layout, "podman") == name
    renamed = [] if loaded == name else [f"tag {loaded} {name}"] + ([f"untag {loaded} {loaded}"] if ":latest" in loaded else [])
    first, *others = called(tmp_path)
    assert re.fullmatch(r"load --quiet --input stoker-load-[0-9]+-[0-9a-f]{8}", first)
    assert others == renamed


def test_a_registry_on_this_machine_needs_no_certificate_and_others_do(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "skopeo", "")
    assert push(layout, "127.0.0.1:5000/team/trainer:1") == f"127.0.0.1:5000/team/trainer@{layout.digest}"
    push(layout, "docker://registry.example.org/trainer")
    push(layout, "127.0.0.1.example.org/trainer")
    here, there, lookalike = called(tmp_path)
    source = f"oci:{layout.folder}:team/trainer:latest"
    assert here == f"copy --quiet --preserve-digests --dest-tls-verify=false {source} docker://127.0.0.1:5000/team/trainer:1"
    assert there == f"copy --quiet --preserve-digests {source} docker://registry.example.org/trainer:latest"
    assert "tls-verify" not in lookalike


def test_a_path_with_a_colon_is_pushed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """skopeo takes what follows the first colon for the image's name."""
    (tmp_path / "12:30").mkdir()
    layout = written(tmp_path / "12:30", "gzip")
    program(
        tmp_path, monkeypatch, "skopeo", 'for one in "$@"; do last=$source; source=$one; done; last=${last#oci:}; test -f "${last%%:*}/index.json"'
    )
    push(layout, "registry.example.org/team/trainer")
    assert called(tmp_path)[0].endswith(":team/trainer:latest docker://registry.example.org/team/trainer:latest")


@pytest.mark.parametrize("destination", ["trainer", "", "--help", "registry.example.org/", "http://x/y", "a/b c"])
def test_what_is_no_place_in_a_registry_is_refused_before_skopeo_runs(layout: Layout, destination: str) -> None:
    with pytest.raises(UsageError):
        push(layout, destination)


def test_a_registry_that_wants_a_login_gets_a_hint(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "skopeo", "echo 'unauthorized: authentication required' >&2; exit 1")
    with pytest.raises(EngineFailed) as refused:
        push(layout, "registry.example.org/team/trainer")
    assert "skopeo login" in refused.value.hint


def test_what_is_not_installed_is_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("podman", "docker"):
        with pytest.raises(ProgramMissing, match=name):
            load(layout, name)
    with pytest.raises(ProgramMissing, match="skopeo"):
        push(layout, "registry.example.org/team/trainer")
