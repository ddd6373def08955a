"""The difference of two locks: versions, sizes, drivers lost and gained, layers used again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.cli import main
from stoker.image.difference import difference
from stoker.image.lock import Base, Deb, Lock, LockedStack, Own, Wheel, write_lock

LARGE = 30 << 20


def wheel(name: str, version: str, size: int = 1000, *, digest: str | None = None) -> Wheel:
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    sha256 = digest or (f"{name}{version}".encode().hex() + "0" * 64)[:64]
    return Wheel(name=name, version=version, file=file, sha256=sha256, size=size, index=None, variants=("cli",))


def deb(name: str, version: str, size: int = 5000) -> Deb:
    sha256 = (f"{name}{version}".encode().hex() + "0" * 64)[:64]
    return Deb(
        name=name, version=version, architecture="all", file=f"pool/{name}_{version}_all.deb", sha256=sha256, size=size, archive="debian",
        variants=("cli",),
    )  # fmt: skip


def stack(name: str, torch: str, driver: str | None, codes: tuple[str, ...], *wheels: Wheel) -> LockedStack:
    return LockedStack(
        name=name, torch=torch, torchvision=None, cuda="12.6", toolkit=None, cudnn=None, driver_min=driver, driver_full=driver, architectures=codes,
        ptx=False, wheels=(wheel("torch", torch, LARGE), *wheels),
    )  # fmt: skip


def lock(*stacks: LockedStack, debs: tuple[Deb, ...] = ()) -> Lock:
    return Lock(
        name="a", created=1, machine="x86_64", specification="sha256:" + "0" * 64, python="3.13", python_full="3.13.5",
        base=Base(kind="debian", suite="trixie", digest=None, debs=(deb("libc6", "2.41"), *debs)), stacks=stacks, variants=("cli",), prune=(),
        own=Own(version="1", sha256="1" * 64), compression="zstandard 0.25.0 level 3",
    )  # fmt: skip


OLD = lock(stack("cu126", "2.7.1", "525.60.13", ("60", "75", "100")), debs=(deb("git", "1"),))
CUDNN = wheel("nvidia-cudnn", "9.1", LARGE)


def test_nothing_differs() -> None:
    found = difference(OLD, replace(OLD, created=99, specification="sha256:" + "9" * 64))
    assert found.nothing
    assert found.lines() == ["nothing differs"]
    assert found.layers_reused == found.layers > 1


def test_another_torch_and_cuda_are_one_stack_that_changed() -> None:
    new = lock(stack("cu130", "2.13.0", "580.65.06", ("75", "100", "120"), wheel("einops", "1.0")), debs=(deb("git", "2"),))
    found = difference(OLD, new)
    told = "\n".join(found.lines())
    assert "cu126 (torch 2.7.1) -> cu130 (torch 2.13.0)" in told
    assert "torch   2.7.1 -> 2.13.0  (31.5 MB)" in told
    assert "einops  new: 1.0" in told
    assert "git  1 -> 2" in told
    assert "drivers lost: those from 525.60.13 up to 580.65.06" in told
    assert "GPUs lost: machine code for sm_60\nGPUs gained: machine code for sm_120" in told
    assert found.layers_reused == 0


def test_a_second_stack_gains_old_drivers() -> None:
    new_only = stack("cu130", "2.13.0", "580.65.06", ("75", "120"))
    both = lock(new_only, *OLD.stacks)
    found = difference(lock(new_only), both)
    assert "cu126 (torch 2.7.1): a new stack" in found.lines()
    assert "drivers gained: from 525.60.13 on, before from 580.65.06 on" in found.lines()
    assert found.architectures_gained == ("60", "100")
    assert difference(both, lock(new_only)).lines()[0] == "cu126 (torch 2.7.1): a stack less"


def test_layers_that_stay_are_counted() -> None:
    """A small package more: the base, torch's and cuDNN's layers stay, the layer of the small ones is new."""
    old = lock(stack("cu126", "2.7.1", "525.60.13", (), CUDNN, wheel("click", "8")))
    new = lock(stack("cu126", "2.7.1", "525.60.13", (), CUDNN, wheel("click", "8"), wheel("einops", "1.0")))
    found = difference(old, new)
    assert (found.layers, found.layers_reused) == (4, 3)
    assert found.bytes_reused == 2 * LARGE + 5000
    assert found.bytes_after - found.bytes_before == 1000
    assert any(line.startswith("layers reused: 3 of 4") for line in found.lines())


def test_another_debian_package_is_another_base() -> None:
    found = difference(OLD, lock(*OLD.stacks, debs=(deb("git", "2"),)))
    assert found.bytes_reused == LARGE
    assert found.layers_reused == found.layers - 1


def test_the_same_version_with_other_bytes_is_told() -> None:
    new = lock(replace(OLD.stacks[0], wheels=(wheel("torch", "2.7.1", LARGE, digest="f" * 64),)), debs=(deb("git", "1"),))
    found = difference(OLD, new)
    assert not found.nothing
    assert "  torch  2.7.1, another file  (31.5 MB)" in found.lines()
    assert found.stacks[0].packages[0].same_version


def test_a_file_that_two_stacks_share_is_fetched_once() -> None:
    one, two = stack("cu126", "2.7.1", None, (), CUDNN), stack("cu128", "2.7.1", None, (), CUDNN)
    assert difference(lock(one), lock(one, two)).bytes_after == 2 * LARGE + 5000


def test_settings() -> None:
    new = replace(OLD, variants=("cli", "ssh"), prune=("amd",), own=Own(version="2", sha256="2" * 64), python_full="3.13.6")
    assert difference(OLD, new).lines()[:4] == [
        "Python: 3.13.5 -> 3.13.6",
        "variants: cli -> cli, ssh",
        "left out: nothing -> amd",
        "Stoker: 1 (11111111) -> 2 (22222222)",
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    write_lock(tmp_path / "old/stoker.lock", OLD)
    write_lock(tmp_path / "stoker.lock", lock(*OLD.stacks))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["image", "diff", "old", "--json"])
    assert caught.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"] is False
    assert told["debs"] == [{"name": "git", "before": "1", "after": None, "bytes_before": 5000, "bytes_after": 0, "same_version": False}]
    assert told["driver_min"] == {"before": "525.60.13", "after": "525.60.13"}
    with pytest.raises(SystemExit):
        main(["image", "diff", "old/stoker.lock", "stoker.lock"])
    assert "Debian\n  git  gone: 1  (0.0 MB)" in capsys.readouterr().out


def test_a_lock_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["image", "diff", "gone"])
    assert caught.value.code == 61
