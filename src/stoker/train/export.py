"""A model, or the model of a run, as an ONNX file that was compared with it before it was written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stoker import __version__
from stoker.data.decode import decode_crop
from stoker.data.draws import centre_crop
from stoker.data.sets import Files, Resident
from stoker.data.sources import open_dataset
from stoker.errors import BadValue, BrokenImage, CheckpointBroken, DataInvalid, DataMissing, ExportDiffers, ExportFailed, RunBroken
from stoker.files import write_atomically, writing
from stoker.runs.run import Run
from stoker.train import agreement, graph, models
from stoker.train.checkpoint import Checkpoints, load_weights, read
from stoker.train.recipe import Recipe

IMAGES = 512
"""Test images on which an export is compared with its model."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file that agrees with its model."""

    path: Path
    opset: int
    input_kind: str
    """uint8 (N, H, W, C) or float (N, C, H, W from 0 to 1)."""
    max_difference: float
    """The largest between two logits."""
    equal_predictions: int
    """Of the images that were compared; the others are ties."""
    images: int
    size_bytes: int


def export(
    model: nn.Module,
    *,
    path: Path,
    classes: list[str] | tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    pixels_NHWC: np.ndarray,
    input_kind: str = "uint8",
    batch: int | None = None,
    opset: int | None = None,
    run_id: str = "",
) -> Exported:
    """Write `model` (on the CPU) to `path` as ONNX, normalisation inside, after comparing it on `pixels_NHWC` (uint8) by onnxruntime.

    Input `images`: uint8 (N, H, W, C), or float32 (N, C, H, W) from 0 to 1 when `input_kind` is float; output `logits` (N, classes),
    float32. `batch` None leaves N open. The file carries the class names, the version, the run and the kind of input in its metadata.
    Raises ExportDiffers (nothing is written then), MissingExtra, BadValue, DataInvalid, DiskFull and RunFolderUnwritable.
    """
    _check(path, pixels_NHWC, mean, input_kind, batch)
    wrapped = graph.Normalised(model, mean=mean, std=std, input_kind=input_kind)
    height, width, channels = pixels_NHWC.shape[1:]
    proto = graph.translate(wrapped, shape=(height, width, channels), batch=batch, opset=opset)
    said = {"classes": json.dumps(list(classes)), "stoker_version": __version__, "run": run_id, "input": _INPUTS[input_kind]}
    del proto.metadata_props[:]
    for key, value in said.items():
        proto.metadata_props.add(key=key, value=value)
    data = _serialised(proto)
    found = agreement.compare(model, data, pixels_NHWC, mean=mean, std=std, input_kind=input_kind, batch=batch)
    if wrong := found.verdict():
        raise ExportDiffers(
            f"the ONNX graph is not the model: {wrong}", hint="the file was not written; try another --opset, and please report the model"
        )
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise BadValue(f"the folder of {path} cannot be made ({error.strerror})", hint="choose another place with --output") from error
    write_atomically(path, lambda file: file.write(data))
    return Exported(
        path=path,
        opset=graph.opset_of(proto),
        input_kind=input_kind,
        max_difference=found.max_difference,
        equal_predictions=found.equal_predictions,
        images=found.images,
        size_bytes=len(data),
    )


def export_run(
    run: Run,
    *,
    output: Path | None = None,
    input_kind: str = "uint8",
    batch: int | None = None,
    opset: int | None = None,
    checkpoint: Path | None = None,
    data: Path | None = None,
) -> Exported:
    """Export the model of a run from its last checkpoint, or from `checkpoint`, and compare it on the run's own test images.

    Without `output` the file is `model.onnx` in the run folder; `data` says where the images are now, if they moved. Raises what `export`
    raises, RunBroken, CheckpointBroken, CheckpointUnfit, and DataMissing or DataInvalid for the images.
    """
    graph.check_packages()  # before seconds are spent on reading the data
    record = run.record()
    try:
        recipe = Recipe.from_dict(record["configuration"])
        options = record["configuration"].get("model_options") or {}
        classes, source = list(record["data"]["classes"]), record["data"]["path"]
    except (KeyError, TypeError, AttributeError) as error:
        raise RunBroken(
            f"{run.path / 'run.json'} lacks what an export needs ({error})", hint="export with the version of Stoker that made the run"
        ) from error
    model = models.build(recipe.model, classes=len(classes), channels=recipe.channels, image_size=recipe.image_size, options=options)
    load_weights(model, *_checkpoint(run, checkpoint))
    return export(
        model,
        path=output or run.path / "model.onnx",
        classes=classes,
        mean=recipe.mean,
        std=recipe.std,
        pixels_NHWC=_test_pixels(recipe, data or (Path(source) if source else None), max(IMAGES, batch or 0)),
        input_kind=input_kind,
        batch=batch,
        opset=opset,
        run_id=run.id,
    )


_INPUTS = {"uint8": "uint8 NHWC, 0 to 255", "float": "float32 NCHW, 0 to 1"}


def _check(path: Path, pixels_NHWC: np.ndarray, mean: tuple[float, ...], input_kind: str, batch: int | None) -> None:
    """Refuse what cannot become a file before time is spent on it."""
    if input_kind not in graph.INPUT_KINDS:
        raise BadValue(f"there is no input kind {input_kind!r}", hint=f"there are: {', '.join(graph.INPUT_KINDS)}")
    if batch is not None and batch < 1:
        raise BadValue(f"a batch of {batch} images cannot be", hint="--batch dynamic, or a number from 1 on")
    if path.is_dir():
        raise BadValue(f"{path} is a folder", hint=f"write --output {path / 'model.onnx'}")
    if pixels_NHWC.dtype != np.uint8 or pixels_NHWC.ndim != 4 or not len(pixels_NHWC):
        raise DataInvalid(
            f"there are no uint8 images to compare on, but {pixels_NHWC.dtype} {pixels_NHWC.shape}", hint="give the run's data with --data"
        )
    if pixels_NHWC.shape[3] != len(mean):
        raise DataInvalid(f"the images have {pixels_NHWC.shape[3]} channels, the model takes {len(mean)}", hint="give the run's own data with --data")


def _serialised(proto: Any) -> bytes:
    try:
        return bytes(proto.SerializeToString())
    except Exception as error:  # protobuf's own error class has moved between its versions
        raise ExportFailed(f"the graph does not fit into one file ({error})", hint="ONNX files end at 2 GB: export a smaller model") from error


def _checkpoint(run: Run, chosen: Path | None) -> tuple[dict[str, Any], Path]:
    if chosen is not None:
        if not chosen.is_file():
            raise DataMissing(f"there is no checkpoint {chosen}", hint=f"`ls {run.path / 'checkpoints'}` shows those of the run")
        state, path = read(chosen), chosen
    else:
        loaded = Checkpoints(run.path / "checkpoints").load()
        if loaded is None:
            raise CheckpointBroken(f"run {run.id} has no checkpoint yet", hint="wait for its first one, or go on with it: `stoker train --resume`")
        state, path = loaded
    if not isinstance(state.get("model"), dict):
        raise CheckpointBroken(f"{path} holds no model", hint="choose a checkpoint that `stoker train` wrote")
    return state, path


def _test_pixels(recipe: Recipe, data: Path | None, count: int) -> np.ndarray:
    """Return up to `count` test images (N, H, W, C) uint8, spread over the test part, as an evaluation sees them."""
    dataset = open_dataset(recipe.dataset, data, resident=recipe.resident, test_fraction=recipe.test_fraction, seed=recipe.seed, skip_broken=True)
    images, size = dataset.test, recipe.image_size
    # Evenly spread: test parts are often sorted by class.
    chosen = np.linspace(0, images.images - 1, min(count, images.images)).round().astype(np.int64)
    if isinstance(images, Resident):
        if images.pixels_NHWC.shape[1:3] != (size, size):
            shape = "x".join(str(side) for side in images.pixels_NHWC.shape[1:3])
            raise DataInvalid(f"the test images are {shape} pixels, the model takes {size}x{size}", hint="give the run's own data with --data")
        return np.ascontiguousarray(images.pixels_NHWC[chosen])
    return _decoded(images, chosen, size)


def _decoded(images: Files, chosen: np.ndarray, size: int) -> np.ndarray:
    pixels_NHWC = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
    good = 0
    for index in chosen:
        try:
            decode_crop(images.paths[index], pixels_NHWC[good], centre_crop, False)
        except BrokenImage:  # the training said so; any images will do here
            continue
        good += 1
    return pixels_NHWC[:good]
