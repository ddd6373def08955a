"""Fixtures that several files share: the real image is built and loaded once for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.image_engines import Engine, engine, layout
from tests.launch_engines import Desk, desk_at

__all__ = ["desk", "engine", "layout"]


@pytest.fixture
def desk(engine: Engine) -> Iterator[Desk]:
    """A project and an engine, for `stoker up`, `run` and the rest."""
    with desk_at(engine) as made:
        yield made


@pytest.fixture(autouse=True)
def own_compilations(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled for one test, PyTorch's headers before all, is there for the next."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))
