"""Hostile wheels: whatever is not as PEP 427 and RECORD say is refused, and what is well-formed is read whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import HashMismatch, StokerError, UnsafeArchive
from stoker.image.wheel import read_wheel
from tests.image_wheels import member, record, record_hash, wheel_bytes, wheel_files, write_wheel, zipped

INFO = "demo-1.0.dist-info"


def refused(folder: Path, content: bytes, file_name: str = "demo-1.0-py3-none-any.whl") -> str:
    path = folder / file_name
    path.write_bytes(content)
    with pytest.raises(UnsafeArchive) as caught:
        read_wheel(path)
    assert caught.value.hint
    return caught.value.message


def with_record(files: Mapping[str, bytes], text: bytes | None = None) -> bytes:
    """A wheel with these members and this RECORD (by default the right one)."""
    return zipped([*files.items(), (f"{INFO}/RECORD", record(files) if text is None else text)])


def test_a_plain_wheel_is_read(tmp_path: Path) -> None:
    found = read_wheel(write_wheel(tmp_path, files={"demo/a.py": b"1", "demo/bin": b"x"}, modes={"demo/bin": 0o100755}))
    assert (found.name, found.version, found.dist_info, found.data) == ("demo", "1.0", INFO, None)
    assert [one.name for one in found.members] == [f"{INFO}/METADATA", f"{INFO}/WHEEL", "demo/a.py", "demo/bin"]
    assert [one.name for one in found.members if one.executable] == ["demo/bin"]
    assert found.members[2].read() == b"1"


def test_a_wheel_in_a_store_is_called_by_its_own_name(tmp_path: Path) -> None:
    write_wheel(tmp_path).rename(tmp_path / "0123abcd")
    assert read_wheel(tmp_path / "0123abcd", file_name="demo-1.0-py3-none-any.whl").name == "demo"
    (tmp_path / "0123abcd").write_bytes(wheel_bytes()[:-1])
    with pytest.raises(UnsafeArchive, match=r"^demo-1\.0-py3-none-any\.whl: it does not end"):
        read_wheel(tmp_path / "0123abcd", file_name="demo-1.0-py3-none-any.whl")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside",
        "demo/../../outside",
        "demo/./a",
        "demo//a",
        ".",
        "..",
        "demo\\..\\a",
        "C:\\windows",
        "demo/a\nb",
        "demo/a\x00b",
        "demo/\x1b[2Ja",
        "demo/.wh.a",
        ".wh..wh..opq",
        "demo/" + "n" * 300,
        "d/" * 2100 + "a",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    # zipfile cuts names at a NUL and mends backslashes: it writes a stand-in, replaced here.
    stand_in = "x" * len(name.encode())
    files = {**wheel_files(), stand_in: b"evil"}
    content = zipped([*files.items(), (f"{INFO}/RECORD", record(files).replace(stand_in.encode(), name.encode()))])
    assert "the name" in refused(tmp_path, content.replace(stand_in.encode(), name.encode()))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("demo/a.py", "demo/A.py"), "differ in case only"),
        (("Demo/x.py",), "differ in case only"),
        (("demo/straße", "demo/STRASSE"), "differ in case only"),
        (("demo/é", "demo/e\u0301"), "differ in case only"),
        (("demo/a", "demo/a/b"), "both a file and a folder"),
    ],
)
def test_names_that_are_one_elsewhere_are_refused(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    assert says in refused(tmp_path, with_record({**wheel_files(), **dict.fromkeys(names, b"")}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    files = wheel_files()
    assert "in it twice" in refused(tmp_path, zipped([*files.items(), ("demo/__init__.py", b"evil"), (f"{INFO}/RECORD", record(files))]))


def test_a_link_is_refused(tmp_path: Path) -> None:
    files = {**wheel_files(), "demo/link": b"/etc/shadow"}
    members = [(member(name, 0o120777 if name == "demo/link" else 0o100644), content) for name, content in files.items()]
    assert "link or a device" in refused(tmp_path, zipped([*members, (member(f"{INFO}/RECORD"), record(files))]))


def test_record_must_name_what_is_there_and_nothing_else(tmp_path: Path) -> None:
    files = wheel_files()
    assert "has no RECORD" in refused(tmp_path, zipped([*files.items()]))
    assert "not in its RECORD" in refused(tmp_path, with_record({**files, "demo/evil.py": b""}, record(files)))
    assert "which is not there" in refused(tmp_path, with_record(files, record({**files, "demo/gone.py": b""})))
    assert "twice" in refused(tmp_path, with_record(files, record(files) + f"demo/__init__.py,{record_hash(b'')},0\n".encode()))
    assert "a line of 2 fields" in refused(tmp_path, with_record(files, record(files) + b"a,b\n"))
    assert "cannot be read" in refused(tmp_path, with_record(files, record(files) + b"\xff,,\n"))
    assert "cannot be read" in refused(tmp_path, with_record(files, record(files) + b'"a"b,,\n'))


@pytest.mark.parametrize("told", ["", "md5=1B2M2Y8AsgTpgAmY7PhCfg", "sha1=2jmj7l5rSw0yVb_vlWAYkK_YBwk", "sha256=", "47DEQpj8HBSa"])
def test_a_file_without_a_sha256_is_refused(tmp_path: Path, told: str) -> None:
    files = wheel_files(files={"demo/__init__.py": b""})
    text = record(files).replace(record_hash(b"").encode(), told.encode(), 1)
    assert "no sha256" in refused(tmp_path, with_record(files, text))


def test_longer_hashes_and_rows_without_a_size_are_taken(tmp_path: Path) -> None:
    files = wheel_files(files={"demo/__init__.py": b"x"})
    text = record(files).replace(record_hash(b"x").encode() + b",1", record_hash(b"x", "sha512").encode() + b",")
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    path.write_bytes(with_record(files, text))
    assert read_wheel(path).member("demo/__init__.py").read() == b"x"  # type: ignore[union-attr]


def test_content_that_is_not_what_record_says(tmp_path: Path) -> None:
    files = wheel_files()
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    path.write_bytes(with_record({**files, "demo/__init__.py": b"ANSWER = 43\n"}, record(files)))
    found = read_wheel(path).member("demo/__init__.py")
    assert found is not None
    with pytest.raises(HashMismatch, match="RECORD says"):
        found.read()
    assert "has 13 bytes, and RECORD says 12" in refused(tmp_path, with_record({**files, "demo/__init__.py": b"ANSWER = 433\n"}, record(files)))


@pytest.mark.parametrize(
    "file_name",
    ["other-1.0-py3-none-any.whl", "demo-1.1-py3-none-any.whl", "demo-1.0.tar.gz", "demo-1.0-any.whl", "demo.whl"],
)
def test_a_file_name_that_says_something_else_is_refused(tmp_path: Path, file_name: str) -> None:
    assert "file name" in refused(tmp_path, wheel_bytes(), file_name) or "something else" in refused(tmp_path, wheel_bytes(), file_name)


@pytest.mark.parametrize(
    ("name", "version", "file_name"),
    [("Demo.Pkg", "1.0.post1", "demo_pkg-1.0.post1"), ("demo", "2.7.1+cu126", "demo-2.7.1+cu126"), ("demo", "1.0rc1", "demo-1.0.rc1-7")],
)
def test_two_spellings_of_one_name_or_version_are_the_same(tmp_path: Path, name: str, version: str, file_name: str) -> None:
    stem = f"{name.replace('.', '_')}-{version}"
    files = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.9\n",
    }
    path = tmp_path / f"{file_name}-py3-none-any.whl"
    path.write_bytes(zipped([*files.items(), (f"{stem}.dist-info/RECORD", record(files, f"{stem}.dist-info"))]))
    assert read_wheel(path).version == version


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({f"{INFO}/METADATA": b"Name: other\nVersion: 1.0\n"}, "METADATA says 'other'"),
        ({f"{INFO}/METADATA": b"Name: demo\nVersion: 9\n"}, "METADATA says 'demo' '9'"),
        ({f"{INFO}/METADATA": b"Name: demo\nName: other\nVersion: 1.0\n"}, "Name twice"),
        ({f"{INFO}/METADATA": b"Name: d\xe9mo\n"}, "no UTF-8"),
        ({f"{INFO}/METADATA": None}, "has no demo-1.0.dist-info/METADATA"),
        ({f"{INFO}/WHEEL": None}, "has no demo-1.0.dist-info/WHEEL"),
        ({f"{INFO}/WHEEL": b"Wheel-Version: 2.0\n"}, "version '2.0'"),
        ({"other-1.0.dist-info/METADATA": b""}, "two folders .dist-info"),
        ({"demo-1.0.data/scripts/a": b"", "other-1.0.data/scripts/b": b""}, "two folders .data"),
        ({"other-1.0.data/scripts/b": b""}, "something else"),
    ],
)
def test_metadata_that_contradicts_itself_is_refused(tmp_path: Path, change: Mapping[str, bytes | None], says: str) -> None:
    files = {name: content for name, content in {**wheel_files(), **change}.items() if content is not None}
    assert says in refused(tmp_path, with_record(files))


def test_no_wheel_at_all(tmp_path: Path) -> None:
    assert "no folder .dist-info" in refused(tmp_path, zipped([("demo.py", b"")]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_wheel_is_refused_or_has_its_contents(tmp_path: Path, data: st.DataObject) -> None:
    content = wheel_bytes(files={"demo/__init__.py": b"ANSWER = 42\n" * 50})
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 2))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    path.write_bytes(changed)
    try:
        found = {one.name: one.read() for one in read_wheel(path).members}
    except StokerError:
        return
    assert found == wheel_files(files={"demo/__init__.py": b"ANSWER = 42\n" * 50})
