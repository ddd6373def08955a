"""The tar of a base root: the same bytes whatever machine, user and moment it came from."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from stoker.errors import BuildFailed
from stoker.image.basetar import DPKG_RULES, settle

PASSWD = b"root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
FILES: dict[str, bytes] = {
    "etc/passwd": PASSWD,
    "etc/group": b"root:x:0:\nshadow:x:42:\n",
    "etc/shadow": b"root:*:19000:0:99999:7:::\n_apt:!:20123::::::\n",
    "etc/gshadow": b"root:*::\n",
    "var/lib/dpkg/status": b"Package: zlib1g\nVersion: 1\n\nPackage: apt\nVersion: 2\n\n",
    "usr/bin/su": b"#!su",
    "usr/share/doc/gcc/copyright": b"GPL",
    "usr/share/doc/gcc/changelog.gz": b"long",
    "usr/share/doc/empty/README": b"long",
    "usr/share/man/man1/su.1.gz": b"man",
    "etc/hostname": b"builder7\n",
    "etc/resolv.conf": b"nameserver 192.0.2.1\n",
    "etc/ssh/ssh_host_ed25519_key": b"secret",
    "etc/ssh/sshd_config": b"Port 22\n",
    "etc/passwd-": b"old",
    "etc/my-": b"not a backup",
    "var/log/dpkg.log": b"2026-11-21",
    "var/cache/ldconfig/aux-cache": b"inode numbers",
    "var/lib/dpkg/status-old": b"old",
    "tmp/left": b"left",
    "run/left": b"left",
    "etc/apt/sources.list.d/0000main.list": b"deb copy:///tmp/stoker-base-77/packages ./",
}


def raw_tar(path: Path, *, mtime: int = 1, order: int = 1, owner: str = "root", extra: bytes = b"", without: tuple[str, ...] = ()) -> Path:
    """Write a root as mmdebstrap would; times, order and names of owners are the machine's."""
    with tarfile.open(path, "w") as tar:
        for folder in (
            "./",
            "./tmp",
            "./dev",
            "./usr",
            "./usr/bin",
            "./usr/share/doc",
            "./usr/share/doc/gcc",
            "./usr/share/doc/empty",
            "./run",
            "./etc",
        )[::order]:
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime, info.uname = tarfile.DIRTYPE, 0o1777 if folder == "./tmp" else 0o2755, mtime, owner
            tar.addfile(info)
        for name, content in [*FILES.items(), ("usr/bin/extra", extra)][::order]:
            if name in without:
                continue
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode, info.mtime, info.uname = len(content), 0o4755 if name == "usr/bin/su" else 0o644, mtime, owner
            info.gid = 42 if name == "etc/shadow" else 0
            info.pax_headers = {"SCHILY.xattr.security.capability": "x"}
            tar.addfile(info, io.BytesIO(content))
        for name, kind, target in (
            ("usr/bin/perl5", tarfile.LNKTYPE, "./usr/bin/extra"),
            ("usr/bin/awk", tarfile.LNKTYPE, "./usr/bin/perl5"),
            ("bin", tarfile.SYMTYPE, "usr/bin"),
            ("dev/null", tarfile.CHRTYPE, ""),
        )[::1]:
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname, info.mtime, info.mode = kind, target, mtime, 0o755
            tar.addfile(info)
    return path


def settled(path: Path) -> bytes:
    out = io.BytesIO()
    settle(path, out, created=1_000_000_000, shell="/bin/zsh")
    return out.getvalue()


def test_order_times_and_names_of_owners_change_nothing(tmp_path: Path) -> None:
    first = settled(raw_tar(tmp_path / "a.tar"))
    assert settled(raw_tar(tmp_path / "b.tar", mtime=99, order=-1, owner="somebody")) == first
    assert settled(raw_tar(tmp_path / "c.tar", extra=b"another byte")) != first


def test_what_stays_and_what_goes(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(settled(raw_tar(tmp_path / "a.tar", extra=b"perl")))) as tar:
        members = {member.name: member for member in tar}
        contents = {name: tar.extractfile(member).read() for name, member in members.items() if member.isreg()}  # type: ignore[union-attr]
    gone = {name for name in FILES if name not in members}
    assert gone == {
        "usr/share/doc/gcc/changelog.gz",
        "usr/share/doc/empty/README",
        "usr/share/man/man1/su.1.gz",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/ssh/ssh_host_ed25519_key",
        "etc/passwd-",
        "var/log/dpkg.log",
        "var/cache/ldconfig/aux-cache",
        "var/lib/dpkg/status-old",
        "tmp/left",
        "run/left",
        "etc/apt/sources.list.d/0000main.list",
    }
    assert "dev" in members
    assert "dev/null" not in members
    assert "usr/share/doc/gcc" in members
    assert "usr/share/doc/empty" not in members
    assert list(members) == sorted(members)
    assert {member.mtime for member in members.values()} == {1_000_000_000}
    assert not [name for name, member in members.items() if member.mode & 0o6000]
    assert members["tmp"].mode == 0o1777
    assert members["usr/bin/su"].mode == 0o755
    assert members["etc/shadow"].gid == 42
    assert not [name for name, member in members.items() if member.uname or member.gname or member.pax_headers]
    # The first by name has the content, whichever had it before.
    assert contents["usr/bin/awk"] == b"perl"
    assert (members["usr/bin/extra"].linkname, members["usr/bin/perl5"].linkname) == ("usr/bin/awk", "usr/bin/awk")
    assert members["bin"].linkname == "usr/bin"
    assert contents["var/lib/dpkg/status"] == b"Package: apt\nVersion: 2\n\nPackage: zlib1g\nVersion: 1\n\n"


def test_the_account_takes_the_place_of_whoever_has_its_number(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(settled(raw_tar(tmp_path / "a.tar")))) as tar:
        passwd, shadow, group = (tar.extractfile(name).read().decode() for name in ("etc/passwd", "etc/shadow", "etc/group"))  # type: ignore[union-attr]
        home = tar.getmember("home/stoker")
        workspace = tar.getmember("workspace")
    assert "stoker:x:1000:1000:Stoker:/home/stoker:/bin/zsh\n" in passwd
    assert "ubuntu" not in passwd
    assert "stoker:x:1000:\n" in group
    # The day of the last change is the lock's, not the build's.
    assert shadow == "root:*:11574:0:99999:7:::\n_apt:!:11574::::::\nstoker:*:11574:0:99999:7:::\n"
    assert (home.uid, home.gid, home.mode, workspace.uid) == (1000, 1000, 0o755, 1000)


def test_without_shadow_files_the_account_has_no_password_either(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(settled(raw_tar(tmp_path / "a.tar", without=("etc/shadow", "etc/gshadow"))))) as tar:
        assert b"\nstoker:*:1000:1000:Stoker:/home/stoker:/bin/zsh\n" in tar.extractfile("etc/passwd").read()  # type: ignore[union-attr]
        assert "etc/shadow" not in tar.getnames()


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_root_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "raw.tar").write_bytes(content)
    with pytest.raises(BuildFailed):
        settled(tmp_path / "raw.tar")


def test_a_root_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    whole = raw_tar(tmp_path / "raw.tar", extra=b"x" * 100_000)
    whole.write_bytes(whole.read_bytes()[:60_000])
    with pytest.raises(BuildFailed):
        settled(whole)


def test_copyright_files_are_the_only_documents_that_dpkg_keeps() -> None:
    rules = DPKG_RULES.splitlines()
    assert rules.index("path-exclude=/usr/share/doc/*") < rules.index("path-include=/usr/share/doc/*/copyright")
    assert [rule for rule in rules if rule.startswith("path-include")] == ["path-include=/usr/share/doc/*/copyright"]
