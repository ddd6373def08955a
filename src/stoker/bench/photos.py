"""Photographs made on the spot: not of anything, but with a photo's statistics, so that decoding them costs what decoding photos costs.

The amplitudes of a photograph's frequencies fall as 1/f (Field 1987); to that come lighting, edges of objects and sensor noise. At JPEG
quality 92 with halved chroma 500 x 375 pixels make about 110 kB, as the images of ImageNet do on average.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from stoker.files import writing

SIZES = ((500, 375), (500, 333), (375, 500), (500, 375))
"""Width and height, in turn."""
QUALITY = 92
_TEXTURE, _NOISE, _OBJECTS = 38.0, 5.5, 7


def write_photos(folder: Path, count: int) -> tuple[str, ...]:
    """Write `count` photos, the same every time, and return their paths. Raises DiskFull."""
    paths = []
    for number in range(count):
        path = folder / f"{number:04d}.jpg"
        with writing(path):
            path.write_bytes(photo(number))
        paths.append(str(path))
    return tuple(paths)


def photo(number: int) -> bytes:
    """Return photo `number` as the bytes of a JPEG."""
    width, height = SIZES[number % len(SIZES)]
    random = np.random.default_rng(number)
    pixels_HWC = _scene(random, height, width) + _texture(random, height, width)
    pixels_HWC += random.standard_normal(pixels_HWC.shape, np.float32) * _NOISE
    image = Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def _texture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return noise whose amplitudes fall as 1/f: one for brightness, a weaker one for each colour."""
    frequency_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency_HW[0, 0] = np.inf
    layers = []
    for strength in (1.0, 0.3, 0.3, 0.3):
        phases_HW = np.exp(2j * np.pi * random.random(frequency_HW.shape))
        layer_HW = np.fft.irfft2(phases_HW / frequency_HW, s=(height, width)).astype(np.float32)
        layers.append(layer_HW * (strength * _TEXTURE / layer_HW.std()))
    return layers[0][..., None] + np.stack(layers[1:], axis=-1)


def _scene(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a lit background with a few objects, each with an edge."""
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32) / width
    tilt = random.uniform(-60, 60, (2, 3)).astype(np.float32)
    pixels_HWC = random.uniform(90, 160, 3).astype(np.float32) + x_HW[..., None] * tilt[0] + y_HW[..., None] * tilt[1]
    for _ in range(_OBJECTS):
        middle_x, middle_y, radius = random.uniform(0, 1), random.uniform(0, height / width), random.uniform(0.05, 0.25)
        inside_HW = np.abs(x_HW - middle_x) ** 2 + random.uniform(0.3, 3) * np.abs(y_HW - middle_y) ** 2 < radius**2
        pixels_HWC[inside_HW] += random.uniform(-60, 60, 3).astype(np.float32)
    return pixels_HWC
