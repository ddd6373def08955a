"""The batch that is made ahead of a loader without workers: taken only when it is what the script's own loader gives at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader, Subset, dataloader
from torchvision import transforms

import stoker.boost
from stoker.boost.replay import plan as planning
from stoker.boost.replay import single
from stoker.boost.replay.check import Check
from stoker.boost.replay.guess import Guess, can_guess

Between = Callable[[Any, int], None]

CROPPED = transforms.Compose([transforms.RandomCrop(8, padding=1), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
PLAIN = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])


def cifar(transform: Any) -> Any:
    made = torchvision.datasets.CIFAR10.__new__(torchvision.datasets.CIFAR10)
    torchvision.datasets.VisionDataset.__init__(made, "nowhere", transform=transform)
    stream = np.random.RandomState(1)
    made.train = True
    made.data = stream.randint(0, 256, (100, 3, 8, 8), dtype=np.uint8).transpose(0, 2, 3, 1)
    made.targets = stream.randint(0, 10, 100).tolist()
    return made


def nothing(made: Any, place: int) -> None:
    pass


def draws(made: Any, place: int) -> None:
    torch.rand(3)


def draws_at_times(made: Any, place: int) -> None:
    if place % 5 == 4:
        torch.rand(3)


def seeds(made: Any, place: int) -> None:
    torch.manual_seed(place)


def writes_pixels(made: Any, place: int) -> None:
    made.data[:, place % 8] = place


def writes_one_pixel(made: Any, place: int) -> None:
    made.data[place * 7 % 100, 3, 4, 1] ^= 1


def swaps_pixels(made: Any, place: int) -> None:
    if place == 9:
        made.data = made.data[::-1]


def writes_labels(made: Any, place: int) -> None:
    made.targets[:] = [place] * 100


def other_labels(made: Any, place: int) -> None:
    if place == 9:
        made.targets = [0.5] * 100


def one_label_of_another_type(made: Any, place: int) -> None:
    if place == 9:
        made.targets[:] = [True] * 100


def fewer_labels(made: Any, place: int) -> None:
    if place == 23:
        made.targets.append(made.targets.pop())
    if place == 8:
        made.targets = list(made.targets)


def property_of_the_object(made: Any, place: int) -> None:
    if place == 9:
        made.transform.p = 1


def other_transform(made: Any, place: int) -> None:
    if place == 9:
        made.transform = transforms.ToTensor()


def evaluates(made: Any, place: int) -> None:
    for _ in DataLoader(made, 30):
        pass


HIT = (nothing, draws_at_times, writes_labels, evaluates)
"""With these between the batches some guesses are right, whatever the transform draws."""
ALL = (
    *(*HIT, draws, seeds, writes_pixels, writes_one_pixel, swaps_pixels, other_labels, one_label_of_another_type, fewer_labels),
    *(property_of_the_object, other_transform),
)


def told(made: Any, between: Between, **options: Any) -> Iterator[bytes]:
    """Yield everything that two epochs and a third, broken off, give to a script."""
    torch.manual_seed(3)
    dataset = Subset(made, range(90, 5, -1)) if options.pop("part", False) else made
    loader = DataLoader(dataset, 4, **options)
    for epoch in range(3):
        for place, (images, labels) in enumerate(loader):
            yield images.numpy().tobytes()
            yield str((labels.dtype, labels.tolist())).encode()
            between(made, place)
            yield torch.get_rng_state().numpy().tobytes()
            if epoch == 2 and place == 12:
                break
        yield torch.get_rng_state().numpy().tobytes()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Boost is on; whether each guess was right."""
    found: list[bool] = []
    take = Guess.take

    def counted(self: Guess, *arguments: Any) -> Any:
        pending = self._batch is not None
        room = take(self, *arguments)
        if pending:
            found.append(room is not None)
        return room

    monkeypatch.setattr(Guess, "take", counted)
    monkeypatch.setattr(planning, "_cores", lambda: 2)
    monkeypatch.setattr(single, "LEAST_STEP_S", 0.0)
    monkeypatch.setattr(Check, "_slower", lambda self, at_once: False)
    stoker.boost.on()
    yield found
    stoker.boost.off()


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": False}, {"shuffle": True, "part": True, "drop_last": True}], ids=str)
@pytest.mark.parametrize("transform", [CROPPED, PLAIN], ids=["draws", "plain"])
@pytest.mark.parametrize("between", ALL, ids=lambda function: function.__name__)
def test_a_guess_is_never_seen(taken: list[bool], between: Between, transform: Any, options: dict[str, Any]) -> None:
    boosted = list(told(cifar(transform), between, **options))
    stoker.boost.off()
    assert list(told(cifar(transform), between, **options)) == boosted
    assert taken
    if between in HIT:
        assert any(taken)


def digits(labels: Any) -> Any:
    """Return an MNIST that holds `labels`."""
    made = torchvision.datasets.MNIST.__new__(torchvision.datasets.MNIST)
    torchvision.datasets.VisionDataset.__init__(made, "nowhere", transform=transforms.ToTensor())
    made.train = True
    made.data = torch.randint(0, 256, (100, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    made.targets = labels
    return made


def first_of_all(labels: Any, place: int) -> None:
    labels[place] += 1


def other_memory(labels: Any, place: int) -> None:
    if place == 7 and isinstance(labels, torch.Tensor):
        labels.data = labels + 1
    elif place == 7:
        labels.shape = (50, 2)
        labels[:] = labels[::-1].copy()
        labels.shape = (100,)


def other_type(labels: Any, place: int) -> None:
    if place == 7 and isinstance(labels, torch.Tensor):
        labels.data = labels.float()
    elif place == 7:
        labels.dtype = np.uint64


@pytest.mark.parametrize("between", [first_of_all, other_memory, other_type])
@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray], ids=["tensor", "array"])
def test_labels_that_change_in_their_own_memory(taken: list[bool], kind: type, between: Any) -> None:
    def seen() -> list[Any]:
        whole = torch.arange(100) % 10
        made = digits(whole if kind is torch.Tensor else whole.numpy().copy())
        found = []
        for place, (_, labels) in enumerate(DataLoader(made, 4)):
            found.append((labels.dtype, labels.tolist()))
            between(made.targets, place)
        return found

    boosted = seen()
    stoker.boost.off()
    assert seen() == boosted
    assert any(taken)


def test_labels_that_go_away_are_missed_where_the_script_would_miss_them(taken: list[bool]) -> None:
    def seen() -> list[Any]:
        made, found = cifar(PLAIN), []
        try:
            for place, (_, labels) in enumerate(DataLoader(made, 4)):
                found.append(labels.tolist())
                if place == 10:
                    del made.targets[40:]
        except IndexError as error:
            found.append(str(error))
        return found

    boosted = seen()
    stoker.boost.off()
    assert seen() == boosted
    assert boosted[-1] == "list index out of range"
    assert any(taken)


def test_a_profiler_sees_every_batch(taken: list[bool]) -> None:
    def seen() -> list[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in DataLoader(cifar(PLAIN), 4):
                pass
        return [event.name for event in profile.events() if event.name.startswith("enumerate(")]

    boosted = seen()
    stoker.boost.off()
    assert seen() == boosted
    assert len(boosted) == 26


def test_a_function_put_around_the_next_batch_is_called(taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = dataloader._BaseDataLoaderIter.__next__, []

    def around(self: Any) -> Any:
        calls.append(1)
        return own(self)

    monkeypatch.setattr(dataloader._BaseDataLoaderIter, "__next__", around)
    assert len(list(DataLoader(cifar(PLAIN), 4))) == 25
    assert len(calls) == 26


def test_where_the_script_draws_between_batches_no_more_guesses_are_made(taken: list[bool]) -> None:
    list(told(cifar(CROPPED), draws, shuffle=True))
    assert len(taken) == 6  # two an epoch
    assert not any(taken)


def test_pixels_that_are_not_in_one_piece_are_not_guessed() -> None:
    made = cifar(PLAIN)
    made.data = made.data[:, ::2]
    loader = DataLoader(made, 4)
    assert not can_guess(planning.plan_for(loader).engine)


def test_what_was_recognised_serves_the_next_epoch_as_long_as_it_holds() -> None:
    made = cifar(PLAIN)
    loader = DataLoader(made, 4)
    first = planning.plan_for(loader).engine
    assert planning.plan_for(loader).engine is first
    made.targets = [0.5] * 100
    other = planning.plan_for(loader).engine
    assert other is not first
    made.transform = CROPPED
    assert planning.plan_for(loader).engine not in (first, other)
    assert planning.plan_for(DataLoader(made, 4)).engine is not planning.plan_for(loader).engine
