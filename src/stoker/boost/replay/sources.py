"""Where the samples of a data set come from before any transform: arrays, tensors, files, or made-up images."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from stoker.boost.replay.glance import Glance
from stoker.boost.replay.look import Look
from stoker.boost.replay.unfit import Unfit

Layout = Literal["NHWC", "NCHW", "NHW"]
Labelling = Literal["int", "plain", "first"]
"""What a data set makes of `labels[i]`: `int(labels[i])`, the thing itself, `int(labels[i][0])`."""

_INTEGERS = "bui"


def folder() -> str:
    """Return the working folder; an empty text where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """Images of one size in one array."""

    dataset: Any
    owner: Any
    """The data set's `data`, an array or a tensor; `array` is its memory."""
    array: np.ndarray
    """uint8, axes in the order of `layout`; of any strides: CIFAR's and SVHN's are transposed views."""
    layout: Layout
    field: Literal["targets", "labels"]
    labelling: Labelling

    @property
    def channels(self) -> int:
        """1: PIL mode L, 3: RGB."""
        return 1 if self.layout == "NHW" else self.array.shape[-1 if self.layout == "NHWC" else 1]

    def __len__(self) -> int:
        return len(self.array)

    @property
    def labels(self) -> Any:
        """The data set's labels as they are now."""
        return getattr(self.dataset, self.field)

    def look(self, place: int) -> Look:
        """Return what every image looks like."""
        shape = self.array.shape
        height, width = (shape[2], shape[3]) if self.layout == "NCHW" else (shape[1], shape[2])
        return Look(form="pil", height=height, width=width, channels=self.channels, dtype=torch.uint8)

    def image(self, place: int) -> Any:
        """Return the PIL image that the data set makes: `Image.fromarray` comes to this."""
        pixels = self.array[place]
        if self.layout == "NCHW":
            pixels = pixels.transpose(1, 2, 0)
        mode = "L" if self.layout == "NHW" else "RGB"
        return pillow().frombuffer(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels), "raw", mode, 0, 1)

    def labels_of(self, place_B: np.ndarray) -> np.ndarray | list[Any]:
        """Return the labels as they are now: an int64 array where all are Python ints (default_collate makes int64 of them), else the labels."""
        labels = self.labels
        whole = self.integers(labels)
        if whole is not None:
            return self.made(whole[place_B])
        return self.made([labels[place] for place in place_B.tolist()])

    def integers(self, labels: Any) -> np.ndarray | None:
        """Return the memory of `labels` where they are integers in a plain array or tensor that become Python ints, else None."""
        return None if self.labelling == "plain" else _integers(labels, 2 if self.labelling == "first" else 1)

    def made(self, taken: np.ndarray | list[Any]) -> np.ndarray | list[Any]:
        """Return what `labels_of` makes of some labels: rows of `integers`, or a list of them."""
        if isinstance(taken, np.ndarray):
            return (taken[:, 0] if self.labelling == "first" else taken).astype(np.int64)
        if self.labelling == "plain":
            return as_int64(taken)
        return as_int64([int(label[0]) if self.labelling == "first" else int(label) for label in taken])

    def current(self) -> bool:
        """Whether the data set still holds the same array; labels are read anew every time."""
        held = vars(self.dataset).get("data")
        if held is not self.owner:
            return False
        return held.shape == self.array.shape and (not isinstance(held, torch.Tensor) or held.data_ptr() == self.array.ctypes.data)

    def look_at(self, glance: Glance) -> None:
        """Have `glance` find out what `current` does."""
        owner, shape = self.owner, self.owner.shape
        glance.holds(vars(self.dataset).get, "data", owner)
        if isinstance(owner, torch.Tensor):
            address = self.array.ctypes.data
            glance.asks(lambda: owner.data_ptr() == address and owner.shape == shape)
        else:
            glance.asks(lambda: bool(owner.shape == shape))


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorsSource:
    """A TensorDataset: a sample is a row of each tensor."""

    dataset: Any
    tensors: tuple[torch.Tensor, ...]
    facts: tuple[Any, ...]
    """Shape, strides, type and memory of each."""

    def __len__(self) -> int:
        return self.tensors[0].size(0)

    def current(self) -> bool:
        """Whether the data set still holds the same tensors of the same shapes; values are read anew every time."""
        return vars(self.dataset).get("tensors") is self.tensors and facts_of(self.tensors) == self.facts


@dataclass(frozen=True, kw_only=True, eq=False)
class FilesSource:
    """Image files, decoded by torchvision's `pil_loader` into RGB."""

    dataset: Any
    loader: Any
    folder: str = field(default_factory=folder)
    """The working folder when an epoch began: workers would be forked there, and stay there when the script goes elsewhere."""

    @property
    def samples(self) -> Any:
        """The data set's files and labels as they are now."""
        return self.dataset.samples

    @property
    def root(self) -> str:
        """The folder that all files are in."""
        return str(getattr(self.dataset, "root", ""))

    def __len__(self) -> int:
        return len(self.samples)

    def path(self, place: int) -> str:
        """Return the file of a sample."""
        return self.absolute(self.samples[place][0])

    def absolute(self, path: str) -> str:
        """Return where the workers' folder has a file."""
        return path if os.path.isabs(path) or folder() == self.folder else os.path.join(self.folder, path)

    def look(self, place: int) -> Look:
        """Return what the header says. Raises what opening the file raises."""
        with open(self.path(place), "rb") as file, pillow().open(file) as image:
            width, height = image.size
        return Look(form="pil", height=height, width=width, channels=self.channels, dtype=torch.uint8)

    @property
    def channels(self) -> int:
        """1: PIL mode L, 3: RGB."""
        return 3

    def said(self, place: int) -> Any:
        """Return what a sample is made of: its file and its label."""
        return self.samples[place]

    def image(self, place: int) -> Any:
        """Return the decoded image. Raises what the data set's loader raises."""
        return self.loader(self.path(place))

    def labels_of(self, place_B: np.ndarray) -> np.ndarray | list[Any]:
        """As `ArraySource.labels_of`."""
        samples = self.samples
        return as_int64([samples[place][1] for place in place_B.tolist()])

    def current(self) -> bool:
        """Whether the data set still uses this loader; the list of samples is read anew every time."""
        return vars(self.dataset).get("loader") is self.loader and pil_backend()


@dataclass(frozen=True, kw_only=True, eq=False)
class ReaderSource(FilesSource):
    """Image files of timm's `ImageDataset`, which opens them itself; `loader` is its reader, which only knows their names."""

    facts: tuple[Any, ...]
    """What else the data set's `__getitem__` goes by."""

    @property
    def samples(self) -> Any:
        return self.loader.samples

    @property
    def root(self) -> str:
        return str(getattr(self.loader, "root", ""))

    def image(self, place: int) -> Any:
        """Return the decoded image. Raises what opening and decoding raise: the data set would take the next file instead."""
        with open(self.path(place), "rb") as file:
            return pillow().open(file).convert("RGB")

    def current(self) -> bool:
        """Whether the data set still reads by this reader in the same way; the list of samples is read anew every time."""
        return vars(self.dataset).get("reader") is self.loader and reader_facts(self.dataset) == self.facts


@dataclass(frozen=True, kw_only=True, eq=False)
class FakeSource:
    """torchvision's FakeData: image and label are functions of the place, made with a generator of their own."""

    dataset: Any
    count: int
    size: tuple[int, int, int]
    """Channels, height, width."""
    classes: int
    offset: int

    def __len__(self) -> int:
        return self.count

    def look(self, place: int) -> Look:
        """Return what every image looks like."""
        channels, height, width = self.size
        return Look(form="pil", height=height, width=width, channels=channels, dtype=torch.uint8)

    def seed(self, place: int) -> int:
        """Return what the data set seeds the generator with."""
        return place + self.offset

    def sample(self, place: int) -> tuple[Any, torch.Tensor]:
        """Return the PIL image and the label, an int64 tensor of no dimensions, which target_transform is given."""
        generator = torch.Generator()
        generator.manual_seed(self.seed(place))
        noise = torch.randn(*self.size, generator=generator)
        label = torch.randint(0, self.classes, size=(1,), dtype=torch.long, generator=generator)[0]
        return sys.modules["torchvision.transforms.functional"].to_pil_image(noise), label

    def image(self, place: int) -> Any:
        """Return the PIL image alone."""
        return self.sample(place)[0]

    def current(self) -> bool:
        """Whether the data set still has the same parameters."""
        own = vars(self.dataset)
        return (own.get("size"), own.get("image_size"), own.get("num_classes"), own.get("random_offset")) == (
            *(self.count, self.size),
            *(self.classes, self.offset),
        )


PixelSource = ArraySource | FilesSource | FakeSource
Source = PixelSource | TensorsSource


def pillow() -> Any:
    """Return the module PIL.Image. It is loaded: torchvision's data sets import it, and we have one of theirs."""
    return sys.modules["PIL.Image"]


def pil_backend() -> bool:
    """Return whether torchvision opens images with PIL."""
    torchvision = sys.modules.get("torchvision")
    return torchvision is not None and torchvision.get_image_backend() == "PIL"


def facts_of(tensors: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """Return what must not change while rows are read from the memory of `tensors`."""
    return tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.data_ptr()) for tensor in tensors)


def reader_facts(dataset: Any) -> tuple[Any, ...]:
    """Return what must not change while the files of an `ImageDataset` are read."""
    own, reader = vars(dataset), vars(dataset).get("reader")
    settings = own.get("load_bytes"), own.get("input_img_mode"), own.get("additional_features")
    return (*settings, type(reader), getattr(type(reader), "__getitem__", None), getattr(type(reader), "__len__", None))


def as_int64(values: list[Any]) -> np.ndarray | list[Any]:
    """Return an int64 array where all values are Python ints that fit, else the values. True and False are no ints here."""
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, np.int64)
        except OverflowError:
            return values
    return values


def array_source(dataset: Any, layout: Layout, field: Literal["targets", "labels"], labelling: Labelling) -> ArraySource:
    """Return the source of a data set that holds its images in `data`. Raises Unfit."""
    name, owner = type(dataset).__name__, vars(dataset).get("data")
    if isinstance(owner, torch.Tensor):
        if type(owner) is not torch.Tensor or owner.device.type != "cpu" or owner.requires_grad or owner.layout != torch.strided or layout != "NHW":
            raise Unfit(f"{name}.data is not the array that torchvision makes")
        array = owner.numpy()
    else:
        array = owner
    if type(array) not in (np.ndarray, np.memmap) or (layout == "NHW" and not isinstance(owner, torch.Tensor)):
        raise Unfit(f"{name}.data is a {type(owner).__name__}, not the array that torchvision makes")
    if array.dtype != np.uint8 or array.ndim != len(layout) or 0 in array.shape:
        raise Unfit(f"{name}.data is {array.dtype} of shape {tuple(array.shape)}")
    source = ArraySource(dataset=dataset, owner=owner, array=array, layout=layout, field=field, labelling=labelling)
    if source.channels not in (1, 3) or (layout != "NHW" and source.channels != 3):
        raise Unfit(f"{name}.data has images of {source.channels} channels")
    labels = getattr(dataset, field, None)
    if labels is None:
        raise Unfit(f"{name} has no labels: PyTorch cannot make a batch of None")
    return source


def _integers(labels: Any, dimensions: int) -> np.ndarray | None:
    """Return integers in a plain array or tensor as an array, None for anything else."""
    if type(labels) is torch.Tensor and labels.device.type == "cpu" and not labels.is_floating_point() and not labels.is_complex():
        labels = labels.numpy()
    if type(labels) is np.ndarray and labels.ndim == dimensions and labels.dtype.kind in _INTEGERS:
        return labels
    return None
