"""Debian packages locked by the real apt, from a mirror of the test's own, signed by a key of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.errors import BuildFailed, DownloadFailed, PackageGone, ProgramMissing, SpecificationBroken
from stoker.image.archives import Archives, find_archives
from stoker.image.debian import fetch_debs, lock_base
from stoker.image.lock import Base
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from tests.conftest import need

PACKAGES = {"cli": ["tool"], "ssh": ["server"], "dev": ["editor"]}


@dataclass(frozen=True)
class Mirror:
    """Debian's two archives as folders."""

    folder: Path
    keys: Path

    @property
    def archives(self) -> Archives:
        return Archives(debian=f"file://{self.folder}/debian", security=f"file://{self.folder}/security", keyring=self.folder / "keys.gpg")

    def publish(self, archive: str, suite: str, packages: list[str], *, sign: bool = True) -> None:
        """Write the lists of a suite: each package as `name version [field: value; ...]`."""
        place = self.folder / archive
        rows = []
        for package in packages:
            name, version, *fields = package.split(" ", 2)
            file = self._deb(place, name, version, fields[0].split("; ") if fields else [])
            content = file.read_bytes()
            control = subprocess.run(["dpkg-deb", "-f", file], check=True, capture_output=True, text=True).stdout
            digest = hashlib.sha256(content).hexdigest()
            rows.append(f"{control}Filename: {file.relative_to(place)}\nSize: {len(content)}\nSHA256: {digest}\n")
        lists = place / f"dists/{suite}/main/binary-amd64/Packages"
        lists.parent.mkdir(parents=True, exist_ok=True)
        lists.write_text("\n".join(rows))
        self._release(place / f"dists/{suite}", suite, lists, sign)

    def _deb(self, place: Path, name: str, version: str, fields: list[str]) -> Path:
        file = place / f"pool/main/{name[0]}/{name}/{name}_{version.partition(':')[2] or version}_amd64.deb"
        file.parent.mkdir(parents=True, exist_ok=True)
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN").chmod(0o755)
        control = [f"Package: {name}", f"Version: {version}", "Architecture: amd64", "Maintainer: T <t@example.org>", "Description: x", *fields]
        (tree / "DEBIAN/control").write_text("\n".join(control) + "\n")
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", tree, file], check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1"}
        )
        return file

    def _release(self, place: Path, suite: str, lists: Path, sign: bool) -> None:
        content = lists.read_bytes()
        row = f" {hashlib.sha256(content).hexdigest()} {len(content)} {lists.relative_to(place)}"
        text = f"Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\nDate: Sat, 21 Nov 2026 00:00:00 UTC\nSHA256:\n{row}\n"
        (place / "Release").write_text(text)
        (place / "InRelease").unlink(missing_ok=True)
        if sign:
            gpg(self.keys, "--output", str(place / "InRelease"), "--clearsign", str(place / "Release"))


def gpg(home: Path, *arguments: str) -> None:
    subprocess.run(["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", *arguments], check=True, capture_output=True)


def key(home: Path, exported: Path) -> None:
    home.mkdir(mode=0o700)
    gpg(home, "--passphrase", "", "--quick-gen-key", "Test <t@example.org>", "ed25519", "sign", "never")
    gpg(home, "--output", str(exported), "--export")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    """A mirror with Debian's suites as far as apt asks for them."""
    for program in ("apt-get", "dpkg-deb", "gpg", "gpgv"):
        need(shutil.which(program) is not None, program)
    folder = tmp_path_factory.mktemp("m")
    mirror = Mirror(folder, folder / "k")
    key(mirror.keys, folder / "keys.gpg")
    main = [
        "root-files 1 Essential: yes",
        "tool 2:1.0+x Depends: library (>= 1)",
        "library 1.0",
        "server 1 Depends: library, runner | other",
        "editor 1 Depends: other",
        "runner 1",
        "other 1 Conflicts: runner",
        "stranger 1 Depends: not-there",
    ]
    mirror.publish("debian", "trixie", main)
    mirror.publish("debian", "trixie-updates", ["runner 1"])
    mirror.publish("security", "trixie-security", ["library 1.0+deb13u1", "tool 2:1.0+x Depends: library (>= 1)"])
    yield mirror
    subprocess.run(["gpgconf", "--homedir", str(mirror.keys), "--kill", "all"], capture_output=True)


@pytest.fixture
def mirror(published: Mirror, tmp_path: Path) -> Mirror:
    """A mirror that the test may change."""
    shutil.copytree(published.folder, tmp_path / "mirror", ignore=lambda folder, names: {"k", "tree"})
    return Mirror(tmp_path / "mirror", published.keys)


def lock(mirror: Mirror, *, packages: dict[str, list[str]] | None = None, held: dict[str, str] | None = None) -> Base:
    return lock_base(suite="trixie", machine="x86_64", packages=packages or PACKAGES, mirrors=Mirrors(), held=held, archives=mirror.archives)


def versions(base: Base) -> dict[str, str]:
    return {deb.name: deb.version for deb in base.debs}


def test_the_lock_says_what_where_and_for_whom(mirror: Mirror) -> None:
    base = lock(mirror)
    found = {deb.name: (deb.version, deb.archive, deb.variants) for deb in base.debs}
    assert found == {
        "root-files": ("1", "debian", ("cli",)),
        "library": ("1.0+deb13u1", "security", ("cli",)),
        "tool": ("2:1.0+x", found["tool"][1], ("cli",)),
        "server": ("1", "debian", ("ssh",)),
        "editor": ("1", "debian", ("dev",)),
        # The server alone would have taken `runner`, which does not go together with what the editor needs.
        "other": ("1", "debian", ("dev", "ssh")),
    }
    assert [deb.name for deb in base.debs] == sorted(found)
    for deb in base.debs:
        content = (mirror.folder / deb.archive / deb.file).read_bytes()
        assert (deb.sha256, deb.size) == (hashlib.sha256(content).hexdigest(), len(content))


def test_no_address_comes_into_the_lock_and_nothing_of_the_host_changes(mirror: Mirror) -> None:
    places = [Path("/var/lib/apt/lists"), Path("/var/lib/dpkg"), Path("/etc/apt"), Path("/var/cache/apt")]
    before = [place.stat().st_mtime_ns for place in places]
    assert str(mirror.folder) not in repr(lock(mirror))
    assert [place.stat().st_mtime_ns for place in places] == before


def test_held_versions_stay_while_they_are_there(mirror: Mirror) -> None:
    assert versions(lock(mirror, held={"library": "1.0"}))["library"] == "1.0"
    assert versions(lock(mirror, held={"library": "0.9"}))["library"] == "1.0+deb13u1"


def test_held_versions_that_fit_no_more_are_given_up(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    mirror.publish("security", "trixie-security", ["tool 3 Depends: library (>= 1.0+deb13u1)", "library 1.0+deb13u1"])
    mirror.publish("debian", "trixie", ["root-files 1 Essential: yes", "library 1.0", "server 1", "editor 1"])
    assert versions(lock(mirror, held={"library": "1.0"}))["library"] == "1.0+deb13u1"
    assert "resolved anew" in capsys.readouterr().err


@pytest.mark.parametrize("why", ["unsigned", "other key", "changed list"])
def test_what_debian_did_not_sign_is_refused(mirror: Mirror, tmp_path: Path, why: str) -> None:
    if why == "unsigned":
        mirror.publish("security", "trixie-security", ["library 9"], sign=False)
    elif why == "other key":
        key(tmp_path / "k", tmp_path / "other.gpg")
        shutil.copy(tmp_path / "other.gpg", mirror.folder / "keys.gpg")
        subprocess.run(["gpgconf", "--homedir", str(tmp_path / "k"), "--kill", "all"], capture_output=True)
    else:
        lists = mirror.folder / "security/dists/trixie-security/main/binary-amd64/Packages"
        lists.write_text(lists.read_text().replace("library", "librarx"))
    with pytest.raises((BuildFailed, DownloadFailed)) as refusal:
        lock(mirror)
    assert "librar" not in refusal.value.message or why == "changed list"
    if why != "changed list":
        assert "debian-archive-keyring" in refusal.value.hint


@pytest.mark.parametrize("name", ["no-such-package", "librar."])
def test_a_package_that_debian_does_not_have_is_named(mirror: Mirror, name: str) -> None:
    with pytest.raises(PackageGone, match=name):
        lock(mirror, packages={"cli": ["tool", name]})


def test_a_package_that_cannot_be_installed_is_explained_by_apt(mirror: Mirror) -> None:
    with pytest.raises(BuildFailed, match="not-there"):
        lock(mirror, packages={"cli": ["stranger"]})


@pytest.mark.parametrize("name", ["-oDir::Etc=/x", "tool=1.0", "tool/sid", "?essential", "~E", "tool;reboot", "Tool", "", "./x.deb", "a\nb"])
def test_what_apt_would_read_as_more_than_a_name_is_refused(mirror: Mirror, name: str) -> None:
    with pytest.raises(SpecificationBroken):
        lock(mirror, packages={"cli": ["tool", name]})


def test_a_mirror_without_the_suite_is_said_to_be_one(mirror: Mirror) -> None:
    shutil.rmtree(mirror.folder / "debian/dists/trixie")
    with pytest.raises(DownloadFailed):
        lock(mirror)


def test_keys_that_are_not_there_are_named(mirror: Mirror) -> None:
    (mirror.folder / "keys.gpg").unlink()
    with pytest.raises(ProgramMissing, match=r"keys\.gpg"):
        lock(mirror)


def test_locked_packages_come_into_the_store_and_then_no_mirror_is_needed(mirror: Mirror, tmp_path: Path) -> None:
    base, store = lock(mirror), Store(tmp_path / "store")
    first = fetch_debs(base.debs, store, mirrors=Mirrors(), archives=mirror.archives)
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in first.values()} == {deb.sha256 for deb in base.debs}
    shutil.rmtree(mirror.folder)
    assert fetch_debs(base.debs, store, mirrors=Mirrors(debian="/nowhere", security="/nowhere")) == first


def test_a_package_that_the_mirror_replaced_is_gone_and_the_hint_says_lock(mirror: Mirror, tmp_path: Path) -> None:
    base = lock(mirror)
    shutil.rmtree(mirror.folder / "security/pool/main/l/library")
    with pytest.raises(PackageGone) as refusal:
        fetch_debs(base.debs, Store(tmp_path / "store"), mirrors=Mirrors(), archives=mirror.archives)
    assert "stoker image lock" in refusal.value.hint


def test_the_specifications_mirrors_come_first() -> None:
    assert find_archives(Mirrors(debian="http://a.example/debian/", security="/srv/s")) == Archives(
        debian="http://a.example/debian", security="file:///srv/s"
    )
    need(shutil.which("apt-get") is not None, "apt")
    assert find_archives(Mirrors(debian="http://a.example/debian")).security == "http://a.example/debian-security"


@pytest.mark.parametrize("mirror", ["rsync://a.example/debian", "http://a.example/de bian", "ftp.example", "http://a.example/[trusted=yes]"])
def test_what_is_no_address_of_a_mirror_is_refused(mirror: str) -> None:
    with pytest.raises(SpecificationBroken):
        find_archives(Mirrors(debian=mirror, security="http://a.example/s"))
