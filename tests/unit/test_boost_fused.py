"""Whole batches of pipelines of pads, crops, flips and value transforms: the bits of the user's own transforms, and the random state they leave."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Subset, default_collate
from torchvision import datasets, transforms
from torchvision.transforms import v2

from stoker.boost.replay import fused as fused_
from stoker.boost.replay.data import recognise_data
from stoker.boost.replay.engine import Room
from stoker.boost.replay.fused import Fused, fused
from stoker.boost.replay.kernel import Numpy
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
MODES = st.sampled_from(["constant", "edge", "reflect", "symmetric"])


def blank(kind, transform, target_transform=None):
    """A torchvision data set without its files."""
    dataset = kind.__new__(kind)
    both = datasets.vision.StandardTransform(transform, target_transform)
    vars(dataset).update(root="", train=True, split="train", transform=transform, target_transform=target_transform, transforms=both)
    return dataset


def cifar(transform, count: int = 11, size: tuple[int, int] = (32, 32), target_transform=None):
    """CIFAR10 as torchvision reads it: the array is a transposed view."""
    rng, dataset = np.random.default_rng(count), blank(datasets.CIFAR10, transform, target_transform)
    dataset.data = rng.integers(0, 256, (count, 3, *size), dtype=np.uint8).transpose(0, 2, 3, 1)
    dataset.targets = rng.integers(0, 10, count).tolist()
    return dataset


def mnist(transform, count: int = 11, target_transform=None):
    generator, dataset = torch.Generator().manual_seed(count), blank(datasets.MNIST, transform, target_transform)
    dataset.data = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    dataset.targets = torch.randint(0, 10, (count,), generator=generator)
    return dataset


def svhn(transform, count: int = 11):
    rng, dataset = np.random.default_rng(count), blank(datasets.SVHN, transform)
    dataset.data, dataset.labels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, count)
    return dataset


def made(engine: Fused, index: list[int], cuts: tuple[int, ...] = ()) -> list[torch.Tensor]:
    """One batch of `engine`, filled in several pieces, out of the process's own random state."""
    room = Room(tensors=[torch.full(shape, 77, dtype=dtype) for shape, dtype in engine.shapes(len(index))])
    drawn = engine.draw(Stream.of_process(), np.array(index, np.int64))
    ends = [0, *sorted(min(cut, len(index)) for cut in cuts), len(index)]
    for start, stop in itertools.pairwise(ends):
        engine.fill(drawn, room, start, stop)
    return room.tensors


def compare(dataset, index: list[int], cuts: tuple[int, ...] = (3, 5), seed: int = 1) -> Fused:
    """Make a batch both ways and compare bits, types and the random state afterwards."""
    engine = fused(recognise_data(dataset))
    torch.manual_seed(seed)
    wanted = default_collate([dataset[k] for k in index])
    after = torch.get_rng_state()
    torch.manual_seed(seed)
    found = made(engine, index, cuts)
    assert torch.equal(torch.get_rng_state(), after)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.dtype, ours.shape, type(theirs)) == (theirs.dtype, theirs.shape, torch.Tensor)
        assert ours.contiguous().view(torch.uint8).equal(theirs.contiguous().view(torch.uint8))
    return engine


@pytest.fixture(params=["as built", "numpy"])
def hands(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(fused_, "hands", Numpy)


TRAIN = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
V2 = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
PIPELINES = {
    "train": TRAIN,
    "v2": V2,
    "evaluation": TRAIN[2:],
    "bytes": [transforms.RandomCrop(28), transforms.PILToTensor()],
    "reflect": [transforms.RandomCrop(32, padding=4, padding_mode="reflect"), transforms.ToTensor()],
    "fill": [transforms.RandomCrop(36, padding=(1, 2, 3, 4), fill=(9, 80, 200)), *TRAIN[1:]],
    "two pads": [
        transforms.Pad(2, fill=7),
        transforms.ToTensor(),
        transforms.Pad((3, 1), fill=0.5),
        transforms.Normalize(MEAN, STD),
        transforms.RandomCrop(30),
    ],
    "tensors": [transforms.ToTensor(), transforms.Normalize(MEAN, STD), transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, padding=4)],
    "needed": [transforms.RandomCrop((40, 34), padding=1, pad_if_needed=True, fill=3), transforms.RandomVerticalFlip(0.9), transforms.ToTensor()],
    "centre": [transforms.CenterCrop((40, 20)), transforms.RandomVerticalFlip(), transforms.ToTensor()],
    "half": [transforms.ToTensor(), transforms.ConvertImageDtype(torch.float16), transforms.RandomHorizontalFlip()],
    "bfloat16": [v2.ToImage(), v2.ToDtype(torch.bfloat16, scale=True), v2.RandomCrop(32, padding=3, fill=0.3)],
    "double": [v2.ToImage(), v2.ToDtype(torch.float64, scale=True), v2.Pad(2, padding_mode="symmetric")],
    "and back": [transforms.Pad(1), transforms.PILToTensor(), transforms.ToPILImage(), transforms.RandomHorizontalFlip(), transforms.ToTensor()],
    "twice": [
        transforms.RandomCrop(30),
        transforms.RandomHorizontalFlip(),
        transforms.RandomCrop(28, padding=1),
        transforms.RandomHorizontalFlip(),
        TRAIN[2],
    ],
}


@pytest.mark.usefixtures("hands")
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_of_colour_images(name):
    for dataset in (cifar(transforms.Compose(PIPELINES[name])), svhn(v2.Compose(PIPELINES[name]))):
        compare(dataset, [3, 0, 10, 3, 7, 7, 1])


@pytest.mark.usefixtures("hands")
@pytest.mark.parametrize(
    "steps",
    [
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))],
        [transforms.Grayscale(3), transforms.ToTensor(), transforms.Normalize(MEAN, STD)],
        [transforms.Pad(2), transforms.RandomCrop(28), transforms.Lambda(lambda image: image.convert("RGB")), transforms.ToTensor()],
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.RandomCrop(28, padding=2)],
        [transforms.RandomCrop(28, padding=4, fill=128, padding_mode="constant"), transforms.ToTensor()],
        [transforms.RandomCrop(28, padding=14, padding_mode="symmetric"), transforms.PILToTensor()],
    ],
)
def test_pipelines_of_grey_images(steps):
    compare(mnist(transforms.Compose(steps)), [3, 0, 10, 3, 7, 7, 1])


@st.composite
def pipelines(draw):
    """Random geometric transforms on either side of the step to tensors, of either family."""
    family = draw(st.sampled_from([transforms, v2]))
    height, width, sides, byte = 20, 17, st.integers(0, 9), st.integers(0, 255)

    def geometric(tensor: bool):
        nonlocal height, width
        kind = draw(st.sampled_from(["crop", "flip", "vertical", "pad", "centre"]))
        if kind in ("flip", "vertical"):
            p = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
            return family.RandomHorizontalFlip(p) if kind == "flip" else family.RandomVerticalFlip(p)
        fill = draw(byte.map(lambda value: value / 255) if tensor else st.one_of(byte, st.tuples(byte, byte, byte)))
        left, top, right, bottom = padding = draw(st.one_of(sides.map(lambda p: (p,) * 4), st.tuples(sides, sides, sides, sides)))
        mode, size = draw(MODES), draw(st.tuples(st.integers(3, 30), st.integers(3, 30)))
        if kind == "centre":
            height, width = size
            return family.CenterCrop(size)
        needed = kind == "crop" and (size[0] > height + top + bottom or size[1] > width + left + right)
        if needed or max(left, right) >= width or max(top, bottom) >= height:
            mode = "constant"
        if kind == "pad":
            height, width = height + top + bottom, width + left + right
            return family.Pad(padding, fill=fill, padding_mode=mode)
        height, width = size
        return family.RandomCrop(size, padding=padding, pad_if_needed=needed or draw(st.booleans()), fill=fill, padding_mode=mode)

    before = [geometric(False) for _ in range(draw(st.integers(0, 3)))]
    values = draw(
        st.sampled_from(
            [
                [family.ToTensor()] if family is transforms else [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
                [family.PILToTensor(), family.ConvertImageDtype(torch.float32), family.Normalize(MEAN, STD)],
            ]
        )
    )
    after = [geometric(True) for _ in range(draw(st.integers(0, 2)))]
    return family.Compose([*before, *values, *after])


@settings(max_examples=150, deadline=None)
@given(pipelines(), st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 2**63 - 1))
def test_any_pipeline_gives_the_bits_of_torchvision(transform, index, seed):
    compare(cifar(transform, 7, (20, 17)), index, seed=seed)


def test_subsets_and_concatenations_with_several_pipelines():
    same = [transforms.CenterCrop(32), transforms.ToTensor()]
    part = Subset(cifar(transforms.Compose(TRAIN), 9), [8, 1, 4])
    joined = ConcatDataset([part, svhn(transforms.Compose(same), 5), cifar(transforms.Compose(V2), 6)])
    compare(joined, [0, 4, 13, 2, 3, 3, 8, 12, 1], cuts=(0, 2, 7))
    compare(joined, [0, 1, 2])


def test_labels_are_those_of_now_and_of_the_target_transform():
    dataset = cifar(transforms.Compose(TRAIN))
    engine = fused(recognise_data(dataset))
    dataset.targets[3] = 77
    assert made(engine, [1, 3])[1].tolist() == [dataset.targets[1], 77]
    compare(cifar(transforms.ToTensor(), target_transform=lambda y: float(y) / 2), [1, 2])
    compare(mnist(transforms.ToTensor(), target_transform=transforms.Lambda(lambda y: torch.tensor([y, y + 1]))), [1, 2])
    dataset.targets[3] = 2.5
    with pytest.raises(Unfit, match="labels"):
        made(engine, [3])


def test_an_index_outside_raises_before_anything_is_drawn():
    engine, state = fused(recognise_data(cifar(transforms.Compose(TRAIN)))), torch.get_rng_state()
    with pytest.raises(IndexError):
        made(engine, [0, 11])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([transforms.ColorJitter(0.1), transforms.ToTensor()], "ColorJitter"),
        ([transforms.ToTensor(), transforms.RandomErasing()], "RandomErasing"),
        ([transforms.Resize(16), transforms.ToTensor()], "Resize"),
        ([transforms.Grayscale(1), transforms.ToTensor()], "Grayscale"),
        ([transforms.ToTensor(), transforms.Lambda(lambda image: image * 2)], "neither"),
        ([transforms.RandomHorizontalFlip()], "not in a tensor"),
        ([transforms.Pad(-2), transforms.ToTensor()], "Pad"),
        ([transforms.ToTensor(), transforms.Normalize(MEAN, STD), transforms.ConvertImageDtype(torch.uint8)], "ConvertImageDtype"),
    ],
)
def test_what_is_left_to_the_other_engine(steps, reason):
    with pytest.raises(Unfit, match=reason):
        fused(recognise_data(cifar(transforms.Compose(steps))))


def test_a_changed_pipeline_is_noticed():
    crop, normalise = transforms.RandomCrop(32, padding=4), transforms.Normalize(MEAN, STD)
    pipeline = transforms.Compose([crop, transforms.ToTensor(), normalise])
    dataset = cifar(pipeline)
    for change in (
        lambda: setattr(crop, "padding", 3),
        lambda: setattr(normalise, "mean", (0, 0, 0)),
        lambda: pipeline.transforms.append(transforms.RandomErasing()),
        lambda: setattr(dataset, "transform", None),
        lambda: setattr(dataset, "data", dataset.data[:5]),
    ):
        engine = fused(recognise_data(dataset))
        assert engine.current()
        change()
        assert not engine.current()
        if dataset.transform is None:
            dataset.transform = pipeline
        del pipeline.transforms[3:]


def test_what_is_said():
    engine = fused(recognise_data(cifar(transforms.Compose(TRAIN))))
    assert engine.what.startswith("CIFAR10 -> RandomCrop(")
    assert engine.what.endswith(")")
    assert (engine.draws, engine.serial, engine.ahead) == (True, False, False)
    assert not fused(recognise_data(cifar(transforms.ToTensor()))).draws
