"""The installed torchvision is one that was read; another one is run as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stoker.boost.replay.steps import known, recognise_transform
from stoker.boost.replay.steps.geometry import Crop
from stoker.boost.replay.steps.known import is_own, is_read
from stoker.boost.replay.steps.makers import MAKERS
from stoker.boost.replay.steps.pipeline import AROUND
from stoker.boost.replay.steps.unknown import Unknown

transforms = pytest.importorskip("torchvision.transforms")
v2 = pytest.importorskip("torchvision.transforms.v2")

FAMILIES = {"v1": transforms, "v2": v2}
OTHERWISE = [("v2", "AutoAugment"), ("v2", "RandAugment"), ("v2", "TrivialAugmentWide")]
"""These draw in another way in v2, and run as they are."""
CLASSES = [(family, name) for family, T in FAMILIES.items() for name in (*MAKERS, *AROUND) if hasattr(T, name) and (family, name) not in OTHERWISE]


@pytest.mark.parametrize(("family", "name"), CLASSES)
def test_the_installed_torchvision_was_read(family: str, name: str) -> None:
    kind = getattr(FAMILIES[family], name)
    assert is_own(kind)
    assert is_read(kind, family)


@pytest.mark.parametrize(("family", "name"), OTHERWISE)
def test_the_others_were_not(family: str, name: str) -> None:
    assert not is_read(getattr(FAMILIES[family], name), family)
    assert isinstance(recognise_transform(getattr(FAMILIES[family], name)())[0], Unknown)


def test_a_family_does_not_pass_for_the_other() -> None:
    assert not is_read(transforms.RandomCrop, "v2")


def test_a_replaced_function_is_not_torchvision_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2.RandomHorizontalFlip.__mro__[1], "forward", lambda self, image: image)
    assert not is_own(v2.RandomHorizontalFlip)
    assert is_own(v2.RandomCrop)


@pytest.mark.parametrize("T", [transforms, v2])
def test_a_source_that_nobody_read_runs_as_it_is(T: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(recognise_transform(T.RandomCrop(3))[0], Crop)
    monkeypatch.setattr(known, "source_hash", lambda function: "another")
    known._digests.cache_clear()
    try:
        (step,) = recognise_transform(T.RandomCrop(3))
        (around,) = recognise_transform(T.Compose([T.RandomCrop(3)]))
    finally:
        known._digests.cache_clear()
    assert isinstance(step, Unknown)
    assert (step.draws, step.serial, step.reason) == (True, True, None)
    # What stands inside a container that nobody read may be the user's.
    assert isinstance(around, Unknown)
    assert around.serial
    assert "Compose is not one that is known in torchvision" in str(around.reason)


def test_a_sequence_of_torch_s_is_a_container() -> None:
    assert [type(step) for step in recognise_transform(torch.nn.Sequential(transforms.RandomCrop(3)))] == [Crop]
