"""Data sets taken apart: which are known, what stands at which place, and the very images and labels that the data set gives."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate, random_split
from torchvision import datasets
from torchvision.datasets import folder

from stoker.boost.replay.bodies import BODIES, TIMM, fingerprint
from stoker.boost.replay.classes import KNOWN
from stoker.boost.replay.data import recognise_data
from stoker.boost.replay.sources import ArraySource, FakeSource, FilesSource, TensorsSource
from stoker.boost.replay.unfit import Unfit

CLASSES = ["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10"]


def made(kind: type, count: int = 12, **more):
    """A data set of torchvision's as reading its files leaves it: CIFAR's and STL10's arrays are transposed views."""
    rng, dataset = np.random.default_rng(count), kind.__new__(kind)
    vars(dataset).update(root="", transform=None, target_transform=None, transforms=None)
    if issubclass(kind, datasets.MNIST):
        dataset.data, dataset.targets = torch.from_numpy(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)), torch.arange(count) % 10
        if issubclass(kind, datasets.QMNIST):
            dataset.compat, dataset.targets = True, torch.arange(8 * count).reshape(count, 8)
    elif issubclass(kind, datasets.CIFAR10):
        dataset.data = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8).transpose(0, 2, 3, 1)
        dataset.targets = rng.integers(0, 10, count).tolist()
    else:
        size = 96 if issubclass(kind, datasets.STL10) else 32
        dataset.data = rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8).transpose(0, 1, 3, 2)
        dataset.labels = rng.integers(0, 10, count)
    vars(dataset).update(more)
    return dataset


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes: JPEG and PNG files, colour and grey, of different sizes."""
    rng = np.random.default_rng(3)
    for number in range(8):
        target = tmp_path / "ab"[number % 2]
        target.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (9 + number, 30 - number, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert("L" if number == 5 else "RGB")
        image.save(target / f"{number}.{'png' if number % 3 else 'jpg'}")
    return tmp_path


def alike(ours, theirs) -> bool:
    return ours.mode == theirs.mode and ours.size == theirs.size and ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("title", CLASSES)
def test_arrays_give_the_data_sets_images_and_labels(title: str) -> None:
    dataset = made(getattr(datasets, title))
    data = recognise_data(dataset)
    source = data.leaves[0].source
    assert isinstance(source, ArraySource)
    assert len(data) == len(source) == len(dataset)
    places = np.array([3, 0, 11, 3])
    for place in places.tolist():
        image, _ = dataset[place]
        assert alike(source.image(place), image)
        look = source.look(place)
        assert (look.width, look.height, look.channels) == (*image.size, len(image.getbands()))
    labels = source.labels_of(places)
    theirs = [dataset[place][1] for place in places.tolist()]
    assert isinstance(labels, np.ndarray)
    assert torch.equal(torch.from_numpy(labels), default_collate(theirs))
    assert data.what == title


def test_every_known_function_is_that_of_this_torchvision() -> None:
    for title, known in BODIES.items():
        name, _, method = title.partition(".")
        owner = getattr(datasets, name, None) or getattr(torch.utils.data, name, None) or folder
        assert fingerprint(getattr(owner, method or name)) in known, title
    assert all(f"{name}.__getitem__" in {**BODIES, **TIMM} for name in KNOWN)


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        ([1, 2, 3], np.ndarray),
        ([1.5, 2, 3], list),
        ([True, False, True], list),
        (np.array([1, 2, 3], np.int32), list),
        (torch.tensor([1, 2, 3]), list),
        ([2**70, 1, 2], list),
    ],
)
def test_cifar_labels_keep_their_types(targets, kind: type) -> None:
    dataset = made(datasets.CIFAR10, 3, targets=targets)
    labels = recognise_data(dataset).leaves[0].source.labels_of(np.array([2, 0]))
    assert isinstance(labels, kind)
    for ours, theirs in zip(labels, (dataset[2][1], dataset[0][1]), strict=True):
        assert ours == theirs
        assert kind is np.ndarray or type(ours) is type(theirs)


@pytest.mark.parametrize("targets", [[1, 2, 3], np.array([4, 5, 6], np.uint8), torch.tensor([1.7, 2.0, 3.0]), torch.tensor([5, 6, 7])])
def test_mnist_labels_become_ints(targets) -> None:
    dataset = made(datasets.MNIST, 3, targets=targets)
    labels = recognise_data(dataset).leaves[0].source.labels_of(np.array([2, 0]))
    assert labels.dtype == np.int64
    assert labels.tolist() == [dataset[2][1], dataset[0][1]]


def test_labels_and_pixels_are_read_when_they_are_used() -> None:
    dataset = made(datasets.CIFAR10)
    data = recognise_data(dataset)
    dataset.targets[4], dataset.data[4] = 77, 5
    source = data.leaves[0].source
    assert source.labels_of(np.array([4])).tolist() == [77]
    assert set(source.image(4).tobytes()) == {5}
    assert data.current()


def test_files_give_the_loaders_images(photos: Path) -> None:
    dataset = datasets.ImageFolder(photos)
    source = recognise_data(dataset).leaves[0].source
    assert isinstance(source, FilesSource)
    for place in range(len(dataset)):
        image, _ = dataset[place]
        assert alike(source.image(place), image)
        look = source.look(place)
        assert (look.width, look.height, look.channels) == (*image.size, 3)
    assert source.labels_of(np.arange(8)).tolist() == dataset.targets


def test_fake_data_without_touching_the_random_state() -> None:
    dataset = datasets.FakeData(9, (3, 20, 17), 7, random_offset=5)
    source = recognise_data(dataset).leaves[0].source
    assert isinstance(source, FakeSource)
    before = torch.get_rng_state()
    for place in (0, 8, 3):
        image, label = source.sample(place)
        theirs, target = dataset[place]
        assert alike(image, theirs)
        assert label.item() == target
        assert label.dtype == torch.int64
    assert torch.equal(torch.get_rng_state(), before)
    dataset.random_offset = 6
    assert not source.current()


# ---- who is known ---------------------------------------------------------------------------------------------------------------------------------


class Quiet(datasets.CIFAR10):
    """Changes nothing that matters."""

    url = "nowhere"

    def __init__(self, root: str) -> None:
        super().__init__(root)

    def extra_repr(self) -> str:
        return "quiet"

    def download(self) -> None:
        pass


class OwnItems(datasets.CIFAR10):
    def __getitem__(self, index):
        return super().__getitem__(index)


class OwnBatches(datasets.CIFAR10):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class OwnLength(datasets.CIFAR10):
    def __len__(self) -> int:
        return 3


class OwnAttributes(datasets.CIFAR10):
    def __getattr__(self, name: str):
        raise AttributeError(name)


class ComputedTargets(datasets.CIFAR10):
    @property
    def targets(self):
        return [0] * 12

    @targets.setter
    def targets(self, values) -> None:
        pass


class OwnSubset(Subset):
    def __getitem__(self, index):
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Mine(Dataset):
    def __getitem__(self, index):
        return index


def test_a_subclass_that_overrides_nothing_that_matters_is_known() -> None:
    data = recognise_data(made(Quiet))
    assert data.what == "Quiet"
    assert isinstance(data.leaves[0].source, ArraySource)


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (lambda: made(OwnItems), r"OwnItems has its own __getitem__ \(test_boost_sources.py:\d+\)"),
        (lambda: made(OwnBatches), "OwnBatches has its own __getitems__"),
        (lambda: made(OwnLength), "OwnLength has its own __len__"),
        (lambda: made(OwnAttributes), "OwnAttributes has its own __getattr__"),
        (lambda: made(ComputedTargets), "computes its attribute targets"),
        (lambda: made(datasets.CIFAR10, __getitems__=None), "a __getitems__ of its own"),
        (lambda: OwnSubset(made(datasets.CIFAR10), [1]), "OwnSubset has its own __getitem__"),
        (lambda: Mine(), "Mine is the script's own class: it has no __len__"),
        (lambda: [1, 2], "list is the script's own class"),
        (lambda: Subset(Mine(), [1]), "Mine is the script's own class"),
        (lambda: Subset(made(datasets.CIFAR10), {0: 1}), "indices of a Subset are a dict"),
        (lambda: made(datasets.CIFAR10, data=torch.zeros(12, 32, 32, 3, dtype=torch.uint8)), "data is not the array"),
        (lambda: made(datasets.CIFAR10, data=np.zeros((12, 32, 32, 3), np.float32)), "data is float32"),
        (lambda: made(datasets.CIFAR10, data=np.zeros((12, 32, 32, 4), np.uint8)), "4 channels"),
        (lambda: made(datasets.STL10, labels=None), "no labels"),
        (lambda: made(datasets.QMNIST, compat=False), "compat=False"),
        (lambda: TensorDataset(torch.nn.Parameter(torch.zeros(3))), "not plain tensors"),
        (lambda: datasets.FakeData(4, (2, 5, 5)), "FakeData has sizes"),
        (lambda: torchvision.datasets.USPS.__new__(torchvision.datasets.USPS), "torchvision's USPS"),
    ],
)
def test_what_is_not_known_is_declined_with_a_reason(dataset, reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        recognise_data(dataset())


def test_a_loader_of_the_users_own_is_declined(photos: Path) -> None:
    with pytest.raises(Unfit, match=r"its loader is the script's own: .*<lambda> \(test_boost_sources.py:\d+\)"):
        recognise_data(datasets.ImageFolder(photos, loader=lambda path: Image.open(path)))
    assert recognise_data(datasets.DatasetFolder(photos, folder.pil_loader, (".jpg",))).leaves


def test_a_replaced_method_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made(datasets.CIFAR10)
    data = recognise_data(dataset)
    own = datasets.CIFAR10.__getitem__

    @functools.wraps(own)
    def counted(self, index):
        return own(self, index)

    monkeypatch.setattr(datasets.CIFAR10, "__getitem__", counted)
    assert not data.current()
    with pytest.raises(Unfit, match=r"CIFAR10\.__getitem__ was replaced"):
        recognise_data(dataset)


def test_changes_between_epochs_are_noticed() -> None:
    for change in ({"transform": len}, {"target_transform": len}, {"data": np.zeros((12, 32, 32, 3), np.uint8)}):
        dataset = made(datasets.CIFAR10)
        data = recognise_data(Subset(dataset, [1, 2]))
        assert data.current()
        vars(dataset).update(change)
        assert not data.current()
    dataset = made(datasets.MNIST)
    data = recognise_data(dataset)
    dataset.data.resize_(3, 28, 28)
    assert not data.current()
    tensors = TensorDataset(torch.zeros(4, 2))
    data = recognise_data(tensors)
    tensors.tensors = (torch.zeros(4, 2),)
    assert not data.current()


# ---- which sample stands where --------------------------------------------------------------------------------------------------------------------

INDICES = st.lists(st.integers(0, 11), min_size=1, max_size=8)
KINDS = st.sampled_from(
    [list, tuple, np.array, torch.tensor, lambda indices: np.array(indices, np.int32), lambda indices: [np.int64(i) for i in indices]]
)


@st.composite
def trees(draw: st.DrawFn, depth: int = 3):
    """Data sets of numbered samples, within each other."""
    if depth == 0 or draw(st.booleans()):
        start = draw(st.integers(0, 5)) * 100
        return TensorDataset(torch.arange(start, start + 12))
    if draw(st.booleans()):
        inner = draw(trees(depth=depth - 1))
        indices = [index % len(inner) for index in draw(INDICES)]
        return Subset(inner, draw(KINDS)(indices))
    return ConcatDataset([draw(trees(depth=depth - 1)) for _ in range(draw(st.integers(1, 3)))])


@settings(max_examples=150, deadline=None)
@given(tree=trees(), picks=st.lists(st.integers(0, 10_000), max_size=9))
def test_places_within_each_other(tree, picks: list[int]) -> None:
    data = recognise_data(tree)
    assert len(data) == len(tree)
    index = np.array([pick % len(tree) for pick in picks], np.int64)
    leaf_B, local_B = data.locate(index)
    assert leaf_B.dtype == local_B.dtype == np.int64
    for place, leaf, local in zip(index.tolist(), leaf_B.tolist(), local_B.tolist(), strict=True):
        source = data.leaves[leaf].source
        assert isinstance(source, TensorsSource)
        assert tree[place][0] == source.tensors[0][local]
    assert data.current()
    for outside in (-1, len(tree)):
        with pytest.raises(IndexError):
            data.locate(np.array([outside]))


def test_splits_and_ranges_are_read_when_they_are_used() -> None:
    dataset = made(datasets.CIFAR10)
    one, two = random_split(dataset, [8, 4], generator=torch.Generator().manual_seed(0))
    data = recognise_data(ConcatDataset([two, one, Subset(dataset, range(2, 12, 3))]))
    assert len(data.leaves) == 1
    assert data.what == "part of CIFAR10 + part of CIFAR10 + part of CIFAR10"
    assert data.locate(np.array([0, 4, 13]))[1].tolist() == [two.indices[0], one.indices[0], 5]
    two.indices[0] = 9
    assert data.locate(np.array([0]))[1].tolist() == [9]
    two.indices = {0: 1}
    assert not data.current()


def test_a_subset_of_a_changed_data_set_is_declined() -> None:
    dataset = made(datasets.CIFAR10)
    joined = ConcatDataset([dataset])
    dataset.data = dataset.data[:5]
    with pytest.raises(Unfit, match="changed their lengths"):
        recognise_data(joined)
