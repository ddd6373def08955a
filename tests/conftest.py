"""What the tests share: the data folder, and the rule that nothing may be skipped in CI."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

REPOSITORY = Path(__file__).resolve().parent.parent
_NUMBERS = itertools.count()


def need(condition: bool, what: str) -> None:
    """Skip the test for want of `what`."""
    if not condition:
        pytest.skip(f"needs {what}")


def find_uv() -> Path | None:
    """The uv of this machine, or the one that ./stoker fetched for this tree; the program, not a shim."""
    for candidate in (shutil.which("uv"), str(REPOSITORY / ".venv.uv/bin/uv")):
        done = candidate and Path(candidate).exists() and subprocess.run([candidate, "--version"], capture_output=True)
        if done and done.returncode == 0:
            return Path(str(candidate))
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where STOKER_TEST_REQUIRE_ALL is set, a skip is a failure."""
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole files."""
    return _required((yield))


def _required(report: Report) -> Report:
    if report.skipped and os.environ.get("STOKER_TEST_REQUIRE_ALL") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and STOKER_TEST_REQUIRE_ALL is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with `cifar10-jpeg.tar.xz` and `photos/`: `STOKER_DATA`, else `../shared/data`."""
    folder = Path(os.environ.get("STOKER_DATA") or REPOSITORY.parent / "shared" / "data")
    need((folder / "cifar10-jpeg.tar.xz").exists(), f"cifar10-jpeg.tar.xz in STOKER_DATA (looked in {folder})")
    return folder


@pytest.fixture(autouse=True)
def own_folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the person's cache and runs.

    Most of the tests write no file, and making a folder for each of some thousand of them takes longer than they do.
    """
    if "tmp_path" in request.fixturenames:
        folder: Path = request.getfixturevalue("tmp_path")
    else:
        folder = tmp_path_factory.getbasetemp() / f"nobodys-{next(_NUMBERS)}"
    monkeypatch.setenv("STOKER_CACHE", os.environ.get("STOKER_TEST_CACHE", str(folder / "cache")))
    monkeypatch.setenv("STOKER_RUNS", str(folder / "runs"))


@pytest.fixture(scope="module")
def nobody_elses_jobs() -> Iterator[None]:
    """What runs without a container is found in /proc, whoever of this user started it: other test runs wait meanwhile."""
    with open(Path(tempfile.gettempdir()) / f"stoker-tests-jobs-{os.getuid()}", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
