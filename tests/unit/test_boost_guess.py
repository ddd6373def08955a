"""The batch that is made ahead of a loader without workers: taken only when it is what the script's own loader gives at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

import stoker.boost
from stoker.boost.replay import plan as planning
from stoker.boost.replay import single
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


def other_transform(made: Any, place: int) -> None:
    if place == 9:
        made.transform = transforms.ToTensor()


def evaluates(made: Any, place: int) -> None:
    for _ in DataLoader(made, 30):
        pass


HIT = (nothing, draws_at_times, writes_labels, evaluates)
"""With these between the batches some guesses are right, whatever the transform draws."""
ALL = (*HIT, draws, seeds, writes_pixels, writes_one_pixel, swaps_pixels, other_labels, other_transform)


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
