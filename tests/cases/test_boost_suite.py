"""The scripts of benchmarks/boost/, which are written as people write them: what they print is the same to the bit, plain and boosted."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import wild  # noqa: E402  (benchmarks are scripts, not a package)

IMAGES = 640
AT_ONCE = 2
"""Processes, of one thread each."""

Runs = dict[str, tuple[Future[wild.Run], Future[wild.Run]]]
"""The plain and the boosted run of each script, by its name."""


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Both runs of all scripts that were chosen, begun at once and made side by side."""
    folder = tmp_path_factory.mktemp("wild")
    wild.prepare(None, folder, images=IMAGES, photos=48)
    mine = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module.__name__ == __name__]
    chosen = [item.callspec.params["script"] for item in mine if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made: Runs = {}
        for script in chosen:
            command = script.command(folder, 2)
            plain = pool.submit(wild.run, command, tier=None, OMP_NUM_THREADS="1")
            made[script.name] = plain, pool.submit(wild.run, command, tier="exact", OMP_NUM_THREADS="1", STOKER_BOOST_DEBUG="1")
        yield made
        pool.shutdown(cancel_futures=True)


# Lightning is no extra of Stoker's: its script is run where somebody has installed it.
INSTALLED = [script for script in wild.ALL if script.name != "lightning" or importlib.util.find_spec("lightning")]


@pytest.mark.slow
@pytest.mark.parametrize("script", INSTALLED, ids=[script.name for script in INSTALLED])
def test_a_script_prints_the_same_numbers(script: wild.Wild, runs: Runs) -> None:
    plain = runs[script.name][0].result()
    if plain.missing:
        pytest.skip(f"needs a package: {plain.err.strip().splitlines()[-1]}")
    assert plain.status == 0, plain.err
    assert plain.out.count("\n") > 2
    boosted = runs[script.name][1].result()
    assert boosted.status == 0, boosted.err
    assert boosted.out == plain.out
    assert [record.losses for record in boosted.records] == [record.losses for record in plain.records]
    assert "failed (" not in boosted.err, boosted.err


def test_every_script_of_the_folder_is_run() -> None:
    scripts = {path.name for path in wild.SCRIPTS.glob("*.py") if not path.name.startswith("_")}
    assert scripts == {script.script for script in (*wild.ALL, *wild.ON_GPU)}
    assert len(scripts) >= 10
