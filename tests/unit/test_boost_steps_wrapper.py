"""Objects that only hand on: what they hand on to is replayed, and everything that only resembles them is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision import transforms

from stoker.boost.replay.steps import recognise_transform
from stoker.boost.replay.steps.unknown import Unknown
from stoker.boost.replay.steps.wrapper import handed_on

INNER = transforms.Compose([transforms.RandomCrop(8), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
SEEN: list[object] = []


class Preset:
    """As in the reference scripts of torchvision."""

    def __init__(self, inner: Any = INNER) -> None:
        self.transforms = inner

    def __call__(self, img: Any) -> Any:
        """Say something about it."""
        return self.transforms(img)


class Inherited(Preset):
    """Its __call__ is its parent's."""


class Twice(Preset):
    def __call__(self, img: Any) -> Any:
        return self.transforms(self.transforms(img))


class Pair(Preset):
    def __call__(self, img: Any) -> Any:
        return [self.transforms(img), self.transforms(img)]


class Notes(Preset):
    def __call__(self, img: Any) -> Any:
        SEEN.append(img)
        return self.transforms(img)


class Optional(Preset):
    def __call__(self, img: Any, target: Any = None) -> Any:
        return self.transforms(img)


class Other(Preset):
    def __call__(self, img: Any) -> Any:
        return self.transforms(INNER)


class Computed(Preset):
    transforms = property(lambda self: INNER, lambda self, value: None)  # type: ignore[assignment]


class Deep(Preset):
    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)


class Hooked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transforms = INNER

    def __call__(self, img: Any) -> Any:
        return self.transforms(img)


@pytest.mark.parametrize("kind", [Preset, Inherited])
def test_what_only_hands_on_is_looked_through(kind: Any) -> None:
    steps = recognise_transform(transforms.Compose([kind(kind())]))
    assert [step.name for step in steps] == [step.name for step in recognise_transform(INNER)]
    assert not steps.serial


@pytest.mark.parametrize("kind", [Twice, Pair, Notes, Optional, Other, Computed, Deep, Hooked])
def test_what_does_more_is_not(kind: Any) -> None:
    assert handed_on(kind()) is None
    assert all(isinstance(step, Unknown) for step in recognise_transform(kind()))


@pytest.mark.parametrize("other", [None, 3, len, lambda image: image, Preset, INNER])
def test_other_things_hand_nothing_on(other: Any) -> None:
    assert handed_on(other) is None


def test_a_call_of_the_object_s_own_is_not_looked_through() -> None:
    preset: Any = Preset()
    preset.__call__ = lambda image: image  # Python does not call it; the very object is left alone all the same
    assert all(isinstance(step, Unknown) for step in recognise_transform(preset))


def test_changes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = Preset()
    steps = recognise_transform(preset)
    assert steps.current()
    preset.transforms = transforms.Compose(INNER.transforms)
    assert not steps.current()
    preset.transforms = INNER
    assert steps.current()
    monkeypatch.setattr(Preset, "__call__", Twice.__call__)
    assert not steps.current()
