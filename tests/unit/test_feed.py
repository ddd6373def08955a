"""Batches of resident pixels: complete, repeatable from any batch, shared out over ranks, alike on host and device, safe to hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stoker.data.buffers import Buffers
from stoker.data.device import DevicePixels, OnDevice, StagedPixels, placement
from stoker.data.draws import augmentation, order
from stoker.data.feed import Feed
from stoker.data.normalise import Normalise
from stoker.data.sets import Resident
from stoker.data.shares import Shares
from stoker.errors import BadValue

CPU = torch.device("cpu")


def resident(n: int = 50, size: int = 8, channels: int = 3) -> Resident:
    rng = np.random.default_rng(n)
    return Resident(pixels_NHWC=rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8), labels_N=np.arange(n, dtype=np.int64))


def feed(**settings) -> Feed:
    usual = {
        **{"resident": resident(), "batch_size": 16, "device": "cpu", "dtype": torch.float32, "channels_last": True, "mean": (0.5,), "std": (0.25,)},
        **{"padding": 2, "flip": "random", "seed": 3, "shuffle": True, "drop_last": True},
    }
    return Feed(**{**usual, **settings})


def copies(batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), labels.clone()) for images, labels in batches]


def same(a, b) -> bool:
    a, b = list(a), list(b)
    return len(a) == len(b) and all(torch.equal(x, y) and torch.equal(k, m) for (x, k), (y, m) in zip(a, b, strict=True))


def test_batches_hold_the_images_of_their_labels():
    made = feed(padding=0, flip="none")
    seen = []
    for images, labels in made.epoch(0):
        expected = (torch.from_numpy(resident().pixels_NHWC[labels.numpy()]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        assert (images - expected).abs().max() < 1e-6
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        seen += labels.tolist()
    assert len(set(seen)) == len(seen) == 48 == made.steps * made.batch_size
    assert (made.images, made.steps, made.where, made.bytes) == (50, 3, "host", 50 * 8 * 8 * 3 + 50 * 8)


def test_evaluation_sees_every_image_once_in_order():
    labels = torch.cat([labels for _, labels in feed(shuffle=False, drop_last=False, padding=0, flip="none").epoch(0)])
    assert labels.tolist() == list(range(50))


def test_any_batch_of_any_epoch_can_be_made_without_those_before():
    whole = copies(feed().epoch(5))
    for start in range(4):
        assert same(copies(feed().epoch(5, start=start)), whole[start:])
    assert not same(copies(feed().epoch(6)), whole)
    assert not same(copies(feed(seed=4).epoch(5)), whole)


@pytest.mark.parametrize("start", [-1, 4])
def test_a_batch_beyond_the_epoch_is_refused_at_once(start):
    with pytest.raises(BadValue):
        feed().epoch(0, start=start)


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_together_see_the_batch_of_one(drop_last):
    alone = copies(feed(drop_last=drop_last).epoch(1))
    ranks = [copies(feed(drop_last=drop_last, rank=rank, world_size=4).epoch(1)) for rank in range(4)]
    assert {len(rank) for rank in ranks} == {len(alone)}
    together = [tuple(torch.cat(parts) for parts in zip(*batch, strict=True)) for batch in zip(*ranks, strict=True)]
    assert same(together, alone)


def test_held_batches_are_never_written_over():
    held, kept = [], []
    for images, labels in feed().epoch(0):
        held.append((images, labels))
        kept.append((images.clone(), labels.clone()))
    assert same(held, kept)


def test_a_view_of_a_batch_holds_it_too():
    made = feed()
    views = [images[3:5].numpy() for images, _ in made.epoch(0)]
    expected = [images[3:5].clone() for images, _ in feed().epoch(0)]
    list(made.epoch(1))
    assert all(np.array_equal(view, want.numpy()) for view, want in zip(views, expected, strict=True))


def test_batches_that_are_let_go_use_two_buffers():
    made = feed()
    storages = {images.untyped_storage().data_ptr() for epoch in range(5) for images, _ in made.epoch(epoch)}
    assert len(storages) <= 2


def test_two_epochs_at_once_do_not_disturb_each_other():
    made = feed()
    pairs = list(zip(copies(feed().epoch(0)), copies(feed().epoch(1)), strict=True))
    for ((a, _), (b, _)), ((want_a, _), (want_b, _)) in zip(zip(made.epoch(0), made.epoch(1), strict=True), pairs, strict=True):
        assert torch.equal(a, want_a)
        assert torch.equal(b, want_b)


def test_batches_made_in_inference_mode_can_be_trained_on():
    made = feed()
    with torch.inference_mode():
        list(made.epoch(0))
    weight = torch.ones(3, requires_grad=True)
    for images, _ in made.epoch(0):
        (images * weight[None, :, None, None]).square().sum().backward()
    assert weight.grad is not None


def test_a_pool_gives_up_what_is_held_for_ever():
    pool = Buffers((4,), torch.float32, keep=2)
    held = [pool.take() for _ in range(5)]
    assert len({tensor.data_ptr() for tensor in held}) == 5
    free = pool.take().data_ptr()
    assert pool.take().data_ptr() == free or free not in {tensor.data_ptr() for tensor in held}


def test_a_batch_larger_than_the_data_set_names_one_that_fits():
    with pytest.raises(BadValue) as caught:
        feed(batch_size=64)
    assert "batch_size=50" in caught.value.hint
    assert feed(batch_size=64, drop_last=False).steps == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 15, "world_size": 2},
        {"rank": 2, "world_size": 2},
        {"padding": 8, "padding_mode": "reflect"},
        {"padding_mode": "wrap"},
        {"flip": "upside"},
        {"dtype": torch.float16},
        {"mean": (0.1, 0.2)},
        {"std": (0.0,)},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(BadValue):
        feed(**wrong)


def test_read_only_pixels_can_be_fed(tmp_path, recwarn):
    np.save(tmp_path / "pixels.npy", resident().pixels_NHWC)
    mapped = Resident(pixels_NHWC=np.load(tmp_path / "pixels.npy", mmap_mode="r"), labels_N=resident().labels_N)
    assert same(copies(feed(resident=mapped).epoch(0)), copies(feed().epoch(0)))
    assert not recwarn.list


@pytest.mark.parametrize("kind", [DevicePixels, StagedPixels])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk_bytes", [1, 10_000, 1 << 20])
@pytest.mark.parametrize("drop_last", [True, False])
def test_chunks_on_a_device_are_the_batches_of_the_host(kind, dtype, chunk_bytes, drop_last):
    """The path of a GPU, run on the CPU: same function, same slices."""
    data, normalise = resident(), Normalise.of((0.5,), (0.25,), 3)
    maker = OnDevice(
        *(kind(data.pixels_NHWC, CPU, "a test"), data.labels_N, normalise.table(dtype)),
        **{"padding": 2, "reflect": True, "channels_last": False, "compiled": False, "chunk_bytes": chunk_bytes},
    )
    shares = Shares(images=50, batch_size=16, drop_last=drop_last)
    places, drawn = order(3, 1, 50), augmentation(3, 1, 50, 2, "alternating")
    parts = [places[share.start : share.stop] for share in map(shares.of, range(shares.steps))]
    host = feed(dtype=dtype, padding_mode="reflect", flip="alternating", channels_last=False, drop_last=drop_last)
    assert same(maker.batches(parts, drawn), copies(host.epoch(1)))
    assert same(maker.batches(parts[2:], drawn), copies(host.epoch(1, start=2)))
    assert list(maker.batches([], drawn)) == []


def test_pixels_stay_on_the_device_when_they_leave_room():
    assert placement(800, 1000)[0] == "device"
    where, why = placement(801_000_000, 1_000_000_000)
    assert where == "host"
    assert "801 MB" in why


def test_shares_of_a_small_last_batch_may_be_empty():
    shares = [Shares(images=10, batch_size=8, drop_last=False, rank=rank, world_size=4).of(1) for rank in range(4)]
    assert [place for share in shares for place in share] == [8, 9]
