"""Random numbers of the data are functions of (seed, epoch, index), cover their range, and are torchvision's algorithm where it is named."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from stoker.data import draws
from stoker.errors import BadValue


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1000])
def test_order_is_a_permutation(n):
    assert sorted(draws.order(3, 5, n)) == list(range(n))


def test_order_depends_on_seed_and_epoch_alone():
    assert np.array_equal(draws.order(1, 2, 500), draws.order(1, 2, 500))
    assert not np.array_equal(draws.order(1, 2, 500), draws.order(1, 3, 500))
    assert not np.array_equal(draws.order(1, 2, 500), draws.order(2, 2, 500))


def test_numbers_are_the_same_on_every_machine_and_numpy():
    """A checkpoint of one machine goes on with the same batches on another."""
    drawn = draws.augmentation(7, 3, 1000, 4, "alternating")
    words = b"".join(a.tobytes() for a in (draws.order(7, 3, 1000), drawn.dy_N, drawn.dx_N, drawn.flip_N, draws.resized_crop(7, 3, 11).uniform))
    assert hashlib.sha256(words).hexdigest()[:16] == "6e92ebbbb9021d11"


def test_an_image_draws_the_same_in_a_larger_data_set():
    few, many = draws.augmentation(1, 1, 10, 4), draws.augmentation(1, 1, 1000, 4)
    assert np.array_equal(few.dy_N, many.dy_N[:10])
    assert np.array_equal(few.flip_N, many.flip_N[:10])


def test_offsets_are_uniform_and_independent():
    drawn = draws.augmentation(0, 0, 81_000, 4)
    cells = np.bincount(drawn.dy_N.astype(int) * 9 + drawn.dx_N, minlength=81)
    assert len(cells) == 81
    assert ((cells - 1000) ** 2 / 1000).sum() < 150  # chi-square with 80 degrees of freedom: 150 has probability 3e-6
    assert abs(drawn.flip_N.mean() - 0.5) < 0.01


def test_no_padding_means_no_offset():
    assert draws.augmentation(0, 0, 100, 0).dy_N.max() == 0


def test_alternating_flips_every_image_every_epoch():
    first, second, third = (draws.augmentation(0, epoch, 1000, 0, "alternating").flip_N for epoch in range(3))
    assert np.array_equal(first, 1 - second)
    assert np.array_equal(first, third)
    assert 400 < first.sum() < 600


def test_flip_none_never_flips():
    assert draws.augmentation(0, 0, 1000, 2, "none").flip_N.sum() == 0


@pytest.mark.parametrize(("padding", "flip"), [(-1, "random"), (128, "random"), (4, "sometimes")])
def test_impossible_augmentation_is_refused(padding, flip):
    with pytest.raises(BadValue):
        draws.augmentation(0, 0, 10, padding, flip)


def test_unknown_flip_names_the_nearest():
    with pytest.raises(BadValue) as caught:
        draws.check(0, "alternate")
    assert "alternating" in caught.value.hint


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (0, -1), (1 << 63, 0)])
def test_seed_and_epoch_out_of_range_are_refused(seed, epoch):
    with pytest.raises(BadValue):
        draws.order(seed, epoch, 10)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (1, 1), (3, 1000), (1000, 3), (32, 32)])
def test_boxes_lie_inside_the_image(width, height):
    for index in range(200):
        left, top, w, h = draws.resized_crop(0, 0, index).box(width, height)
        assert left >= 0
        assert top >= 0
        assert w >= 1
        assert h >= 1
        assert left + w <= width
        assert top + h <= height


def test_box_is_what_torchvision_makes_of_the_same_numbers(monkeypatch):
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms")
    for width, height in ((500, 375), (60, 400), (900, 70)):
        for index in range(50):
            crop = draws.resized_crop(1, 2, index)
            numbers = iter(crop.uniform[:20].tolist())

            def uniform(tensor, low, high, numbers=numbers):
                tensor[0] = low + (high - low) * next(numbers)
                return tensor

            place = crop.uniform[20:22].tolist()

            def randint(low, high, size, place=place):
                return torch.tensor([low + int(place.pop(0) * (high - low))])

            monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
            monkeypatch.setattr(torch, "randint", randint)
            top, left, h, w = transforms.RandomResizedCrop.get_params(torch.zeros(3, height, width), (0.08, 1.0), (3 / 4, 4 / 3))
            monkeypatch.undo()
            # torchvision computes with float32 numbers: a side may round the other way.
            assert np.abs(np.array(crop.box(width, height)) - (left, top, w, h)).max() <= 1


def test_centre_crop_is_square_and_centred():
    assert draws.centre_crop(512, 256) == (144, 16, 224, 224)
    assert draws.centre_crop(1, 1) == (0, 0, 1, 1)
