"""A quick share of the property tests of exact replay; the rest are in tests/cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.boost_pipelines import Data, Loading, Made, Pipeline
from tests.boost_strategies import pipelines
from tests.boost_twice import twice

pytestmark = pytest.mark.filterwarnings("ignore")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(pipelines(0))
def test_nothing_differs(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "pipelines"
    done = twice(pipeline, folder)
    assert not done.difference, f"{pipeline}\n{done.difference}\n{done.reasons}"
    assert not done.said, f"{pipeline}\n{done.said}"
    assert not done.wrong, f"{pipeline}\n{done.wrong}"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_usual_loader_is_replayed(tmp_path: Path, workers: int) -> None:
    steps = (Made("v1", "RandomCrop", {"size": 12, "padding": 4}), Made("v1", "RandomHorizontalFlip"), Made("v1", "ToTensor"))
    done = twice(Pipeline(data=Data(kind="CIFAR10", count=90, steps=steps), loading=Loading(workers=workers)), tmp_path)
    assert not done.difference
    assert done.replayed > 20, done.reasons
