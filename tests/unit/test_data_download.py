"""A download is whole or not there."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker import settings
from stoker.data.download import cifar10_archive, fetch
from stoker.data.sources import open_dataset
from stoker.errors import DataInvalid, DiskFull, DownloadFailed, MissingExtra

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves /whole, /cut (says more than it sends) and /unsized; anything else is a 404."""

    served = 0

    def do_GET(self) -> None:
        if self.path not in ("/whole", "/cut", "/unsized"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/cut" else CONTENT)
        Handler.served += 1

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("page", ["/whole", "/unsized"])
def test_whole(tmp_path: Path, address: str, page: str) -> None:
    fetch(address + page, MD5, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(("page", "md5"), [("/cut", MD5), ("/gone", MD5), ("/whole", "0" * 32)])
def test_not_whole_leaves_nothing(tmp_path: Path, address: str, page: str, md5: str) -> None:
    with pytest.raises(DownloadFailed) as caught:
        fetch(address + page, md5, tmp_path / "a")
    assert "--data" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://nowhere.invalid/x", "nonsense"])
def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadFailed, match="could not be fetched"):
        fetch(url, MD5, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        fetch(address + "/whole", MD5, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_cifar10_is_fetched_once_and_leftovers_are_cleared(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = types.SimpleNamespace(url=f"{address}/whole", tgz_md5=MD5)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", types.SimpleNamespace(CIFAR10=known))
    folder = settings.cache_folder() / "downloads"
    folder.mkdir(parents=True)
    (folder / "cifar-10-python.tar.gz.tmp-99").write_bytes(CONTENT[:1000])  # of a download that was killed
    before = Handler.served
    assert cifar10_archive() == cifar10_archive() == folder / "cifar-10-python.tar.gz"
    assert Handler.served == before + 1
    assert sorted(path.name for path in folder.iterdir()) == ["cifar-10-python.tar.gz", "cifar-10-python.tar.gz.lock"]
    with pytest.raises(DataInvalid, match=r"cifar-10-python\.tar\.gz"):  # it is no archive: that is seen when it is read
        open_dataset("cifar10", None, resident=True, test_fraction=0.2, seed=0, skip_broken=False)


def test_cifar10_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)  # another test may have imported it
    with pytest.raises(MissingExtra, match="torchvision"):
        open_dataset("cifar10", None, resident=True, test_fraction=0.2, seed=0, skip_broken=False)
