"""Where the files of a wheel go: PEP 427's schemes, scripts, pruning, and the RECORD of what is there."""

from __future__ import annotations

import csv
import hashlib
import re
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from stoker.errors import UnsafeArchive
from stoker.image.entries import Entry
from stoker.image.placement import Placement, place
from stoker.image.pruning import _rules, pruned
from stoker.image.specification import PRUNES
from stoker.image.wheel import Member, read_wheel
from tests.image_wheels import write_wheel

SITE = "opt/stoker/cu130/lib/python3.13/site-packages"
HOME = "opt/stoker/cu130"
POINTS = "demo-1.0.dist-info/entry_points.txt"


def placed(folder: Path, files: dict[str, bytes], *, modes: dict[str, int] | None = None, prune: tuple[str, ...] = ()) -> Placement:
    return place(read_wheel(write_wheel(folder, files=files, modes=modes or {})), stack="cu130", python="3.13", prune=prune)


def content(entry: Entry) -> bytes:
    return entry.content.read() if isinstance(entry.content, Member) else bytes(entry.content or b"")  # type: ignore[call-overload, no-any-return]


def refused(folder: Path, files: dict[str, bytes]) -> str:
    with pytest.raises(UnsafeArchive) as caught:
        placed(folder, files)
    return caught.value.message


def test_every_scheme_goes_to_its_place(tmp_path: Path) -> None:
    data = "demo-1.0.data"
    found = placed(
        tmp_path,
        {
            "demo/a.py": b"a",
            f"{data}/purelib/p.py": b"p",
            f"{data}/platlib/q/r.so": b"q",
            f"{data}/headers/sub/h.h": b"h",
            f"{data}/data/share/jupyter/x.json": b"{}",
            f"{data}/scripts/run": b"#!python -E\nprint()\n",
            f"{data}/scripts/window": b"#!pythonw\nprint()\n",
            f"{data}/scripts/shell": b"#!/bin/sh\n",
            f"{data}/scripts/binary": b"\x7fELF#!python\n",
        },
    ).files
    own = {path: entry.entry for path, entry in found.items() if ".dist-info" not in path}
    assert {path: content(entry) for path, entry in own.items()} == {
        f"{SITE}/demo/a.py": b"a",
        f"{SITE}/p.py": b"p",
        f"{SITE}/q/r.so": b"q",
        f"{HOME}/include/site/python3.13/demo/sub/h.h": b"h",
        f"{HOME}/share/jupyter/x.json": b"{}",
        f"{HOME}/bin/run": b"#!/opt/stoker/cu130/bin/python -E\nprint()\n",
        f"{HOME}/bin/window": b"#!/opt/stoker/cu130/bin/python\nprint()\n",
        f"{HOME}/bin/shell": b"#!/bin/sh\n",
        f"{HOME}/bin/binary": b"\x7fELF#!python\n",
    }
    assert {entry.mode for path, entry in own.items() if "/bin/" in path} == {0o755}
    assert {(entry.mode, entry.uid, entry.gid) for path, entry in own.items() if "/bin/" not in path} == {(0o644, 0, 0)}


@pytest.mark.parametrize("mode", [0o100777, 0o104755, 0o102755, 0o101777, 0o100001, 0o100744])
def test_modes_are_two_and_never_setuid_or_writable(tmp_path: Path, mode: int) -> None:
    found = placed(tmp_path, {"demo/tool": b""}, modes={"demo/tool": mode}).files
    assert found[f"{SITE}/demo/tool"].entry.mode == 0o755


def test_console_scripts_are_made_and_run(tmp_path: Path) -> None:
    points = b"[console_scripts]\ndemo = demo.cli:main\nnested=demo.cli:App.run [extra]\n\n[gui_scripts]\nwin = demo:main\n\n[other]\nx = y\n"
    found = placed(tmp_path, {"demo/cli.py": b"", POINTS: points}).files
    scripts = {path.rpartition("/")[2]: content(one.entry).decode() for path, one in found.items() if "/bin/" in path}
    assert set(scripts) == {"demo", "nested", "win"}
    assert all(text.startswith("#!/opt/stoker/cu130/bin/python\n") for text in scripts.values())
    assert "from demo.cli import App\n" in scripts["nested"]
    assert "App.run()" in scripts["nested"]
    compile(scripts["demo"], "demo", "exec")


@pytest.mark.parametrize(
    "points",
    [
        b"[console_scripts]\n../evil = demo:main\n",
        b"[console_scripts]\npython = demo:main\n",
        b"[console_scripts]\npython3.13 = demo:main\n",
        b"[console_scripts]\nactivate = demo:main\n",
        b"[console_scripts]\nstoker-start = demo:main\n",
        b"[console_scripts]\n.hidden = demo:main\n",
        b"[console_scripts]\ndemo = demo\n",
        b"[console_scripts]\ndemo = demo:main; import os; os.system('x')\n",
        b"[console_scripts]\ndemo = demo\n    import os:main\n",
        b"[console_scripts]\ndemo = demo:main\n[gui_scripts]\ndemo = demo:other\n",
        b"[console_scripts]\ndemo = a:b\ndemo = c:d\n",
        b"no section\n",
        b"\xff\xfe",
    ],
)
def test_entry_points_that_are_none_are_refused(tmp_path: Path, points: bytes) -> None:
    assert refused(tmp_path, {POINTS: points})


@pytest.mark.parametrize(
    "name",
    [
        "demo-1.0.data/scripts/python",
        "demo-1.0.data/scripts/sub/tool",
        "demo-1.0.data/scripts/activate",
        "demo-1.0.data/data/bin/python3",
        "demo-1.0.data/data/pyvenv.cfg",
        "demo-1.0.data/data/lib64",
        "demo-1.0.data/purelib/stoker.pth",
        "demo-1.0.data/data/lib/python3.13/site-packages/stoker.pth",
        "demo-1.0.data/unknown/x",
        "demo-1.0.data/file",
        "stoker.pth",
    ],
)
def test_what_would_replace_the_environment_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, {name: b"x"})


def test_one_path_by_two_ways_is_refused(tmp_path: Path) -> None:
    assert "twice" in refused(tmp_path, {"a.py": b"", "demo-1.0.data/purelib/a.py": b""})
    assert "twice" in refused(tmp_path, {"demo-1.0.data/scripts/demo": b"", POINTS: b"[console_scripts]\ndemo = demo:main\n"})


def test_record_lists_what_is_there_with_right_hashes(tmp_path: Path) -> None:
    found = placed(
        tmp_path,
        {
            "demo/a.py": b"a = 1\n",
            "demo/b,c.txt": b"",
            "demo/lib.a": b"x",
            "demo-1.0.data/scripts/run": b"#!python\n",
            "demo-1.0.data/data/share/s": b"s",
        },
        prune=("static",),
    )
    pyc = f"{SITE}/demo/__pycache__/a.cpython-313.pyc"
    entries = {entry.path: content(entry) for entry in found.entries({pyc: b"code", f"{SITE}/other/__pycache__/x.cpython-313.pyc": b"not ours"})}
    rows = {row[0]: row[1:] for row in csv.reader(entries[f"{SITE}/demo-1.0.dist-info/RECORD"].decode().splitlines())}
    assert set(entries) - {f"{SITE}/demo-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "INSTALLER", "RECORD")} == {
        f"{SITE}/demo/a.py",
        f"{SITE}/demo/b,c.txt",
        pyc,
        f"{HOME}/bin/run",
        f"{HOME}/share/s",
    }
    assert rows.pop("demo-1.0.dist-info/RECORD") == ["", ""]
    for name, (digest, size) in rows.items():
        path = f"{HOME}/{name.removeprefix('../../../')}" if name.startswith("../") else f"{SITE}/{name}"
        assert digest == "sha256=" + urlsafe_b64encode(hashlib.sha256(entries[path]).digest()).rstrip(b"=").decode()
        assert int(size) == len(entries[path])
    assert len(rows) == len(entries) - 1
    assert [*rows] == sorted(rows)


def test_bytecode_that_the_wheel_brings_stays(tmp_path: Path) -> None:
    found = placed(tmp_path, {"a.py": b"", "__pycache__/a.cpython-313.pyc": b"theirs"})
    pyc = f"{SITE}/__pycache__/a.cpython-313.pyc"
    assert {entry.path: content(entry) for entry in found.entries({pyc: b"ours"})}[pyc] == b"theirs"


def test_only_modules_among_the_packages_are_compiled(tmp_path: Path) -> None:
    found = placed(tmp_path, {"a.py": b"a", "a.pyi": b"", "demo-1.0.data/scripts/s.py": b"", "demo-1.0.data/data/share/x.py": b""})
    assert found.sources() == {f"{SITE}/a.py": b"a"}


# --- pruning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("triton/backends/nvidia/lib/cupti/libcupti_static.a", "static"),
        ("nvidia/nvshmem/lib/libnvshmem_device.bc", "static"),
        ("nvidia/cu13/lib/libcusolverMg.so.12", "tools"),
        ("nvidia/cusolver/lib/libcusolverMg.so.11", "tools"),
        ("nvidia/cu13/lib/libnvrtc-builtins.alt.so.13.0", "tools"),
        ("torch/bin/protoc", "tools"),
        ("triton/backends/amd/lib/ockl.bc", "amd"),
        ("nvidia/cu13/include/cuda.h", "headers"),
        ("nvidia/cuda_runtime/include/crt/host.h", "headers"),
        ("nvidia/cu13/lib/libcusolver.so.12", None),
        ("nvidia/cu13/lib/libnvrtc.so.13", None),
        ("nvidia/cu13/lib/libcurand.so.10", None),
        ("nvidia/cu13/lib/libcupti.so.13", None),
        ("nvidia/cu13/nvvm/libdevice/libdevice.10.bc", None),
        ("triton/backends/nvidia/lib/libdevice.10.bc", None),
        ("triton/backends/nvidia/bin/ptxas", None),
        ("torch/include/ATen/ATen.h", None),
        ("numpy/_core/include/numpy/arrayobject.h", None),
        ("torch/lib/libtorch_cuda.so", None),
    ],
)
def test_what_each_category_leaves_out(path: str, category: str | None) -> None:
    assert [one for one in PRUNES if pruned(path, (one,))] == ([category] if category else [])
    assert pruned(f"{SITE}/{path}", PRUNES) is (category is not None)
    assert not pruned(path, ())


def test_every_rule_has_a_known_category_and_a_reason() -> None:
    rules = (*_rules(), *_rules("library"))
    assert {rule.category for rule in rules} == set(PRUNES)
    assert all(rule.why and not re.search(r"\s$", rule.why) for rule in rules)
