"""OCI layouts: a reader meets a whole image whatever happens to the writer; the bytes depend on the image alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import BuildFailed, DiskFull, ImageBroken
from stoker.image import oci
from stoker.image.compression import compressed
from stoker.image.oci import Layer, copy_layout, read_layout, write_layout

SOURCE = Path(__file__).resolve().parents[2] / "src"


def layer(folder: Path, title: str, content: bytes, kind: Any = "gzip") -> Layer:
    """A layer whose "tar" is `content`."""
    folder.mkdir(exist_ok=True)
    return Layer(title=title, blob=compressed(lambda out: out.write(content), folder / title, kind=kind))


def config(layers: list[Layer], **more: Any) -> dict[str, Any]:
    """A configuration with these layers."""
    return {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [one.blob.diff_id for one in layers]}, **more}


def write(folder: Path, layers: list[Layer], **more: Any) -> str:
    """Write an image of ours."""
    return write_layout(folder, layers, config(layers, **more), name="trainer:latest", annotations={oci.LOCK: "sha256:" + "0" * 64})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    layers = [layer(tmp_path / "store", "one", b"1" * 1000), layer(tmp_path / "store", "two", b"2" * 5000)]
    digest = write(tmp_path / "a.oci", layers)
    found = read_layout(tmp_path / "a.oci")
    assert found.digest == digest == "sha256:" + hashlib.sha256(found.blob(digest).read_bytes()).hexdigest()
    assert [(one.title, one.blob.digest, one.blob.diff_id, one.blob.unpacked_size) for one in found.layers] == [
        (one.title, one.blob.digest, one.blob.diff_id, one.blob.unpacked_size) for one in layers
    ]
    assert json.loads((tmp_path / "a.oci" / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_the_blobs_are_those_of_the_store_and_not_copies(tmp_path: Path) -> None:
    one = layer(tmp_path / "store", "one", b"1" * 1000)
    write(tmp_path / "a.oci", [one])
    assert os.path.samefile(one.blob.path, read_layout(tmp_path / "a.oci").blob(one.blob.digest))


def test_a_store_on_another_disk_is_copied_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    one = layer(tmp_path / "store", "one", b"1" * 100_000)
    write(tmp_path / "a.oci", [one])
    copied = read_layout(tmp_path / "a.oci").blob(one.blob.digest)
    assert copied.read_bytes() == one.blob.path.read_bytes()
    assert not os.path.samefile(one.blob.path, copied)


def test_two_folders_have_the_same_digest_and_a_second_writing_touches_nothing(tmp_path: Path) -> None:
    layers = [layer(tmp_path / "store", "one", b"1" * 1000)]
    assert write(tmp_path / "a.oci", layers) == write(tmp_path / "deep" / "er" / "b.oci", layers)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a.oci").rglob("*")}
    write(tmp_path / "a.oci", layers)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a.oci").rglob("*")} == before


def test_a_new_image_takes_the_place_of_the_old_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    first, second = (layer(tmp_path / "store", name, name.encode() * 1000) for name in ("one", "two"))
    old = write(tmp_path / "a.oci", [first])
    new = write(tmp_path / "a.oci", [second])
    assert read_layout(tmp_path / "a.oci").digest == new != old
    assert len(list((tmp_path / "a.oci" / "blobs" / "sha256").iterdir())) == 3
    assert sorted(os.listdir(tmp_path)) == ["a.oci", "store"]


@pytest.mark.parametrize("there", ["file", "folder", "stranger"])
def test_what_stoker_did_not_write_is_not_overwritten(tmp_path: Path, there: str) -> None:
    target = tmp_path / "a.oci"
    if there == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    if there == "stranger":
        (target / "oci-layout").write_text("{}")
        (target / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64}]}))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(BuildFailed, match=r"a\.oci"):
        write(target, [layer(tmp_path.parent / f"{tmp_path.name}-store", "one", b"1")])
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "a.oci").mkdir()
    assert write(tmp_path / "a.oci", [layer(tmp_path / "store", "one", b"1")]) == read_layout(tmp_path / "a.oci").digest


def test_a_full_disk_leaves_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (layer(tmp_path / "store", name, name.encode() * 1000) for name in ("one", "two"))
    old = write(tmp_path / "a.oci", [first])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(oci, "_place", full)
    with pytest.raises(DiskFull, match=r"a\.oci"):
        write(tmp_path / "a.oci", [second])
    with pytest.raises(DiskFull, match=r"b\.oci"):
        write(tmp_path / "b.oci", [second])
    assert read_layout(tmp_path / "a.oci").digest == old
    assert sorted(os.listdir(tmp_path)) == ["a.oci", "store"]


@pytest.mark.parametrize("linked", [True, False])
def test_a_layer_that_was_altered_in_the_layout_is_made_whole(linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    one = layer(tmp_path / "store", "one", b"1" * 100_000)
    digest = write(tmp_path / "a.oci", [one])
    blob = tmp_path / "a.oci" / "blobs" / "sha256" / one.blob.digest.removeprefix("sha256:")
    altered = bytes([blob.read_bytes()[0] ^ 1]) + blob.read_bytes()[1:]
    blob.write_bytes(altered)
    # Where it is a link the store's layer is altered with it: the store notices and makes another file of it.
    one = layer(tmp_path / "again", "one", b"1" * 100_000) if linked else one
    assert write(tmp_path / "a.oci", [one]) == digest
    assert blob.read_bytes() == one.blob.path.read_bytes() != altered


def test_a_copy_of_a_layout_is_known_again(tmp_path: Path) -> None:
    one = layer(tmp_path / "store", "one", b"1" * 100_000)
    write(tmp_path / "a.oci", [one])
    shutil.copytree(tmp_path / "a.oci", tmp_path / "b.oci", copy_function=shutil.copyfile)
    before = {path: path.stat().st_ino for path in (tmp_path / "b.oci").rglob("*")}
    write(tmp_path / "b.oci", [one])
    assert {path: path.stat().st_ino for path in (tmp_path / "b.oci").rglob("*")} == before


def test_a_layer_that_was_cut_short_is_noticed_and_made_whole(tmp_path: Path) -> None:
    one = layer(tmp_path / "store", "one", os.urandom(100_000))
    digest = write(tmp_path / "a.oci", [one])
    blob = read_layout(tmp_path / "a.oci").blob(one.blob.digest)
    blob.unlink()
    blob.write_bytes(b"short")
    with pytest.raises(ImageBroken, match="cut short"):
        read_layout(tmp_path / "a.oci")
    assert write(tmp_path / "a.oci", [one]) == digest
    assert read_layout(tmp_path / "a.oci").blob(one.blob.digest).read_bytes() == one.blob.path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b""),
        ("index.json", b"{}"),
        ("index.json", b'{"manifests": 1}'),
        ("index.json", b'{"manifests": [{}, {}]}'),
        ("index.json", b'{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:../../../etc/passwd"}]}'),
        ("index.json", b"[" * 100_000),
        ("index.json", b"\xff\xfe"),
        ("index.json", None),
        ("manifest", b"{}"),
        ("manifest", None),
    ],
)
def test_garbage_is_an_error_of_ours(tmp_path: Path, name: str, content: bytes | None) -> None:
    digest = write(tmp_path / "a.oci", [layer(tmp_path / "store", "one", b"1")])
    path = tmp_path / "a.oci" / name if name != "manifest" else read_layout(tmp_path / "a.oci").blob(digest)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageBroken):
        read_layout(tmp_path / "a.oci")


def test_a_copy_has_the_same_bytes(tmp_path: Path) -> None:
    digest = write(tmp_path / "a.oci", [layer(tmp_path / "store", "one", b"1" * 1000)])
    copy_layout(read_layout(tmp_path / "a.oci"), tmp_path / "b.oci")
    assert read_layout(tmp_path / "b.oci").digest == digest
    assert (tmp_path / "a.oci" / "index.json").read_bytes() == (tmp_path / "b.oci" / "index.json").read_bytes()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {source!r})
sys.path.insert(0, {tests!r})
from test_image_oci import layer, write
from stoker.image.oci import Layer
store = Path(sys.argv[2])
layers = [layer(store, str(number), bytes([number]) * 3_000_000) for number in range(int(sys.argv[3]), int(sys.argv[3]) + 5)]
print("ready", flush=True)
count = 0
while True:
    write(Path(sys.argv[1]), layers[: 1 + count % 5])
    count += 1
"""


def writer(tmp_path: Path, first: int) -> subprocess.Popen[str]:
    """A process that writes one image after another into `a.oci`."""
    code = WRITER.format(source=str(SOURCE), tests=str(Path(__file__).parent))
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.oci"), str(tmp_path / f"store{first}"), str(first)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_writer_that_is_stopped_at_any_moment_leaves_a_whole_image_or_none(tmp_path: Path, number: signal.Signals) -> None:
    for delay_ms in (3, 17, 60):
        process = writer(tmp_path, 1)
        time.sleep(delay_ms / 1000)
        process.send_signal(number)
        process.wait()
        if (tmp_path / "a.oci").exists():
            assert read_layout(tmp_path / "a.oci").layers
    # The next one goes on, and clears away what was left.
    write(tmp_path / "a.oci", [layer(tmp_path / "store", "last", b"1")])
    assert [one.title for one in read_layout(tmp_path / "a.oci").layers] == ["last"]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_two_that_write_at_once_never_leave_half_an_image(tmp_path: Path) -> None:
    processes = [writer(tmp_path, first) for first in (1, 11)]
    seen = set()
    ends = time.monotonic() + 1.5
    try:
        while time.monotonic() < ends:
            try:
                seen.add(read_layout(tmp_path / "a.oci").digest)
            except ImageBroken:  # replaced between the look at index.json and that at a blob
                continue
    finally:
        for process in processes:
            process.kill()
            process.wait()
    write(tmp_path / "a.oci", [layer(tmp_path / "store", "last", b"1")])
    assert read_layout(tmp_path / "a.oci").layers
    assert len(seen) > 2


def test_threads_that_write_the_same_image_at_once_all_succeed(tmp_path: Path) -> None:
    layers = [layer(tmp_path / "store", str(number), bytes([number]) * 100_000) for number in range(4)]
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(write(tmp_path / "a.oci", layers))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(digests) == {read_layout(tmp_path / "a.oci").digest}
    assert len(digests) == 8
