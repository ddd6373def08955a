"""stoker.lock: canonical text, there and back, parts of it, and every way in which an edited one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.errors import LockBroken, LockMissing, LockOutdated, UnknownName
from stoker.image.lock import Base, Deb, Lock, LockedStack, Own, Wheel, lock_text, parse_lock, read_lock, write_lock
from stoker.image.specification import PRUNES, VARIANTS


def deb(name: str = "zlib1g", version: str = "1:1.3.1-1+b1", **other: object) -> Deb:
    file = f"pool/main/{name[0]}/{name}/{name}_{version.rpartition(':')[2]}_amd64.deb"
    said = {"architecture": "amd64", "file": file, "sha256": "d" * 64, "size": 90000, "archive": "debian", "variants": ("cli",)}
    return Deb(name=name, version=version, **{**said, **other})  # type: ignore[arg-type]


def wheel(name: str = "einops", version: str = "0.8.1", **other: object) -> Wheel:
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    said = {"file": file, "sha256": "e" * 64, "size": 60000, "index": None, "variants": ("cli",)}
    return Wheel(name=name, version=version, **{**said, **other})  # type: ignore[arg-type]


def stack(name: str = "cu130", *wheels: Wheel, **other: object) -> LockedStack:
    said: dict[str, object] = {
        "torch": "2.13.0", "torchvision": "0.28.0", "cuda": "13.0", "toolkit": "13.0.2", "cudnn": "9.20.0.48", "driver_min": "580.65.06",
        "driver_full": "580.65.06", "architectures": ("75", "90", "100a"), "ptx": False,
    }  # fmt: skip
    return LockedStack(name=name, wheels=wheels, **{**said, **other})  # type: ignore[arg-type]


def lock(**other: object) -> Lock:
    said: dict[str, object] = {
        "name": "team/trainer", "created": 1763748000, "machine": "x86_64", "specification": "sha256:" + "5" * 64,
        "python": "3.13", "python_full": "3.13.5",
        "base": Base(kind="debian", suite="trixie", digest=None, debs=(deb("adduser", "3.152"), deb())),
        "stacks": (stack("cu130", wheel(), wheel("torch", "2.13.0")), stack("cu126", wheel(variants=("ssh", "dev")), torch="2.7.1")),
        "variants": ("cli", "ssh", "dev"), "prune": ("amd",), "own": Own(version="0.1.0", sha256="0" * 64), "compression": "zstandard 0.25.0 level 3",
    }  # fmt: skip
    return Lock(**{**said, **other})  # type: ignore[arg-type]


# --- there and back -------------------------------------------------------------------------------------------------

_hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
_versions = st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}(rc[0-9]|\.post[0-9]{1,2})?(\+cu[0-9]{3})?", fullmatch=True)
_plain_versions = st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}", fullmatch=True)
_deb_versions = st.from_regex(r"([0-9]:)?[0-9][0-9A-Za-z.+~-]{0,9}", fullmatch=True)
_sizes = st.integers(0, 2**63 - 1)


def _some_of(names: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.sets(st.sampled_from(names)).map(lambda chosen: tuple(name for name in names if name in chosen))


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    """Any lock that Stoker may write."""
    variants = ("cli", *draw(_some_of(VARIANTS[1:])))
    needed = st.one_of(st.just(("cli",)), _some_of(variants).filter(bool))
    deb_names = draw(st.sets(st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,9}", fullmatch=True), max_size=3))
    debs = tuple(deb(name, draw(_deb_versions), sha256=draw(_hashes), size=draw(_sizes), variants=draw(needed)) for name in sorted(deb_names))
    kind = draw(st.sampled_from(["debian", "oci"]))
    base = Base(kind=kind, suite="trixie" if kind == "debian" else None, digest="sha256:" + draw(_hashes) if kind == "oci" else None, debs=debs)
    maybe = st.one_of(st.none(), _plain_versions)
    stacks = []
    for name in sorted(draw(st.sets(st.sampled_from(["cu130", "cu126", "cpu", "plain"]), min_size=1))):
        names = draw(st.sets(st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5}){0,2}", fullmatch=True), max_size=3))
        indexes = st.sampled_from([None, "cu126", "cpu"])
        wheels = tuple(
            wheel(
                one, draw(_versions), sha256=draw(_hashes), size=draw(_sizes), index=draw(indexes), variants=draw(needed), extra=draw(st.booleans())
            )
            for one in sorted(names - {"torch", "torchvision"})
        )
        fields = {key: draw(maybe) for key in ("torch", "torchvision", "cuda", "toolkit", "cudnn", "driver_min", "driver_full")}
        codes = tuple(draw(st.lists(st.from_regex(r"[0-9]{2,3}[a-z]?", fullmatch=True), max_size=3)))
        stacks.append(LockedStack(name=name, architectures=codes, ptx=draw(st.booleans()), wheels=wheels, **fields))
    return lock(
        created=draw(st.integers(0, 4_000_000_000)), base=base, stacks=tuple(stacks), variants=variants, prune=draw(_some_of(PRUNES)),
        own=Own(version=draw(_versions), sha256=draw(_hashes)), machine=draw(st.sampled_from(["x86_64", "aarch64"])),
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(locks())
def test_a_lock_comes_back_as_it_was(made: Lock) -> None:
    text = lock_text(made)
    assert parse_lock(text) == made
    assert lock_text(parse_lock(text)) == text


def test_the_text_is_canonical_whatever_the_order() -> None:
    made = lock()
    mixed = replace(
        made,
        base=replace(made.base, debs=made.base.debs[::-1]),
        stacks=tuple(replace(one, wheels=one.wheels[::-1]) for one in made.stacks),
    )
    assert lock_text(mixed) == lock_text(made)
    assert mixed.digest == made.digest
    assert replace(made, created=made.created + 1).digest != made.digest


def test_the_text_is_for_people() -> None:
    text = lock_text(lock())
    assert text.startswith("# Written by `stoker image lock`")
    assert "\ncreated = 2025-11-21T18:00:00Z\n" in text
    row = next(line for line in text.splitlines() if "torch-2.13.0" in line)
    assert '"torch"' in row
    assert "e" * 64 in row
    assert "://" not in text
    assert max(len(line) for line in text.splitlines()) < 400


def test_a_comment_and_other_white_space_change_nothing() -> None:
    text = lock_text(lock())
    assert parse_lock("# mine\n\n" + text.replace(" = ", "=").replace("\n", "\r\n")) == lock()


def test_write_and_read(tmp_path: Path) -> None:
    write_lock(tmp_path / "stoker.lock", lock())
    assert read_lock(tmp_path / "stoker.lock") == lock()
    assert [path.name for path in tmp_path.iterdir()] == ["stoker.lock"]


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "stoker.lock"
    write_lock(path, lock())
    before = path.read_bytes()
    with pytest.raises(LockBroken):
        write_lock(path, lock(stacks=(stack("cu130", wheel(sha256="short")),)))
    assert path.read_bytes() == before


# --- a part ---------------------------------------------------------------------------------------------------------


def test_a_part_holds_what_its_variants_need() -> None:
    only_ssh, both, always = wheel("a", variants=("ssh",)), wheel("b", variants=("ssh", "dev")), wheel("c")
    made = lock(
        stacks=(stack("cu130", only_ssh, both, always),),
        base=Base(kind="debian", suite="trixie", digest=None, debs=(deb(), deb("git", "1", variants=("dev",)))),
    )
    assert made.part(["cli"]).stacks[0].wheels == (always,)
    assert made.part(["dev"]).stacks[0].wheels == (both, always)
    assert made.part(["dev"]).variants == ("cli", "dev")
    assert [one.name for one in made.part(["ssh"]).base.debs] == ["zlib1g"]
    assert made.part(("dev", "ssh")) == made
    parse_lock(lock_text(made.part(["cli"])))


def test_a_part_that_was_not_locked() -> None:
    with pytest.raises(UnknownName, match="no variant notebook: it has cli, ssh, dev"):
        lock().part(["cli", "notebook"])


# --- what is refused ------------------------------------------------------------------------------------------------


def broken(text: str) -> LockBroken:
    with pytest.raises(LockBroken) as caught:
        parse_lock(text)
    assert "stoker image lock" in caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('python = "3.13"', 'pyton = "3.13"', "python is missing; is 'pyton' (stoker.lock, HERE) meant"),
        ('python = "3.13"', "python = 3.13", "HERE: python: 3.13 is a number"),
        ("format = 1\n", "", "format"),
        ("created = 2025-11-21T18:00:00Z", "created = 2025-11-21", "HERE: created"),
        ("created = 2025-11-21T18:00:00Z", "created = 1763748000", "HERE: created: 1763748000 is no moment"),
        ("created = 2025-11-21T18:00:00Z", "created = 1900-01-01T00:00:00Z", "is no moment"),
        ('machine = "x86_64"', 'machine = "riscv64"', "HERE: machine: 'riscv64' cannot be"),
        ('python_full = "3.13.5"', 'python_full = "3.11.2"', "HERE: python_full: 3.11.2 is no Python 3.13"),
        ('variants = ["cli", "ssh", "dev"]', 'variants = ["ssh", "dev"]', "cli is first"),
        ('variants = ["cli", "ssh", "dev"]', 'variants = ["cli", "shh", "dev"]', "HERE: variants: there is no 'shh'; the nearest is 'ssh'"),
        ('variants = ["cli", "ssh", "dev"]', 'variants = ["cli", "ssh"]', "variants: the image has no variant 'dev'"),
        ('name = "team/trainer"', 'name = "../../etc"', "HERE: name"),
        ('compression = "zstandard 0.25.0 level 3"', 'compression = "a\\u001b"', "compression"),
        ('"adduser", version = "3.152"', '"adduser", version = "3.153"', "HERE: file: pool/main/a/adduser/adduser_3.152_amd64.deb is not"),
        ("pool/main/z/zlib1g/zlib1g_1.3.1", "pool/../../zlib1g_1.3.1", "HERE: file"),
        ("pool/main/z/zlib1g/zlib1g_1.3.1", "/etc/zlib1g_1.3.1", "HERE: file"),
        ("pool/main/z/zlib1g/zlib1g_1.3.1", "https://mirror.test/zlib1g_1.3.1", "HERE: file"),
        ('name = "zlib1g"', 'name = "-o"', "HERE: name: '-o' cannot be"),
        ('archive = "debian"', 'archive = "ubuntu"', "HERE: archive: there is no 'ubuntu'"),
        ("size = 90000", "size = -1", "HERE: size: -1 is no whole number"),
        ("size = 90000", 'size = "90000"', "HERE: size"),
        ("d" * 64, "D" * 64, "HERE: sha256"),
        ("e" * 64, "e" * 63, "sha256: '"),
        ("einops-0.8.1-py3", "../einops-0.8.1-py3", "file: '../einops"),
        ("einops-0.8.1-py3", "einops-0.8.2-py3", "einops-0.8.2-py3-none-any.whl is not einops 0.8.1"),
        ("einops-0.8.1-py3", "evil-0.8.1-py3", "evil-0.8.1-py3-none-any.whl is not einops"),
        ('name = "einops"', 'name = "Einops"', "HERE: name: 'Einops' cannot be"),
        ('name = "einops"', 'name = "torch"', "torch"),
        ('torch = "2.13.0"', 'torch = "2.13.1"', "HERE: torch: the stack says 2.13.1, its wheel is 2.13.0"),
        ('name = "cu126"', 'name = "cu130"', "stacks"),
        ('name = "cu126"', 'name = "bin"', "name: 'bin' cannot be"),
        ("ptx = false", 'ptx = "no"', "HERE: ptx"),
        ("[own]", "[owm]", "own is missing"),
        ('kind = "debian"', 'kind = "oci"', "HERE: kind: a debian base"),
        ('suite = "trixie"', f'digest = "sha256:{"1" * 64}"', "a debian base"),
        ("[[stacks]]", "[[stack]]", "stacks"),
        ("[base]", "[base", "is no TOML"),
        ('prune = ["amd"]', 'prune = ["amd"]\ninjected = 1', "there is no key 'injected'"),
        ('variants = ["cli"] }', "variants = [] }", "variants: no variant needs it"),
    ],
)  # fmt: skip
def test_an_edited_lock_is_refused_with_the_place(before: str, after: str, said: str) -> None:
    text = lock_text(lock())
    assert before in text
    here = text[: text.index(before)].count("\n") + 1
    assert said.replace("HERE", f"line {here}") in broken(text.replace(before, after, 1)).message


def test_a_package_twice() -> None:
    lines = lock_text(lock()).splitlines()
    row = next(line for line in lines if "einops" in line)
    assert "einops stands in it twice" in broken("\n".join(lines).replace(row, f"{row}\n{row}", 1)).message


def test_another_format_is_of_another_stoker() -> None:
    with pytest.raises(LockOutdated, match="has format 2"):
        parse_lock(lock_text(lock()).replace("format = 1", "format = 2"))


EDITS = {
    "value": lambda text: text.replace('python_full = "3.13.5"', 'python_full = "3.13.6"'),
    "package left out": lambda text: "".join(line for line in text.splitlines(keepends=True) if 'name = "adduser"' not in line),
    "comment": lambda text: text.replace("# It names", "# I name"),
    "end": lambda text: text.replace("\n[checksum]", "\n\n[checksum]"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_lock_that_was_edited_is_noticed_however_well_it_reads(edit: str, tmp_path: Path) -> None:
    path, made = tmp_path / "stoker.lock", lock()
    write_lock(path, made)
    assert read_lock(path) == made
    text = EDITS[edit](path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    with pytest.raises(LockBroken, match="was edited, or merged"):
        read_lock(path)
    assert read_lock(path, edited=True)


def test_the_line_ends_of_another_system_are_no_edit(tmp_path: Path) -> None:
    path = tmp_path / "stoker.lock"
    write_lock(path, lock())
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_lock(path) == lock()


def test_no_lock(tmp_path: Path) -> None:
    with pytest.raises(LockMissing) as caught:
        read_lock(tmp_path / "stoker.lock")
    assert "stoker image lock" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff", b"\0\0", b"[" * 100000, b'a = "' + b"x" * 100])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stoker.lock").write_bytes(content)
    with pytest.raises(LockBroken):
        read_lock(tmp_path / "stoker.lock")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_lock_with_anything_in_it_is_read_or_refused(data: st.DataObject) -> None:
    text = lock_text(lock())
    at = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(at, min(len(text), at + 30)))
    changed = text[:at] + data.draw(st.text(max_size=10)) + text[end:]
    try:
        found = parse_lock(changed)
    except (LockBroken, LockOutdated):
        return
    assert parse_lock(lock_text(found)) == found


def test_names_of_files_that_are_written_in_several_ways_are_one_version() -> None:
    for name, version, file in (
        ("pytz", "2024.1", "pytz-2024.01-py3-none-any.whl"),
        ("foo-bar", "1.0.post1", "Foo.bar-1.0.post1-py3-none-any.whl"),
        ("torch", "2.13.0+cu126", "torch-2.13.0+cu126-cp313-cp313-manylinux_2_28_x86_64.whl"),
        ("torch", "2.13.0", "torch-2.13.0-2-cp313-cp313-manylinux_2_28_x86_64.whl"),
        ("six", "1.16.0", "six-1.16.0-py2.py3-none-any.whl"),
    ):
        parse_lock(lock_text(lock(stacks=(stack("cu126", wheel(name, version, file=file)),))))
    assert (
        "is not pytz 2024.1"
        in broken(lock_text(lock(stacks=(stack("cu126", wheel("pytz", "2024.1", file="pytz-2024.10-py3-none-any.whl")),)))).message
    )
