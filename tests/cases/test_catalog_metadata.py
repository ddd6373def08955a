"""The catalogue against the packages themselves: metadata of five releases, and the machine code of two wheels."""

from __future__ import annotations

import pytest
from tools import packages
from tools import refresh_catalog as tool

from stoker.catalog import find_release
from tests.conftest import need

# The oldest that Stoker supports, a first with another CUDA, the one that was uploaded again, and two whose closure is not pinned.
VERSIONS = ("2.5.1", "2.8.0", "2.10.0", "2.13.0", "2.15.0")


@pytest.fixture(scope="module")
def index() -> str:
    """An index that answers, else the test is skipped."""
    try:
        address = packages.index_address()
        packages.fetch(f"{address}/torchvision/", accept="text/html")
    except (OSError, RuntimeError) as error:
        need(False, f"a package index ({error})")
        raise
    return address


@pytest.fixture(scope="module")
def wheels(index: str) -> list[packages.Wheel]:
    return packages.wheels(index, "torch")


@pytest.mark.network
@pytest.mark.parametrize("version", VERSIONS)
def test_a_row_says_what_the_metadata_say(wheels: list[packages.Wheel], version: str) -> None:
    row = find_release(version)
    assert row is not None
    need(any(wheel.version == version for wheel in wheels), f"torch {version} on the package index")
    found = tool.release_found(version, wheels, {}, {}, deep=False)
    assert tool.differences(found, row) == {}
    assert found.cudnn is not None
    assert found.nccl is not None
    assert found.triton is not None
    assert found.pythons


@pytest.mark.network
def test_the_wheel_that_was_uploaded_again_is_seen(wheels: list[packages.Wheel]) -> None:
    assert "3" in {wheel.build for wheel in wheels if wheel.version == "2.10.0"}


@pytest.mark.network
def test_torchvision_asks_for_the_torch_that_the_table_pairs_it_with(index: str) -> None:
    all_vision = {wheel.version: wheel for wheel in packages.wheels(index, "torchvision") if wheel.platform.endswith("x86_64")}
    for version in VERSIONS[:4]:
        row = find_release(version)
        assert row is not None
        asked = packages.metadata(all_vision[row.torchvision[0]])
        assert f"Requires-Dist: torch=={version}" in asked.replace("torch (==", "torch==")


@pytest.mark.network
@pytest.mark.parametrize("version", ["2.8.0", "2.13.0"])
def test_the_machine_code_in_the_wheel(wheels: list[packages.Wheel], version: str) -> None:
    """Reads some 10 MB out of a wheel of 0.5 to 0.9 GB."""
    row = find_release(version)
    assert row is not None
    variant = row.variant(row.default)
    assert variant is not None
    one = next(wheel for wheel in wheels if wheel.version == version and wheel.platform.endswith("x86_64"))
    try:
        codes, ptx = packages.architectures(one)
    except OSError as error:
        need("range requests" not in str(error), "a package index that answers range requests")
        raise
    assert (codes, ptx) == (variant.architectures, variant.ptx)


@pytest.mark.network
def test_the_machine_code_in_the_wheel_for_aarch64(wheels: list[packages.Wheel]) -> None:
    row = find_release("2.13.0")
    assert row is not None
    variant = row.variant(row.default_aarch64)
    assert variant is not None
    one = next(wheel for wheel in wheels if wheel.version == "2.13.0" and wheel.platform.endswith("aarch64"))
    try:
        codes, ptx = packages.architectures(one)
    except OSError as error:
        need("range requests" not in str(error), "a package index that answers range requests")
        raise
    assert (codes, ptx) == (variant.architectures_aarch64, variant.ptx_aarch64)
