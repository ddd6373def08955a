"""The scripts of benchmarks/boost/, which are written as people write them: what they print is the same to the bit, plain and boosted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import wild  # noqa: E402  (benchmarks are scripts, not a package)

IMAGES = 640


@pytest.fixture(scope="session")
def wild_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wild")
    wild.prepare(None, folder, images=IMAGES, photos=48)
    return folder


# Lightning is no extra of Stoker's: its script is run where somebody has installed it.
INSTALLED = [script for script in wild.ALL if script.name != "lightning" or importlib.util.find_spec("lightning")]


@pytest.mark.slow
@pytest.mark.parametrize("script", INSTALLED, ids=[script.name for script in INSTALLED])
def test_a_script_prints_the_same_numbers(script: wild.Wild, wild_data: Path) -> None:
    command = script.command(wild_data, 2)
    plain = wild.run(command, tier=None, OMP_NUM_THREADS="1")
    if plain.missing:
        pytest.skip(f"needs a package: {plain.err.strip().splitlines()[-1]}")
    assert plain.status == 0, plain.err
    assert plain.out.count("\n") > 2
    boosted = wild.run(command, tier="exact", OMP_NUM_THREADS="1", STOKER_BOOST_DEBUG="1")
    assert boosted.status == 0, boosted.err
    assert boosted.out == plain.out
    assert [record.losses for record in boosted.records] == [record.losses for record in plain.records]
    assert "failed (" not in boosted.err, boosted.err


def test_every_script_of_the_folder_is_run() -> None:
    scripts = {path.name for path in wild.SCRIPTS.glob("*.py") if not path.name.startswith("_")}
    assert scripts == {script.script for script in wild.ALL}
    assert len(scripts) >= 10
