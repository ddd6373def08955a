"""Layers of wheels: how they are shared out, what their keys hang on, and that they are the same whoever makes them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import random
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stoker.errors import HashMismatch, UnsafeArchive
from stoker.image import layers as module
from stoker.image.compression import Blob
from stoker.image.layers import LARGE_BYTES, LayerPlan, make_layer, plan_layers, refuse_conflicts
from stoker.image.lock import Base, Deb, Lock, LockedStack, Own, Wheel
from tests.image_wheels import HOST_ROOT, PYTHON, record, wheel_files, write_wheel, zipped

zstandard = pytest.importorskip("zstandard")

SITE = f"opt/stoker/cpu/lib/python{PYTHON}/site-packages"


def wheel(name: str, size: int = 1000, *, variants: tuple[str, ...] = ("cli",), version: str = "1.0") -> Wheel:
    digest = hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return Wheel(name=name, version=version, file=file, sha256=digest, size=size, index=None, variants=variants)


def deb(name: str, version: str = "1") -> Deb:
    digest = hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    return Deb(name=name, version=version, architecture="amd64", file=f"pool/{name}.deb", sha256=digest, size=1, archive="debian", variants=("cli",))


def lock(wheels: Sequence[Wheel], *, debs: Sequence[Deb] = (), prune: tuple[str, ...] = (), stack: str = "cpu", python: str = PYTHON) -> Lock:
    held = LockedStack(
        name=stack,
        torch=None,
        torchvision=None,
        cuda=None,
        toolkit=None,
        cudnn=None,
        driver_min=None,
        driver_full=None,
        architectures=(),
        ptx=False,
        wheels=tuple(wheels),
    )
    return Lock(
        name="demo",
        created=1,
        machine="x86_64",
        specification="0" * 64,
        python=python,
        python_full=f"{python}.0",
        base=Base(kind="debian", suite="trixie", digest=None, debs=tuple(debs)),
        stacks=(held,),
        variants=("cli",),
        prune=prune,
        own=Own(version="1", sha256="0" * 64),
        compression="zstandard",
    )


WHEELS = (
    wheel("torch", 500_000_000),
    wheel("nvidia-cublas", LARGE_BYTES),
    wheel("numpy", LARGE_BYTES - 1),
    wheel("sympy"),
    wheel("jupyterlab", variants=("notebook",)),
    wheel("opencv", variants=("dev", "notebook")),
    wheel("triton", 200_000_000),
)


def test_large_wheels_are_layers_and_small_ones_share_one_for_each_set_of_variants() -> None:
    plans = plan_layers(lock(WHEELS))
    assert [[one.name for one in plan.wheels] for plan in plans] == [
        ["nvidia-cublas"],
        ["triton"],
        ["torch"],
        ["numpy", "sympy"],
        ["opencv"],
        ["jupyterlab"],
    ]
    assert [plan.title for plan in plans][2:4] == ["torch 1.0 (cpu)", "2 small packages (cpu, cli)"]
    assert len({plan.key for plan in plans}) == len(plans)


def test_the_order_of_the_lock_and_its_other_contents_change_no_key() -> None:
    keys = [plan.key for plan in plan_layers(lock(WHEELS))]
    shuffled = [*WHEELS]
    random.Random(3).shuffle(shuffled)
    other = dataclasses.replace(lock(shuffled, debs=[deb("bash"), deb("gcc")]), created=99, name="other", specification="1" * 64)
    assert [plan.key for plan in plan_layers(other)] == keys


def test_what_the_person_adds_makes_no_other_layer_anew() -> None:
    mine = [dataclasses.replace(wheel(name), extra=True) for name in ("tabulate", "einops")]
    before, after = plan_layers(lock(WHEELS)), plan_layers(lock([*mine, *WHEELS]))
    assert [one.key for one in after[:-1]] == [one.key for one in before]
    assert ([one.name for one in after[-1].wheels], after[-1].title) == (["einops", "tabulate"], "2 packages of yours (cpu)")
    large = dataclasses.replace(wheel("spacy", LARGE_BYTES), extra=True)
    assert [large] in [list(plan.wheels) for plan in plan_layers(lock([large, *WHEELS]))]


def test_one_more_small_package_changes_one_key() -> None:
    before, after = plan_layers(lock(WHEELS)), plan_layers(lock([*WHEELS, wheel("rich")]))
    assert [one.key == other.key for one, other in zip(before, after, strict=True)] == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    "changed",
    [
        lock([wheel("torch", 500_000_000, version="1.1")]),
        lock([wheel("torch", 500_000_000)], stack="cu126"),
        lock([wheel("torch", 500_000_000)], python="3.12"),
        lock([wheel("torch", 500_000_000)], prune=("static",)),
        lock([wheel("torch", 500_000_000)], debs=[deb(f"python{PYTHON}-minimal")]),
        lock([wheel("torch", 500_000_000)], debs=[deb(f"libpython{PYTHON}-stdlib")]),
    ],
)
def test_what_decides_the_bytes_is_in_the_key(changed: Lock) -> None:
    assert plan_layers(changed)[0].key != plan_layers(lock([wheel("torch", 500_000_000)]))[0].key


def test_another_compression_is_another_key() -> None:
    assert plan_layers(lock(WHEELS))[0].key != plan_layers(lock(WHEELS), compression="gzip")[0].key


# --- made ------------------------------------------------------------------------------------------------------------


def written(folder: Path, packages: dict[str, dict[str, bytes]]) -> tuple[list[LayerPlan], dict[str, Path]]:
    """Wheels on the disk under names of a store, and the plan of their layers."""
    rows, files = [], {}
    folder.mkdir(exist_ok=True)
    for name, contents in packages.items():
        path = write_wheel(folder, name, files=contents)
        row = dataclasses.replace(wheel(name), size=path.stat().st_size, file=path.name)
        rows.append(row)
        files[row.sha256] = path.rename(folder / row.sha256)
    return list(plan_layers(lock(rows))), files


def contents_of(blob: Blob) -> dict[str, bytes]:
    tar = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(blob.path.read_bytes())).read()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}  # type: ignore[union-attr]


PACKAGES = {
    "beta": {"beta/__init__.py": b"from alpha import ANSWER\n", "shared/__init__.py": b"", "beta/data.bin": random.Random(1).randbytes(600_000)},
    "alpha": {"alpha/__init__.py": b"ANSWER = 42\n", "shared/__init__.py": b"", "alpha/broken.py": b"print 'x'\n"},
}


def test_a_layer_holds_its_wheels_with_bytecode_and_records(tmp_path: Path) -> None:
    (plan,), files = written(tmp_path / "store", PACKAGES)
    found = contents_of(make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT))
    tag = PYTHON.replace(".", "")
    assert {path.removeprefix(f"{SITE}/") for path in found if "dist-info" not in path} == {
        "alpha/__init__.py",
        f"alpha/__pycache__/__init__.cpython-{tag}.pyc",
        "alpha/broken.py",
        "beta/__init__.py",
        f"beta/__pycache__/__init__.cpython-{tag}.pyc",
        "beta/data.bin",
        "shared/__init__.py",
        f"shared/__pycache__/__init__.cpython-{tag}.pyc",
    }
    assert found[f"{SITE}/beta/data.bin"] == PACKAGES["beta"]["beta/data.bin"]
    assert found[f"{SITE}/alpha-1.0.dist-info/INSTALLER"] == b"stoker\n"
    assert b"broken.py,sha256=" in found[f"{SITE}/alpha-1.0.dist-info/RECORD"]


def test_the_same_layer_whoever_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,), files = written(tmp_path / "store", PACKAGES)
    first = make_layer(plan, tmp_path / "first", files=files, root=HOST_ROOT)
    mask = os.umask(0o077)
    try:
        monkeypatch.setenv("LC_ALL", "C")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        (other,), moved = written(tmp_path / "elsewhere", dict(reversed(PACKAGES.items())))
        with ThreadPoolExecutor(4) as pool:
            blobs = list(pool.map(lambda number: make_layer(other, tmp_path / str(number), files=moved, root=HOST_ROOT), range(4)))
    finally:
        os.umask(mask)
    assert other.key == plan.key
    assert {(blob.digest, blob.diff_id, blob.size) for blob in blobs} == {(first.digest, first.diff_id, first.size)}


def test_two_wheels_with_different_files_of_one_path_are_refused(tmp_path: Path) -> None:
    packages = {"headless": {"cv2/__init__.py": b"1"}, "full": {"cv2/__init__.py": b"2"}}
    (plan,), files = written(tmp_path / "store", packages)
    with pytest.raises(UnsafeArchive, match=r"full and headless both bring .*cv2/__init__\.py"):
        make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT)
    assert not (tmp_path / "layer").exists()


def test_a_conflict_between_layers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_BYTES", 1)
    plans, files = written(tmp_path / "store", {"headless": {"cv2/a.py": b"1"}, "full": {"cv2/a.py": b"2"}})
    assert len(plans) == 2
    with pytest.raises(UnsafeArchive, match="both bring"):
        refuse_conflicts(plans, files)
    plans, files = written(tmp_path / "store", {"one": {"nvidia/__init__.py": b""}, "two": {"nvidia/__init__.py": b""}})
    refuse_conflicts(plans, files)


def test_what_packages_leave_lying_about_by_mistake_is_no_conflict(tmp_path: Path) -> None:
    packages = {"a": {"tests/__init__.py": b"1 + 1", "README.md": b"a", "a.py": b""}, "b": {"tests/__init__.py": b"2 + 2", "README.md": b"b"}}
    (plan,), files = written(tmp_path / "store", packages)
    found = contents_of(make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT))
    assert (found[f"{SITE}/tests/__init__.py"], found[f"{SITE}/README.md"]) == (b"2 + 2", b"b")


def test_a_wheel_whose_contents_are_not_what_record_says_makes_no_layer(tmp_path: Path) -> None:
    (plan,), files = written(tmp_path / "store", {"demo": {"demo/lib.so": b"x" * 1000}})
    held = wheel_files(files={"demo/lib.so": b"x" * 1000})
    (path,) = files.values()
    path.write_bytes(zipped([*{**held, "demo/lib.so": b"y" * 1000}.items(), ("demo-1.0.dist-info/RECORD", record(held))]))
    with pytest.raises(HashMismatch):
        make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT)
    assert not (tmp_path / "layer").exists()


def test_progress_reaches_the_size_of_the_tar(tmp_path: Path) -> None:
    (plan,), files = written(tmp_path / "store", PACKAGES)
    told: list[int] = []
    blob = make_layer(plan, tmp_path / "layer", files=files, root=HOST_ROOT, progress=told.append)
    assert told[-1] == blob.unpacked_size
