"""What the model got wrong: the confusion matrix and pictures of wrong examples, from evaluation.npz.

Shapes: C classes, N images, H W height and width. numpy and Pillow are imported where they are needed: a list of runs needs neither.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.errors import RunBroken

if TYPE_CHECKING:
    import numpy as np

MOST_PICTURES = 36
_MOST_PIXELS = 144
"""Longer sides are made smaller: 36 pictures then stay under about 1.5 MB."""


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A test image that the model took for something else."""

    png: bytes
    side: int
    """The longer side before it was made smaller, in pixels."""
    true: int
    predicted: int
    confidence: float
    """The probability that the model gave to its wrong answer; NaN when it was not recorded."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The test set after training, judged."""

    confusion_CC: np.ndarray
    """int64, [true, predicted]."""
    wrong: tuple[Wrong, ...]
    """The most certain mistakes first."""

    @property
    def wrong_count(self) -> int:
        """How many test images are wrong."""
        return int(self.confusion_CC.sum() - self.confusion_CC.trace())

    def most_confused(self, count: int) -> list[tuple[int, int, int, float]]:
        """Return the pairs that are mistaken most: true, predicted, images, share of the true class."""
        import numpy as np

        mistaken = self.confusion_CC.copy()
        np.fill_diagonal(mistaken, 0)
        totals = self.confusion_CC.sum(axis=1)
        best = np.argsort(mistaken, axis=None, kind="stable")[::-1][:count]
        pairs = [(int(flat) // len(mistaken), int(flat) % len(mistaken)) for flat in best]
        counted = [(true, taken, int(mistaken[true, taken])) for true, taken in pairs]
        return [(true, taken, images, images / int(totals[true])) for true, taken, images in counted if images > 0]

    def recalls(self) -> list[float | None]:
        """Return for each class the share of its test images that is right; None for a class without test images."""
        totals = self.confusion_CC.sum(axis=1)
        return [int(self.confusion_CC[index, index]) / int(total) if total > 0 else None for index, total in enumerate(totals)]


def read_evaluation(path: Path) -> Evaluation | None:
    """Return what `path` holds, None when there is no such file. Raises RunBroken when it holds something else."""
    if not path.exists():
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            confusion_CC = np.asarray(arrays["confusion_CC"])
            wrong = _wrong(arrays)
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a torn or foreign file
        raise RunBroken(f"{path} cannot be read ({type(error).__name__}: {error})", hint="evaluate the run again") from error
    if confusion_CC.ndim != 2 or confusion_CC.shape[0] != confusion_CC.shape[1] or confusion_CC.dtype.kind not in "iu":
        raise RunBroken(f"{path}: confusion_CC is {confusion_CC.dtype} {confusion_CC.shape}, not a square of integers", hint="evaluate the run again")
    return Evaluation(confusion_CC=confusion_CC.astype(np.int64), wrong=wrong)


def _wrong(arrays: Any) -> tuple[Wrong, ...]:
    import numpy as np

    if "wrong_pixels_NHWC" not in arrays:
        return ()
    pixels, true, predicted = arrays["wrong_pixels_NHWC"], arrays["wrong_true_N"], arrays["wrong_predicted_N"]
    confidence = arrays["wrong_confidence_N"] if "wrong_confidence_N" in arrays else np.full(len(true), np.nan, dtype=np.float32)
    count = min(len(pixels), len(true), len(predicted), len(confidence))
    surest = sorted(range(count), key=lambda index: -float(np.nan_to_num(confidence[index], nan=-1.0)))
    return tuple(
        Wrong(
            png=_png(pixels[index]),
            side=max(pixels[index].shape[:2]),
            true=int(true[index]),
            predicted=int(predicted[index]),
            confidence=float(confidence[index]),
        )
        for index in surest[:MOST_PICTURES]
    )


def _png(pixels_HWC: np.ndarray) -> bytes:
    """Return uint8 pixels (H W, or H W C with 1, 3 or 4 channels) as a PNG file, at most _MOST_PIXELS wide and high."""
    from PIL import Image

    grey = pixels_HWC.ndim == 2 or pixels_HWC.shape[2] not in (3, 4)
    image = Image.fromarray(pixels_HWC if pixels_HWC.ndim == 2 else pixels_HWC[:, :, 0] if grey else pixels_HWC)
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def data_address(png: bytes) -> str:
    """Return a PNG file as an address that holds it, so that the page fetches nothing."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
