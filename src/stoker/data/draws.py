"""Random numbers of the data: functions of (seed, epoch, dataset index) alone, so that any batch can be made again without those before it.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is keyed by seed, epoch and purpose, and its counter is the dataset
index. Only its raw words are used: numpy keeps those fixed across versions, but not what `permutation` or `integers` make of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stoker.errors import BadValue, nearest

FLIPS = ("none", "random", "alternating")
"""`alternating`: a pseudo-random bit an image decides the first epoch, then every epoch flips it over (Jordan, airbench, 2024)."""
LARGEST_PADDING = 127
Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels of the whole image."""

_ORDER, _CROP, _FLIP_START, _RESIZED_CROP = range(4)
_WORDS_A_COUNTER = 4
_TRIES = 10
_RESIZED_CROP_WORDS = 2 * _TRIES + 4


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The crops and flips of one epoch, one entry a dataset index (not a position in the order)."""

    dy_N: np.ndarray
    """uint8: first row of the crop in the padded image, 0..2*padding."""
    dx_N: np.ndarray
    """uint8: first column of the crop in the padded image, 0..2*padding."""
    flip_N: np.ndarray
    """uint8, 0 or 1: whether the crop is mirrored left to right."""


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """The random numbers of one image's random resized crop; they become a box when the size of the image is known."""

    uniform: np.ndarray
    """float64 in [0, 1): a scale and a ratio for each of ten tries, then the place of the box (down, right)."""
    scale: tuple[float, float] = (0.08, 1.0)
    """The least and the largest part of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """The least and the largest width / height."""

    def box(self, width: int, height: int) -> Box:
        """Return the box for an image of `width` times `height` pixels.

        The algorithm of torchvision's `RandomResizedCrop.get_params`: ten tries, then the largest centred box of an allowed ratio.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        down, right = float(self.uniform[2 * _TRIES]), float(self.uniform[2 * _TRIES + 1])
        for k in range(_TRIES):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * float(self.uniform[2 * k]))
            aspect = math.exp(low + (high - low) * float(self.uniform[2 * k + 1]))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(right * (width - w + 1)), int(down * (height - h + 1)), w, h
        return _largest_centred(width, height, self.ratio)


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Return the order of an epoch: a permutation of 0..n-1, int64."""
    bits = max(n - 1, 1).bit_length()
    mask = np.uint64((1 << bits) - 1)
    # With the index in its low bits every key is different: any sort, stable or not, on any processor gives the same order.
    keys = (_words(seed, epoch, _ORDER, n) & ~mask) | np.arange(n, dtype=np.uint64)
    keys.sort()
    return (keys & mask).astype(np.int64)


def augmentation(seed: int, epoch: int, n: int, padding: int, flip: str = "random") -> Draws:
    """Return crop offsets and flips of an epoch for dataset indices 0..n-1; `flip` is one of FLIPS.

    Raises BadValue for an unknown flip and for a padding outside 0..LARGEST_PADDING.
    """
    check(padding, flip)
    words = _words(seed, epoch, _CROP, n)
    places = np.uint64(2 * padding + 1)
    low24, shift24 = np.uint64(0xFFFFFF), np.uint64(24)
    dy = ((words & low24) * places) >> shift24
    dx = (((words >> shift24) & low24) * places) >> shift24
    return Draws(dy_N=dy.astype(np.uint8), dx_N=dx.astype(np.uint8), flip_N=_flips(words, seed, epoch, n, flip))


def resized_crop(seed: int, epoch: int, index: int) -> ResizedCrop:
    """Return the numbers of the random resized crop of dataset index `index` in `epoch`."""
    philox = np.random.Philox(key=_key(seed, epoch, _RESIZED_CROP), counter=index * (_RESIZED_CROP_WORDS // _WORDS_A_COUNTER))
    return ResizedCrop(uniform=(philox.random_raw(_RESIZED_CROP_WORDS) >> np.uint64(11)) * 2.0**-53)


def centre_crop(width: int, height: int, share: float = 224 / 256) -> Box:
    """Return the centred square whose side is `share` of the image's shorter side.

    It is what remains of the image when its shorter side is resized to 256 and the centre of 224 is cut out, the usual way to evaluate.
    """
    side = max(1, round(min(width, height) * share))
    return (width - side) // 2, (height - side) // 2, side, side


def check(padding: int, flip: str) -> None:
    """Raise BadValue unless `padding` and `flip` are possible."""
    if flip not in FLIPS:
        near = nearest(flip, FLIPS)
        raise BadValue(f"flip={flip!r} is unknown", hint=f"did you mean {near!r}?" if near else f"choose one of {', '.join(FLIPS)}")
    if not 0 <= padding <= LARGEST_PADDING:
        raise BadValue(f"padding={padding} lies outside 0..{LARGEST_PADDING}", hint="CIFAR-10 is usually trained with 2 or 4")


def _flips(words: np.ndarray, seed: int, epoch: int, n: int, flip: str) -> np.ndarray:
    if flip == "none":
        return np.zeros(n, dtype=np.uint8)
    if flip == "random":
        return ((words >> np.uint64(48)) & np.uint64(1)).astype(np.uint8)
    first = (_words(seed, 0, _FLIP_START, n) >> np.uint64(63)).astype(np.uint8)
    return first ^ np.uint8(epoch & 1)


def _words(seed: int, epoch: int, purpose: int, n: int) -> np.ndarray:
    """Return n raw words, uint64; word i depends on (seed, epoch, purpose, i) alone."""
    return np.random.Philox(key=_key(seed, epoch, purpose)).random_raw(n)


def _key(seed: int, epoch: int, purpose: int) -> np.ndarray:
    if not 0 <= seed < 1 << 63:
        raise BadValue(f"seed={seed} lies outside 0..2**63-1", hint="choose a seed that is not negative, such as 0")
    if not 0 <= epoch < 1 << 56:
        raise BadValue(f"epoch={epoch} is negative or far too large", hint="epochs are counted from 0")
    return np.array([seed, epoch << 8 | purpose], dtype=np.uint64)


def _largest_centred(width: int, height: int, ratio: tuple[float, float]) -> Box:
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (width - w) // 2, (height - h) // 2, w, h
