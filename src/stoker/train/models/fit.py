"""Whether a model that is not ours takes its images and answers with logits: asked by one pass over two images, before training."""

from __future__ import annotations

import torch
from torch import nn

from stoker.errors import BadValue, ImageSizeUnfit

PROBED_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 448, 512)
"""Image sides among which a working one is looked for, to recommend it."""


def check_output(name: str, model: nn.Module, *, classes: int, channels: int, image_size: int, made_for: int | None = None) -> None:
    """Raise ImageSizeUnfit when images of this size fail or shrink below one pixel, BadValue when logits are not (N, `classes`).

    `made_for` is the image size to recommend to a model that was built for one size and can be asked about no other.
    """
    reduction = _reduction(model)
    if image_size < reduction:
        # Padded convolutions would go on with nothing but padding; the model would train, on noise for its last stages.
        raise _unfit(name, model, channels, image_size, made_for, f"it shrinks images {reduction} times, which leaves less than one pixel")
    try:
        answer = _forward(model, channels, image_size)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise _unfit(name, model, channels, image_size, made_for, (str(error).strip() or type(error).__name__).splitlines()[0]) from error
    shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if shape != (2, classes):
        raise BadValue(
            f"model '{name}' is no classifier for {classes} classes: it gives {shape} for two images",
            hint="choose another model, or options with which it gives one tensor of logits",
        )


def _forward(model: nn.Module, channels: int, image_size: int) -> object:
    """Return the answer to two images, without touching the model's buffers or the random streams (evaluation mode)."""
    # A real pass, although shapes would do: the first call on torch's meta device imports its decompositions, seconds more than this takes.
    was_training = model.training
    try:
        with torch.no_grad():
            return model.eval()(torch.zeros(2, channels, image_size, image_size))
    finally:
        model.train(was_training)


def _reduction(model: nn.Module) -> int:
    """How many times smaller the last features are than the image, as timm records it; 1 when it does not."""
    try:
        return max((int(feature["reduction"]) for feature in model.feature_info), default=1)  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError):
        return 1


def _unfit(name: str, model: nn.Module, channels: int, image_size: int, made_for: int | None, reason: str) -> ImageSizeUnfit:
    works = made_for or _working_size(model, channels, image_size)
    choose = f"{works} works: `--set image_size={works}`, or choose" if works else "choose"
    return ImageSizeUnfit(
        f"model '{name}' cannot take images of {image_size}x{image_size} pixels with {channels} channels ({reason})",
        hint=f"{choose} a model for images of this size, such as small or resnet18",
    )


def _working_size(model: nn.Module, channels: int, image_size: int) -> int | None:
    """Return the next larger size that the model takes, or the next smaller one."""
    least = _reduction(model)
    candidates = sorted({least, *(size for size in PROBED_SIZES if size > least)})
    larger = [size for size in candidates if size > image_size]
    smaller = [size for size in reversed(candidates) if size < image_size]
    for size in (*larger, *smaller):
        try:
            _forward(model, channels, size)
        except Exception:  # any failure means no: this only looks for a size to recommend
            continue
        return size
    return None
