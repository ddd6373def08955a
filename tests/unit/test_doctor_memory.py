"""The doctor's checks of memory, on written-down facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.doctor.checks import memory as checks
from stoker.doctor.facts import Cluster, Facts, Gpu, Memory, Processor, Storage, System
from stoker.doctor.facts.cluster import RdmaPort
from stoker.doctor.facts.storage import DataSet
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

GIBIBYTE = 2**30
MEBIBYTE = 2**20
LAPTOP = Memory(
    total_bytes=32 * GIBIBYTE,
    available_bytes=20 * GIBIBYTE,
    swap_total_bytes=8 * GIBIBYTE,
    swap_used_bytes=300 * MEBIBYTE,
    swap_pages_per_s=0.0,
    shm_bytes=16 * GIBIBYTE,
    shm_free_bytes=16 * GIBIBYTE,
    shm_writable=True,
    memlock_soft=8 * MEBIBYTE,
    memlock_hard=8 * MEBIBYTE,
    lock_unlimited=False,
    nofile_soft=1024,
    nofile_hard=524288,
    nproc_soft=127000,
    pids_limit=38000,
    pids_now=900,
    huge_pages="madvise",
    oom_kills=0,
)
EIGHT_CORES = Processor(cores_online=8, cores_usable=8)
PORT = RdmaPort(device="mlx5_0", active=True, link_layer="InfiniBand")


def judged(check: str, cores: int = 8, container: str | None = None, gpus: int = 0, **values: object) -> Outcome:
    """Judge the laptop with some values changed."""
    facts = Facts(
        system=System(container=container, uid=1000),
        processor=Processor(cores_online=cores, cores_usable=cores),
        memory=replace(LAPTOP, **values),  # type: ignore[arg-type]
        gpus=tuple(Gpu(index=index) for index in range(gpus)),
    )
    outcome: Outcome = getattr(checks, check)(facts)
    return outcome


def test_a_healthy_laptop_gives_no_findings() -> None:
    facts = Facts(system=System(uid=1000), processor=EIGHT_CORES, memory=LAPTOP)
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(facts), Finding)]


def test_nothing_known_gives_no_findings() -> None:
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(Facts()), Finding)]


# --- shared memory --------------------------------------------------------------------------------------------------


def test_the_memory_that_a_loader_needs() -> None:
    assert checks.loader_shm_bytes(1) == 3 * 64 * 3 * 224 * 224 * 4
    assert checks.loader_shm_bytes(8) == 17 * 64 * 3 * 224 * 224 * 4


@pytest.mark.parametrize(
    ("container", "command"),
    [
        ("docker", "docker run --shm-size=768m"),
        ("podman", "podman run --shm-size=768m"),
        ("kubernetes", "sizeLimit: 768Mi"),
        ("apptainer", "on the machine itself, outside of this container:\nsudo mount -o remount,size=768m /dev/shm"),
        (None, "sudo mount -o remount,size=768m /dev/shm"),
    ],
)
def test_64_megabytes_are_an_error_and_the_fix_fits_the_container(container: str | None, command: str) -> None:
    found = judged("shm_too_small", container=container, shm_bytes=64 * MEBIBYTE)
    assert isinstance(found, Finding)
    assert found.severity is Severity.ERROR
    assert found.what == "/dev/shm has 64 MiB, a loader with 8 workers needs 625 MiB"
    assert command in found.fix
    assert found.safe_fix is None  # not root


@pytest.mark.parametrize(
    ("shm", "cores", "gpus", "expected"),
    [
        (200 * MEBIBYTE, 8, 0, Severity.WARNING),
        (GIBIBYTE, 8, 1, None),
        (GIBIBYTE, 64, 1, None),  # one GPU: eight workers
        (GIBIBYTE, 224, 8, Severity.WARNING),
        (8 * GIBIBYTE, 224, 8, None),
        (120 * MEBIBYTE, 1, 0, None),
        (64 * MEBIBYTE, 1, 0, Severity.ERROR),
    ],
)
def test_the_size_is_compared_with_cores_and_gpus(shm: int, cores: int, gpus: int, expected: Severity | None) -> None:
    found = judged("shm_too_small", cores=cores, gpus=gpus, shm_bytes=shm)
    assert (found.severity if isinstance(found, Finding) else None) is expected


def test_root_on_the_machine_may_have_it_mended() -> None:
    small = replace(LAPTOP, shm_bytes=64 * MEBIBYTE)
    found = checks.shm_too_small(Facts(system=System(uid=0), processor=EIGHT_CORES, memory=small))
    assert isinstance(found, Finding)
    assert found.safe_fix == ("mount", "-o", "remount,size=768m", "/dev/shm")


def test_large_sizes_are_whole_gibibytes() -> None:
    found = judged("shm_too_small", container="docker", cores=224, gpus=8, shm_bytes=GIBIBYTE)
    assert isinstance(found, Finding)
    assert "--shm-size=5g" in found.fix


def test_a_full_or_locked_dev_shm() -> None:
    assert isinstance(judged("shm_full", shm_free_bytes=20 * MEBIBYTE), Finding)
    assert isinstance(judged("shm_full", shm_writable=False), Finding)
    assert isinstance(judged("shm_full", shm_bytes=64 * MEBIBYTE, shm_free_bytes=0), Skipped)  # the size is the cause
    assert isinstance(judged("shm_full"), Passed)


# --- memory and swap ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"available_bytes": GIBIBYTE}, Finding),
        ({"limit_bytes": 8 * GIBIBYTE, "limit_used_bytes": int(7.9 * GIBIBYTE), "limit_text": "/sys/fs/cgroup/memory.max: 8589934592"}, Finding),
        ({"limit_bytes": 8 * GIBIBYTE, "limit_used_bytes": 7 * GIBIBYTE}, Passed),
        ({"limit_bytes": 8 * GIBIBYTE, "limit_used_bytes": None}, Passed),
        ({"available_bytes": None}, Skipped),
    ],
)
def test_memory_nearly_full(values: dict[str, object], kind: type) -> None:
    assert isinstance(judged("memory_nearly_full", **values), kind)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, Passed),  # a little swap is healthy
        ({"swap_used_bytes": 8 * GIBIBYTE}, Passed),  # much swap, plenty of memory, and nothing moves
        ({"swap_pages_per_s": 5000.0}, Finding),
        ({"swap_used_bytes": 5 * GIBIBYTE, "available_bytes": 2 * GIBIBYTE}, Finding),
        ({"swap_used_bytes": 5 * GIBIBYTE, "available_bytes": GIBIBYTE, "swap_pages_per_s": 5000.0}, Skipped),  # memory-nearly-full says it
        ({"swap_total_bytes": 0, "swap_used_bytes": 0}, Skipped),
    ],
)
def test_swap(values: dict[str, object], kind: type) -> None:
    assert isinstance(judged("swap_in_use", **values), kind)


def test_kills_are_told_with_a_larger_limit() -> None:
    values = {"oom_kills": 3, "oom_text": "/sys/fs/cgroup/memory.events: oom_kill 3", "limit_bytes": 8 * GIBIBYTE}
    found = judged("oom_kills", container="docker", **values)
    assert isinstance(found, Finding)
    assert found.what == "3 processes were killed here for want of memory"
    assert found.evidence == ("/sys/fs/cgroup/memory.events: oom_kill 3",)
    assert found.fix.startswith("docker run --memory=16g")
    assert isinstance(judged("oom_kills"), Passed)


@pytest.mark.parametrize(
    ("data_gib", "limit_gib", "expected"),
    [(4, None, None), (20, 8, Severity.WARNING), (100, None, Severity.NOTE), (100, 8, Severity.NOTE), (7, 8, None)],
)
def test_data_against_memory(data_gib: int, limit_gib: int | None, expected: Severity | None) -> None:
    data = DataSet(path="/data", files=1000, total_bytes=data_gib * GIBIBYTE, complete=True)
    memory = replace(LAPTOP, limit_bytes=limit_gib * GIBIBYTE if limit_gib else None)
    outcome = checks.memory_limit_against_data(Facts(memory=memory, storage=Storage(data=data)))
    assert (outcome.severity if isinstance(outcome, Finding) else None) is expected


def test_data_that_cannot_be_read_is_not_compared() -> None:
    facts = Facts(memory=LAPTOP, storage=Storage(data=DataSet(path="/data", error="Permission denied")))
    assert isinstance(checks.memory_limit_against_data(facts), Skipped)


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rdma", "values", "kind"),
    [
        ((), {}, Skipped),  # pinned memory for a GPU does not count against the limit
        ((replace(PORT, active=False),), {}, Skipped),
        ((PORT,), {}, Finding),
        ((PORT,), {"memlock_soft": -1}, Passed),
        ((PORT,), {"lock_unlimited": True}, Passed),
        ((PORT,), {"memlock_soft": None}, Skipped),
    ],
)
def test_memlock_matters_for_rdma_only(rdma: tuple[RdmaPort, ...], values: dict[str, object], kind: type) -> None:
    cluster = Cluster(rdma=rdma, rdma_nodes=("/dev/infiniband/uverbs0",))
    assert isinstance(checks.memlock_too_low(Facts(memory=replace(LAPTOP, **values), cluster=cluster, gpus=(Gpu(),))), kind)  # type: ignore[arg-type]


def test_memlock_matters_where_rdma_can_be_used_and_more_between_machines() -> None:
    usable = Cluster(rdma=(PORT,), rdma_nodes=("/dev/infiniband/uverbs0",))
    alone, many = (
        checks.memlock_too_low(Facts(memory=LAPTOP, cluster=usable, gpus=(Gpu(),), variables=given)) for given in ({}, {"SLURM_NNODES": "4"})
    )
    assert isinstance(alone, Finding)
    assert alone.severity is Severity.NOTE
    assert isinstance(many, Finding)
    assert many.severity is Severity.WARNING
    assert isinstance(
        checks.memlock_too_low(Facts(memory=LAPTOP, cluster=Cluster(rdma=(PORT,)), gpus=(Gpu(),))), Skipped
    )  # a container that was not given it
    assert isinstance(checks.memlock_too_low(Facts(memory=LAPTOP, cluster=usable)), Skipped)  # a cloud's network card can do RDMA, too


@pytest.mark.parametrize(
    ("soft", "cores", "gpus", "expected"),
    [
        (1024, 8, 1, None),  # the default of most systems
        (256, 8, 0, Severity.WARNING),
        (1024, 72, 1, None),  # the limit is one for each process: many cores do not matter
        (1024, 224, 8, None),  # and a training has one process a GPU
        (65536, 224, 8, None),
        (-1, 224, 8, None),
    ],
)
def test_open_files(soft: int, cores: int, gpus: int, expected: Severity | None) -> None:
    outcome = judged("nofile_too_low", cores=cores, gpus=gpus, nofile_soft=soft)
    assert (outcome.severity if isinstance(outcome, Finding) else None) is expected


def test_among_many_machines_1024_open_files_are_few() -> None:
    facts = Facts(processor=EIGHT_CORES, memory=LAPTOP, variables={"SLURM_JOB_NUM_NODES": "16"})
    found = checks.nofile_too_low(facts)
    assert isinstance(found, Finding)
    assert found.severity is Severity.NOTE


def test_the_hard_limit_decides_how_open_files_are_raised() -> None:
    within = judged("nofile_too_low", nofile_soft=256)
    beyond = judged("nofile_too_low", nofile_soft=256, nofile_hard=256, container="docker")
    assert isinstance(within, Finding)
    assert within.fix == "ulimit -n 65536"
    assert isinstance(beyond, Finding)
    assert beyond.fix.startswith("docker run --ulimit nofile")


@pytest.mark.parametrize(
    ("values", "cores", "kind"),
    [
        ({"pids_limit": 64, "pids_now": 10}, 8, Finding),
        ({"pids_limit": 2048, "pids_now": 10}, 8, Passed),
        ({"pids_limit": 2048, "pids_now": 2040}, 8, Finding),
        ({"pids_limit": None, "nproc_soft": -1}, 8, Passed),
        ({"pids_limit": None, "nproc_soft": 50}, 8, Finding),
    ],
)
def test_processes(values: dict[str, object], cores: int, kind: type) -> None:
    assert isinstance(judged("pids_limit_low", cores=cores, **values), kind)


def test_podmans_default_is_enough_for_eight_gpus() -> None:
    assert isinstance(judged("pids_limit_low", cores=224, gpus=8, container="podman", pids_limit=2048, pids_now=5, nproc_soft=-1), Passed)


@pytest.mark.parametrize(("state", "kind"), [("never", Finding), ("madvise", Passed), ("always", Passed), (None, Skipped)])
def test_huge_pages(state: str | None, kind: type) -> None:
    outcome = judged("huge_pages", huge_pages=state)
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Finding) or outcome.severity is Severity.NOTE
