"""The crop that training draws has torchvision's bits (its import takes seconds)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stoker.data.decode import decode_crop

NOISE = np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 200, 150), (13, 7, 101, 90), (199, 149, 1, 1), (50, 20, 24, 24), None])
def test_a_crop_has_the_bits_of_torchvision(box: tuple[int, int, int, int] | None, flip: bool) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    content = _jpeg()
    image = Image.open(io.BytesIO(content)).convert("RGB")
    left, top, width, height = box or (0, 0, 200, 150)
    expected = functional.resized_crop(image, top, left, height, width, [24, 24])
    expected = functional.hflip(expected) if flip else expected
    out_HWC = np.zeros((24, 24, 3), np.uint8)
    decode_crop(content, out_HWC, box, flip)
    np.testing.assert_array_equal(out_HWC, np.asarray(expected))


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).resize((200, 150), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
