"""Kept images: only while all of them fit, for any thread; and how much memory there is."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stoker.boost.replay import openmp, pixels
from stoker.boost.replay.available import available_bytes, share_bytes
from stoker.boost.replay.pixels import Kept, Pixels

GIB = 1 << 30


def kept(size: int = 100) -> Kept:
    return Kept(Image.fromarray(np.zeros((size, size, 3), np.uint8)), (size, size))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    left = {"bytes": GIB}
    monkeypatch.setattr(pixels, "available_bytes", lambda: left["bytes"])
    monkeypatch.setattr(pixels, "share_bytes", lambda part: int(left["bytes"] * part))
    monkeypatch.setattr(pixels, "_EVERY_S", -1.0)
    return left


def test_an_image_is_found_while_its_source_is_the_same(memory: dict[str, int]) -> None:
    store = Pixels()
    shelf, image = store.shelf("a", 10), kept()
    store.put(shelf, 1, "old", image)
    assert store.get(shelf, 1, "old") is image
    assert store.get(shelf, 1, "new") is None
    assert store.get(store.shelf("b", 10), 1, "old") is None
    assert store.get(store.shelf("a", 10), 1, "old") is image
    store.put(shelf, 1, "new", kept())
    assert store.used_bytes == shelf.used_bytes == image.memory_bytes("")
    store.clear()
    assert store.used_bytes == 0
    assert store.get(shelf, 1, "new") is None


def test_images_take_what_is_said() -> None:
    assert kept(100).memory_bytes(None) == 40_000 + 1024
    assert Kept(Image.new("L", (10, 20)), (10, 20)).memory_bytes(b"12345") == 200 + 1024 + 5


def test_a_data_set_that_will_not_fit_is_not_kept(memory: dict[str, int]) -> None:
    store = Pixels()
    small, large = store.shelf("small", 1000), store.shelf("large", 100_000)
    for number in range(40):
        store.put(small, number, None, kept())
        store.put(large, number, None, kept())
    assert len(small.kept) == 40
    assert large.refused
    assert not large.kept
    store.put(large, 99, None, kept())
    assert not large.kept


def test_everything_goes_when_memory_runs_short(memory: dict[str, int]) -> None:
    store = Pixels()
    shelf = store.shelf("a", 10)
    store.put(shelf, 1, None, kept())
    memory["bytes"] = GIB // 100
    store.get(shelf, 1, None)
    assert store.used_bytes == 0
    memory["bytes"] = GIB
    store.put(shelf, 1, None, kept())
    assert store.used_bytes == 0


def test_many_threads(memory: dict[str, int]) -> None:
    store = Pixels()
    shelf = store.shelf("a", 300)

    def work(first: int) -> None:
        for number in range(first, 300):
            found = store.get(shelf, number, None)
            assert found is None or found.size == (100, 100)
            store.put(shelf, number, None, kept())

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shelf.kept) == 300
    assert shelf.used_bytes == sum(one.memory_bytes(None) for _, one in shelf.kept.values())


def test_memory_under_a_cgroup(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    folder = tmp_path / "sys/fs/cgroup/job"
    folder.mkdir(parents=True)
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    assert available_bytes(tmp_path) == 4000 * 1024
    (folder / "memory.max").write_text("1000000\n")
    (folder / "memory.current").write_text("700000\n")
    (folder / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert available_bytes(tmp_path) == 500_000
    (folder / "memory.current").write_text("1500000\n")
    assert available_bytes(tmp_path) == 0


def test_ranks_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.boost.replay.available.available_bytes", lambda: 8000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert share_bytes(0.25) == 500


# ---- threads of OpenMP ----------------------------------------------------------------------------------------------------------------------------


def test_the_library_of_pytorch_is_found() -> None:
    assert openmp._setter() is not None


def test_a_quiet_thread_is_one_thread_and_nobody_else_is_changed() -> None:
    before, seen = torch.get_num_threads(), []

    def work() -> None:
        openmp.quiet_thread()
        seen.append(torch.get_num_threads())
        with openmp.threads(3):
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [1, 3, 1] * 2
    assert torch.get_num_threads() == before
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]


def test_sums_are_split_as_asked() -> None:
    """What the number of threads decides: in how many parts a sum is made, and with that its last bits."""
    many = torch.rand(16, 1 << 18, generator=torch.Generator().manual_seed(0))

    def sums(count: int) -> list[float]:
        with openmp.threads(count):
            return [numbers.sum().item() for numbers in many]

    assert sums(1) == sums(1)
    assert sums(4) == sums(4) == pytest.approx(sums(1))
    assert sums(4) != sums(1)
