"""One image file becomes pixels, or an error that names it."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stoker.data.decode import decode, decode_crop, decode_marked, image_size
from stoker.errors import BrokenImage, DataMissing

PIXELS = np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth() -> Image.Image:
    return Image.fromarray(PIXELS).resize((200, 150), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_gives_what_torchvisions_loader_gives(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256).save(path)
    else:
        Image.fromarray(PIXELS).convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
        grey = image.mode in ("1", "L", "LA")
    pixels_HWC, is_grey = decode_marked(str(path))
    np.testing.assert_array_equal(pixels_HWC, expected)
    np.testing.assert_array_equal(decode(path.read_bytes()), expected)
    assert is_grey == grey
    assert image_size(str(path)) == (80, 60)


def test_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert decode(encoded(Image.fromarray(PIXELS), "JPEG", exif=exif)).shape == (60, 80, 3)


def test_a_box_may_depend_on_the_size_and_out_may_be_a_part_of_a_batch() -> None:
    batch_NHWC = np.full((3, 8, 8, 3), 7, np.uint8)
    decode_crop(encoded(smooth(), "PNG"), batch_NHWC[1], lambda width, height: (width - 8, height - 8, 8, 8), False)
    np.testing.assert_array_equal(batch_NHWC[1], np.asarray(smooth())[-8:, -8:])
    assert (batch_NHWC[[0, 2]] == 7).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_a_cut_off_file_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    content = encoded(smooth(), kind)
    path = tmp_path / "cut.img"
    for share in (0, 0.01, 0.3, 0.6):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(BrokenImage, match=r"cut\.img"):
            decode(str(path))
        with pytest.raises(BrokenImage, match=r"photos.tar: train/cat/1.jpg"):
            decode(path.read_bytes(), name="photos.tar: train/cat/1.jpg")


def test_a_broken_file_leaves_the_batch_as_it_was() -> None:
    out_HWC = np.full((8, 8, 3), 7, np.uint8)
    with pytest.raises(BrokenImage):
        decode_crop(encoded(smooth(), "JPEG")[:2000], out_HWC, None, False)
    assert (out_HWC == 7).all()


@pytest.mark.filterwarnings("ignore")  # pytest takes our own filter away
def test_a_bomb_is_an_error_not_a_warning() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    with pytest.raises(BrokenImage, match="bomb"):
        decode(content)
    large = encoded(Image.new("1", (12_000, 12_000)), "PNG")  # between Pillow's warning and its error
    with pytest.raises(BrokenImage, match="12000 x 12000"):
        decode(large)


def test_no_other_program_is_started_for_postscript() -> None:
    with pytest.raises(BrokenImage):
        decode(encoded(smooth(), "EPS"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"gone\.jpg"):
        decode(str(tmp_path / "gone.jpg"))


@pytest.mark.filterwarnings("ignore")
def test_garbage_is_never_another_exception() -> None:
    random.seed(1)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        content = encoded(smooth(), kind)
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(random.randint(1, 20)):
                damaged[random.randrange(min(len(damaged), 2000))] = random.randrange(256)
            with contextlib.suppress(BrokenImage):
                assert decode(bytes(damaged)).dtype == np.uint8
