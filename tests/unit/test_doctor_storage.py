"""The doctor's checks of the disks, on written-down facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.doctor.checks import storage as checks
from stoker.doctor.facts import Facts, Gpu, Memory, Python, Storage, System
from stoker.doctor.facts.python import Torch
from stoker.doctor.facts.storage import Cache, DataSet, Volume
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

GIBIBYTE = 2**30
MEBIBYTE = 2**20
ROOT = Volume(
    use="runs",
    path="/home/ada/runs",
    mount="/",
    kind="ext4",
    device="/dev/nvme0n1p2",
    total_bytes=500 * GIBIBYTE,
    free_bytes=200 * GIBIBYTE,
    inodes_total=30_000_000,
    inodes_free=25_000_000,
    read_only=False,
    noexec=False,
)
TEMPORARY = replace(ROOT, use="temporary", path="/tmp", mount="/tmp", kind="tmpfs", total_bytes=16 * GIBIBYTE, free_bytes=15 * GIBIBYTE)
CACHES = tuple(
    Cache(owner=owner, path=path, writable=True, noexec=False, mount="/")
    for owner, path in (("stoker", "/home/ada/.cache/stoker"), ("triton", "/home/ada/.triton/cache"), ("inductor", "/tmp/torchinductor_ada"))
)
DATA = DataSet(
    path="/data",
    files=1_000_000,
    total_bytes=110_000_000_000,
    complete=True,
    read_bytes=200_000_000,
    read_files=2000,
    read_s=1.0,
    readers=8,
    dropped=True,
)
MEMORY = Memory(total_bytes=64 * GIBIBYTE, available_bytes=60 * GIBIBYTE)
ENVIRONMENT = Python(torch=Torch(version="2.12.0+cu130"), packages={"torch": "2.12.0", "triton": "3.6.0"})
HEALTHY = Facts(
    system=System(uid=1000, user="ada"),
    memory=MEMORY,
    python=ENVIRONMENT,
    gpus=(Gpu(index=0),),
    storage=Storage(volumes=(replace(ROOT, use="data", path="/data", mount="/data"), ROOT, TEMPORARY), caches=CACHES, data=DATA),
)


def with_volumes(*volumes: Volume) -> Facts:
    return replace(HEALTHY, storage=replace(HEALTHY.storage, volumes=volumes))


def with_data(kind: str, rate: float, **values: object) -> Facts:
    """Put the data set on another file system, with another measured speed."""
    volume = replace(ROOT, use="data", path="/data", mount="/data", kind=kind, device="server:/export")
    data = replace(DATA, read_bytes=int(rate), **values)  # type: ignore[arg-type]
    return replace(HEALTHY, storage=replace(HEALTHY.storage, volumes=(volume, ROOT, TEMPORARY), data=data))


def with_cache(owner: str, **values: object) -> Facts:
    caches = tuple(replace(cache, **values) if cache.owner == owner else cache for cache in CACHES)  # type: ignore[arg-type]
    return replace(HEALTHY, storage=replace(HEALTHY.storage, caches=caches))


def severity(outcome: Outcome) -> Severity | None:
    return outcome.severity if isinstance(outcome, Finding) else None


def test_a_healthy_machine_gives_no_findings() -> None:
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(HEALTHY), Finding)]


def test_nothing_known_gives_no_findings() -> None:
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(Facts()), Finding)]


# --- the data set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DataSet(path="/data", error="No such file or directory"), "No such file or directory"),
        (DataSet(path="/data", files=3, total_bytes=9, complete=True, unreadable="/data/a.jpg: Permission denied"), "/data/a.jpg: Permission denied"),
        (DataSet(path="/data", files=0, total_bytes=0, complete=True), "there are no files in it"),
    ],
)
def test_data_that_cannot_be_read(data: DataSet, reason: str) -> None:
    facts = replace(HEALTHY, storage=Storage(volumes=(ROOT,), data=data))
    found = checks.data_unreadable(facts)
    assert isinstance(found, Finding)
    assert found.evidence == (f"/data: {reason}",)
    assert isinstance(checks.data_disk_slow(facts), Skipped)


def test_a_disk_that_does_not_answer() -> None:
    silent = Volume(use="home", path="/home/ada", mount="/home", kind="nfs4", device="server:/home", answered=False)
    found = checks.disk_hangs(with_volumes(ROOT, silent))
    assert isinstance(found, Finding)
    assert found.what == "the disk of the home folder (/home) does not answer"
    assert found.evidence == ("statvfs /home/ada: no answer within 2 s (nfs4 of server:/home)",)
    stale = Volume(use="home", path="/home/ada", mount="/home", kind="fuse.sshfs", device="server:", error="Transport endpoint is not connected")
    assert isinstance(checks.disk_hangs(with_volumes(ROOT, stale)), Finding)
    forbidden = Volume(use="runs", path="/root/runs", error="Permission denied")
    assert isinstance(checks.disk_hangs(with_volumes(ROOT, forbidden)), Passed)


@pytest.mark.parametrize(
    ("kind", "rate", "network", "slow"),
    [
        ("nfs4", 30e6, Finding, Skipped),
        ("nfs4", 900e6, Passed, Passed),
        ("fuse.sshfs", 30e6, Finding, Skipped),
        ("fuse.fuse-overlayfs", 30e6, Passed, Finding),  # a rootless container's own disk
        ("lustre", 900e6, Passed, Passed),
        ("ext4", 30e6, Passed, Finding),
        ("ext4", 300e6, Passed, Passed),
    ],
)
def test_one_cause_gives_one_finding(kind: str, rate: float, network: type, slow: type) -> None:
    facts = with_data(kind, rate)
    assert isinstance(checks.data_on_network_disk(facts), network)
    assert isinstance(checks.data_disk_slow(facts), slow)


def test_what_a_slow_disk_costs() -> None:
    found = checks.data_disk_slow(with_data("ext4", 20e6))
    assert isinstance(found, Finding)
    assert found.what == "the disk of the data set gives 20 MB/s"
    assert found.consequence == "reading the whole set takes 92 minutes, in every epoch"
    assert found.evidence[0] == "read 2000 pieces, 20000000 bytes in 1.00 s by 8 threads, after the kernel was asked to forget them"


@pytest.mark.parametrize(
    "facts",
    [
        with_data("ext4", 50e6, total_bytes=2_000_000_000),  # 40 s
        with_data("ext4", 50e6, total_bytes=20 * GIBIBYTE),  # stays in memory after the first epoch
        replace(with_data("ext4", 50e6), gpus=()),  # without a GPU it is enough
    ],
)
def test_a_disk_that_is_slow_where_it_does_not_matter(facts: Facts) -> None:
    assert isinstance(checks.data_disk_slow(facts), Passed)


def test_a_set_that_was_not_counted_to_its_end_is_at_least_that_large() -> None:
    found = checks.data_disk_slow(with_data("ext4", 20e6, total_bytes=1_000_000_000, complete=False))
    assert isinstance(found, Finding)
    assert "more than" in found.consequence


def test_windows_disk_under_wsl() -> None:
    facts = replace(with_data("9p", 20e6), system=System(wsl=True, uid=1000, user="ada"))
    found = checks.data_on_network_disk(facts)
    assert isinstance(found, Finding)
    assert "Windows' disk" in found.what


# --- room -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [
        (500 * GIBIBYTE, 20 * MEBIBYTE, Severity.ERROR),
        (500 * GIBIBYTE, 500 * MEBIBYTE, Severity.WARNING),
        (500 * GIBIBYTE, 5 * GIBIBYTE, Severity.WARNING),
        (10_000 * GIBIBYTE, 50 * GIBIBYTE, None),
        (20 * GIBIBYTE, 2 * GIBIBYTE, None),
        (GIBIBYTE, 100 * MEBIBYTE, None),  # a small tmpfs: tmp-small looks at it
    ],
)
def test_room_on_the_disk(total: int, free: int, expected: Severity | None) -> None:
    assert severity(checks.disk_full(with_volumes(replace(ROOT, total_bytes=total, free_bytes=free)))) is expected


def test_a_full_disk_for_reading_only_is_no_finding() -> None:
    full = replace(ROOT, free_bytes=0)
    assert severity(checks.disk_full(with_volumes(replace(full, read_only=True)))) is None
    assert severity(checks.disk_full(with_volumes(replace(full, use="data")))) is None


@pytest.mark.parametrize(
    ("total", "free", "expected"), [(30_000_000, 10, Severity.ERROR), (30_000_000, 5000, Severity.WARNING), (1000, 900, None), (None, None, None)]
)
def test_inodes(total: int | None, free: int | None, expected: Severity | None) -> None:
    assert severity(checks.inodes_full(with_volumes(replace(ROOT, inodes_total=total, inodes_free=free)))) is expected


@pytest.mark.parametrize(
    ("total", "free", "kind"), [(64 * MEBIBYTE, 60 * MEBIBYTE, Finding), (GIBIBYTE, GIBIBYTE, Passed), (500 * GIBIBYTE, 0, Passed)]
)
def test_small_temporary_folders(total: int, free: int, kind: type) -> None:
    assert isinstance(checks.tmp_small(with_volumes(replace(TEMPORARY, total_bytes=total, free_bytes=free))), kind)


# --- caches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "check", "variable"),
    [
        ("stoker", checks.cache_not_writable, "STOKER_CACHE"),
        ("triton", checks.triton_cache_not_writable, "TRITON_CACHE_DIR"),
        ("inductor", checks.compile_cache_not_writable, "TORCHINDUCTOR_CACHE_DIR"),
    ],
)
def test_a_cache_that_cannot_be_written(owner: str, check: checks.Check, variable: str) -> None:
    found = check(with_cache(owner, writable=False, reason="/home/ada belongs to uid 0 gid 0, mode 0755; this process has uid 1000"))
    assert isinstance(found, Finding)
    assert found.evidence == ("/home/ada belongs to uid 0 gid 0, mode 0755; this process has uid 1000",)
    assert found.fix.startswith(f"export {variable}=")
    assert isinstance(check(with_cache(owner, writable=None)), Skipped)


def test_a_home_that_cannot_be_written_is_one_finding() -> None:
    reason = "/ belongs to uid 0 gid 0, mode 0755; this process has uid 1000"
    caches = tuple(Cache(owner=owner, path=f"/.{owner}", writable=False, reason=reason) for owner in ("stoker", "triton"))
    python = Python(torch=Torch(version="2.13.0"), packages={"triton": "3.7.1"})
    facts = Facts(storage=Storage(caches=caches), python=python, variables={"HOME": "/"}, system=System(container="docker"))
    found = checks.cache_not_writable(facts)
    assert isinstance(found, Finding)
    assert found.evidence == ("HOME=/", reason)
    assert "-e HOME=/tmp" in found.fix
    assert isinstance(checks.triton_cache_not_writable(facts), Skipped)
    # Chosen by a variable, or for another reason, each is a finding of its own.
    chosen = replace(facts, storage=Storage(caches=(caches[0], replace(caches[1], variable="TRITON_CACHE_DIR"))))
    assert isinstance(checks.triton_cache_not_writable(chosen), Finding)
    assert isinstance(checks.cache_not_writable(chosen), Finding)


def test_caches_of_what_is_not_installed_are_not_looked_at() -> None:
    bare = replace(with_cache("triton", writable=False), python=Python())
    assert isinstance(checks.triton_cache_not_writable(bare), Skipped)
    assert isinstance(checks.compile_cache_not_writable(replace(with_cache("inductor", writable=False), python=Python())), Skipped)


def test_noexec() -> None:
    found = checks.tmp_noexec(with_cache("inductor", noexec=True, mount="/tmp"))
    assert isinstance(found, Finding)
    assert found.evidence == ("/tmp/torchinductor_ada is on /tmp, which is mounted noexec",)
    assert found.fix.startswith("export TORCHINDUCTOR_CACHE_DIR=")
    assert isinstance(checks.tmp_noexec(with_cache("stoker", noexec=True)), Passed)  # nothing in there is run


@pytest.mark.parametrize(
    ("error", "version", "variables", "kind"),
    [
        ("KeyError: 'getpwuid(): uid not found: 1234'", "2.12.0+cu130", {}, Finding),
        ("KeyError: 'getpwuid(): uid not found: 1234'", "2.13.0", {}, Passed),
        ("KeyError: 'getpwuid(): uid not found: 1234'", "2.12.0", {"TORCHINDUCTOR_CACHE_DIR": "/tmp/i"}, Passed),
        ("KeyError: 'getpwuid(): uid not found: 1234'", None, {}, Skipped),
        (None, "2.12.0", {}, Passed),
    ],
)
def test_a_user_without_a_name(error: str | None, version: str | None, variables: dict[str, str], kind: type) -> None:
    system = System(uid=1234, user=None if error else "ada", user_error=error)
    facts = Facts(system=system, python=Python(torch=Torch(version=version) if version else None), variables=variables)
    assert isinstance(checks.user_without_name(facts), kind)
