"""GPUs by any of their names, and which machine code runs on them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.catalog import code_runs, find_gpu, gpu_models, gpu_names
from stoker.errors import BadValue


@pytest.mark.parametrize(
    ("name", "product", "capability"),
    [
        ("RTX 5090", "GeForce RTX 5090", (12, 0)),
        ("NVIDIA GeForce RTX 5090", "GeForce RTX 5090", (12, 0)),
        ("rtx5090", "GeForce RTX 5090", (12, 0)),
        ("4070tisuper", "GeForce RTX 4070 Ti SUPER", (8, 9)),
        ("1080ti", "GeForce GTX 1080 Ti", (6, 1)),
        ("Tesla V100-SXM2-16GB", "V100-SXM2-16GB", (7, 0)),
        ("NVIDIA H100 80GB HBM3", "H100 80GB HBM3", (9, 0)),
        ("NVIDIA H100 PCIe", "H100 PCIe", (9, 0)),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB", (8, 0)),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe", (8, 0)),
        ("Tesla P100-PCIE-16GB", "P100-PCIE-16GB", (6, 0)),
        ("Tesla T4", "T4", (7, 5)),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada Generation", (8, 9)),
        ("Quadro RTX 6000", "Quadro RTX 6000", (7, 5)),
        ("NVIDIA RTX A6000", "RTX A6000", (8, 6)),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell Workstation Edition", (12, 0)),
        ("NVIDIA GB10", "GB10", (12, 1)),
        ("NVIDIA H200", "H200", (9, 0)),
        ("Tesla K80", "K80", (3, 7)),
    ],
)
def test_a_product_is_found_by_its_names(name: str, product: str, capability: tuple[int, int]) -> None:
    found = find_gpu(name)
    assert found is not None
    assert (found.name, found.compute_capability, found.exact) == (product, capability, True)


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9)),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0)),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", (8, 0)),
        ("GRID T4-16Q", (7, 5)),
        ("NVIDIA A10-24Q", (8, 6)),
        ("GeForce GTX 1070 with Max-Q Design", (6, 1)),
    ],
)
def test_a_part_of_a_product_has_its_capability_and_unknown_rates(name: str, capability: tuple[int, int]) -> None:
    found = find_gpu(name)
    assert found is not None
    assert found.compute_capability == capability
    assert not found.exact
    assert (found.memory_bytes, found.bandwidth_bytes_s, found.fp32_flops, found.bf16_flops) == (None, None, None, None)


def test_the_max_q_workstation_card_is_a_product_of_its_own() -> None:
    found = find_gpu("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition")
    assert found is not None
    assert found.exact


@pytest.mark.parametrize("name", ["", " ", "NVIDIA", "RTX 6000", "Radeon RX 7900", "RTX 9999", "Laptop GPU", "MIG", "-8Q", "\x00", "💥"])
def test_an_unknown_name_is_none(name: str) -> None:
    assert find_gpu(name) is None


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_none(name: str) -> None:
    found = find_gpu(name)
    assert found is None or found.compute_capability[0] >= 3


def test_every_name_finds_its_product() -> None:
    for name in gpu_names():
        assert find_gpu(name) is not None
        assert find_gpu(f"NVIDIA {name.upper()}") is not None
    assert len(gpu_models()) > 100


@pytest.mark.parametrize(
    ("codes", "ptx", "capability", "by", "code"),
    [
        (("80", "86"), False, (8, 9), "binary", "sm_86"),
        (("80", "90"), False, (8, 6), "binary", "sm_80"),
        (("100", "120"), False, (12, 1), "binary", "sm_120"),
        (("100", "120"), False, (10, 3), "binary", "sm_100"),
        (("50", "60"), False, (6, 1), "binary", "sm_60"),
        (("86",), False, (8, 0), None, None),
        (("50", "60", "70", "75", "80", "86", "90"), False, (12, 0), None, None),
        (("50", "60", "70", "75", "80", "86", "90"), None, (12, 0), None, None),
        (("80", "86", "90"), True, (12, 0), "ptx", "compute_90"),
        (("75", "80", "120"), True, (7, 0), None, None),
        (("90a",), False, (9, 0), "binary", "sm_90a"),
        (("90a",), True, (10, 0), None, None),
        (("100f",), False, (10, 3), "binary", "sm_100f"),
        (("80", "87"), False, (8, 7), "binary", "sm_87"),
        (("80", "86"), False, (8, 7), None, None),
        (("80", "90", "100", "110", "120"), False, (11, 0), "binary", "sm_110"),
        ((), True, (9, 0), None, None),
    ],
)
def test_which_code_runs(codes: tuple[str, ...], ptx: bool | None, capability: tuple[int, int], by: str | None, code: str | None) -> None:
    verdict = code_runs(codes, ptx, capability)
    assert (verdict.runs, verdict.by, verdict.code) == (by is not None, by, code)
    assert verdict.why


@pytest.mark.parametrize("code", ["", "9", "sm90x", "1234", "gfx90a"])
def test_what_is_no_architecture_is_refused(code: str) -> None:
    with pytest.raises(BadValue):
        code_runs((code,), False, (9, 0))
