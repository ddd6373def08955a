"""The handwritten digits that scikit-learn brings along: 1,797 grey images of 8 x 8 pixels, no download.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its test part).
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from stoker.data.labels import checked_labels
from stoker.data.sets import Decoded
from stoker.errors import DataInvalid, MissingExtra


def read_digits() -> Decoded:
    """Return the digits, values 0 to 16 scaled to 0 to 255. Raises MissingExtra without scikit-learn."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            "the digits come with scikit-learn, which is not installed",
            hint="python -m pip install scikit-learn, or give a data set with --data PATH",
        )
    table = _table(Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz")
    if table.ndim != 2 or table.shape[1] != 65 or table.min() < 0 or table[:, :64].max() > 16:
        raise DataInvalid("scikit-learn's digits are not what they were", hint="python -m pip install --force-reinstall scikit-learn")
    pixels_NHWC = ((table[:, :64] * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels_N = checked_labels(table[:, 64], len(table), "scikit-learn's digits", 10)
    digest = hashlib.sha256(pixels_NHWC.tobytes() + labels_N.astype(np.uint8).tobytes())
    classes = tuple(str(digit) for digit in range(10))
    return Decoded(pixels_NHWC=pixels_NHWC, labels_N=labels_N, classes=classes, train_count=None, fingerprint=f"sha256:{digest.hexdigest()}")


def _table(path: Path) -> np.ndarray:
    """Return int64 N x 65, 64 pixels and the digit. Importing scikit-learn takes two seconds, so its file is read without."""
    try:
        text = gzip.decompress(path.read_bytes()).decode()
        return np.array([line.split(",") for line in text.split()], np.float64).astype(np.int64)
    except (OSError, EOFError, ValueError):
        from sklearn.datasets import load_digits  # the file moved: ask scikit-learn itself

        digits = load_digits()
        return np.column_stack([digits.data, digits.target]).astype(np.int64)
