"""Hypothesis strategies for `boost_pipelines`: transforms of both torchvision families with random parameters, data sets, loaders and loops."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode

from tests.boost_pipelines import ACTS, SAMPLERS, Act, Data, Loading, Made, Pipeline

MODES = st.sampled_from([InterpolationMode.BILINEAR, InterpolationMode.NEAREST, InterpolationMode.BICUBIC])
CHANCES = st.sampled_from([0.5, 0.0, 1.0, 0.3, 0.9])
IMAGES = ("CIFAR10", "MNIST", "SVHN", "CIFAR100", "STL10", "FashionMNIST", "ImageFolder", "FakeData")


def _paddings() -> st.SearchStrategy[Any]:
    return st.one_of(st.integers(0, 4), st.lists(st.integers(0, 3), min_size=2, max_size=2), st.lists(st.integers(0, 3), min_size=4, max_size=4))


@st.composite
def _crop(draw: st.DrawFn, family: str, size: tuple[int, int]) -> Made:
    arguments: dict[str, Any] = {"size": size if size[0] != size[1] or draw(st.booleans()) else size[0]}
    if draw(st.booleans()):
        arguments["padding"] = draw(_paddings())
        arguments["padding_mode"] = draw(st.sampled_from(["constant", "constant", "edge", "reflect", "symmetric"]))
    if draw(st.booleans()):
        arguments["fill"] = draw(st.sampled_from([0, 7, 255]))
    arguments["pad_if_needed"] = True
    return Made(family, "RandomCrop", arguments)


@st.composite
def _pad(draw: st.DrawFn, family: str) -> Made:
    mode = draw(st.sampled_from(["constant", "edge", "reflect", "symmetric"]))
    return Made(family, "Pad", {"padding": draw(_paddings()), "fill": draw(st.sampled_from([0, 9])), "padding_mode": mode})


def _flips(family: str) -> st.SearchStrategy[Made]:
    names = st.sampled_from(["RandomHorizontalFlip", "RandomHorizontalFlip", "RandomVerticalFlip"])
    return st.builds(lambda name, p: Made(family, name, {"p": p}), names, CHANCES)


@st.composite
def _sized(draw: st.DrawFn, family: str, size: tuple[int, int]) -> Made:
    """A step after which every image has the same size."""
    kind = draw(st.sampled_from(["RandomCrop", "RandomCrop", "RandomResizedCrop", "Resize", "CenterCrop"]))
    if kind == "RandomCrop":
        return draw(_crop(family, size))
    if kind == "CenterCrop":
        return Made(family, kind, {"size": size})
    arguments: dict[str, Any] = {"size": size, "interpolation": draw(MODES)}
    if kind == "Resize":
        return Made(family, kind, arguments | {"antialias": draw(st.booleans())})
    if draw(st.booleans()):
        arguments |= {"scale": (0.3, 1.0), "ratio": draw(st.sampled_from([(0.75, 1.3333), (0.1, 0.2), (1.0, 1.0)]))}
    return Made(family, kind, arguments)


@st.composite
def _colours(draw: st.DrawFn, family: str) -> Made:
    parts = {"brightness": 0.4, "contrast": 0.4, "saturation": (0.5, 1.5), "hue": 0.1}
    chosen = draw(st.lists(st.sampled_from(sorted(parts)), unique=True))
    return Made(family, "ColorJitter", {name: parts[name] for name in chosen})


@st.composite
def _turned(draw: st.DrawFn, family: str) -> Made:
    mode = draw(st.sampled_from([InterpolationMode.NEAREST, InterpolationMode.BILINEAR]))
    arguments = {"degrees": draw(st.sampled_from([10, (0, 90), 180])), "fill": draw(st.sampled_from([0, 3])), "interpolation": mode}
    return Made(family, "RandomRotation", arguments)


def _other(family: str) -> st.SearchStrategy[Made]:
    """Transforms that the issue does not name, and callables of the user's: they run as they are, or the loader is declined."""
    mine = st.sampled_from(["darker", "rgb", "counter", "mixed"]).map(lambda name: Made("mine", name))
    known = st.sampled_from(
        [
            Made(family, "RandomPerspective", {"p": 0.5}),
            Made(family, "GaussianBlur", {"kernel_size": 3}),
            Made(family, "RandomInvert"),
            Made(family, "TrivialAugmentWide"),
            Made(family, "RandAugment"),
            Made(family, "RandomAffine", {"degrees": 10, "translate": (0.1, 0.1)}),
        ]
    )
    return st.one_of(mine, known)


def _pictures(family: str, size: tuple[int, int]) -> st.SearchStrategy[Made]:
    return st.one_of(
        _flips(family),
        _crop(family, size),
        _pad(family),
        _colours(family),
        _turned(family),
        st.just(Made(family, "RandomGrayscale", {"p": 0.4})),
        _other(family),
        _choices(family, size),
    )


@st.composite
def _choices(draw: st.DrawFn, family: str, size: tuple[int, int]) -> Made:
    inner = draw(st.lists(st.one_of(_flips(family), _colours(family), _turned(family)), min_size=1, max_size=3))
    kind = draw(st.sampled_from(["RandomApply", "RandomChoice", "RandomOrder", "Compose"]))
    arguments: dict[str, Any] = {"transforms": inner}
    if kind == "RandomApply":
        arguments["p"] = draw(CHANCES)
    if kind == "RandomChoice" and draw(st.booleans()):
        arguments["p"] = [1.0 + i for i in range(len(inner))]
    return Made(family, kind, arguments)


def _to_tensor(family: str) -> st.SearchStrategy[list[Made]]:
    ways = [
        [Made("v1", "ToTensor")],
        [Made("v1", "ToTensor")],
        [Made(family, "PILToTensor")],
        [Made(family, "PILToTensor"), Made("v1", "ConvertImageDtype", {"dtype": torch.float32})],
        [Made("v2", "ToImage"), Made("v2", "ToDtype", {"dtype": torch.float32, "scale": True})],
        [Made("v2", "ToImage"), Made("v2", "ToDtype", {"dtype": torch.float32, "scale": False})],
        [Made("v2", "PILToTensor"), Made("v2", "ToDtype", {"dtype": torch.float64, "scale": True})],
    ]
    return st.sampled_from(ways)


@st.composite
def _normalise(draw: st.DrawFn, family: str, channels: int) -> Made:
    means = draw(st.lists(st.sampled_from([0.4914, 0.5, 0.1307, 0.0]), min_size=channels, max_size=channels))
    deviations = draw(st.lists(st.sampled_from([0.247, 0.5, 0.3081, 1.0]), min_size=channels, max_size=channels))
    return Made(family, "Normalize", {"mean": means, "std": deviations, "inplace": draw(st.booleans())})


@st.composite
def _tensors(draw: st.DrawFn, family: str, size: tuple[int, int]) -> Made:
    """A step on a tensor of floats."""
    erased = {"p": draw(CHANCES), "value": draw(st.sampled_from([0, 0.5, "random"])), "scale": (0.02, 0.4)}
    mine = ["halves", "noise", "python-noise", "numpy-noise", "contiguous", "cutout", "counter"]
    return draw(
        st.one_of(
            st.just(Made(family, "RandomErasing", erased)),
            _flips(family),
            _crop(family, size),
            st.sampled_from(mine).map(lambda name: Made("mine", name)),
            st.just(Made("v1", "ConvertImageDtype", {"dtype": torch.float64})),
        )
    )


@st.composite
def transforms(draw: st.DrawFn, *, grey: bool, ragged: bool) -> tuple[tuple[Made, ...], str]:
    """Return a list of steps that ends in tensors of one size, and the family of the Compose around it."""
    family = draw(st.sampled_from(["v1", "v1", "v2"]))
    size = draw(st.sampled_from([(8, 8), (12, 12), (9, 7)]))
    steps: list[Made] = []
    channels = 1 if grey else 3
    if draw(st.booleans()):
        channels = draw(st.sampled_from([1, 3]))
        steps.append(Made(family, "Grayscale", {"num_output_channels": channels}))
    steps += draw(st.lists(_pictures(family, size), max_size=2))
    if any(step.name == "rgb" for step in steps):
        channels = 3
    if ragged or steps or draw(st.booleans()):
        steps.append(draw(_sized(family, size)))
    steps += draw(st.lists(_flips(family), max_size=2)) + draw(_to_tensor(family))
    if steps[-1].name != "PILToTensor":
        if draw(st.booleans()):
            steps.append(draw(_normalise(family, channels)))
        steps += draw(st.lists(_tensors(family, size), max_size=1))
    return tuple(steps), family


@st.composite
def datasets(draw: st.DrawFn) -> Data:
    """A data set with its transforms."""
    kind = draw(st.sampled_from([*IMAGES, *IMAGES, "TensorDataset", "TensorDataset", "mine"]))
    wrap = draw(st.sampled_from(["", "", "", "subset", "split", "concat", "subset-of-subset"]))
    count = draw(st.sampled_from([40, 61, 90, 120, 5, 1]))
    if count == 1 and wrap:
        count = 7
    if kind == "TensorDataset":
        kinds = [torch.float32, torch.int64, torch.uint8, torch.bool, torch.bfloat16, torch.float64, torch.int32, torch.float16]
        return Data(kind=kind, count=count, wrap=wrap, dtypes=tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))))
    size = draw(st.sampled_from([(12, 12), (8, 8), (10, 14)]))
    steps, family = draw(transforms(grey="MNIST" in kind, ragged=kind == "ImageFolder"))
    target = draw(st.sampled_from(["", "", "", "", "", "is-three", "real", "one-hot", "noisy"]))
    return Data(kind=kind, count=count, size=size, steps=steps, target=target, wrap=wrap, family=family)


@st.composite
def loadings(draw: st.DrawFn, most_workers: int = 3) -> Loading:
    """A loader's arguments."""
    workers = draw(st.integers(0, most_workers))
    return Loading(
        batch=draw(st.sampled_from([4, 1, 7, 64])),
        sampler=draw(st.sampled_from(SAMPLERS)),
        workers=workers,
        persistent=bool(workers) and draw(st.booleans()),
        drop_last=draw(st.booleans()),
        init=draw(st.sampled_from(["", "", "recipe", "same"])),
        generator=draw(st.sampled_from([None, None, 0, 2**40 + 5])),
        prefetch=draw(st.sampled_from([None, 1, 4])) if workers else None,
    )


def acts() -> st.SearchStrategy[tuple[Act, ...]]:
    """One to three epochs."""
    one = st.builds(lambda kind, after, draws: Act(kind=kind, after=after, draws=draws), st.sampled_from(ACTS), st.integers(1, 4), st.booleans())
    return st.lists(one, min_size=1, max_size=3).map(tuple)


def pipelines(most_workers: int = 3) -> st.SearchStrategy[Pipeline]:
    """Everything of a small script."""
    second = loadings(min(most_workers, 2))
    return st.builds(
        lambda data, loading, other, does: Pipeline(data=data, loading=loading, second=other, acts=does),
        datasets(),
        loadings(most_workers),
        second,
        acts(),
    )
