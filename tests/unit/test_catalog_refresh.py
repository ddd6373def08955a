"""tools/refresh_catalog.py: reads both forms of an index, a file out of a remote wheel, and writes what is new."""

from __future__ import annotations

import datetime
import importlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tools import packages
from tools import refresh_catalog as tool

from stoker.catalog import find_release

METADATA = """Metadata-Version: 2.1
Name: torch
Version: 2.99.0
Requires-Dist: filelock
Requires-Dist: cuda-toolkit[cublas,cudart]==14.0.1; platform_system == "Linux"
Requires-Dist: nvidia-cudnn-cu14==9.99.0.1; platform_system == "Linux"
Requires-Dist: nvidia-nccl-cu14==2.99.1; platform_system == "Linux"
Requires-Dist: triton~=4.0.0; platform_system == "Linux"
"""
NAME = "torch-2.99.0-cp313-cp313-manylinux_2_28_x86_64.whl"
AGAIN = "torch-2.99.0-3-cp312-cp312t-manylinux_2_28_x86_64.whl"


def wheel() -> bytes:
    """A wheel with the list of architectures behind a megabyte of noise."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("torch-2.99.0.dist-info/METADATA", METADATA)
        file.writestr("torch/lib/libtorch_python.so", bytes(range(256)) * 4096 + b"\0sm_90 sm_100 sm_120 compute_120\0sm_90a\0" + b"x" * 5000)
        file.writestr("torch/version.py", "")
    return body.getvalue()


class Index(BaseHTTPRequestHandler):
    """An index with one wheel; `ranges` says whether it answers range requests, `form` which form of the simple API it speaks."""

    ranges = True
    form = "html"
    body = wheel()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        if self.path.endswith(".whl") and span and self.ranges:
            first, last = (int(part) for part in span.removeprefix("bytes=").split("-"))
            self._send(206, self.body[first : last + 1])
        elif self.path.endswith(".whl"):
            self._send(200, self.body)
        elif self.path == "/simple/torch/":
            self._send(200, self._page().encode())
        else:
            self._send(404, b"")

    def _page(self) -> str:
        if self.form == "json":
            files = [{"filename": name, "url": f"../../{name}", "upload-time": "2027-01-02T03:04:05Z"} for name in (NAME, AGAIN)]
            return json.dumps({"files": [*files, {"filename": "torch-2.98.0-cp313-cp313-manylinux_2_28_x86_64.whl", "url": "x", "yanked": "broken"}]})
        return f"""<!DOCTYPE html><a href="../../{NAME}#sha256=00" data-requires-python="&gt;=3.11" data-upload-time="2027-01-02T03:04:05Z">{NAME}</a>
            <a data-yanked="broken" href="x">torch-2.98.0-cp313-cp313-manylinux_2_28_x86_64.whl</a>
            <a href="../../{AGAIN}">{AGAIN}</a> <a href="y">torch-2.99.0-cp313-cp313-win_amd64.whl</a> <a href="z">torch-2.99.0.tar.gz</a>"""

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Index, "ranges", True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("form", ["html", "json"])
def test_both_forms_of_an_index_give_the_same_wheels(index: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "form", form)
    found = packages.wheels(index, "torch")
    assert [(wheel.name, wheel.python, wheel.build) for wheel in found] == [(NAME, "3.13", None), (AGAIN, "3.12t", "3")]
    assert found[0].uploaded == datetime.date(2027, 1, 2)


def test_a_release_is_read_out_of_its_wheels(index: str) -> None:
    found = tool.release_found("2.99.0", packages.wheels(index, "torch"), {"==2.99.0": ["0.99.0"]}, {}, deep=True)
    assert found.builds == ("3",)
    assert (found.cuda, found.cudnn, found.nccl, found.triton) == ("14.0", "9.99.0.1", "2.99.1", "~=4.0.0")
    assert (found.architectures, found.ptx) == (("90", "100", "120"), True)
    assert found.pythons == ("3.13", "3.12t")


def test_an_index_without_ranges_says_so(index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "ranges", False)
    with pytest.raises(OSError, match="range requests"):
        packages.architectures(packages.wheels(index, "torch")[0])


def test_what_is_not_there_is_an_error(index: str) -> None:
    with pytest.raises(OSError, match="no wheel of torch 9"):
        tool.release_found("9.9.9", packages.wheels(index, "torch"), {}, {}, deep=False)
    with pytest.raises(OSError, match="there is no torch/nothing"):
        list(packages.member(packages.wheels(index, "torch")[0].url, "torch/nothing"))


def parsed(text: str) -> dict[str, Any]:
    """Parse TOML on any Python."""
    found: dict[str, Any] = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(text)
    return found


def found_like(version: str) -> tool.Found:
    """What the packages would say if they agreed with the table."""
    row = find_release(version)
    assert row is not None
    variant = row.variant(row.default)
    assert variant is not None
    return tool.Found(
        version=version,
        pythons=row.pythons,
        builds=(),
        uploaded=row.date,
        cuda=variant.cuda,
        cudnn=variant.cudnn,
        nccl=row.nccl,
        triton=row.triton,
        cuda_on_aarch64=row.default_aarch64 != "cpu",
        torchvision=row.torchvision,
        torchaudio=row.torchaudio,
        architectures=variant.architectures,
        ptx=variant.ptx,
        architectures_aarch64=variant.architectures_aarch64 or None,
        ptx_aarch64=variant.ptx_aarch64,
    )


def test_differences_are_found_and_only_they() -> None:
    row = find_release("2.8.0")
    assert row is not None
    same = found_like("2.8.0")
    assert tool.differences(same, row) == {}
    for name, other in {
        "pythons": ("3.9",),
        "cuda": "12.6",
        "cudnn": "9.9",
        "nccl": "2.0",
        "triton": "~=3.4.0",
        "cuda_on_aarch64": True,
        "torchvision": ("0.99.0",),
        "torchaudio": ("2.99.0",),
        "architectures": ("75",),
        "ptx": True,
        "architectures_aarch64": ("90",),
    }.items():
        assert len(tool.differences(replace(same, **{name: other}), row)) == 1, name


def test_a_torchvision_that_asks_for_its_torch_or_a_newer_one_pairs_with_what_has_no_other() -> None:
    asked = {"==2.13.0": ["0.28.0"], ">=2.14.0": ["0.29.2", "0.29.1"]}
    assert tool.paired("2.13.0", asked) == ("0.28.0",)
    assert tool.paired("2.15.0", asked) == ("0.29.2", "0.29.1")
    assert tool.paired("2.12.0", asked) == ()


def test_a_new_release_is_written_as_rows_that_the_reader_takes() -> None:
    text = tool.TABLE.read_text()
    found = replace(found_like("2.13.0"), version="2.99.0", uploaded=datetime.date(2027, 1, 2))
    new = parsed(tool.written(text, found, datetime.date(2027, 2, 3)))
    old = parsed(text)
    assert len(new["release"]) == len(old["release"]) + 1
    assert new["release"][-1]["version"] == "2.99.0"
    assert new["release"][-1]["checked"] == datetime.date(2027, 2, 3)
    assert set(new["release"][-1]) <= set(old["release"][0])
    assert new["variant"][-1]["architectures"] == ["75", "80", "86", "90", "100", "120"]
    assert set(new["variant"][-1]) <= {name for row in old["variant"] for name in row}


def test_a_release_that_says_too_little_is_not_written() -> None:
    with pytest.raises(OSError, match="not known: cuda, torchvision"):
        tool.new_rows(replace(found_like("2.13.0"), cuda=None, torchvision=()), datetime.date(2027, 1, 1))


def test_a_known_release_gets_its_field_and_its_date() -> None:
    text = tool.TABLE.read_text()
    new = parsed(tool.written(text, replace(found_like("2.8.0"), nccl="2.27.9"), datetime.date(2027, 2, 3)))
    rows = {row["version"]: row for row in new["release"]}
    assert (rows["2.8.0"]["nccl"], rows["2.8.0"]["checked"]) == ("2.27.9", datetime.date(2027, 2, 3))
    before = {row["version"]: row for row in parsed(text)["release"]}
    assert all(rows[version] == before[version] for version in before if version != "2.8.0")
