"""Data set classes of a script's own under replay: the bits of PyTorch's own batches, or a decline that says what stands in the way."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split
from torchvision import transforms
from torchvision.transforms import v2

import stoker.boost
from stoker.boost.notes import NOTES
from stoker.boost.replay.data import recognise_data
from stoker.boost.replay.unfit import Unfit
from tests import boost_own_data as own
from tests.boost_pipelines import states

COUNT = 22


@pytest.fixture(autouse=True)
def switched_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test ends with boost off; speed is not judged here."""
    monkeypatch.setattr("stoker.boost.replay.check.Check._slower", lambda self, at_once: False)
    yield
    stoker.boost.off()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """RGB files of many sizes in one class of an ImageFolder."""
    rng, folder = np.random.default_rng(3), tmp_path / "photos" / "all"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (30 + number, 50 - number, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    return folder


def pipeline() -> Any:
    return transforms.Compose(list(own.STEPS))


def made(kind: type, photos: Path, transform: Any = None) -> Any:
    return kind(photos.parent if issubclass(kind, own.datasets.ImageFolder) else photos, transform=transform or pipeline())


def seen(make: Callable[[], Any], *, epochs: int = 2, breaks: int | None = None, between: Callable[[Any, int], None] | None = None) -> list[Any]:
    """Return all that a script sees of a loader: its batches, the random states after each epoch, and what was raised."""
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)
    found: list[Any] = []
    try:
        loader = make()
        for epoch in range(epochs):
            for number, batch in enumerate(loader):
                found.append((type(batch), flat(batch)))
                random.random()  # the script draws between its batches
                if between is not None:
                    between(loader.dataset, epoch * 100 + number)
                if number == breaks:
                    break
            found.append(states())
    except Exception as error:
        found.append((type(error), str(error).split("Original Traceback")[0]))
    return found


def flat(batch: Any) -> Any:
    if isinstance(batch, dict):
        return [(key, flat(value)) for key, value in batch.items()]
    if isinstance(batch, (list, tuple)):
        return [type(batch), *map(flat, batch)]
    return (batch.dtype, batch.shape, batch.stride(), batch.clone()) if isinstance(batch, torch.Tensor) else batch


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(np.all(one == other))


def both(make: Callable[[], Any], *, applied: bool | None = True, **options: Any) -> list[str]:
    """Compare a loader of `make`, plainly and replayed, and return what was said about it."""
    plain = seen(make, **options)
    stoker.boost.on("exact", off=["allocator"])
    NOTES.kept.clear()
    boosted = seen(make, **options)
    notes = [note for note in NOTES.kept if note.kind == "loader"]
    stoker.boost.off()
    assert alike(boosted, plain)
    if applied is not None:
        assert [note.outcome for note in notes] == ["applied" if applied else "declined"] * len(notes), [note.why for note in notes]
        replayed = sum(note.numbers.get("batches", 0) - note.numbers.get("plain_batches", 0) for note in notes)
        assert (replayed > 0) is applied
    return [note.why for note in notes]


WAYS = [*((kind, 0) for kind in own.FOLLOWED), *((kind, 2) for kind in (own.Paths, own.Named, own.Unconverted, own.Triple, own.Keyed))]


@pytest.mark.parametrize(("kind", "workers"), WAYS, ids=[f"{kind.__name__}-{workers}" for kind, workers in WAYS])
def test_classes_that_are_followed(photos: Path, kind: type, workers: int) -> None:
    both(lambda: DataLoader(made(kind, photos), batch_size=4, shuffle=True, num_workers=workers))


@pytest.mark.parametrize("kind", list(own.DECLINED), ids=lambda kind: kind.__name__)
def test_classes_that_are_not(photos: Path, kind: type) -> None:
    with pytest.raises(Unfit, match=own.DECLINED[kind]):
        recognise_data(made(kind, photos))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_class_that_is_not_followed_goes_on_as_it_is(photos: Path, workers: int) -> None:
    both(lambda: DataLoader(made(own.Counts, photos), batch_size=4, shuffle=True, num_workers=workers), applied=False)


@pytest.mark.parametrize("breaks", [None, 1])
def test_persistent_workers_and_breaks(photos: Path, breaks: int | None) -> None:
    def make() -> Any:
        return DataLoader(made(own.Opened, photos), batch_size=3, shuffle=True, num_workers=3, persistent_workers=True)

    both(make, epochs=3, breaks=breaks)


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_and_joins(photos: Path, workers: int) -> None:
    def make() -> Any:
        one, two = random_split(made(own.Paths, photos), [15, COUNT - 15])
        joined = ConcatDataset([one, Subset(made(own.Default, photos), np.arange(3, 9)), two])
        return DataLoader(joined, batch_size=5, shuffle=True, num_workers=workers)

    both(make)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_list_that_is_changed_while_it_is_iterated(photos: Path, workers: int) -> None:
    def between(dataset: Any, number: int) -> None:
        if number in (1, 102):
            dataset.labels.reverse()
            dataset.paths[:4] = dataset.paths[4:8]

    both(lambda: DataLoader(made(own.Paths, photos), batch_size=4, shuffle=True, num_workers=workers), applied=None, between=between)
    both(lambda: DataLoader(made(own.Paths, photos), batch_size=4, num_workers=workers), applied=None, between=between)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_that_is_replaced_while_it_is_iterated(photos: Path, workers: int) -> None:
    def between(dataset: Any, number: int) -> None:
        if number == 2:
            dataset.transform = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])

    both(lambda: DataLoader(made(own.Paths, photos), batch_size=4, shuffle=True, num_workers=workers), applied=None, between=between)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_files_that_cannot_be_read(photos: Path, workers: int, harm: str) -> None:
    path = photos / "13.jpg"
    content = path.read_bytes()

    def make() -> Any:
        path.write_bytes(content)
        dataset = made(own.Opened, photos)
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(content[:400])
        return DataLoader(dataset, batch_size=4, num_workers=workers)

    both(make, applied=None)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_is_made_in_another_way_than_the_first(photos: Path, workers: int) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(photos / "5.jpg")  # grey: another mode
    both(lambda: DataLoader(made(own.Unconverted, photos), batch_size=4, num_workers=workers), applied=None)


def test_a_transform_that_may_be_false(photos: Path) -> None:
    steps = torch.nn.Sequential(transforms.Resize((8, 8)))
    with pytest.raises(Unfit, match="asks whether a Sequential is true"):
        recognise_data(made(own.Paths, photos, transform=steps))
    steps = torch.nn.Sequential(v2.Resize((8, 8)), v2.PILToTensor())
    both(lambda: DataLoader(made(own.Tutorial, photos, steps), batch_size=4))


@pytest.mark.parametrize("workers", [0, 2])
def test_names_from_outside_are_the_workers_own(photos: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def between(dataset: Any, number: int) -> None:
        monkeypatch.setattr(own, "ENDING", ".jpg" if number >= 100 else ".gone")

    def make() -> Any:
        monkeypatch.setattr(own, "ENDING", ".jpg")
        return DataLoader(made(own.Unconverted, photos), batch_size=4, num_workers=workers)

    both(make, applied=None, between=between)


def test_batches_without_draws_are_read_ahead(photos: Path) -> None:
    still = transforms.Compose([transforms.Resize((12, 12)), transforms.ToTensor()])
    both(lambda: DataLoader(made(own.Measured, photos, still), batch_size=4))


@pytest.mark.parametrize("indices", [torch.arange(3), np.arange(3, dtype=np.int32), [0, np.uint8(1)]], ids=["tensor", "int32", "uint8"])
def test_a_subset_by_other_numbers_is_declined(photos: Path, indices: Any) -> None:
    with pytest.raises(Unfit, match="are no plain numbers, which its code would see"):
        recognise_data(Subset(made(own.Paths, photos), indices))


@pytest.mark.parametrize("workers", [0, 2])
def test_warnings_name_the_script_s_line(photos: Path, workers: int) -> None:
    stoker.boost.on()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        list(DataLoader(made(own.Copied, photos), batch_size=4, num_workers=workers))
    assert [Path(one.filename).name for one in told] == ["boost_own_data.py"] * len(told)
    assert told


def test_a_folder_that_is_left_while_workers_would_stay(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)

    def make() -> Any:
        os.chdir(photos)
        dataset = made(own.Paths, photos)
        dataset.paths = list(dataset.names)
        return DataLoader(dataset, batch_size=4, num_workers=2)

    both(make, epochs=1, between=lambda dataset, number: os.chdir("/"))
