"""A model as an ONNX graph, with the normalisation of its images inside."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from stoker.errors import BadValue, ExportFailed, MissingExtra

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT_KINDS = ("uint8", "float")
LOWEST_OPSET, HIGHEST_OPSET = 9, 30


class Normalised(nn.Module):
    """A model in front of which its images are normalised.

    `uint8` takes images (N, H, W, C) with values 0 to 255, as files are decoded; `float` takes float32 images (N, C, H, W) from 0 to 1.
    """

    def __init__(self, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...], input_kind: str) -> None:
        super().__init__()
        self.model = model
        self.input_kind = input_kind
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) in float32."""
        if self.input_kind == "uint8":
            images = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        return self.model((images - self.mean) / self.std)


def check_packages() -> None:
    """Raise MissingExtra when a package is not installed that an export needs."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingExtra(f"an ONNX export needs {', '.join(missing)}", hint=f"pip install {' '.join(missing)}")


def translate(model: Normalised, *, shape: tuple[int, int, int], batch: int | None, opset: int | None) -> Any:
    """Return `model` as an onnx.ModelProto that has passed onnx's checker; input `images`, output `logits`.

    `shape` is one image's (H, W, C); `batch` None leaves the number of images open; `opset` None takes the exporter's own. Raises
    MissingExtra, BadValue for an opset that neither of torch's exporters can give, and ExportFailed for a model that cannot be exported.
    """
    check_packages()
    import onnx  # an optional extra

    if opset is not None and not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise BadValue(f"there is no opset {opset}", hint=f"leave --opset out, or choose one of {LOWEST_OPSET} to 23")
    height, width, channels = shape
    # Two images where the number stays open: from one, an exporter may conclude that there is always one.
    if model.input_kind == "uint8":
        example = torch.zeros(batch or 2, height, width, channels, dtype=torch.uint8)
    else:
        example = torch.zeros(batch or 2, channels, height, width)
    model.eval()
    refusals: list[str] = []
    for exporter in (_by_program, _by_tracing):
        try:
            with _silence():
                proto = exporter(model, example, batch is None, opset)
                onnx.checker.check_model(proto, full_check=True)
        except Exception as error:  # exporters raise dozens of kinds; the next one may do it
            refusals.append(f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}")
            continue
        if opset is None or opset_of(proto) == opset:
            return proto
        refusals.append(f"it gave opset {opset_of(proto)}")
    if opset is not None:
        raise BadValue(
            f"torch {torch.__version__} cannot export this model with opset {opset} ({'; '.join(refusals)})",
            hint="leave --opset out, or try 17 or 18",
        )
    raise ExportFailed(f"torch {torch.__version__} cannot export this model ({'; '.join(refusals)})", hint="try a newer torch, or another model")


def opset_of(proto: Any) -> int:
    """Return the version of ONNX's own operators that the graph uses."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _by_program(model: nn.Module, example: torch.Tensor, dynamic: bool, opset: int | None) -> Any:
    """torch.export's graph, translated: the exporter that torch develops."""
    settings: dict[str, Any] = {"dynamic_shapes": {"images": {0: torch.export.Dim("batch", min=1, max=1 << 20)}}} if dynamic else {}
    if opset is not None:
        settings["opset_version"] = opset
    program = torch.onnx.export(
        model, (example,), None, dynamo=True, input_names=["images"], output_names=["logits"], external_data=False, verbose=False, **settings
    )
    assert program is not None
    return program.model_proto


def _by_tracing(model: nn.Module, example: torch.Tensor, dynamic: bool, opset: int | None) -> Any:
    """The older exporter, for torch 2.5 and for opsets below 18. It is on its way out of torch: absent, it raises like any refusal."""
    buffer = io.BytesIO()
    settings: dict[str, Any] = {"dynamic_axes": {"images": {0: "batch"}, "logits": {0: "batch"}}} if dynamic else {}
    if opset is not None:
        settings["opset_version"] = opset
    torch.onnx.export(model, (example,), buffer, dynamo=False, input_names=["images"], output_names=["logits"], **settings)  # type: ignore[arg-type]
    return _parsed(buffer.getvalue())


def _parsed(data: bytes) -> Any:
    import onnx  # an optional extra

    return onnx.load_model_from_string(data)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep to ourselves what exporters print and log: it is not about the person's model."""
    talk = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
