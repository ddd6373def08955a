"""timm's data sets, transforms and loaders under replay: the bits of PyTorch's own batches, and the random states that they leave."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate
from torchvision import datasets, transforms

import stoker.boost
from stoker.boost.notes import NOTES
from stoker.boost.replay.bodies import TIMM, fingerprint
from stoker.boost.replay.collates import recognise_collate
from stoker.boost.replay.data import recognise_data
from stoker.boost.replay.unfit import Unfit
from tests.boost_pipelines import states

data = pytest.importorskip("timm.data")
SIZE = (3, 24, 24)


@pytest.fixture(autouse=True)
def switched_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test ends with boost off; speed is not judged here."""
    monkeypatch.setattr("stoker.boost.replay.check.Check._slower", lambda self, at_once: False)
    yield
    stoker.boost.off()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several modes and shapes in three classes: wide and tall ones too, where ten draws of a crop do not fit."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for number in range(23):
        folder = root / "abc"[number % 3]
        folder.mkdir(exist_ok=True)
        shape = {4: (90, 12), 5: (11, 100)}.get(number, (30 + number, 70 - number))
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).convert({6: "L", 7: "RGBA", 8: "P"}.get(number, "RGB"))
        image.save(folder / f"{number}.{'jpg' if image.mode == 'RGB' and number % 2 else 'png'}")
    return root


def seeded() -> None:
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)


def seen(make: Callable[[], Any], epochs: int, breaks: int | None) -> list[Any]:
    """Return all that a script sees of a loader: its batches with what they stand in, and the random states after each epoch."""
    seeded()
    loader, found = make(), []
    for _ in range(epochs):
        for number, batch in enumerate(loader):
            found.append((type(batch), [(part.dtype, part.shape, part.stride(), part.clone()) for part in batch]))
            random.random()  # the script draws between its batches
            if number == breaks:
                break
        found.append(states())
    return found


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(np.all(one == other))


def both(make: Callable[[], Any], *, epochs: int = 2, breaks: int | None = None, applied: bool = True) -> str:
    """Compare a loader of `make`, plainly and replayed, and return what was said about it."""
    plain = seen(make, epochs, breaks)
    stoker.boost.on("exact", off=["allocator"])
    NOTES.kept.clear()
    boosted = seen(make, epochs, breaks)
    notes = [note for note in NOTES.kept if note.kind == "loader"]
    stoker.boost.off()
    assert alike(boosted, plain)
    assert [note.outcome for note in notes] == ["applied" if applied else "declined"] * len(notes), [note.why for note in notes]
    assert not applied or sum(note.numbers.get("batches", 0) - note.numbers.get("plain_batches", 0) for note in notes) > 0
    return notes[0].why


def timm_loader(photos: Path, workers: int, **options: Any) -> Callable[[], Any]:
    """Return what makes a loader as timm's train.py does, on the CPU."""

    def make() -> Any:
        dataset = data.create_dataset("", root=str(photos), split="train", is_training=options.get("is_training", True))
        settings = {"is_training": True, "persistent_workers": False, "device": torch.device("cpu"), "batch_size": 4, **options}
        return data.create_loader(dataset, SIZE, num_workers=workers, **settings)

    return make


def test_every_known_function_is_that_of_this_timm() -> None:
    modules = [data.dataset, data.loader, data.transforms, data.random_erasing, data.auto_augment, data.readers.reader_image_folder]
    for title, known in TIMM.items():
        name, _, method = title.partition(".")
        owner = next(vars(module)[name] for module in modules if name in vars(module))
        assert fingerprint(getattr(owner, method) if method else owner) in known, title


WAYS = [
    ("training", {}),
    ("random_interpolation", {"interpolation": "random", "color_jitter": None, "vflip": 0.3}),
    ("no_prefetcher", {"use_prefetcher": False}),
    ("erasing", {"use_prefetcher": False, "re_prob": 0.8, "re_count": 3}),
    ("erasing_pixels", {"use_prefetcher": False, "re_prob": 0.8, "re_mode": "pixel"}),
    ("erasing_colours", {"use_prefetcher": False, "re_prob": 0.8, "re_mode": "rand", "interpolation": "bicubic"}),
    ("erasing_on_the_device", {"re_prob": 0.6, "re_mode": "pixel"}),
    ("greys", {"grayscale_prob": 0.5, "gaussian_blur_prob": 0.5, "color_jitter_prob": 0.5}),
    ("no_augmentation", {"no_aug": True}),
    ("rand_augment", {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random"}),
    ("rand_augment_weighted", {"auto_augment": "rand-m7-n3-p0.8-mstd101-tweights", "interpolation": "bicubic"}),
    ("rand_augment_3a", {"auto_augment": "rand-m9-t3aw-n4-p1-mmax30", "use_prefetcher": False, "re_prob": 0.5}),
    ("auto_augment", {"auto_augment": "original-mstd0.5"}),
    ("auto_augment_v0r", {"auto_augment": "v0r", "interpolation": "random"}),
    ("auto_augment_3a", {"auto_augment": "3a"}),
    ("keeping_the_ratio", {"train_crop_mode": "rkrc", "interpolation": "random"}),
    ("keeping_the_ratio_at_random", {"train_crop_mode": "rkrr", "use_prefetcher": False}),
    ("evaluation_border", {"is_training": False, "crop_mode": "border", "crop_pct": 1.0}),
    ("evaluation", {"is_training": False, "crop_pct": 0.9}),
    ("evaluation_squash", {"is_training": False, "crop_mode": "squash", "use_prefetcher": False}),
    ("endless", {"use_multi_epochs_loader": True}),
    ("part_of_seeds", {"worker_seeding": "part"}),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [options for _, options in WAYS], ids=[name for name, _ in WAYS])
def test_loaders_of_timm(photos: Path, workers: int, options: dict[str, Any]) -> None:
    both(timm_loader(photos, workers, **options))


@pytest.mark.parametrize("breaks", [None, 1])
def test_persistent_workers_and_breaks(photos: Path, breaks: int | None) -> None:
    why = both(timm_loader(photos, 3, persistent_workers=True, interpolation="random"), epochs=3, breaks=breaks)
    assert why.startswith("ImageDataset -> RandomResizedCropAndInterpolation(24), RandomHorizontalFlip()"), why


def test_batches_of_bytes_stand_in_a_tuple(photos: Path) -> None:
    def make() -> Any:
        loader = timm_loader(photos, 2)()
        return loader.loader  # below the prefetcher

    both(make)
    stoker.boost.on("exact", off=["allocator"])
    batch = next(iter(make()))
    assert type(batch) is tuple
    assert [part.dtype for part in batch] == [torch.uint8, torch.int64]


def test_arrays_of_older_releases(photos: Path) -> None:
    """Up to 1.0.15 the pipeline of the prefetcher ended in ToNumpy."""
    from timm.data.loader import fast_collate
    from timm.data.transforms import RandomResizedCropAndInterpolation, ToNumpy

    def make() -> Any:
        steps = transforms.Compose([RandomResizedCropAndInterpolation(20), transforms.RandomHorizontalFlip(), ToNumpy()])
        return DataLoader(datasets.ImageFolder(str(photos), steps), 4, shuffle=True, num_workers=2, collate_fn=fast_collate)

    both(make)


def test_transforms_of_timm_on_images_of_torchvision(photos: Path) -> None:
    def make() -> Any:
        steps = data.create_transform(SIZE, is_training=True, re_prob=0.5, re_mode="pixel", interpolation="random")
        return DataLoader(datasets.ImageFolder(str(photos), steps), 5, shuffle=True, num_workers=2)

    both(make)


def collated(batch: Any) -> Any:
    """As people write it."""
    return torch.utils.data.default_collate(batch)


@pytest.mark.parametrize("function", [collated, lambda batch: default_collate(batch)], ids=["def", "lambda"])
def test_default_collate_by_another_name(photos: Path, function: Callable[[Any], Any]) -> None:
    steps = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor()])
    both(lambda: DataLoader(datasets.ImageFolder(str(photos), steps), 5, shuffle=True, collate_fn=function))


def swapped(batch: Any) -> Any:
    return default_collate(batch[::-1])


def several(*batch: Any) -> Any:
    return default_collate(batch)


def preset(batch: Any = ()) -> Any:
    return default_collate(batch)


@pytest.mark.parametrize("function", [swapped, several, preset, None, 3])
def test_other_functions_are_not_the_default(function: Any) -> None:
    with pytest.raises(Unfit, match="collate_fn is the script's own"):
        recognise_collate(function)


def test_a_collate_function_of_its_own_declines(photos: Path) -> None:
    steps = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
    why = both(lambda: DataLoader(datasets.ImageFolder(str(photos), steps), 5, collate_fn=swapped), applied=False)
    assert why.startswith("collate_fn is the script's own swapped (test_boost_timm.py:")


def test_mixup_declines(photos: Path) -> None:
    from timm.data.mixup import FastCollateMixup

    why = both(timm_loader(photos, 0, collate_fn=FastCollateMixup(mixup_alpha=0.2, num_classes=3)), applied=False)
    assert why == "collate_fn is timm's own FastCollateMixup"


def test_augmix_declines(photos: Path) -> None:
    assert "AugMixAugment" in both(timm_loader(photos, 0, auto_augment="augmix-m5-w4-d2"), applied=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_policy_that_the_script_changes(photos: Path, workers: int) -> None:
    """Stronger with every epoch, and once within one: workers that are there already do not see it."""

    def make() -> Any:
        loader = timm_loader(photos, workers, auto_augment="rand-m2-p1-inc1")()
        operations = loader.dataset.transform.transforms[2].ops

        class Growing:
            def __iter__(self) -> Iterator[Any]:
                for number, batch in enumerate(loader):
                    for one in operations:
                        one.magnitude += 1 if number in (0, 2) else 0
                    yield batch

        return Growing()

    plain = seen(make, 2, None)
    stoker.boost.on("exact", off=["allocator"])
    assert alike(seen(make, 2, None), plain)


def test_a_function_that_was_replaced_declines(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = data.ImageDataset
    monkeypatch.setattr(kind, "__getitem__", lambda self, index: kind.__len__(self) and (torch.zeros(3, 4, 4, dtype=torch.uint8), 1))
    why = both(timm_loader(photos, 0), applied=False)
    assert "ImageDataset.__getitem__" in why


def test_broken_files_are_skipped_as_timm_skips_them(photos: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted(photos.rglob("*.jpg"))):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / file.name).write_bytes(file.read_bytes() if number != 3 else b"no picture")
    make = timm_loader(tmp_path, 2, no_aug=True)
    plain = seen(make, 2, None)
    stoker.boost.on("exact", off=["allocator"])
    assert alike(seen(make, 2, None), plain)


def test_samplers_of_timm_and_parts_of_a_data_set(photos: Path) -> None:
    from timm.data.distributed_sampler import OrderedDistributedSampler, RepeatAugSampler

    def loader(kind: type, workers: int) -> Callable[[], Any]:
        def make() -> Any:
            dataset = data.create_dataset("", root=str(photos))
            dataset.transform = data.create_transform(SIZE, is_training=True)
            part = Subset(dataset, list(range(20, 2, -1)))
            return DataLoader(part, 4, sampler=kind(part, num_replicas=2, rank=1), num_workers=workers, collate_fn=default_collate)

        return make

    both(loader(RepeatAugSampler, 2))
    both(loader(OrderedDistributedSampler, 0))


@pytest.mark.parametrize("changes", [{"input_img_mode": "L"}, {"additional_features": ()}, {"reader": [("nowhere", 0)]}], ids=str)
def test_other_ways_of_reading_are_not_known(photos: Path, changes: dict[str, Any]) -> None:
    dataset = data.create_dataset("", root=str(photos))
    recognise_data(dataset)
    vars(dataset).update(changes)
    with pytest.raises(Unfit):
        recognise_data(dataset)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_files_that_the_script_changes_while_it_iterates(photos: Path, library: str, workers: int) -> None:
    """Without workers the next batch has the new list; workers have their own. Nothing is drawn here, so batches are made ahead."""
    steps = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])

    def make() -> Any:
        if library == "timm":
            loader = timm_loader(photos, workers, no_aug=True)()
            samples = loader.dataset.reader.samples
        else:
            loader = DataLoader(datasets.ImageFolder(str(photos), steps), 4, num_workers=workers)
            samples = loader.dataset.samples

        class Shifting:
            def __iter__(self) -> Iterator[Any]:
                for batch in loader:
                    samples.append(samples.pop(0))
                    yield batch

        return Shifting()

    plain = seen(make, 2, None)
    stoker.boost.on("exact", off=["allocator"])
    assert alike(seen(make, 2, None), plain)
