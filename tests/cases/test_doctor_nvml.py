"""The doctor in front of a driver library that lies, hangs and dies: a fake NVML, compiled, loaded by the real binding in a real child process."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from stoker.doctor.checks import driver as driver_checks
from stoker.doctor.checks import gpus as gpu_checks
from stoker.doctor.facts import Facts, System
from stoker.doctor.facts.driver import gather_driver
from stoker.doctor.facts.gpus import gather_gpus
from stoker.doctor.facts.nvml import read_nvml
from stoker.doctor.finding import Finding, check_id
from tests.conftest import need
from tests.fakes import nvml, smi
from tests.fakes.machines import written

VERSION = "580.95.05"
GIBIBYTE = 1024**3


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled fake."""
    need(importlib.util.find_spec("pynvml") is not None, "nvidia-ml-py")
    folder = nvml.build(tmp_path_factory.mktemp("nvml"))
    need(folder is not None, "a C compiler")
    assert folder is not None
    return folder


@pytest.fixture
def machine(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two GPUs and this library, whose nvidia-smi works."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    smi.program(tmp_path / "programs", "nvidia-smi", smi.HEALTHY)
    files: dict[str, str | bytes] = {"sys/module/nvidia/version": VERSION, "sys/module/nvidia_uvm/x": "", "dev/kmsg": ""}
    files |= dict.fromkeys(("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm", "sys/bus/pci/drivers/nvidia/bind"), "")
    for address in ("0000:18:00.0", "0000:19:00.0"):
        card = f"sys/bus/pci/devices/{address}"
        files |= {f"{card}/vendor": "0x10de", f"{card}/class": "0x030200", f"{card}/device": "2330"}
    root = written(tmp_path / "root", files)
    for address in ("0000:18:00.0", "0000:19:00.0"):
        (root / f"sys/bus/pci/devices/{address}/driver").symlink_to(root / "sys/bus/pci/drivers/nvidia")
    return root


def found(root: Path, *, engine: str | None = None) -> dict[str, Finding]:
    """Gather driver and GPUs, and return the findings."""
    facts = Facts(
        gathered="2026-11-21T10:00:00+00:00",
        system=System(os="Ubuntu 24.04 LTS", uid=0, container=engine),
        driver=gather_driver(root),
        gpus=gather_gpus(root),
    )
    outcomes = {check_id(check): check(facts) for check in (*driver_checks.CHECKS, *gpu_checks.CHECKS)}
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Finding)}


def test_a_healthy_library(machine: Path) -> None:
    assert found(machine) == {}
    first, second = gather_gpus(machine)
    assert (first.name, first.memory_bytes, first.compute_capability) == ("NVIDIA H100 80GB HBM3", 80 * GIBIBYTE, (9, 0))
    assert (second.index, second.bus_id, second.nvlinks_active, second.fabric) == (1, "0000:19:00.0", 18, "completed")
    assert (first.peers, first.topology, first.persistence) == ({"1": "ok"}, {"1": "NODE"}, True)
    driver = gather_driver(machine)
    assert (driver.version, driver.nvml_code, driver.cuda_shown) == (VERSION, 0, "13.0")
    assert any(library.first and library.path.endswith("libnvidia-ml.so.1") for library in driver.libraries)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"INIT": "18"}, {"driver-library-mismatch"}),
        ({"INIT": "999"}, {"nvml-broken"}),
        ({"INIT": "77"}, {"nvml-broken"}),
        ({"CRASH": "nvmlInit_v2"}, {"nvml-broken"}),
        ({"CRASH": "nvmlDeviceGetPowerUsage"}, {"nvml-broken"}),
        ({"GARBAGE": "1"}, {"nvml-broken"}),
        ({"COUNT": "0"}, {"gpus-not-initialised"}),
        ({"COUNT": "1"}, {"gpu-lost"}),
        ({"LOST": "1"}, {"gpu-lost"}),
        ({"LOST_HANDLE": "0"}, {"gpu-lost"}),
        ({"RESET": "0"}, {"gpu-lost"}),
        ({"ECC": "3"}, {"ecc-errors"}),
        ({"ECC_AGGREGATE": "3"}, {"ecc-errors"}),
        ({"ROWS": "1,1,1,0", "ECC": "1"}, {"rows-remapped"}),
        ({"ROWS": "1,1,0,1"}, {"rows-remapped"}),
        ({"THROTTLE": "0x68"}, {"thermal-throttling"}),
        ({"THROTTLE": "0x88"}, {"power-throttling"}),
        ({"THROTTLE_ONCE": "0x88"}, set()),  # while the clock changes
        ({"THROTTLE": "4", "POWER": "699000,700000,700000"}, set()),
        ({"POWER": "300000,350000,700000"}, {"power-limit-lowered"}),
        ({"PCIE": "1,5,5,16,16"}, set()),  # idle
        ({"PCIE": "5,5,5,8,16"}, {"pcie-narrow"}),
        ({"PCIE": "3,3,5,16,16"}, {"pcie-generation-low"}),
        ({"PERSISTENCE": "0"}, {"persistence-off"}),
        ({"MIG": "0"}, {"mig-without-devices"}),
        ({"MIG": "2"}, set()),
        ({"MODE": "2"}, {"compute-mode-set"}),
        ({"PROCESSES": "3"}, {"gpu-busy"}),
        ({"USED_MIB": "80000"}, {"gpu-memory-nearly-full"}),
        ({"PEER": "1"}, set()),  # on two processors
        # What older or cut-down GPUs refuse is not known, and no finding.
        (
            {
                "REFUSE": "nvmlDeviceGetTotalEccErrors,nvmlDeviceGetEccMode,nvmlDeviceGetMigMode,nvmlDeviceGetRemappedRows,"
                "nvmlDeviceGetPersistenceMode,nvmlDeviceGetPowerUsage,nvmlDeviceGetEnforcedPowerLimit,nvmlDeviceGetNvLinkState,nvmlDeviceGetGpuFabricInfo,nvmlDeviceGetMemoryInfo,"
                "nvmlDeviceGetCurrPcieLinkWidth,nvmlDeviceGetMaxPcieLinkGeneration,nvmlDeviceGetCurrentClocksEventReasons,nvmlDeviceGetTemperature,"
                "nvmlDeviceGetUtilizationRates,nvmlDeviceGetComputeRunningProcesses_v3,nvmlDeviceGetComputeMode,nvmlDeviceGetP2PStatus"
            },
            set(),
        ),
    ],
    ids=str,
)
def test_each_fault_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: set[str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"FAKE_NVML_{name}", value)
    assert set(found(machine)) == expected


def test_no_driver_loaded(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_INIT", "9")
    (machine / "sys/module/nvidia/version").unlink()
    smi.program(Path(machine).parent / "programs", "nvidia-smi", smi.NO_DRIVER, code=9)
    (finding,) = found(machine).values()
    assert "no NVIDIA driver is loaded" in finding.what
    assert any("couldn't communicate" in line for line in finding.evidence)


def test_a_container_that_lost_its_gpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_INIT", "999")
    smi.program(Path(machine).parent / "programs", "nvidia-smi", smi.UNKNOWN, code=255)
    assert set(found(machine, engine="docker")) == {"gpus-lost-after-daemon-reload"}


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlDeviceGetPowerUsage"])
def test_a_library_that_hangs_is_named_in_time(machine: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    monkeypatch.setenv("FAKE_NVML_HANG", function)
    start = time.monotonic()
    answer = read_nvml()
    assert time.monotonic() - start < 15  # it would hang for good
    assert answer.error is not None
    assert "no answer within 3.5 s" in answer.error
    assert function.removesuffix("_v2") in answer.error


def test_both_hang(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_HANG", "nvmlInit_v2")
    program = smi.program(Path(machine).parent / "programs", "nvidia-smi", hangs=True)
    start = time.time()
    driver = gather_driver(machine)
    # At once, not when the library has had its 3.5 s.
    assert program.with_name("nvidia-smi.begun").stat().st_mtime - start < 3.4
    facts = Facts(driver=driver, system=System(uid=0))
    findings = [check_id(check) for check in driver_checks.CHECKS if isinstance(check(facts), Finding)]
    assert findings == ["smi-hangs"]


def test_a_library_that_hangs_at_the_second_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_HANG", "nvmlDeviceGetP2PStatus")
    assert set(found(machine)) == {"smi-hangs"}


def test_a_crash_keeps_what_was_said_before(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_CRASH", "nvmlDeviceGetP2PStatus")
    answer = read_nvml()
    assert answer.error == "NVML died with signal 11 (SIGSEGV)"
    assert answer.start["code"] == 0


def test_what_a_library_prints_does_not_disturb(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are no JSON, or no object, are passed over."""
    child = tmp_path / "child.py"
    child.write_text('print("noise {"); print("[1]"); print(\'{"start": {"code": 0, "count": 1}}\'); print(\'{"gpu": 5}\'); print(\'{"end": true}\')')
    monkeypatch.setattr("stoker.doctor.facts.nvml._CHILD", child)
    answer = read_nvml()
    assert (answer.start, answer.gpus, answer.error) == ({"code": 0, "count": 1}, (), None)


def test_a_library_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    answer = read_nvml()
    assert (answer.start["code"], answer.gpus) == (12, ())


def test_libcuda_that_is_missing_or_none(machine: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader itself is asked: a broken file is not "missing", and says what it is."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "libnvidia-ml.so.1").symlink_to(library / "libnvidia-ml.so.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    assert set(found(machine)) == {"driver-library-missing"}
    (folder / "libcuda.so.1").write_text("no library")
    (finding,) = found(machine).values()
    assert "cannot be loaded" in finding.what
