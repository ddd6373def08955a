"""The configuration of an image: everything from the lock, nothing from the machine; the condition that NVIDIA's runtime checks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.image.compression import Blob
from stoker.image.configuration import driver_requirement, image_configuration
from stoker.image.lock import Base, Lock, LockedStack, Own
from stoker.image.oci import Layer

LAYER = Layer(
    title="torch 2.13.0",
    blob=Blob(diff_id="sha256:" + "1" * 64, digest="sha256:" + "2" * 64, size=1, unpacked_size=2, media_type="m", path=Path("x")),
)


def stack(name: str, cuda: str | None, driver_min: str | None) -> LockedStack:
    """A stack without wheels."""
    return LockedStack(
        name=name,
        torch="2.13.0",
        torchvision=None,
        cuda=cuda,
        toolkit=None,
        cudnn=None,
        driver_min=driver_min,
        driver_full="580.65.06" if cuda else None,
        architectures=("75", "80") if cuda else (),
        ptx=bool(cuda),
        wheels=(),
    )


def lock(*stacks: LockedStack, variants: tuple[str, ...] = ("cli",)) -> Lock:
    """A lock with these stacks."""
    return Lock(
        name="team/trainer",
        created=1_760_000_000,
        machine="x86_64",
        specification="sha256:" + "0" * 64,
        python="3.13",
        python_full="3.13.5",
        base=Base(kind="debian", suite="trixie", digest=None, debs=()),
        stacks=stacks,
        variants=variants,
        prune=(),
        own=Own(version="0.1.0", sha256="0" * 64),
        compression="zstandard 0.25.0 level 3",
    )


def configured(one: Lock, **more: Any) -> dict[str, Any]:
    """The configuration of a lock with one layer."""
    given = {"init": ("/usr/bin/catatonit", "--", "/opt/stoker/bin/stoker-start"), "command": ("bash",), "labels": {}, "base": {}, **more}
    return image_configuration(one, [LAYER], **given)


def environment(config: dict[str, Any]) -> dict[str, str]:
    """The environment variables."""
    return dict(row.split("=", 1) for row in config["config"]["Env"])


def test_the_condition_is_that_of_the_least_demanding_stack() -> None:
    new, old = stack("cu130", "13.0", "580.65.06"), stack("cu126", "12.6", "525.60.13")
    assert driver_requirement(lock(new)) == "cuda>=13.0,driver>=580.65.06"
    assert driver_requirement(lock(new, old)) == driver_requirement(lock(old)) == "cuda>=12.0,driver>=525.60.13"


@pytest.mark.parametrize("stacks", [(stack("cpu", None, None),), (stack("cu130", "13.0", "580.65.06"), stack("cpu", None, None))])
def test_where_a_stack_runs_without_a_gpu_no_host_is_refused(stacks: tuple[LockedStack, ...]) -> None:
    one = lock(*stacks)
    assert driver_requirement(one) is None
    assert not [name for name in environment(configured(one)) if name == "NVIDIA_REQUIRE_CUDA"]


def test_versions_of_drivers_are_compared_as_numbers() -> None:
    assert driver_requirement(lock(stack("a", "13.0", "1000.1"), stack("b", "12.6", "525.60.13"))) == "cuda>=12.0,driver>=525.60.13"


def test_a_container_asks_for_no_gpu_by_itself_and_runs_as_an_ordinary_user() -> None:
    config = configured(lock(stack("cu130", "13.0", "580.65.06")))
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(config)
    assert environment(config)["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert environment(config)["PATH"].startswith("/opt/stoker/bin:")
    assert (config["config"]["User"], config["config"]["WorkingDir"]) == ("stoker", "/workspace")
    assert "STOKER_BOOST" not in environment(config)


def test_the_driver_is_asked_for_wherever_a_stack_can_use_one() -> None:
    both = environment(configured(lock(stack("cu130", "13.0", "580.65.06"), stack("cpu", None, None))))
    assert both["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "NVIDIA_DRIVER_CAPABILITIES" not in environment(configured(lock(stack("cpu", None, None))))


def test_the_labels_tell_the_lock_and_the_stacks() -> None:
    one = lock(stack("cu130", "13.0", "580.65.06"), variants=("cli", "ssh"))
    config = configured(one, labels={"org.opencontainers.image.revision": "abc"})
    labels = config["config"]["Labels"]
    assert config["created"] == labels["org.opencontainers.image.created"] == "2025-10-09T08:53:20Z"
    assert labels["dev.stoker.lock"] == one.digest
    assert labels["dev.stoker.driver-min"] == "580.65.06"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert json.loads(labels["dev.stoker.stacks"])[0]["architectures"] == ["75", "80"]
    assert all(isinstance(value, str) for value in labels.values())
    assert list(config["config"]["ExposedPorts"]) == ["2222/tcp"]


def test_neither_clock_nor_zone_nor_locale_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = lock(stack("cu130", "13.0", "580.65.06"))
    before = configured(one)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert configured(one) == before
    assert configured(replace(one, created=1)) != before


def test_what_an_oci_base_says_stays_where_ours_says_nothing() -> None:
    config = configured(lock(stack("cpu", None, None)), base={"Env": ["FOO=bar=1", "LANG=C"], "Labels": {"vendor": "x", "dev.stoker.lock": "y"}})
    assert environment(config)["FOO"] == "bar=1"
    assert environment(config)["LANG"] == "C.UTF-8"
    assert config["config"]["Labels"]["vendor"] == "x"
    assert config["config"]["Labels"]["dev.stoker.lock"].startswith("sha256:")
