"""The doctor's checks of the processor, on written-down facts."""

from __future__ import annotations

import pytest

from stoker.doctor.checks import processor as checks
from stoker.doctor.facts import Driver, Facts, Gpu, Processor, Python, Services, System
from stoker.doctor.facts.python import Torch
from stoker.doctor.facts.services import Busy
from stoker.doctor.finding import Finding, Passed, Severity, Skipped

SERVER = Processor(
    model="Xeon",
    cores_online=64,
    cores_usable=64,
    affinity="0-63",
    flags=("avx", "avx2", "avx512f"),
    numa_nodes=2,
    numa_cpus={"0": "0-31", "1": "32-63"},
    load_1m=3.0,
    load_5m=2.0,
)


def changed(**values: object) -> Processor:
    return Processor(**{**{name: getattr(SERVER, name) for name in SERVER.__dataclass_fields__}, **values})  # type: ignore[arg-type]


def test_a_healthy_server_gives_no_findings() -> None:
    facts = Facts(system=System(architecture="x86_64"), processor=SERVER, gpus=(Gpu(index=0, numa_node=0), Gpu(index=1, numa_node=1)))
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(facts), Finding)]


def test_nothing_known_gives_no_findings() -> None:
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(Facts()), Finding)]


# --- threads --------------------------------------------------------------------------------------------------------


def test_a_quota_below_the_threads_is_found() -> None:
    quota = changed(quota_cores=4.0, quota_text="/sys/fs/cgroup/cpu.max: 400000 100000", throttled_periods=812, periods=1000)
    found = checks.cpu_quota_below_threads(Facts(processor=quota, python=Python(torch=Torch(threads=32))))
    assert isinstance(found, Finding)
    assert found.what == "PyTorch starts 32 threads where 4 cores may run"
    assert found.evidence == (
        "/sys/fs/cgroup/cpu.max: 400000 100000",
        "torch.get_num_threads(): 32; OMP_NUM_THREADS is not set",
        "cpu.stat: nr_throttled 812 of nr_periods 1000",
    )
    assert found.fix == "export OMP_NUM_THREADS=4 MKL_NUM_THREADS=4"


@pytest.mark.parametrize(
    ("quota", "usable", "threads", "omp", "kind"),
    [
        (4.0, 64, None, None, Finding),  # without torch: as many as the mask has
        (4.0, 64, None, "4", Passed),
        (4.0, 64, 4, None, Passed),
        (0.5, 64, 1, None, Passed),  # one thread cannot be fewer
        (0.5, 2, None, None, Finding),
        (None, 1, 2, "64", Finding),  # the mask has one core, OMP_NUM_THREADS asked for more
        (None, 64, 64, None, Passed),
        (None, 64, 32, None, Passed),
        (48.0, 64, 64, None, Passed),  # not worth a word
        (None, None, 8, None, Skipped),
    ],
)
def test_threads_against_quota_and_mask(quota: float | None, usable: int | None, threads: int | None, omp: str | None, kind: type) -> None:
    variables = {"OMP_NUM_THREADS": omp} if omp else {}
    processor = changed(quota_cores=quota, cores_usable=usable)
    facts = Facts(processor=processor, python=Python(torch=Torch(threads=threads) if threads else None), variables=variables)
    assert isinstance(checks.cpu_quota_below_threads(facts), kind)


@pytest.mark.parametrize(
    ("variables", "severity"),
    [
        ({"OMP_NUM_THREADS": "abc"}, Severity.WARNING),
        ({"OMP_NUM_THREADS": "0"}, Severity.WARNING),
        ({"OMP_NUM_THREADS": "2.5"}, Severity.WARNING),
        ({"OMP_NUM_THREADS": "-1"}, Severity.WARNING),
        ({"OMP_NUM_THREADS": ""}, Severity.NOTE),
        ({"MKL_NUM_THREADS": "all"}, Severity.WARNING),
        ({"OMP_NUM_THREADS": "1"}, Severity.NOTE),
    ],
)
def test_wrong_thread_counts_are_found(variables: dict[str, str], severity: Severity) -> None:
    found = checks.omp_threads_wrong(Facts(processor=SERVER, variables=variables))
    assert isinstance(found, Finding)
    assert found.severity is severity
    assert found.fix.startswith("unset ")


@pytest.mark.parametrize(
    "facts",
    [
        Facts(processor=SERVER, variables={"OMP_NUM_THREADS": "8"}),
        Facts(processor=SERVER, variables={"OMP_NUM_THREADS": "8,2", "MKL_NUM_THREADS": "0"}),
        Facts(processor=SERVER, variables={"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "8"}),
        Facts(processor=SERVER, variables={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "16"}),
        Facts(processor=SERVER, variables={"OMP_NUM_THREADS": "1"}, driver=Driver(cards=1)),
        Facts(processor=changed(cores_usable=2), variables={"OMP_NUM_THREADS": "1"}),
    ],
)
def test_right_thread_counts_are_left_alone(facts: Facts) -> None:
    assert isinstance(checks.omp_threads_wrong(facts), Passed)


@pytest.mark.parametrize(
    ("variables", "cores", "kind"),
    [
        ({"OMP_PROC_BIND": "true"}, 8, Finding),
        ({"OMP_PROC_BIND": "SPREAD"}, 8, Finding),
        ({"GOMP_CPU_AFFINITY": "0-7"}, 8, Finding),
        ({"OMP_PROC_BIND": "false", "GOMP_CPU_AFFINITY": "0-7"}, 8, Passed),
        ({"KMP_AFFINITY": "compact"}, 8, Passed),  # for Intel's OpenMP, which torch's wheels do not use
        ({"OMP_PROC_BIND": "true"}, 1, Skipped),
        ({}, 8, Passed),
    ],
)
def test_pinned_threads(variables: dict[str, str], cores: int, kind: type) -> None:
    assert isinstance(checks.threads_pinned(Facts(processor=changed(cores_usable=cores), variables=variables)), kind)


# --- the processor itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("governors", "driver", "kind"),
    [
        ({"powersave": 64}, "acpi-cpufreq", Finding),
        ({"powersave": 64}, "intel_cpufreq", Finding),
        ({"performance": 60, "powersave": 4}, "amd-pstate", Finding),
        ({"powersave": 64}, "intel_pstate", Passed),
        ({"powersave": 16}, "amd-pstate-epp", Passed),
        ({"schedutil": 64}, "acpi-cpufreq", Passed),
        ({"powersave": 64}, None, Passed),  # which driver is not known: say nothing
        ({}, None, Skipped),
    ],
)
def test_governor(governors: dict[str, int], driver: str | None, kind: type) -> None:
    assert isinstance(checks.cpu_governor_saves_power(Facts(processor=changed(governors=governors, frequency_driver=driver))), kind)


def test_governor_of_a_container_is_set_outside() -> None:
    slow = changed(governors={"powersave": 64}, frequency_driver="acpi-cpufreq")
    found = checks.cpu_governor_saves_power(Facts(processor=slow, system=System(container="docker")))
    assert isinstance(found, Finding)
    assert found.fix.startswith("on the machine itself, outside of this container:\necho schedutil")


@pytest.mark.parametrize(
    ("architecture", "flags", "kind"),
    [
        ("x86_64", ("sse4_2", "avx"), Finding),
        ("x86_64", ("avx2",), Passed),
        ("x86_64", (), Skipped),
        ("aarch64", ("asimd",), Skipped),
        (None, ("avx",), Skipped),
    ],
)
def test_simd(architecture: str | None, flags: tuple[str, ...], kind: type) -> None:
    assert isinstance(checks.simd_missing(Facts(system=System(architecture=architecture), processor=changed(flags=flags))), kind)


def test_simd_hidden_by_a_virtual_machine_names_its_setting() -> None:
    facts = Facts(system=System(architecture="x86_64"), processor=changed(flags=("sse4_2",), hypervisor=True))
    found = checks.simd_missing(facts)
    assert isinstance(found, Finding)
    assert "host-passthrough" in found.fix


def test_a_torch_that_dies_of_it_is_the_finding() -> None:
    old = changed(flags=("sse4_2",))
    dead = Python(torch=Torch(import_tried=True, import_code=-4))
    assert isinstance(checks.simd_missing(Facts(system=System(architecture="x86_64"), processor=old, python=dead)), Skipped)


# --- place and load -------------------------------------------------------------------------------------------------

GPUS = tuple(Gpu(index=index, name="NVIDIA H200", uuid=f"GPU-{index}aa", numa_node=index // 2) for index in range(4))


@pytest.mark.parametrize(
    ("affinity", "visible", "kind"),
    [
        ("0-31", "2", Finding),
        ("0-31", "2,3", Finding),
        ("0-31", "GPU-3", Finding),
        ("0-31", "1,2", Passed),
        ("0-31", None, Passed),  # some are near
        ("0-63", "2", Passed),
        (None, "2", Skipped),
        ("0-31", "", Skipped),
        ("0-31", "nonsense", Skipped),
    ],
)
def test_gpus_far_from_the_cores(affinity: str | None, visible: str | None, kind: type) -> None:
    variables = {"CUDA_VISIBLE_DEVICES": visible} if visible is not None else {}
    assert isinstance(checks.numa_gpu_far(Facts(processor=changed(affinity=affinity), gpus=GPUS, variables=variables)), kind)


def test_the_far_gpu_is_told_with_the_command() -> None:
    found = checks.numa_gpu_far(Facts(processor=changed(affinity="0-31"), gpus=GPUS[2:]))
    assert isinstance(found, Finding)
    assert found.evidence == ("affinity mask: 0-31", "GPU 2: NUMA node 1, cores 32-63", "GPU 3: NUMA node 1, cores 32-63")
    assert found.fix.startswith("numactl --cpunodebind=1 --membind=1")


def test_gpus_of_several_models_are_not_told_apart_by_number() -> None:
    mixed = (Gpu(index=0, name="A", numa_node=0), Gpu(index=1, name="B", numa_node=1))
    facts = Facts(processor=changed(affinity="0-31"), gpus=mixed, variables={"CUDA_VISIBLE_DEVICES": "1"})
    assert isinstance(checks.numa_gpu_far(facts), Skipped)


def test_load() -> None:
    services = Services(busy=(Busy(pid=7, name="stress", uid=0, cores=63.5),))
    found = checks.load_from_others(Facts(processor=changed(load_1m=200.0, load_5m=150.0), services=services))
    assert isinstance(found, Finding)
    assert "pid 7, stress: 63.5 cores" in found.evidence
    assert isinstance(checks.load_from_others(Facts(processor=changed(load_1m=200.0, load_5m=20.0))), Passed)  # a short burst
    in_use = Facts(processor=changed(load_1m=64.0, load_5m=64.0))  # a full machine, not an overloaded one
    assert isinstance(checks.load_from_others(in_use), Passed)
    small = Facts(processor=changed(cores_online=2, load_1m=5.0, load_5m=4.0))  # a handful of tasks
    assert isinstance(checks.load_from_others(small), Passed)
