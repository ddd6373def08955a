"""Batches made sample by sample: the bits of the user's own pipeline, and the random state that it leaves."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from stoker.boost.replay import route as route_
from stoker.boost.replay import samples as samples_
from stoker.boost.replay.data import recognise_data
from stoker.boost.replay.engine import Room
from stoker.boost.replay.pixels import Pixels
from stoker.boost.replay.samples import Samples, samples
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG and PNG files, colour and grey, of different sizes."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for number in range(10):
        target = root / "ab"[number % 2]
        target.mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (9 + number, 30 - number, 3), dtype=np.uint8))
        image = small.resize((40 + 7 * number, 90 - 4 * number)).convert("L" if number == 5 else "RGB")
        image.save(target / f"{number}.{'png' if number % 3 else 'jpg'}")
    return root


@pytest.fixture(autouse=True)
def own_pixels(monkeypatch: pytest.MonkeyPatch) -> Pixels:
    pixels = Pixels()
    monkeypatch.setattr(route_, "PIXELS", pixels)
    return pixels


def cifar(transform, count: int = 10, target_transform=None):
    rng, dataset = np.random.default_rng(count), datasets.CIFAR10.__new__(datasets.CIFAR10)
    vars(dataset).update(root="", transform=transform, target_transform=target_transform, transforms=None)
    dataset.data = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8).transpose(0, 2, 3, 1)
    dataset.targets = rng.integers(0, 10, count).tolist()
    return dataset


def mnist(transform, count: int = 10, target_transform=None):
    rng, dataset = np.random.default_rng(count), datasets.MNIST.__new__(datasets.MNIST)
    vars(dataset).update(root="", transform=transform, target_transform=target_transform, transforms=None)
    dataset.data, dataset.targets = torch.from_numpy(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)), torch.arange(count)
    return dataset


def fake(transform, count: int = 10, target_transform=None):
    return datasets.FakeData(count, (3, 40, 44), transform=transform, target_transform=target_transform)


def seeded(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def states() -> tuple:
    numpy = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), (numpy[0], numpy[1].tobytes(), *numpy[2:])


def ours(engine: Samples, stream: Stream, index: list[int], cut: int) -> list[torch.Tensor]:
    room = Room(tensors=[torch.full(shape, 77, dtype=dtype) for shape, dtype in engine.shapes(len(index))])
    places = np.array(index, np.int64)
    if engine.serial:
        with stream.made_global():
            drawn = engine.draw(stream, places)
    else:
        drawn = engine.draw(stream, places)
    engine.fill(drawn, room, 0, cut)
    engine.fill(drawn, room, cut, len(index))
    return room.tensors


def check(dataset, index: list[int], seed: int = 5, engine: Samples | None = None) -> Samples:
    """Batches from this process's random state and from a worker's are those of the data set itself, and so is the state afterwards."""
    engine = engine or samples(recognise_data(dataset))
    seeded(seed)
    theirs, after = default_collate([dataset[place] for place in index]), states()
    seeded(seed)
    mine = ours(engine, Stream.of_process(), index, len(index) // 3)
    assert states() == after
    same(mine, theirs)
    seeded(seed + 1)
    before, threads = states(), torch.get_num_threads()
    expected, replayed = Stream.of_worker(seed, 1, 2, dataset), Stream.of_worker(seed, 1, 2, dataset)
    with expected.made_global():
        torch.set_num_threads(1)
        made = [dataset[place] for place in index]
        torch.set_num_threads(threads)
    mine = ours(engine, replayed, index, 1)
    assert replayed.stands_at(expected.snapshot())
    assert states() == before
    same(mine, default_collate(made))
    assert engine.current()
    return engine


def same(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        assert torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


NORMALIZE = v1.Normalize(MEAN, STD)
PIPELINES = {
    "imagenet": lambda: v1.Compose([v1.RandomResizedCrop(24), v1.RandomHorizontalFlip(), v1.ToTensor(), NORMALIZE]),
    "imagenet-eval": lambda: v1.Compose([v1.Resize(32), v1.CenterCrop(24), v1.ToTensor(), NORMALIZE]),
    "many": lambda: v1.Compose(
        [
            v1.Resize((30, 28)),
            v1.RandomCrop(24, 2),
            v1.ColorJitter(0.4, 0.4, 0.4, 0.1),
            v1.RandomRotation(9),
            v1.ToTensor(),
            NORMALIZE,
            v1.RandomErasing(0.9),
        ]
    ),
    "v2": lambda: v2.Compose([v2.RandomResizedCrop(24), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
    "v2-tensors": lambda: v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(24, antialias=True),
            v2.ColorJitter(0.4, 0.4),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(0.9),
        ]
    ),
    "bytes": lambda: v1.Compose([v1.RandomResizedCrop(24), v1.PILToTensor()]),
    "halves": lambda: v1.Compose([v1.RandomResizedCrop(24), v1.PILToTensor(), v1.ConvertImageDtype(torch.bfloat16)]),
    "standardised": lambda: v1.Compose([v1.Resize((260, 260)), v1.ToTensor(), v1.Lambda(lambda x: (x - x.mean()) / x.std())]),
    "own-image-code": lambda: v1.Compose([v1.Resize((30, 30)), v1.Lambda(lambda image: image.rotate(10)), v1.RandomCrop(24), v1.ToTensor()]),
    "own-noise": lambda: v1.Compose([v1.Resize((24, 24)), v1.ToTensor(), v1.Lambda(lambda x: x + torch.randn_like(x)), v1.RandomErasing(0.9)]),
    "own-shape": lambda: v1.Compose([v1.Resize((24, 24)), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Lambda(lambda x: x.view(-1))]),
    "library": lambda: v1.Compose([v1.Resize((24, 24)), v1.RandomHorizontalFlip(), v1.AutoAugment(), v1.ToTensor()]),
    "choices": lambda: v1.Compose(
        [
            v1.Resize((24, 24)),
            v1.RandomApply([v1.ColorJitter(0.3)], 0.5),
            v1.RandomChoice([v1.RandomRotation(10), v1.RandomGrayscale(0.5)]),
            v1.ToTensor(),
        ]
    ),
}


@pytest.mark.parametrize("title", sorted(PIPELINES))
@pytest.mark.parametrize("kind", ["files", "fake", "array"])
def test_pipelines(title: str, kind: str, photos: Path) -> None:
    transform = PIPELINES[title]()
    dataset = datasets.ImageFolder(photos, transform) if kind == "files" else fake(transform) if kind == "fake" else cifar(transform)
    engine = check(dataset, [3, 1, 9, 3, 0, 5])
    check(dataset, [8, 3, 3, 7], 6, engine)
    assert engine.draws is any(step.draws for step in engine._routes[0].steps)


@pytest.mark.parametrize(
    "target",
    [
        None,
        lambda label: label * 2,
        lambda label: float(label),
        lambda label: torch.eye(10)[label],
        lambda label: label + int(torch.randint(0, 3, (1,))),
        lambda label: label if random.random() < 0.5 else 0,
    ],
)
def test_labels(target) -> None:
    check(mnist(v1.Compose([v1.RandomRotation(10), v1.ToTensor(), v1.Normalize((0.1,), (0.3,))]), target_transform=target), [4, 4, 2, 0, 9])


def test_labels_of_made_up_data() -> None:
    check(fake(v1.ToTensor(), target_transform=lambda label: label * 2), [4, 4, 2])
    check(fake(v1.ToTensor(), target_transform=lambda label: label + torch.randint(0, 3, ())), [4, 4, 2])
    with pytest.raises(Unfit, match="first sample cannot be made"):
        samples(recognise_data(fake(v1.ToTensor(), target_transform=lambda label: 3)))


def test_grey_images_become_colour() -> None:
    check(mnist(v1.Compose([v1.Grayscale(3), v1.Resize(30), v1.ToTensor(), NORMALIZE])), [1, 5, 2])
    check(mnist(v1.Compose([v1.Resize(30), v1.Lambda(lambda image: image.convert("RGB")), v1.RandomCrop(24), v1.ToTensor(), NORMALIZE])), [1, 5, 2])


def test_data_sets_within_each_other() -> None:
    one, two = cifar(PIPELINES["many"]()), cifar(PIPELINES["choices"](), 8)
    check(ConcatDataset([Subset(one, [4, 2, 7]), two, Subset(two, torch.tensor([1, 1]))]), [0, 12, 5, 11, 2, 8])
    with pytest.raises(Unfit, match="different shapes"):
        samples(recognise_data(ConcatDataset([one, cifar(v1.ToTensor(), 8)])))
    with pytest.raises(Unfit, match="tensors and images"):
        samples(recognise_data(ConcatDataset([one, TensorDataset(torch.zeros(3))])))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [v1.RandomHorizontalFlip(), v1.RandomRotation(20), v1.ColorJitter(0.5), v1.RandomGrayscale(0.5), v1.Pad(2), v1.Resize((27, 33))]
        ),
        max_size=4,
    ),
    st.sampled_from([v1.RandomResizedCrop(20), v1.Resize((20, 20)), v1.RandomCrop(20, pad_if_needed=True)]),
    st.sampled_from([[v1.ToTensor()], [v1.ToTensor(), NORMALIZE], [v1.PILToTensor()], [v1.ToTensor(), v1.RandomErasing(0.5, value=0.5), NORMALIZE]]),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_random_pipelines(photos: Path, before, size, tail, index: list[int], seed: int) -> None:
    check(datasets.ImageFolder(photos, v1.Compose([*before, size, *tail])), index, seed % (2**31))


# ---- what is declined, and what goes wrong --------------------------------------------------------------------------------------------------------


def test_what_makes_no_batch_is_declined() -> None:
    with pytest.raises(Unfit, match="cannot make a batch of Image"):
        samples(recognise_data(cifar(v1.RandomRotation(5))))
    with pytest.raises(Unfit, match="first sample cannot be made"):
        samples(recognise_data(cifar(v1.Normalize(MEAN, STD))))
    with pytest.raises(Unfit, match="hold a str where one image or one label"):
        samples(recognise_data(cifar(v1.Compose([v1.RandomRotation(5), v1.ToTensor()]), target_transform=str)))
    with pytest.raises(Unfit, match="it is empty"):
        samples(recognise_data(Subset(cifar(v1.ToTensor()), [])))


class Counter:
    """Code of the user's that keeps count: others would see it run here."""

    calls = 0

    def __call__(self, image):
        Counter.calls += 1
        return image


def test_code_that_others_could_see_run_is_not_run() -> None:
    with pytest.raises(Unfit, match=r"Counter.* runs as the script wrote it"):
        samples(recognise_data(cifar(v1.Compose([Counter(), v1.ToTensor()]))))
    assert Counter.calls == 0


def test_images_of_other_sizes_than_the_first_are_refused(photos: Path) -> None:
    engine = samples(recognise_data(datasets.ImageFolder(photos, v1.ToTensor())))
    with pytest.raises(Unfit, match="a sample has shape"):
        ours(engine, Stream.of_process(), [0, 1], 1)
    engine = samples(recognise_data(datasets.ImageFolder(photos, v1.Compose([v1.ToTensor(), v1.Lambda(lambda x: x * 2)]))))
    with pytest.raises(Unfit, match="the first was"):
        ours(engine, Stream.of_process(), [0, 1], 1)


def test_labels_of_another_type_than_the_first_are_refused() -> None:
    dataset = cifar(v1.Compose([v1.RandomRotation(5), v1.ToTensor()]))
    dataset.targets[3] = 0.5
    engine = samples(recognise_data(dataset))
    check(dataset, [0, 1, 2], engine=engine)
    with pytest.raises(Unfit, match="a batch of labels"):
        ours(engine, Stream.of_process(), [3, 1], 1)


def test_a_broken_and_a_missing_file_raise_what_pil_raises(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.fromarray(np.full((30, 30, 3), number, np.uint8)).save(tmp_path / "a" / f"{number}.png")
    dataset = datasets.ImageFolder(tmp_path, PIPELINES["imagenet"]())
    engine = samples(recognise_data(dataset))
    check(dataset, [0, 1], engine=engine)
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(FileNotFoundError):
        ours(engine, Stream.of_process(), [0, 1], 1)
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="cannot identify image file"):
        ours(engine, Stream.of_process(), [2, 0], 1)


def test_a_changed_transform_is_noticed() -> None:
    dataset = cifar(v1.Compose([v1.RandomRotation(5), v1.ToTensor()]))
    engine = samples(recognise_data(dataset))
    assert engine.current()
    dataset.transform.transforms[0].degrees = [0.0, 1.0]
    assert not engine.current()


# ---- kept images ----------------------------------------------------------------------------------------------------------------------------------


def test_files_are_decoded_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    opened: list[str] = []
    own = route_.FilesSource.image
    monkeypatch.setattr(route_.FilesSource, "image", lambda self, place: opened.append(self.path(place)) or own(self, place))
    dataset = datasets.ImageFolder(tmp_path, PIPELINES["imagenet"]())
    for _ in range(2):
        check(dataset, [0, 0])
    assert len(opened) == 1
    assert samples(recognise_data(dataset)).keeps
    assert samples(recognise_data(datasets.ImageFolder(tmp_path, PIPELINES["imagenet-eval"]()))).shapes(1)
    assert len(opened) == 2
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    check(dataset, [0, 0])
    assert len(opened) == 3


def test_a_file_that_changes_its_size_is_not_cropped_by_its_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "0.png"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(path)
    dataset = datasets.ImageFolder(tmp_path, PIPELINES["imagenet"]())
    engine = check(dataset, [0])
    Image.fromarray(np.zeros((60, 30, 3), np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(Unfit, match="changed its size"):
        ours(engine, Stream.of_process(), [0], 1)
    check(dataset, [0], engine=engine)


def test_pixels_that_are_written_into_are_not_kept() -> None:
    dataset = mnist(v1.Compose([v1.Resize(32), v1.RandomRotation(5), v1.ToTensor()]))
    engine = check(dataset, [0, 1])
    dataset.data[1] = 9
    check(dataset, [0, 1], engine=engine)


def test_code_that_writes_into_its_image_does_not_change_kept_ones(photos: Path) -> None:
    def darkened(image):
        image.paste(0, (0, 0, 5, 5))
        image.putpixel((7, 7), (1, 2, 3))
        return image

    dataset = datasets.ImageFolder(photos, v1.Compose([v1.Resize((24, 24)), v1.ToTensor()]))
    check(dataset, [0, 1])
    engine = samples(recognise_data(dataset))
    step = samples_.Route(
        recognise_data(datasets.ImageFolder(photos, v1.Compose([v1.Resize((24, 24)), v1.Lambda(lambda x: x), v1.ToTensor()]))).leaves[0], 10
    )
    darkened(step._image(step.fetch(step.draw(Stream.of_process(), 0))))
    check(dataset, [0, 1], engine=engine)
