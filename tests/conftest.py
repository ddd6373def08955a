"""What the tests share: the data folder, and the rule that nothing may be skipped in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def need(condition: bool, what: str) -> None:
    """Skip the test for want of `what`; where STOKER_TEST_REQUIRE_ALL is set, fail instead."""
    if condition:
        return
    if os.environ.get("STOKER_TEST_REQUIRE_ALL"):
        pytest.fail(f"needed and not there: {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with `cifar10-jpeg.tar.xz` and `photos/`: `STOKER_DATA`, else `../shared/data`."""
    folder = Path(os.environ.get("STOKER_DATA") or REPOSITORY.parent / "shared" / "data")
    need((folder / "cifar10-jpeg.tar.xz").exists(), f"cifar10-jpeg.tar.xz in STOKER_DATA (looked in {folder})")
    return folder


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the person's cache and runs."""
    if "STOKER_TEST_CACHE" not in os.environ:
        monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "cache"))
    else:
        monkeypatch.setenv("STOKER_CACHE", os.environ["STOKER_TEST_CACHE"])
    monkeypatch.setenv("STOKER_RUNS", str(tmp_path / "runs"))
