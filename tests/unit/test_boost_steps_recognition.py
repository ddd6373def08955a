"""Which transforms are taken apart, which run as they are, and whether a change of the user's object is seen."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps import look_of, recognise_transform
from stoker.boost.replay.steps.choices import Choice
from stoker.boost.replay.steps.colours import Convert
from stoker.boost.replay.steps.geometry import CenterCrop, Crop, Flip, Pad
from stoker.boost.replay.steps.unknown import Unknown
from stoker.boost.replay.steps.values import Normalize, ToDtype, ToImage, ToTensor
from stoker.boost.replay.unfit import Unfit

transforms = pytest.importorskip("torchvision.transforms")
v2 = pytest.importorskip("torchvision.transforms.v2")

RGB = Look(form="pil", height=10, width=12, channels=3, dtype=torch.uint8)


def one(transform: Any) -> Any:
    (step,) = recognise_transform(transform)
    return step


def test_nothing_is_no_step() -> None:
    assert recognise_transform(None) == []
    assert recognise_transform(transforms.Compose([])) == []
    assert recognise_transform(torch.nn.Sequential()) == []


def test_containers_are_flattened() -> None:
    inner = torch.nn.Sequential(transforms.RandomCrop(8), v2.Compose([v2.RandomHorizontalFlip(0.3)]))
    steps = recognise_transform(transforms.Compose([inner, transforms.Compose([transforms.ToTensor()])]))
    assert [type(step) for step in steps] == [Crop, Flip, ToTensor]
    assert [step.family for step in steps] == ["v1", "v2", "v1"]  # type: ignore[attr-defined]
    assert steps.named() == "RandomCrop(8), RandomHorizontalFlip(0.3), ToTensor()"
    assert steps.draws
    assert not steps.serial


@pytest.mark.parametrize(("padding", "sides"), [(4, (4, 4, 4, 4)), ([4], (4, 4, 4, 4)), ((1, 2), (1, 2, 1, 2)), ([1, 2, 3, 4], (1, 2, 3, 4))])
@pytest.mark.parametrize("T", [transforms, v2])
def test_paddings(T: Any, padding: Any, sides: Any) -> None:
    crop, pad = one(T.RandomCrop((6, 7), padding=padding, padding_mode="edge")), one(T.Pad(padding, fill=3))
    assert isinstance(crop, Crop)
    assert isinstance(pad, Pad)
    assert (crop.height, crop.width, crop.padding, crop.padding_mode) == (6, 7, sides, "edge")
    assert (pad.padding, pad.fill_of(RGB)) == (sides, 3)
    assert crop.pads(10, 12) == [sides]


def test_padding_if_needed_is_on_both_sides_in_turn_or_at_once() -> None:
    first, second = (one(T.RandomCrop(14, padding=1, pad_if_needed=True)) for T in (transforms, v2))
    assert first.pads(8, 10) == [(1, 1, 1, 1), (2, 0, 2, 0), (0, 4, 0, 4)]
    assert second.pads(8, 10) == [(3, 5, 3, 5)]
    assert (first.words(RGB), second.words(RGB)) == (2, 1)


@pytest.mark.parametrize(("T", "words"), [(transforms, 2), (v2, 1)])
def test_a_crop_of_full_height_takes_as_many_words_as_the_family_draws(T: Any, words: int) -> None:
    assert one(T.RandomCrop((10, 8))).words(RGB) == words
    assert one(T.RandomCrop((10, 12))).words(RGB) == 0


def test_a_crop_that_is_too_large_is_left_to_the_user_s_transform() -> None:
    with pytest.raises(Unfit, match="larger than an image of 10 x 12"):
        one(transforms.RandomCrop(20)).words(RGB)


def test_fields() -> None:
    assert isinstance(one(transforms.CenterCrop(5)), CenterCrop)
    normalize = one(transforms.Normalize([0.5, 0.4, 0.3], [1, 2, 3]))
    assert isinstance(normalize, Normalize)
    assert (normalize.mean, normalize.std, normalize.inplace) == ((0.5, 0.4, 0.3), (1.0, 2.0, 3.0), False)
    image, dtype = recognise_transform(v2.Compose([v2.ToImage(), v2.ToDtype({torch.Tensor: torch.float16, "others": torch.float32}, scale=True)]))
    assert isinstance(image, ToImage)
    assert isinstance(dtype, ToDtype)
    assert (dtype.dtypes, dtype.scale) == ({"tensor": torch.float16, "image": torch.float32}, True)


class Louder(transforms.ColorJitter):
    """A class of the script's own: nobody has read it."""


class Half(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image / 2


seen: list[Any] = []


def remember(image: Any) -> Any:
    seen.append(image)
    return image


def noisy(image: torch.Tensor) -> torch.Tensor:
    return image + torch.randn_like(image)


def test_code_of_the_user_s_own() -> None:
    half = one(Half())
    assert isinstance(half, Unknown)
    assert (half.draws, half.serial, half.reason) == (False, False, None)
    assert half.name.startswith("Half, test_boost_steps_recognition.py:")
    noise = one(transforms.Lambda(noisy))
    assert (noise.draws, noise.serial, noise.reason) == (True, True, None)
    assert noise.name.startswith("Lambda(noisy, test_boost_steps_recognition.py:")
    assert one(remember).serial
    assert one(remember).reason is not None


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: Any) -> Any:
        self.calls += 1
        return image


def test_code_that_changes_itself_stays_what_it_was() -> None:
    steps = recognise_transform(Counter())
    assert steps[0].apply(1, None) == 1
    assert steps.serial
    assert steps.current()


def test_a_subclass_is_not_taken_apart() -> None:
    assert isinstance(one(Louder(0.1)), Unknown)


def test_a_transform_that_nobody_took_apart_runs_in_order() -> None:
    step = one(transforms.AugMix())
    assert isinstance(step, Unknown)
    assert (step.serial, step.reason) == (True, None)


def test_the_transforms_of_pretrained_weights_draw_nothing() -> None:
    models = pytest.importorskip("torchvision.models")
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    step, image = one(preset), Image.new("RGB", (300, 280), (1, 2, 3))
    assert isinstance(step, Unknown)
    assert (step.draws, step.serial, step.reason) == (False, False, None)
    assert torch.equal(step.apply(image, None), preset(image))


def test_user_code_in_front_of_a_crop_runs_in_order() -> None:
    assert [step.serial for step in recognise_transform(transforms.Compose([Half(), transforms.RandomHorizontalFlip()]))] == [False, False]
    assert [step.serial for step in recognise_transform(transforms.Compose([Half(), transforms.RandomCrop(3)]))] == [True, False]


@pytest.mark.parametrize(
    "convert", [lambda image: image.convert("RGB"), transforms.Lambda(lambda x: x.convert("RGB")), v2.Lambda(lambda x: x.convert("RGB"))]
)
def test_convert_is_known(convert: Any) -> None:
    step, grey = one(convert), Image.new("L", (12, 10), 7)
    assert isinstance(step, Convert)
    assert step.after(Look(form="pil", height=10, width=12, channels=1, dtype=torch.uint8)) == RGB
    assert step.apply(grey, None).tobytes() == grey.convert("RGB").tobytes()


@pytest.mark.parametrize(
    "other",
    [
        lambda image: image.convert("L"),
        lambda image, mode=3: image.convert("RGB"),
        lambda *image: image.convert("RGB"),
        v2.Lambda(lambda x: x.convert("RGB"), torch.Tensor),
        lambda image: image.copy().convert("RGB"),
    ],
)
def test_what_only_resembles_convert_is_not(other: Any) -> None:
    assert isinstance(one(other), Unknown)


def test_choices() -> None:
    step = one(transforms.RandomApply([transforms.RandomCrop(4), transforms.RandomChoice([transforms.ToTensor(), transforms.PILToTensor()])], p=0.3))
    assert isinstance(step, Choice)
    assert (step.kind, step.p, len(step.chains), len(step.inner())) == ("apply", 0.3, 1, 2)
    serial = one(transforms.RandomApply([transforms.Compose([remember])]))
    assert isinstance(serial, Unknown)
    assert serial.reason is not None


def test_changes_are_seen() -> None:
    flip, crop, normalize = transforms.RandomHorizontalFlip(), transforms.RandomCrop(4), transforms.Normalize([0.5], [0.5])
    apply = transforms.RandomApply([transforms.Compose([transforms.RandomVerticalFlip()])])
    chain = transforms.Compose([flip, transforms.Compose([crop]), apply, transforms.ToTensor(), normalize, Half()])
    steps = recognise_transform(chain)
    assert steps.current()

    def change(do: Any, undo: Any) -> None:
        do()
        assert not steps.current()
        undo()
        assert steps.current()

    change(lambda: setattr(flip, "p", 0.9), lambda: setattr(flip, "p", 0.5))
    change(lambda: setattr(crop, "size", (5, 5)), lambda: setattr(crop, "size", (4, 4)))
    change(lambda: normalize.mean.append(0.1), lambda: normalize.mean.pop())
    change(lambda: setattr(apply, "p", 0.1), lambda: setattr(apply, "p", 0.5))
    change(lambda: apply.transforms[0].transforms.append(flip), lambda: apply.transforms[0].transforms.pop())
    change(lambda: chain.transforms[1].transforms.append(flip), lambda: chain.transforms[1].transforms.pop())
    change(lambda: chain.transforms.reverse(), lambda: chain.transforms.reverse())
    change(lambda: setattr(flip, "forward", lambda image: image), lambda: delattr(flip, "forward"))
    handle = flip.register_forward_hook(lambda *_: None)
    assert not steps.current()
    handle.remove()
    assert steps.current()


factor = 2.0


def scaled(image: torch.Tensor) -> torch.Tensor:
    return image * factor


def test_what_user_code_reads_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = recognise_transform(transforms.Lambda(scaled))
    assert steps.current()
    monkeypatch.setitem(globals(), "factor", 3.0)
    assert not steps.current()


def test_a_replaced_function_of_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = recognise_transform(transforms.RandomCrop(4))
    with monkeypatch.context() as patch:
        patch.setattr(transforms.RandomCrop, "get_params", staticmethod(lambda image, size: (0, 0, *size)))
        assert not steps.current()
        assert "is not one that is known" in str(one(transforms.RandomCrop(4)).reason)
    assert steps.current()


def test_a_changed_object_is_not_taken_apart() -> None:
    flip = transforms.RandomHorizontalFlip()
    flip.forward = lambda image: image
    assert isinstance(one(flip), Unknown)
    hooked = transforms.RandomHorizontalFlip()
    hooked.register_forward_hook(lambda *_: None)
    assert "hooks" in str(one(hooked).reason)
    own = Half()
    own.register_forward_pre_hook(lambda *_: None)
    assert "hooks" in str(one(transforms.Lambda(own)).reason)


def test_steps_keep_the_parameters_they_were_made_with() -> None:
    jitter = v2.RandomErasing(1.0, value=[1.0])
    step, image = one(jitter), torch.zeros(1, 9, 9)
    jitter.value[0] = 2.0
    jitter.inplace = True
    result = step.apply(image, (0, 0, 3, 3, torch.ones(1, 1, 1)))
    assert image.sum() == 0
    assert result.sum() == 9
    assert not step.current()


def test_another_default_dtype_is_unfit() -> None:
    steps = recognise_transform(transforms.ToTensor())
    torch.set_default_dtype(torch.float64)
    try:
        assert not steps.current()
        with pytest.raises(Unfit, match=r"default dtype is torch\.float64"):
            recognise_transform(transforms.ToTensor())
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_default_device_is_unfit() -> None:
    steps = recognise_transform(transforms.ToTensor())
    with torch.device("meta"):
        assert not steps.current()
        with pytest.raises(Unfit, match="default device is meta"):
            recognise_transform(transforms.ToTensor())


def test_what_cannot_be_called_is_unfit() -> None:
    with pytest.raises(Unfit, match="cannot be called"):
        recognise_transform(transforms.Compose([3]))


def test_looks() -> None:
    assert look_of(Image.new("L", (4, 3))) == Look(form="pil", height=3, width=4, channels=1, dtype=torch.uint8)
    assert look_of(Image.new("I;16", (4, 3))) is None
    assert look_of(torch.zeros(2, 3, 4)) == Look(form="tensor", height=3, width=4, channels=2, dtype=torch.float32)
    assert look_of(np.zeros((3, 4))) == Look(form="array", height=3, width=4, channels=1, dtype=torch.float64)
    assert look_of(torch.zeros(3)) is None
    assert look_of("image") is None


def test_serial_user_code_runs_itself() -> None:
    step = one(lambda image: image + random.random())
    random.seed(3)
    expected = 1 + random.random()
    random.seed(3)
    assert step.apply(1, None) == expected
