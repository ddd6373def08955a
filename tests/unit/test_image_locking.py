"""Locking: from a specification to a lock, with faked answers of uv and apt; what is kept, what is upgraded, what is refused before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stoker.cli import main
from stoker.errors import HashMismatch, LockBroken, NoStackFits, PackageGone, SpecificationBroken, UnknownName
from stoker.image import locking
from stoker.image.lock import Base, Deb, Lock, Own, Wheel, lock_text, read_lock
from stoker.image.locking import Upgrade, make_lock
from stoker.image.specification import Mirrors, Specification
from tests.image_locks import hashed


def deb(name: str, version: str, variants: tuple[str, ...] = ("cli",)) -> Deb:
    file = f"pool/{name}_{version}_all.deb"
    return Deb(name=name, version=version, architecture="all", file=file, sha256="d" * 64, size=1, archive="debian", variants=variants)


def wheel(requirement: str, digest: str = "first", index: str | None = None) -> Wheel:
    name, _, version = requirement.partition("==")
    file = f"{name.replace('-', '_')}-{version or '1.0'}-py3-none-any.whl"
    return Wheel(name=name, version=version or "1.0", file=file, sha256=hashed(file + digest), size=1, index=index, variants=("cli",))


@dataclass
class World:
    """What the faked uv and apt have, and what they were asked."""

    newest: dict[str, str] = field(default_factory=dict)
    digest: str = "first"
    reachable: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    debs_asked: list[dict[str, Any]] = field(default_factory=list)
    oci_asked: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def resolve_wheels(self, requirements: Mapping[str, Sequence[str]], **said: Any) -> tuple[Wheel, ...]:
        self.asked.append({"requirements": {key: tuple(value) for key, value in requirements.items()}, **said})
        kept = dict(line.split("==") for line in said["constraints"])
        names = [line for lines in (*requirements.values(), said["extra"]) for line in lines]
        found = []
        for name in names:
            plain = name.split("==")[0].split(">")[0].split("[")[0].lower()
            version = name.partition("==")[2] or kept.get(plain) or self.newest.get(plain, "1.0")
            found.append(wheel(f"{plain}=={version}", self.digest, said["index"] if plain == "torch" else None))
        return tuple(sorted(found, key=lambda one: one.name))

    def lock_base(self, **said: Any) -> Base:
        self.debs_asked.append(said)
        names = sorted({name for names in said["packages"].values() for name in names} | {"python3.13"})
        return Base(
            kind="debian",
            suite=said["suite"],
            digest=None,
            debs=tuple(deb(name, said["held"].get(name) or self.newest.get(name, "3.13.5-2")) for name in names),
        )

    def lock_oci_base(self, reference: str, python: str) -> tuple[Base, str]:
        self.oci_asked.append(reference)
        return Base(kind="oci", suite=None, digest=reference.rpartition("@")[2], debs=()), f"{python}.9"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(locking, "resolve_wheels", made.resolve_wheels)
    monkeypatch.setattr(locking, "lock_base", made.lock_base)
    monkeypatch.setattr(locking, "lock_oci_base", made.lock_oci_base)
    monkeypatch.setattr(locking, "python_full", lambda base: "3.13.5")
    monkeypatch.setattr(locking, "torch_index_answers", lambda name, *, mirrors, environ: made.reachable)
    monkeypatch.setattr(locking, "debian_packages", lambda suite, variant: {"cli": ("gcc",), "ssh": ("openssh-server",)}.get(variant, ()))
    monkeypatch.setattr(locking, "python_packages", lambda variant: {"cli": ("numpy",), "notebook": ("jupyterlab>=4",)}.get(variant, ()))
    monkeypatch.setattr(locking, "own", lambda: Own(version="1", sha256="1" * 64))
    monkeypatch.setattr(locking, "compressor_name", lambda: "zstandard 0.25.0 level 3")
    return made


@pytest.fixture
def make(world: World) -> Callable[..., Lock]:
    def made(*, old: Lock | None = None, upgrade: Upgrade | None = None, now: int = 1000, **said: Any) -> Lock:
        return make_lock(
            Specification(name="a", **said), old=old, upgrade=upgrade or Upgrade(), machine="x86_64", now=now, environ={}, tell=world.told.append
        )

    return made


def versions(lock: Lock, stack: int = 0) -> dict[str, str]:
    return {one.name: one.version for one in lock.stacks[stack].wheels}


def test_everything_comes_together(make: Callable[..., Lock], world: World) -> None:
    made = make(
        variants=("cli", "notebook", "ssh"), packages=("einops",), debs=("ffmpeg",), prune=("amd",), mirrors=Mirrors(pypi="https://mirror.test")
    )
    assert versions(made) == {"torch": "2.13.0", "torchvision": "0.28.0", "numpy": "1.0", "einops": "1.0", "jupyterlab": "1.0"}
    assert made.stacks[0].driver_min == "580.65.06"
    assert (made.created, made.python_full, made.base.suite, made.variants, made.prune) == (
        1000,
        "3.13.5",
        "trixie",
        ("cli", "notebook", "ssh"),
        ("amd",),
    )
    assert world.debs_asked[0]["packages"] == {"cli": ("ffmpeg", "gcc"), "notebook": (), "ssh": ("openssh-server",)}
    assert world.asked[0]["requirements"]["cli"] == ("torch==2.13.0", "torchvision==0.28.0", "numpy")
    assert world.asked[0]["extra"] == ("einops",)
    assert (world.asked[0]["target"].python, world.asked[0]["target"].glibc) == ("3.13.5", (2, 41))
    assert "mirror.test" not in lock_text(made)
    assert [line.partition(":")[0] for line in world.told] == ["cu130", "trixie", "cu130"]


def test_a_universal_image_asks_for_each_stack(make: Callable[..., Lock], world: World) -> None:
    made = make(cuda=("12.6", "13.0"))
    assert [(one.name, versions(made, number)["torch"]) for number, one in enumerate(made.stacks)] == [("cu130", "2.13.0"), ("cu126", "2.7.1")]
    assert [one["index"] for one in world.asked] == [None, None]
    world.reachable = True
    made = make(cuda=("12.6", "13.0"))
    assert versions(made, 1)["torch"] == "2.13.0"
    assert [one["index"] for one in world.asked[2:]] == [None, "cu126"]


def test_an_image_without_torch(make: Callable[..., Lock], world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "python_packages", lambda variant: ("numpy", "torchvision>=0.20"))
    made = make(torch="none")
    assert (made.stacks[0].name, made.stacks[0].torch, versions(made)) == ("plain", None, {"numpy": "1.0"})


def test_what_is_impossible_is_refused_before_anything_is_asked(make: Callable[..., Lock], world: World) -> None:
    for error, said in (
        (NoStackFits, {"torch": "2.8.0", "cuda": ("11.8",)}),
        (PackageGone, {"torch": "2.7.1", "cuda": ("11.8",)}),
        (SpecificationBroken, {"python": "3.12"}),
        (SpecificationBroken, {"base": f"oci:x@sha256:{'1' * 64}", "debs": ("git",)}),
    ):
        with pytest.raises(error):
            make(**said)
    assert not world.asked
    assert not world.debs_asked


def test_the_same_again_is_the_old_lock(make: Callable[..., Lock]) -> None:
    first = make(now=1000)
    assert make(old=first, now=2000) is first
    assert make(old=first, now=2000, packages=("einops",)).created == 2000


def test_versions_stay_until_they_are_upgraded(make: Callable[..., Lock], world: World) -> None:
    first = make(packages=("einops",))
    world.newest = {"numpy": "2.0", "einops": "2.0", "gcc": "15"}
    assert make(old=first, packages=("einops",)) == first
    one = make(old=first, packages=("einops",), upgrade=Upgrade(packages=frozenset({"einops"})))
    assert (versions(one)["einops"], versions(one)["numpy"]) == ("2.0", "1.0")
    debian = make(old=first, packages=("einops",), upgrade=Upgrade(packages=frozenset({"gcc"})))
    assert {one.name: one.version for one in debian.base.debs}["gcc"] == "15"
    assert versions(debian)["numpy"] == "1.0"
    everything = make(old=first, packages=("einops",), upgrade=Upgrade(everything=True))
    assert (versions(everything)["einops"], versions(everything)["numpy"], everything.base.debs[0].version) == ("2.0", "2.0", "15")


def test_a_new_package_leaves_the_others(make: Callable[..., Lock], world: World) -> None:
    first = make()
    world.newest = {"numpy": "2.0"}
    assert versions(make(old=first, packages=("einops",))) == {**versions(first), "einops": "1.0"}


def test_another_torch_frees_what_it_is_bound_to_and_keeps_the_rest(make: Callable[..., Lock], world: World) -> None:
    first = make(torch="2.7.1", cuda=("12.6",), packages=("triton", "nvidia-cublas"))
    make(old=first, torch="2.8.0", cuda=("12.8",), packages=("triton", "nvidia-cublas"))
    assert world.asked[-1]["constraints"] == ("numpy==1.0",)
    make(old=first, torch="2.7.1", cuda=("12.6",), packages=("triton", "nvidia-cublas", "einops"))
    assert sorted(world.asked[-1]["constraints"]) == ["numpy==1.0", "nvidia-cublas==1.0", "triton==1.0"]


def test_latest_moves_only_with_an_upgrade(make: Callable[..., Lock], world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(torch="2.12.1")
    old = replace(old, specification=Specification(name="a").digest)
    assert versions(make(old=old))["torch"] == "2.12.1"
    assert versions(make(old=old, upgrade=Upgrade(packages=frozenset({"torch"}))))["torch"] == "2.13.0"
    assert versions(make(old=old, upgrade=Upgrade(everything=True)))["torch"] == "2.13.0"


def test_an_upgrade_of_what_is_not_there(make: Callable[..., Lock]) -> None:
    first = make()
    with pytest.raises(UnknownName, match="no package 'nunpy' in the lock; the nearest is 'numpy'"):
        make(old=first, upgrade=Upgrade(packages=frozenset({"nunpy"})))
    with pytest.raises(UnknownName, match="no lock yet"):
        make(upgrade=Upgrade(packages=frozenset({"numpy"})))


def test_a_wheel_that_was_published_again_is_caught(make: Callable[..., Lock], world: World) -> None:
    first = make()
    world.digest = "second"
    with pytest.raises(HashMismatch, match=r"numpy-1.0-py3-none-any.whl has other bytes than in the lock") as caught:
        make(old=first)
    assert "--upgrade numpy" in caught.value.hint
    assert make(old=first, upgrade=Upgrade(everything=True)).stacks[0].wheels[0].sha256 != first.stacks[0].wheels[0].sha256


def test_an_oci_base_is_looked_for_beside_the_specification(make: Callable[..., Lock], world: World, tmp_path: Path) -> None:
    made = make(base=f"oci:folder@sha256:{'1' * 64}", path=tmp_path / "stoker.toml")
    assert world.oci_asked == [f"oci:{tmp_path}/folder@sha256:{'1' * 64}"]
    assert (made.base.digest, made.python_full) == ("sha256:" + "1" * 64, "3.13.9")
    assert not world.debs_asked


# --- the command ----------------------------------------------------------------------------------------------------


def ends(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def project(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (tmp_path / "stoker.toml").write_text('[image]\nname = "a"\n')
    return tmp_path


def test_the_command_writes_the_lock_and_again_leaves_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["image", "lock"]) == 0
    first = read_lock(project / "stoker.lock")
    assert first.created == 1700000000
    before = (project / "stoker.lock").stat()
    assert ends(["image", "lock"]) == 0
    assert (project / "stoker.lock").stat().st_ino == before.st_ino
    out, err = capsys.readouterr()
    assert out == "nothing differs\n"
    assert "stoker.lock is as it was" in err


@pytest.mark.parametrize(
    ("arguments", "numpy", "einops"),
    [
        ([], "1.0", "1.0"),
        (["--upgrade"], "2.0", "2.0"),
        (["--upgrade", "numpy"], "2.0", "1.0"),
        (["--upgrade", "numpy", "--upgrade", "Einops"], "2.0", "2.0"),
        (["--upgrade", "--json"], "2.0", "2.0"),
        (["--upgrade=einops"], "1.0", "2.0"),
    ],
)
def test_upgrade_on_the_command_line(project: Path, world: World, arguments: list[str], numpy: str, einops: str) -> None:
    (project / "stoker.toml").write_text('[image]\nname = "a"\npackages = ["einops"]\n')
    assert ends(["image", "lock"]) == 0
    world.newest = {"numpy": "2.0", "einops": "2.0"}
    assert ends(["image", "lock", *arguments]) == 0
    found = versions(read_lock(project / "stoker.lock"))
    assert (found["numpy"], found["einops"]) == (numpy, einops)


def test_json(project: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["image", "lock", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["difference"], told["digest"]) == (True, None, read_lock(project / "stoker.lock").digest)
    world.newest = {"numpy": "2.0"}
    assert ends(["image", "lock", "--upgrade", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["difference"]["stacks"][0]["packages"][0]["after"] == "2.0"


def test_a_lock_that_cannot_be_read_is_kept_aside(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "stoker.lock").write_text("format = 1\nname = 7\n")
    assert ends(["image", "lock"]) == 0
    assert "line 2: name" in capsys.readouterr().err
    assert (project / "stoker.lock.old").read_text() == "format = 1\nname = 7\n"
    read_lock(project / "stoker.lock")


def test_a_lock_that_was_edited_is_written_again_and_keeps_its_versions(project: Path) -> None:
    assert ends(["image", "lock"]) == 0
    path = project / "stoker.lock"
    written = path.read_text()
    path.write_text(written.replace("prune = []", 'prune = ["static"]'))
    assert ends(["image", "build"]) == LockBroken.exit_code
    assert ends(["image", "lock"]) == 0
    assert [line for line in path.read_text().splitlines() if "version" in line] == [line for line in written.splitlines() if "version" in line]
    assert read_lock(path).prune == ()


def test_a_refusal_leaves_the_old_lock(project: Path, world: World) -> None:
    assert ends(["image", "lock"]) == 0
    before = (project / "stoker.lock").read_bytes()
    (project / "stoker.toml").write_text('[image]\nname = "a"\ntorch = "2.8.0"\ncuda = "11.8"\n')
    assert ends(["image", "lock"]) == 7
    (project / "stoker.toml").write_text('[image]\nname = "a"\ntorhc = "2.8.0"\n')
    assert ends(["image", "lock"]) == 60
    assert (project / "stoker.lock").read_bytes() == before


def test_no_specification(project: Path) -> None:
    (project / "stoker.toml").unlink()
    assert ends(["image", "lock"]) == 60


@pytest.mark.parametrize("moment", ["yesterday", "-1", "1e9", "9" * 30])
def test_a_source_date_that_is_none(project: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", moment)
    assert ends(["image", "lock"]) == 21
