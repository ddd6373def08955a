"""Steps give the very bits of torchvision's transforms, and leave every random generator in the very state."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stoker.boost.replay.steps import Steps, look_of, recognise_transform
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

transforms = pytest.importorskip("torchvision.transforms")
v2 = pytest.importorskip("torchvision.transforms.v2")

FAMILIES = {"v1": transforms, "v2": v2}
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
MODES = st.sampled_from(["constant", "edge", "reflect", "symmetric"])
P = st.sampled_from([0.0, 0.3, 0.5, 1.0])


def picture(seed: int, height: int, width: int, mode: str) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8), mode)


def seeded(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), name, keys.tobytes(), tuple(rest)


def bits(image: Any) -> Any:
    """Everything about a result that the user could see."""
    if isinstance(image, torch.Tensor):
        plain = image.as_subclass(torch.Tensor)
        return type(image), image.dtype, tuple(image.shape), image.stride(), plain.contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(image, Image.Image):
        return Image.Image, image.mode, image.size, image.tobytes()
    return type(image), repr(image)


def replay(steps: Steps, stream: Stream, image: Any) -> Any:
    """Draw everything first, then apply, as the engines do; looks are compared with what comes out."""
    look, plan = look_of(image), []
    assert not steps.serial
    for step in steps:
        before, words = look, None if look is None or not hasattr(step, "family") else step.words(look)
        drawn, look = step.draw(stream, look)
        plan.append((step, drawn, look))
        if words == 0 and before is not None and step.draws:
            assert drawn == (0, 0)
    for step, drawn, after in plan:
        image = step.apply(image, drawn)
        if after is not None:
            assert look_of(image) == after, step.name
    return image


def check(transform: Any, image: Any, seed: int) -> None:
    """Compare the user's transform under seeded global generators with the steps from a stream in the same state."""
    again = image.clone() if isinstance(image, torch.Tensor) else image
    steps = recognise_transform(transform)
    seeded(seed)
    try:
        expected = bits(transform(image))
    except Exception:
        seeded(seed)
        with pytest.raises(Exception):  # noqa: B017 -- Unfit where the draw sees it, the library's own where the pixels do
            replay(steps, Stream.of_process(), again)
        return
    after = states()
    seeded(seed)
    assert bits(replay(steps, Stream.of_process(), again)) == expected, steps.named()
    assert states() == after, steps.named()
    assert steps.current()


@st.composite
def paddings(draw: Any) -> Any:
    number = st.integers(0, 5)
    return draw(st.one_of(number, st.tuples(number, number), st.lists(number, min_size=4, max_size=4)))


@st.composite
def crops(draw: Any, family: str) -> Any:
    size = draw(st.one_of(st.integers(6, 20), st.tuples(st.integers(6, 20), st.integers(6, 20))))
    fill = draw(st.sampled_from([0, 7, 3.0]))
    padding = draw(st.one_of(st.none(), paddings()))
    return FAMILIES[family].RandomCrop(size, padding=padding, pad_if_needed=draw(st.booleans()), fill=fill, padding_mode=draw(MODES))


@st.composite
def for_any(draw: Any, family: str, depth: int = 0) -> Any:
    """A transform for PIL images and tensors alike."""
    T = FAMILIES[family]
    kinds = ["crop", "flip", "vflip", "pad", "center", "resize", "rrc", "rotation", "jitter", "grey", "sometimes", "blur", "affine", "gray", "policy"]
    kind = draw(st.sampled_from(kinds + (["apply", "choice", "order", "compose"] if depth < 2 else [])))
    size = draw(st.integers(8, 20))
    if kind == "crop":
        return draw(crops(family))
    if kind in ("flip", "vflip"):
        return (T.RandomHorizontalFlip if kind == "flip" else T.RandomVerticalFlip)(draw(P))
    if kind == "pad":
        return T.Pad(draw(paddings()), fill=draw(st.sampled_from([0, 9])), padding_mode=draw(MODES))
    if kind == "center":
        return T.CenterCrop(draw(st.one_of(st.integers(6, 24), st.tuples(st.integers(6, 24), st.integers(6, 24)))))
    if kind == "resize":
        mode = draw(st.sampled_from([T.InterpolationMode.NEAREST, T.InterpolationMode.BILINEAR, T.InterpolationMode.BICUBIC]))
        longest = draw(st.sampled_from([None, 40]))
        chosen = draw(st.sampled_from([size, [size], (size, size + 3)]))
        return T.Resize(chosen, mode, None if isinstance(chosen, tuple) else longest, antialias=draw(st.sampled_from([True, False])))
    if kind == "rrc":
        ratio = draw(st.sampled_from([(3 / 4, 4 / 3), (1, 1), (4.0, 5.0)]))
        return T.RandomResizedCrop(size, scale=draw(st.sampled_from([(0.08, 1.0), (0.9, 1.0)])), ratio=ratio)
    if kind == "rotation":
        center, fill = draw(st.sampled_from([None, [3, 4]])), draw(st.sampled_from([0, 5]))
        return T.RandomRotation(draw(st.sampled_from([15, (0, 90)])), center=center, fill=fill)
    if kind == "affine":
        shear = draw(st.sampled_from([None, 5, (1.0, 2.0), (1.0, 2.0, 3.0, 4.0)]))
        return T.RandomAffine(10, translate=draw(st.sampled_from([None, (0.1, 0.2)])), scale=draw(st.sampled_from([None, (0.8, 1.2)])), shear=shear)
    if kind == "jitter":
        return T.ColorJitter(*(draw(st.sampled_from([0, 0.2])) for _ in range(3)), hue=draw(st.sampled_from([0, 0.1])))
    if kind == "grey":
        return T.Grayscale(draw(st.sampled_from([1, 3])))
    if kind == "gray":
        return T.RandomGrayscale(draw(P))
    if kind == "policy" and family == "v1":
        policies = list(T.AutoAugmentPolicy)
        fill = draw(st.sampled_from([None, 7]))
        return draw(
            st.sampled_from([T.RandAugment(fill=fill), T.TrivialAugmentWide(fill=fill), *(T.AutoAugment(policy, fill=fill) for policy in policies)])
        )
    if kind in ("blur", "policy"):
        return T.GaussianBlur(3)
    if kind == "sometimes":
        p = draw(P)
        return draw(st.sampled_from([T.RandomInvert(p), T.RandomAutocontrast(p), T.RandomAdjustSharpness(2, p)]))
    inner = [draw(for_any(family, depth + 1)) for _ in range(draw(st.integers(1, 3)))]
    if kind == "apply":
        return T.RandomApply(inner, p=draw(P))
    if kind == "choice":
        return T.RandomChoice(inner, p=draw(st.sampled_from([None, [1.0 + place for place in range(len(inner))]])))
    return T.RandomOrder(inner) if kind == "order" else T.Compose(inner)


@st.composite
def to_tensor(draw: Any, family: str) -> list[Any]:
    T = FAMILIES[family]
    if family == "v1":
        return draw(st.sampled_from([[T.ToTensor()], [T.PILToTensor(), T.ConvertImageDtype(torch.float32)], [T.PILToTensor()]]))
    ways = [
        [T.ToImage(), T.ToDtype(torch.float32, scale=True)],
        [T.ToImage(), T.ToDtype({v2.ToImage: torch.float16, "others": torch.float64}, scale=False)],
        [T.PILToTensor(), T.ConvertImageDtype(torch.float32)],
        [T.ToImage(), T.ToDtype(torch.float32, scale=True), T.ToPureTensor()],
        [transforms.ToTensor()],
    ]
    return draw(st.sampled_from(ways))


@st.composite
def pipelines(draw: Any) -> Any:
    family = draw(st.sampled_from(["v1", "v2"]))
    T = FAMILIES[family]
    first = draw(st.lists(for_any(family), max_size=3))
    tail = [T.Normalize((0.5,), (0.25,), inplace=draw(st.booleans()))] if draw(st.booleans()) else []
    value = draw(st.sampled_from([0, 0.5, "random", (0.1, 0.2, 0.3)]))
    if draw(st.booleans()):
        tail.append(T.RandomErasing(draw(P), ratio=draw(st.sampled_from([(0.3, 3.3), (30.0, 40.0)])), value=value, inplace=draw(st.booleans())))
    late = draw(st.lists(for_any(family), max_size=1))
    return T.Compose([*first, *draw(to_tensor(family)), *late, *tail])


@MANY
@given(pipelines(), st.integers(0, 2**40), st.integers(8, 30), st.integers(8, 30), st.sampled_from(["L", "RGB"]))
def test_pipelines_on_pictures(transform: Any, seed: int, height: int, width: int, mode: str) -> None:
    check(transform, picture(seed % 1000, height, width, mode), seed)


@MANY
@given(st.data(), st.sampled_from(["v1", "v2"]), st.sampled_from([torch.uint8, torch.float32]), st.integers(0, 2**40), st.sampled_from([1, 3]))
def test_transforms_on_tensors(data: Any, family: str, dtype: torch.dtype, seed: int, channels: int) -> None:
    image = torch.from_numpy(np.random.RandomState(seed % 1000).randint(0, 256, (channels, 21, 17), dtype=np.uint8))
    check(data.draw(for_any(family)), image if dtype == torch.uint8 else image.float() / 255, seed)


@MANY
@given(st.data(), st.sampled_from(["v1", "v2"]), st.integers(0, 2**40), st.integers(8, 24), st.integers(8, 24))
def test_raw_words_give_the_same_draws(data: Any, family: str, seed: int, height: int, width: int) -> None:
    T = FAMILIES[family]
    transform = data.draw(st.one_of(crops(family), P.map(T.RandomHorizontalFlip), P.map(T.RandomVerticalFlip)))
    (step,) = recognise_transform(transform)
    look = look_of(picture(1, height, width, "RGB"))
    assert look is not None
    try:
        count = step.words(look)
    except Unfit:
        with pytest.raises(ValueError, match="larger than"):
            transform(picture(1, height, width, "RGB"))
        return
    assert count is not None
    seeded(seed)
    scalar = [step.draw(Stream.of_process(), look)[0] for _ in range(8)]
    after = states()
    seeded(seed)
    many = step.params(Stream.of_process().torch_words(8 * count).reshape(8, count), look)
    assert states() == after
    if isinstance(many, tuple):
        assert [part.dtype for part in many] == [np.int64, np.int64]
        assert list(zip(*(part.tolist() for part in many), strict=True)) == scalar
    else:
        assert many.dtype == bool
        assert many.tolist() == scalar


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_a_worker_stream_leaves_the_user_s_generators_alone(family: str) -> None:
    T = FAMILIES[family]
    flips = T.RandomChoice([T.RandomHorizontalFlip(), T.RandomVerticalFlip()])
    parts = [T.RandomResizedCrop(12), T.ColorJitter(0.2, 0.2), flips, transforms.ToTensor()]
    transform = T.Compose([*parts, T.RandomErasing(0.5, value="random")])
    image, steps = picture(3, 20, 24, "RGB"), recognise_transform(transform)
    seeded(77 + 1)
    expected = [bits(transform(image)) for _ in range(5)]
    state = torch.get_rng_state().numpy().tobytes()
    seeded(5)
    before = states()
    stream = Stream.of_worker(77, 1, 2, None)
    assert [bits(replay(steps, stream, image)) for _ in range(5)] == expected
    assert states() == before
    assert stream.generator.get_state().numpy().tobytes() == state


def test_numpy_arrays_become_tensors() -> None:
    array = np.random.RandomState(0).randint(0, 256, (9, 7, 3), dtype=np.uint8)
    check(transforms.Compose([transforms.ToTensor(), transforms.RandomHorizontalFlip()]), array, 3)
    check(v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip()]), array, 3)
    check(transforms.Compose([transforms.ToPILImage(), transforms.RandomCrop(5), transforms.ToTensor()]), array, 3)
    check(transforms.Compose([transforms.ToTensor(), transforms.ToPILImage(), transforms.RandomVerticalFlip()]), array, 3)
