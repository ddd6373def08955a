"""The final evaluation as files: the confusion matrix and the images that were taken for something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stoker.data.decode import decode
from stoker.data.sets import Files, Resident
from stoker.files import write_atomically
from stoker.train.evaluation import Evaluation

PICTURES = 36
THUMBNAIL_PIXELS = 96


def write_evaluation(path: Path, found: Evaluation, images: Resident | Files, classes: int) -> None:
    """Write `evaluation.npz`: confusion_CC, and the wrong predictions of highest confidence with their pixels."""
    wrong = (found.labels_N != found.predictions_N).nonzero().flatten()
    worst = wrong[found.confidence_N[wrong].argsort(descending=True)][:PICTURES].numpy()
    arrays = {
        "confusion_CC": found.confusion(classes).numpy(),
        "wrong_pixels_NHWC": _pixels(images, worst),
        "wrong_true_N": found.labels_N.numpy()[worst],
        "wrong_predicted_N": found.predictions_N.numpy()[worst],
        "wrong_confidence_N": found.confidence_N.numpy()[worst].astype(np.float32),
    }
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays), durable=False)


def _pixels(images: Resident | Files, indices: np.ndarray) -> np.ndarray:
    if isinstance(images, Resident):
        return np.asarray(images.pixels_NHWC[indices])
    thumbnails = np.zeros((len(indices), THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, 3), np.uint8)
    for position, index in enumerate(indices):
        thumbnails[position] = _thumbnail(decode(images.paths[int(index)]))
    return thumbnails


def _thumbnail(pixels_HWC: np.ndarray) -> np.ndarray:
    """Return the centre square, reduced by taking every so-manieth pixel: enough to see what was mistaken."""
    height, width, _ = pixels_HWC.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    steps = (np.arange(THUMBNAIL_PIXELS) * side) // THUMBNAIL_PIXELS
    return pixels_HWC[top + steps][:, left + steps]
