"""Property tests: any pipeline, with workers or without, gives the script the same bits under boost as without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.boost_pipelines import Act, Data, Loading, Made, Pipeline
from tests.boost_strategies import pipelines
from tests.boost_twice import twice

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures are written once."""
    return tmp_path_factory.mktemp("pipelines")


@settings(max_examples=250, deadline=None, suppress_health_check=_CHECKS)
@given(pipelines(0))
def test_without_workers_nothing_differs(folder: Path, pipeline: Pipeline) -> None:
    done = twice(pipeline, folder)
    assert not done.difference, f"{pipeline}\n{done.difference}\n{done.reasons}"
    assert not done.said, f"{pipeline}\n{done.said}"
    assert not done.wrong, f"{pipeline}\n{done.wrong}"


@settings(max_examples=80, deadline=None, suppress_health_check=_CHECKS)
@given(pipelines(3))
def test_with_workers_nothing_differs(folder: Path, pipeline: Pipeline) -> None:
    done = twice(pipeline, folder)
    assert not done.difference, f"{pipeline}\n{done.difference}\n{done.reasons}"
    assert not done.said, f"{pipeline}\n{done.said}"
    assert not done.wrong, f"{pipeline}\n{done.wrong}"


@settings(max_examples=60, deadline=None, suppress_health_check=_CHECKS)
@given(pipelines(1))
def test_with_the_pace_judged_too(folder: Path, pipeline: Pipeline) -> None:
    """Declined for its pace in the first batches, a loader goes on as if nothing had been."""
    done = twice(pipeline, folder, pace=True)
    assert not done.difference, f"{pipeline}\n{done.difference}\n{done.reasons}"


def _usual() -> Iterator[tuple[str, Pipeline]]:
    """Pipelines as scripts have them, which must be replayed and not declined."""
    flip, tensor = Made("v1", "RandomHorizontalFlip"), Made("v1", "ToTensor")
    normalise = Made("v1", "Normalize", {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]})
    grey = Made("v1", "Normalize", {"mean": [0.1307], "std": [0.3081]})
    crop = Made("v1", "RandomCrop", {"size": 12, "padding": 4})
    resized = Made("v1", "RandomResizedCrop", {"size": 10})
    v2 = (
        *(Made("v2", "RandomCrop", {"size": 12, "padding": 2}), Made("v2", "RandomHorizontalFlip"), Made("v2", "ToImage")),
        Made("v2", "ToDtype", {"dtype": torch.float32, "scale": True}),
    )
    jitter = Made("v1", "ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1})
    some = Made("v1", "RandomApply", {"transforms": [jitter], "p": 0.8})
    data = {
        "cifar10": Data(kind="CIFAR10", count=90, steps=(crop, flip, tensor, normalise)),
        "cifar100": Data(kind="CIFAR100", count=90, steps=(crop, flip, tensor, normalise)),
        "cifar-plain": Data(kind="CIFAR10", count=90, steps=(tensor,)),
        "cifar-v2": Data(kind="CIFAR10", count=90, steps=v2, family="v2"),
        "cifar-erasing": Data(kind="CIFAR10", count=90, steps=(crop, flip, tensor, normalise, Made("v1", "RandomErasing", {"p": 0.5}))),
        "cifar-jitter": Data(kind="CIFAR10", count=90, steps=(some, Made("v1", "RandomGrayscale", {"p": 0.2}), tensor)),
        "cifar-rotation": Data(kind="CIFAR10", count=90, steps=(Made("v1", "RandomRotation", {"degrees": 15}), tensor)),
        "cifar-cutout": Data(kind="CIFAR10", count=90, steps=(crop, tensor, Made("mine", "cutout"))),
        "cifar-noise": Data(kind="CIFAR10", count=90, steps=(crop, tensor, Made("mine", "noise"))),
        "cifar-resize": Data(kind="CIFAR10", count=90, steps=(Made("v1", "Resize", {"size": 20}), Made("v1", "CenterCrop", {"size": 16}), tensor)),
        "cifar-subset": Data(kind="CIFAR10", count=160, steps=(crop, flip, tensor), wrap="split"),
        "cifar-concat": Data(kind="CIFAR10", count=60, steps=(crop, flip, tensor), wrap="concat"),
        "mnist": Data(kind="MNIST", count=90, steps=(tensor, grey)),
        "mnist-three": Data(kind="MNIST", count=90, steps=(Made("v1", "Grayscale", {"num_output_channels": 3}), tensor)),
        "mnist-repeat": Data(kind="MNIST", count=90, steps=(tensor, Made("mine", "halves"))),
        "fashion": Data(kind="FashionMNIST", count=90, steps=(crop, flip, tensor, grey)),
        "kmnist": Data(kind="KMNIST", count=90, steps=(tensor,)),
        "emnist": Data(kind="EMNIST", count=90, steps=(tensor,), target="is-three"),
        "svhn": Data(kind="SVHN", count=90, steps=(crop, tensor, normalise)),
        "stl10": Data(kind="STL10", count=90, steps=(crop, flip, tensor, normalise)),
        "fake": Data(kind="FakeData", count=90, steps=(flip, tensor)),
        "folder": Data(kind="ImageFolder", steps=(resized, flip, tensor, normalise)),
        "folder-evaluation": Data(kind="ImageFolder", steps=(Made("v1", "Resize", {"size": 14}), Made("v1", "CenterCrop", {"size": 12}), tensor)),
        "tensors": Data(kind="TensorDataset", count=120),
    }
    for name, what in data.items():
        for workers in (0, 2):
            yield f"{name}-{workers}", Pipeline(data=what, loading=Loading(batch=3, workers=workers, drop_last=True))


@pytest.mark.parametrize(("pipeline"), [pytest.param(pipeline, id=name) for name, pipeline in _usual()])
def test_what_scripts_use_is_replayed(folder: Path, pipeline: Pipeline) -> None:
    done = twice(pipeline, folder)
    assert not done.difference, done.difference
    assert not done.said
    assert done.replayed > 20, done.reasons


_LOOPS = {
    "broken off": (Act(kind="break", after=12), Act(kind="break", after=14), Act()),
    "by hand": (Act(kind="hand", after=14), Act(draws=True)),
    "inner loop": (Act(kind="nested", after=12, draws=True), Act()),
    "the same loader inside": (Act(kind="same", after=13), Act()),
    "zip": (Act(kind="zip", draws=True), Act(kind="zip")),
    "continued in the next epoch": (Act(kind="kept", after=14), Act(kind="late", draws=True)),
}


@pytest.mark.parametrize("acts", _LOOPS.values(), ids=_LOOPS)
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("sampler", ["shuffle", "replacement", "own-generator", "distributed", "weighted", "batches"])
def test_loops(folder: Path, acts: tuple[Act, ...], workers: int, sampler: str) -> None:
    steps = (Made("v1", "RandomCrop", {"size": 12, "padding": 4}), Made("v1", "RandomHorizontalFlip"), Made("v1", "ToTensor"))
    loading = Loading(batch=3, sampler=sampler, workers=workers, persistent=workers == 3, generator=5 if workers == 1 else None)
    second = Loading(batch=2, sampler="shuffle", workers=min(workers, 1))
    done = twice(Pipeline(data=Data(kind="CIFAR10", count=120, steps=steps), loading=loading, second=second, acts=acts), folder)
    assert not done.difference, done.difference
    assert not done.said
    assert done.replayed > 10, done.reasons
