"""The tables: whole, consistent with each other and with the locks, and a broken one names file, row and field."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.catalog import (
    cuda_versions,
    driver_branches,
    find_architecture,
    find_branch,
    find_cuda,
    find_release,
    gpu_models,
    open_holes,
    toolkit_floors,
    torch_releases,
    version_numbers,
)
from stoker.catalog.tables import EVIDENCE, Row, rows
from stoker.catalog.versions import older
from stoker.environment.stacks import read_stacks
from stoker.errors import BadValue
from tests.conftest import REPOSITORY


def test_every_variant_is_for_a_cuda_whose_drivers_are_known() -> None:
    for release in torch_releases():
        for variant in release.variants:
            cuda = find_cuda(variant.cuda)
            assert cuda is not None, f"torch {release.version}: CUDA {variant.cuda}"
            assert variant.name == "cu" + variant.cuda.replace(".", "")
            assert variant.toolkit is None or variant.toolkit.startswith(variant.cuda + ".")
            for code in (*variant.architectures, *variant.architectures_aarch64):
                capability = (int(code[:-1]), int(code[-1]))
                assert cuda.capability_min is None or cuda.capability_min <= capability, f"{variant.name}: {code}"
                assert cuda.capability_max is None or capability <= cuda.capability_max, f"{variant.name}: {code}"


def test_every_row_says_where_it_is_from_when_and_how_sure_it_is() -> None:
    every = [
        *torch_releases(),
        *(variant for release in torch_releases() for variant in release.variants),
        *cuda_versions(),
        *driver_branches(),
        *gpu_models(),
        *toolkit_floors(),
    ]
    for row in every:
        assert row.source.strip()
        assert row.evidence in EVIDENCE
        assert datetime.date(2026, 11, 1) <= row.checked


def test_first_and_last_releases_of_each_cuda() -> None:
    """Source: PyTorch's release matrix, as in the facts: easy to break by a misplaced row."""
    ends: dict[str, tuple[str, str]] = {}
    for release in reversed(torch_releases()):
        for variant in release.variants:
            ends[variant.name] = (ends.get(variant.name, (release.version, ""))[0], release.version)
    assert ends["cu118"] == ("2.0.0", "2.7.1")
    assert ends["cu121"] == ("2.1.0", "2.5.1")
    assert ends["cu124"] == ("2.4.0", "2.6.0")
    assert ends["cu126"] == ("2.6.0", "2.14.1")
    assert ends["cu128"] == ("2.7.0", "2.11.0")
    assert (ends["cu129"][0], ends["cu130"][0], ends["cu132"][0]) == ("2.8.0", "2.9.0", "2.12.0")


def test_a_driver_is_never_younger_than_its_full_floor() -> None:
    for cuda in cuda_versions():
        assert not older(cuda.driver_full, cuda.driver_min)
        numbers = [version_numbers(driver) for driver in cuda.updates]
        assert numbers == sorted(numbers)
        branch = find_branch(cuda.driver_full)
        assert branch is None or branch.cuda == cuda.version


def test_the_locks_agree_with_the_catalogue() -> None:
    stacks = read_stacks(REPOSITORY / "locks")
    assert stacks
    for stack in stacks:
        release = find_release(stack.torch)
        assert release is not None
        variant = release.variant(stack.name)
        assert variant is not None
        cuda = find_cuda(stack.cuda)
        assert cuda is not None
        assert variant.cuda == stack.cuda
        assert stack.torchvision in release.torchvision
        assert cuda.driver_min == stack.driver_min
        assert min((int(code[:-1]), int(code[-1])) for code in variant.architectures) == stack.compute_min
        assert set(stack.machines) <= set(variant.machines)
        assert (release.python_min, release.python_max) == (stack.python_min, stack.python_max)


def test_the_torchvision_pairs_agree_with_the_catalogue() -> None:
    pairs = [line.split() for line in (REPOSITORY / "locks" / "torchvision.pairs").read_text().splitlines() if not line.startswith("#")]
    assert pairs
    for torch, vision in pairs:
        release = find_release(torch)
        assert release is not None
        assert release.torchvision[0] == vision


def test_every_gpu_has_a_known_architecture_and_plausible_rates() -> None:
    for gpu in gpu_models():
        assert find_architecture(gpu.compute_capability), gpu.name
        assert gpu.bf16_flops is None or gpu.compute_capability >= (8, 0), f"{gpu.name} has no bfloat16"
        assert gpu.tf32_flops is None or gpu.compute_capability >= (8, 0), f"{gpu.name} has no TF32"
        if gpu.fp16_flops and gpu.bf16_flops:
            assert gpu.fp16_flops == gpu.bf16_flops, gpu.name
        if gpu.bf16_flops and gpu.tf32_flops:
            # Dense bf16 is twice dense TF32 on every GPU that has both; a sparse figure in one of them would show.
            assert gpu.bf16_flops / gpu.tf32_flops == pytest.approx(2, rel=0.06), gpu.name
        if gpu.fp16_flops and gpu.fp32_flops:
            assert 1 < gpu.fp16_flops / gpu.fp32_flops < 40, gpu.name
        if gpu.pcie_generation:
            assert gpu.pcie_generation in (3, 4, 5, 6)
            assert gpu.pcie_width in (8, 16)


def test_geforce_tensor_rates_are_those_of_fp32_accumulation() -> None:
    """Twice the fp32 rate from Ampere on, four times on Turing; sheets print the double of both."""
    for gpu in gpu_models():
        if gpu.name.startswith("GeForce RTX") and gpu.fp16_flops and gpu.fp32_flops:
            times = 4 if gpu.compute_capability == (7, 5) else 2
            assert gpu.fp16_flops / gpu.fp32_flops == pytest.approx(times, rel=0.02), gpu.name


def test_releases_are_found_by_any_way_of_writing_them() -> None:
    found = [find_release(text) for text in ("2.8", "2.8.0", "2.8.0+cu128", " v2.8.0 ")]
    assert {release.version for release in found if release} == {"2.8.0"}
    latest = find_release("2.14")
    assert latest is not None
    assert latest.version == "2.14.1"
    assert find_release("2.99") is None
    # "2.1" is not the beginning of 2.10.
    other = find_release("2.1")
    assert other is not None
    assert other.version == "2.1.2"


@pytest.mark.parametrize("text", ["", "two", "2", "2.x", "2.8.0.1.1", "2.8;rm"])
def test_what_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        find_release(text)


def test_holes_of_the_container_toolkit() -> None:
    assert [floor.version for floor in open_holes("1.17.3")] == ["1.17.4", "1.17.8"]
    assert not open_holes("1.18.0")
    assert "CVE-2025-23266" in open_holes("1.17.7")[-1].cves


def test_a_row_takes_its_fields_and_refuses_what_is_left() -> None:
    row = Row({"name": "x", "nmae": "y"}, "file.toml, [[gpu]] row 3")
    assert row.text("name") == "x"
    with pytest.raises(BadValue, match=r"file\.toml, \[\[gpu\]\] row 3 has the unknown field 'nmae'"):
        row.end()


@pytest.mark.parametrize(
    ("take", "value", "complaint"),
    [
        (lambda row: row.text("f"), "", "no text"),
        (lambda row: row.texts("f"), "75", "no list of texts"),
        (lambda row: row.texts("f"), ["75", 80], "no list of texts"),
        (lambda row: row.version("f"), "12.x", "no version"),
        (lambda row: row.version("f"), 12.8, "no version"),
        (lambda row: row.date("f"), "2026-11-20", "no date"),
        (lambda row: row.date("f"), datetime.datetime(2026, 11, 20), "no date"),
        (lambda row: row.pair("f"), "8", "not two numbers"),
        (lambda row: row.maybe_number("f"), True, "no number above 0"),
        (lambda row: row.maybe_number("f"), float("nan"), "no number above 0"),
        (lambda row: row.maybe_number("f"), -1, "no number above 0"),
        (lambda row: row.maybe_whole("f"), 4.0, "no whole number"),
        (lambda row: row.flag("f"), "yes", "neither true nor false"),
        (lambda row: row.evidence("f"), "sure", "none of wheel"),
    ],
)
def test_a_wrong_value_names_file_row_and_field(take: Callable[[Row], object], value: object, complaint: str) -> None:
    with pytest.raises(BadValue, match=rf"torch\.toml, \[\[release\]\] row 2, field 'f': .*{complaint}"):
        take(Row({"f": value}, "torch.toml, [[release]] row 2"))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BadValue, match=r"row 2 lacks the field 'source'"):
        Row({}, "torch.toml, [[release]] row 2").text("source")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[gpu]\n", "no TOML"),
        ("", r"has no rows \[\[gpu\]\]"),
        ("gpu = 3\n", r"has no rows \[\[gpu\]\]"),
        ("gpu = []\n", "has no rows"),
        ("\xff", "TOML"),
    ],
)
def test_a_broken_file_is_one_error(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "gpus.toml").write_text(text, encoding="latin-1")
    with pytest.raises(BadValue, match=complaint):
        list(rows("gpus.toml", "gpu", tmp_path))


def test_a_file_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"gpus\.toml cannot be read"):
        list(rows("gpus.toml", "gpu", tmp_path))
