"""Whether an ONNX graph gives the numbers of the model it was made from, asked of onnxruntime on real images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stoker.errors import BadValue, ExportDiffers

TOLERANCE = 1e-3
"""The largest difference between two logits that passes."""
TIE = 1e-4
"""Two classes whose logits are nearer than this may change places."""
BATCHES = (1, 7, 64)
"""Numbers of images asked for at once, in turn, where the graph leaves the number open: the first proves that one is enough."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a comparison found."""

    images: int
    max_difference: float
    """Between two logits; NaN when either side has one."""
    equal_predictions: int
    """Images to which both give the same class."""
    ties: int
    """Images to which they give different classes, whose logits the model itself holds equal."""

    def verdict(self) -> str | None:
        """Return what is wrong, None when nothing is."""
        if not self.max_difference <= TOLERANCE:  # also when it is NaN
            return f"logits differ by up to {self.max_difference:.3g}, more than {TOLERANCE:g}"
        different = self.images - self.equal_predictions - self.ties
        return f"{different} of {self.images} images are given another class" if different else None


def compare(
    model: nn.Module, graph: bytes, pixels_NHWC: np.ndarray, *, mean: tuple[float, ...], std: tuple[float, ...], input_kind: str, batch: int | None
) -> Agreement:
    """Run both on `pixels_NHWC` (uint8). The model's images are normalised here, apart from the code that went into the graph.

    Raises ExportDiffers when onnxruntime cannot run the graph, BadValue when there are fewer images than the fixed `batch`.
    """
    session = _session(graph)
    expected, found = [], []
    scale = np.asarray(std, dtype=np.float64) * 255
    shift = np.asarray(mean, dtype=np.float64) * 255
    model.eval()
    for chunk_NHWC in _chunks(pixels_NHWC, batch):
        normalised = ((chunk_NHWC.astype(np.float64) - shift) / scale).astype(np.float32).transpose(0, 3, 1, 2)
        with torch.no_grad():
            expected.append(model(torch.from_numpy(np.ascontiguousarray(normalised))).float().numpy())
        try:
            found.append(session.run(["logits"], {"images": as_input(chunk_NHWC, input_kind)})[0])
        except Exception as error:  # onnxruntime's own exceptions share no base class but this
            raise _unrunnable(f"for {len(chunk_NHWC)} images at once", error) from error
    return judge(np.concatenate(expected), np.concatenate(found))


def judge(expected_NK: np.ndarray, found_NK: np.ndarray) -> Agreement:
    """Compare logits (N, K). Raises ExportDiffers when their shapes differ."""
    if expected_NK.shape != found_NK.shape:
        raise ExportDiffers(f"the graph gives logits of shape {found_NK.shape} instead of {expected_NK.shape}", hint=_HINT)
    expected_N, found_N = expected_NK.argmax(1), found_NK.argmax(1)
    rows = np.arange(len(expected_NK))
    margin_N = np.abs(expected_NK[rows, expected_N] - expected_NK[rows, found_N])
    return Agreement(
        images=len(expected_NK),
        max_difference=float(np.abs(expected_NK - found_NK).max(initial=0)),
        equal_predictions=int((expected_N == found_N).sum()),
        ties=int(((expected_N != found_N) & (margin_N <= TIE)).sum()),
    )


def as_input(pixels_NHWC: np.ndarray, input_kind: str) -> np.ndarray:
    """Return the images as a graph of this kind takes them."""
    if input_kind == "uint8":
        return np.ascontiguousarray(pixels_NHWC)
    return np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


_HINT = "the file was not written; try another --opset or another torch, and please report the model"


def _session(graph: bytes):  # type: ignore[no-untyped-def]
    import onnxruntime  # an optional extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its warnings are about its own optimisations
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise _unrunnable("at all", error) from error


def _unrunnable(when: str, error: Exception) -> ExportDiffers:
    return ExportDiffers(f"onnxruntime cannot run the graph {when} ({str(error).strip().splitlines()[0]})", hint=_HINT)


def _chunks(pixels_NHWC: np.ndarray, batch: int | None) -> Iterator[np.ndarray]:
    if batch is not None:
        if len(pixels_NHWC) < batch:
            raise BadValue(f"{len(pixels_NHWC)} test images are too few to check a fixed batch of {batch}", hint="export with --batch dynamic")
        for start in range(0, len(pixels_NHWC) - batch + 1, batch):
            yield pixels_NHWC[start : start + batch]
        return
    start, turn = 0, 0
    while start < len(pixels_NHWC):
        size = BATCHES[turn] if turn < len(BATCHES) else 128
        yield pixels_NHWC[start : start + size]
        start, turn = start + size, turn + 1
