"""Whether Python and torch fit the machine: every check of the doctor on written-down facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.doctor.checks import wheel
from stoker.doctor.facts import Driver, Facts, Processor, Python, System
from stoker.doctor.finding import Check, Finding, Passed, Severity, Skipped, check_id
from tests.gpu_hosts import gpu, h200, healthy, laptop, with_driver, with_python, with_torch

HANGS = 'Timeout (0:00:20)!\n  File "/env/lib/python3.12/site-packages/sitecustomize.py", line 3 in <module>'


def found(facts: Facts) -> dict[str, Finding]:
    """Every finding of these checks, by its id."""
    outcomes = {check_id(check): check(facts) for check in wheel.CHECKS}
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Finding)}


@pytest.mark.parametrize(
    "facts",
    [
        healthy(),
        laptop(),
        Facts(),
        with_python(laptop(), torch=None, active=False),
        with_torch(with_driver(healthy(), version="580.65.06")),
        replace(with_torch(healthy(), cuda="12.8", version="2.8.0+cu128"), driver=replace(healthy().driver, version="570.26")),
        # An overlay of CUDA's forward-compatibility library on an old data-centre driver works: torch says so.
        with_torch(with_driver(healthy(), version="535.129.03"), available=True),
        # A container without GPUs on a GPU machine, with a torch for CPUs: as it is meant.
        replace(
            with_torch(with_driver(healthy(), nodes=()), version="2.13.0+cpu", cuda=None, architectures=(), available=False),
            gpus=(),
            system=System(container="docker"),
        ),
    ],
)
def test_what_is_well_is_left_alone(facts: Facts) -> None:
    assert not {name for name, finding in found(facts).items() if finding.severity is not Severity.NOTE}


def test_a_healthy_machine_has_not_even_a_note() -> None:
    assert found(healthy()) == {}
    assert found(laptop()) == {}
    assert all(isinstance(check(healthy()), Passed | Skipped) for check in wheel.CHECKS)


@pytest.mark.parametrize(
    ("facts", "expected", "text"),
    [
        (
            replace(healthy(), python=Python(executable="/gone/bin/python", asked="/gone", error="/gone is not there")),
            "python-missing",
            "/gone is not there",
        ),
        (
            replace(
                healthy(),
                python=Python(executable="/env/bin/python", error="it ended with status 1: ModuleNotFoundError: No module named 'encodings'"),
                variables={"PYTHONHOME": "/opt/python3.9"},
            ),
            "python-missing",
            "PYTHONHOME=/opt/python3.9",
        ),
        (with_python(healthy(), version=(3, 8), version_text="3.8.20", torch=None), "python-too-old", "3.8.20"),
        (with_python(healthy(), version=(3, 19), version_text="3.19.0", torch=None), "python-too-new", "3.19.0"),
        (with_python(healthy(), torch=None), "torch-missing", "No module named 'torch'"),
        (
            with_torch(healthy(), missing_count=1, missing_files=("torch/lib/libtorch_cpu.so: missing",), import_code=1, import_text="OSError"),
            "torch-half-deleted",
            "libtorch_cpu.so: missing",
        ),
        (with_torch(healthy(), version=None, cuda=None, architectures=(), available=None), "torch-half-deleted", ""),
        (with_torch(healthy(), import_code=-4, import_text="Fatal Python error: Illegal instruction"), "torch-dies-on-import", "SIGILL"),
        (
            replace(with_torch(healthy(), import_code=-4), processor=Processor(model="Common KVM processor", flags=("sse4_2",))),
            "torch-dies-on-import",
            "Common KVM processor; of the SIMD sets only sse4_2",
        ),
        (with_torch(healthy(), import_code=-11), "torch-dies-on-import", "signal 11"),
        (with_torch(healthy(), import_code=None, import_text=HANGS), "torch-import-hangs", "sitecustomize.py"),
        (
            with_torch(healthy(), import_code=1, import_text="ImportError: libcudnn.so.9: cannot open shared object file"),
            "torch-import-fails",
            "libcudnn.so.9",
        ),
        (
            with_torch(healthy(), version="2.13.0+cpu", cuda=None, architectures=(), available=False),
            "torch-cpu-only-on-gpu-machine",
            "torch.version.cuda None",
        ),
        (with_torch(healthy(), version="2.9.0+rocm6.4", cuda=None, hip="6.4.43482", available=False), "torch-rocm-on-nvidia", "6.4"),
        (
            with_torch(with_driver(healthy(), version="535.129.03"), available=False, available_text="The NVIDIA driver on your system is too old"),
            "driver-below-minimum",
            "too old",
        ),
        (with_torch(with_driver(healthy(), version="550.54.14"), version="2.8.0+cu128", cuda="12.8"), "driver-below-full", "550.54.14"),
        (
            replace(
                with_torch(
                    healthy(), version="2.5.1+cu124", cuda="12.4", architectures=("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
                ),
                gpus=(gpu("NVIDIA GeForce RTX 5090", (12, 0)),),
            ),
            "gpu-needs-newer-cuda",
            "12.0",
        ),
        (replace(healthy(), gpus=(gpu("Tesla P100-PCIE-16GB", (6, 0)),)), "gpu-not-in-wheel", "6.0"),
        (with_torch(healthy(), cuda_code=-6, cuda_text="Aborted", available=None), "cuda-hangs", "Aborted"),
        (with_torch(healthy(), cuda_code=None, cuda_text=HANGS, available=None), "cuda-hangs", "Timeout"),
        (
            with_torch(
                healthy(),
                available=False,
                cuda_error="RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
            ),
            "cuda-initialisation-fails",
            "802",
        ),
        (with_torch(healthy(), available=False, device_count=0), "cuda-unavailable-unexplained", "is_available() False"),
        (with_torch(healthy(), version="2.4.1+cu121", cuda="12.1"), "torch-old", "2.4.1"),
    ],
)
def test_one_cause_gives_one_finding_with_what_was_seen(facts: Facts, expected: str, text: str) -> None:
    findings = found(facts)
    weighty = {name for name, finding in findings.items() if finding.severity is not Severity.NOTE or name == expected}
    assert weighty == {expected}
    finding = findings[expected]
    assert text in "\n".join((finding.what, *finding.evidence))
    assert finding.fix
    assert finding.consequence
    assert "None" not in finding.what


@pytest.mark.parametrize("check", wheel.CHECKS, ids=check_id)
def test_nothing_is_said_of_what_is_not_known(check: Check) -> None:
    assert isinstance(check(Facts()), Skipped | Passed)


def test_the_fix_of_a_wrong_build_is_one_that_fits() -> None:
    old = found(with_torch(with_driver(healthy(), version="535.129.03"), available=False))["driver-below-minimum"]
    assert "--torch-backend=cu126" in old.fix
    assert "torch==2.13.0" in old.fix
    assert "--python /env/bin/python" in old.fix
    pascal = found(replace(healthy(), gpus=(gpu("Tesla P100-PCIE-16GB", (6, 0)),)))["gpu-not-in-wheel"]
    assert "--torch-backend=cu126" in pascal.fix
    plain = found(with_torch(healthy(), version="2.13.0+cpu", cuda=None, architectures=(), available=False))["torch-cpu-only-on-gpu-machine"]
    assert "--torch-backend" not in plain.fix  # the default index holds the build that fits
    assert "--reinstall" in plain.fix


def test_the_fix_of_a_conda_torch_is_condas() -> None:
    facts = with_torch(healthy(), installer="conda", missing_count=1, missing_files=("torch/_C.so: missing",))
    assert found(facts)["torch-half-deleted"].fix.startswith("conda install")


def test_one_gpu_of_several_without_code_is_a_warning_that_names_it() -> None:
    findings = found(replace(healthy(), gpus=(h200(0), gpu("Tesla V100-SXM2-16GB", (7, 0), 1))))
    assert findings["gpu-not-in-wheel"].severity is Severity.WARNING
    assert "GPU 1: Tesla V100" in findings["gpu-not-in-wheel"].evidence[0]
    assert "H200" not in findings["gpu-not-in-wheel"].evidence[0]


def test_ptx_counts_as_code_for_a_newer_gpu() -> None:
    torch = {"version": "2.8.0+cu129", "cuda": "12.9", "architectures": ("sm_80", "sm_90", "compute_90")}
    assert "gpu-not-in-wheel" not in found(replace(with_torch(healthy(), **torch), gpus=(gpu("NVIDIA B200", (10, 0)),)))
    older = torch | {"architectures": ("sm_80", "sm_90")}
    assert "gpu-not-in-wheel" in found(replace(with_torch(healthy(), **older), gpus=(gpu("NVIDIA B200", (10, 0)),)))


def test_the_name_of_a_gpu_stands_in_for_its_capability() -> None:
    facts = replace(healthy(), gpus=(replace(gpu("Tesla P100-PCIE-16GB", (6, 0)), compute_capability=None),))
    assert "gpu-not-in-wheel" in found(facts)


def test_windows_drivers_have_other_numbers() -> None:
    facts = with_driver(healthy(), version="580.10.01")  # below Linux's 580.65.06, of the same branch
    assert "driver-below-minimum" in found(with_torch(facts, available=False))
    assert "driver-below-minimum" not in found(with_torch(replace(facts, system=System(wsl=True)), available=False))


def test_no_driver_is_not_blamed_on_torch() -> None:
    facts = with_torch(replace(healthy(), driver=Driver(cards=1), gpus=()), available=False, cuda_error="RuntimeError: Found no NVIDIA driver")
    assert found(facts) == {}


def test_hidden_gpus_are_not_blamed_on_torch() -> None:
    facts = with_torch(replace(healthy(), variables={"CUDA_VISIBLE_DEVICES": ""}), available=False, device_count=0)
    assert found(facts) == {}


def test_a_torch_that_nobody_asked_for_may_be_absent() -> None:
    assert found(with_python(healthy(), torch=None, active=False)) == {}
    assert found(with_python(healthy(), torch=None))["torch-missing"].severity is Severity.WARNING
    assert found(with_python(healthy(), torch=None, asked="/env"))["torch-missing"].severity is Severity.ERROR
