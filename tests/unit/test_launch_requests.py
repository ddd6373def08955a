"""What goes into a request: GPUs, amounts, limits, and who runs inside."""

from __future__ import annotations

import dataclasses
import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.doctor.sizes import loader_shm_bytes
from stoker.errors import BadValue, LaunchUnfit, LimitRefused
from stoker.launch import amounts, limits
from stoker.launch.account import account, group_lines, passwd_entry, passwd_lines
from stoker.launch.engine import Engine
from stoker.launch.gpus import ALL, NONE, read_gpus
from stoker.launch.init import has_init
from stoker.launch.limits import Ceiling, allowed, fitted, ulimits
from stoker.launch.request import Port
from stoker.settings import data_folder
from tests.launch_requests import BARE, DOCKER, FULL_LIMITS, GIBIBYTE, GPU, MIG, PODMAN, STRANGER, changed

ROOTLESS = dataclasses.replace(PODMAN, rootless=True)
ROOTLESS_DOCKER = dataclasses.replace(DOCKER, rootless=True)

# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_all_and_none() -> None:
    assert read_gpus("all") == read_gpus(" ALL ") == ALL
    assert read_gpus("none") == NONE
    assert (ALL.text, NONE.text) == ("all", "none")


@pytest.mark.parametrize("text", ["0", "0,2", "3,1", "0:1", "0:0,0:1", GPU, MIG, f"{GPU},1,{MIG}"])
def test_lists_of_gpus_are_taken_as_they_are(text: str) -> None:
    found = read_gpus(text)
    assert found.what == "some"
    assert found.text == text


def test_gpus_are_written_as_nvidia_smi_does() -> None:
    assert read_gpus(f" 00 , 2,{GPU.upper()},{MIG.lower()}").devices == ("0", "2", GPU, MIG)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("0,,1", "empty"),
        ("0,0", "twice"),
        ("0,00", "twice"),
        ("-1", "'-1' is no GPU"),
        ("two", "no GPU"),
        ("all,0", "'all' is no GPU"),
        ("GPU-123", "no GPU"),
        (f"MIG-{GPU}/1/0", "before 470"),
        ("device=0", "Docker's own syntax"),
        ("0;reboot", "no GPU"),
        ("0=1", "no GPU"),
        ("٣", "no GPU"),
    ],
)
def test_what_is_no_gpu_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadValue, match=says):
        read_gpus(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_gpus_or_refused(text: str) -> None:
    try:
        found = read_gpus(text)
    except BadValue:
        return
    assert read_gpus(found.text) == found


# --- amounts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8g", 8 * GIBIBYTE),
        ("8GiB", 8 * GIBIBYTE),
        ("8 GB", 8 * GIBIBYTE),
        ("512m", 2**29),
        ("1.5g", 3 * 2**29),
        ("1024", 1024),
        ("7b", 7),
        ("1t", 2**40),
    ],
)
def test_amounts_are_read(text: str, size: int) -> None:
    assert amounts.read_bytes(text, of="--memory") == size


@pytest.mark.parametrize("text", ["", "g", "8x", "-8g", "8g8", "1e9", "٨g", "8 g g", "nan", "0x10", "8,5g"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="--shm"):
        amounts.read_bytes(text, of="--shm")


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=2**59))
def test_an_amount_that_is_written_is_the_same_when_read(count: int) -> None:
    assert amounts.read_bytes(amounts.written(count), of="--memory") == count


def test_memory() -> None:
    total = 64 * GIBIBYTE
    assert amounts.read_memory("none", total) is None
    assert amounts.read_memory("8g", total) == 8 * GIBIBYTE
    assert amounts.read_memory("100%", total) == total
    assert amounts.read_memory("50 %", total) == total // 2
    assert amounts.read_memory("64g", total) == total
    assert amounts.default_memory(total) == 58982 * 2**20


@pytest.mark.parametrize("text", ["65g", "8", "1%", "63m"])
def test_memory_that_is_not_there_or_too_little_is_refused(text: str) -> None:
    with pytest.raises(LimitRefused):
        amounts.read_memory(text, GIBIBYTE if text == "1%" else 64 * GIBIBYTE)


@pytest.mark.parametrize("text", ["0%", "101%", "%", "half", "-5%"])
def test_a_share_is_within_the_whole(text: str) -> None:
    with pytest.raises(BadValue):
        amounts.read_memory(text, GIBIBYTE)


def test_cpus() -> None:
    assert amounts.read_cpus("all", 8) is None
    assert amounts.read_cpus("1.5", 8) == 1.5
    assert amounts.read_cpus("8", 8) == 8
    for text in ("9", "0.001"):
        with pytest.raises(LimitRefused):
            amounts.read_cpus(text, 8)
    for text in ("0", "-1", "nan", "inf", "many", ""):
        with pytest.raises(BadValue):
            amounts.read_cpus(text, 8)


def test_shared_memory_is_the_doctors_formula_within_half_of_the_memory() -> None:
    memory = 64 * GIBIBYTE
    assert amounts.shm_bytes(memory, workers=1) == GIBIBYTE
    for workers, batch in ((8, 256), (16, None), (32, 512), (3, 1000)):
        found = amounts.shm_bytes(memory, workers=workers, batch=batch)
        need = loader_shm_bytes(workers) * (batch or 64) / 64
        assert need <= found < need + GIBIBYTE
    assert amounts.shm_bytes(memory, workers=64, batch=4096) == memory // 2
    assert amounts.shm_bytes(512 * 2**20, workers=1) == 256 * 2**20


def test_workers_that_nobody_named_are_one_a_core_and_at_most_8_a_gpu() -> None:
    memory = 512 * GIBIBYTE
    assert amounts.shm_bytes(memory, cores=64, gpus=8, batch=256) == amounts.shm_bytes(memory, workers=64, batch=256)
    assert amounts.shm_bytes(memory, cores=64, gpus=1, batch=256) == amounts.shm_bytes(memory, workers=8, batch=256)
    assert amounts.shm_bytes(memory, cores=2, gpus=1, batch=256) == amounts.shm_bytes(memory, workers=2, batch=256)
    # Named, they are those of one process.
    assert amounts.shm_bytes(memory, workers=8, gpus=8, batch=256) == amounts.shm_bytes(memory, workers=64, batch=256)


def test_shared_memory_as_asked_is_within_the_memory() -> None:
    assert amounts.read_shm("2g", 4 * GIBIBYTE) == 2 * GIBIBYTE
    for text in ("5g", "1k", "0"):
        with pytest.raises(LimitRefused):
            amounts.read_shm(text, 4 * GIBIBYTE)


# --- limits ---------------------------------------------------------------------------------------------------------


def process(proc: Path, number: int | str, name: str, *, memlock: str = "8388608", files: str = "20000", capable: bool = False) -> None:
    """A process in a made-up /proc."""
    folder = proc / str(number)
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    rows = (("Max stack size", "8388608", "unlimited", "bytes"), ("Max processes", "96365", "96365", "processes"))
    rows += (("Max open files", "1024", files, "files"), ("Max locked memory", memlock, memlock, "bytes"))
    text = "".join(f"{title:<25} {soft:<20} {hard:<20} {unit}\n" for title, soft, hard, unit in rows)
    (folder / "limits").write_text(f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} Units\n{text}")
    (folder / "status").write_text(f"Name:\t{name}\nCapEff:\t{'000001ffffffffff' if capable else '00000000a80425fb'}\n")
    (folder / "uid_map").write_text("         0          0 4294967295\n")


def test_podman_gets_all_limits_of_the_caller_since_one_replaces_its_defaults(tmp_path: Path) -> None:
    process(tmp_path, "self", "stoker")
    assert ulimits(PODMAN, proc=tmp_path) == (
        ("memlock", 8388608, 8388608),
        ("nofile", 20000, 20000),
        ("nproc", 32768, 32768),
        ("stack", 67108864, -1),
    )


def test_podman_lowers_its_own_limits_as_it_starts(tmp_path: Path) -> None:
    process(tmp_path, "self", "stoker", files="1073741816")
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/pid_max").write_text("50000\n")
    found = ulimits(PODMAN, proc=tmp_path)
    assert ("nproc", 50000, 50000) in found
    assert ("nofile", 65536, 1048576) in found
    row = (tmp_path / "self/limits").read_text()
    (tmp_path / "self/limits").write_text(row.replace("96365", "unlimited"))
    assert ("nproc", 50000, 50000) in ulimits(PODMAN, proc=tmp_path)
    (tmp_path / "sys/kernel/pid_max").write_text("4194304\n")
    (tmp_path / "self/limits").write_text(row)
    assert ("nproc", 96365, 96365) in ulimits(PODMAN, proc=tmp_path)


def test_who_may_raise_limits_locks_all_memory(tmp_path: Path) -> None:
    process(tmp_path, "self", "stoker", files="1048576", capable=True)
    found = ulimits(PODMAN, proc=tmp_path)
    assert ("memlock", -1, -1) in found
    assert ("nofile", 65536, 1048576) in found


def test_capabilities_of_a_user_namespace_raise_nothing(tmp_path: Path) -> None:
    process(tmp_path, "self", "stoker", capable=True)
    (tmp_path / "self/uid_map").write_text("0 1000 1\n")
    assert ("memlock", 8388608, 8388608) in ulimits(PODMAN, proc=tmp_path)


def test_docker_gets_what_its_daemons_may(tmp_path: Path) -> None:
    process(tmp_path, "self", "stoker", memlock="unlimited", capable=True)
    process(tmp_path, 12, "dockerd", memlock="unlimited", capable=True)
    process(tmp_path, 13, "containerd", memlock="65536", files="4096")
    process(tmp_path, 14, "bash", memlock="1")
    assert ulimits(DOCKER, proc=tmp_path) == (("memlock", 65536, 65536), ("nofile", 4096, 4096), ("stack", 67108864, -1))


def test_a_daemon_that_cannot_be_seen_is_not_guessed_at(tmp_path: Path) -> None:
    process(tmp_path, "self", "stoker")
    assert ulimits(DOCKER, proc=tmp_path) == ()
    assert ulimits(PODMAN, proc=tmp_path / "nothing") == ()


def test_unlimited_open_files_are_no_number_that_the_kernel_takes() -> None:
    assert allowed(Ceiling(hard=(("nofile", -1),), raises=True), names=["nofile"]) == (("nofile", 65536, 65536),)


def test_this_process_can_set_what_is_said_here() -> None:
    import resource

    for name, soft, hard in ulimits(PODMAN):
        own = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        assert own[1] == -1 or soft <= own[1] or limits._ceiling(Path("/proc/self")).raises  # type: ignore[union-attr]
        assert hard == -1 or soft <= hard


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, "memory cpus pids"),
        ({"controllers": ("memory", "cpu", "pids", "io")}, "memory cpus pids"),
        ({"controllers": ("memory", "pids")}, "memory pids"),
        ({"rootless": True, "controllers": ("memory", "pids")}, "memory pids"),
        ({"rootless": True, "cgroups": 1, "controllers": ("memory", "cpu", "pids")}, ""),
    ],
)
def test_limits_that_the_host_cannot_set_are_left_out_and_told(changes: dict[str, object], left: str) -> None:
    asked = dataclasses.replace(FULL_LIMITS, cpus=2.0)
    found, unset = fitted(asked, dataclasses.replace(PODMAN, **changes))  # type: ignore[arg-type]
    kept = {"memory": found.memory_bytes, "cpus": found.cpus, "pids": found.pids}
    assert " ".join(name for name, value in kept.items() if value is not None) == left
    assert {one.option for one in unset} == {"--memory", "--cpus", "--pids"} - {f"--{name}" for name in left.split()}
    assert all(one.reason and one.consequence for one in unset)
    assert (found.shm_bytes, found.ulimits) == (asked.shm_bytes, asked.ulimits)


def test_a_limit_that_nobody_asked_for_is_not_missed() -> None:
    none = dataclasses.replace(FULL_LIMITS, memory_bytes=None, pids=None)
    assert fitted(none, dataclasses.replace(ROOTLESS, cgroups=1)) == (none, ())


# --- who it is ------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is `ada`, 12345:100."""
    be(monkeypatch, 12345, 100)


def be(monkeypatch: pytest.MonkeyPatch, uid: int, gid: int, name: str = "ada") -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: gid)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: pwd.struct_passwd((name, "x", number, number, "", "/", "/bin/sh")))


@pytest.mark.usefixtures("as_user")
def test_the_caller_runs_inside() -> None:
    found = account(PODMAN)
    assert (found.uid, found.gid, found.name, found.known, found.keep_id) == (12345, 100, "ada", False, False)
    assert (found.host_uid, found.host_gid, found.files) == (12345, 100, None)
    assert account(DOCKER, files=Path("/f")) == dataclasses.replace(found, files=Path("/f"))
    assert account(DOCKER).files == data_folder().absolute() / "accounts"


@pytest.mark.usefixtures("as_user")
def test_without_root_podman_maps_the_caller_to_the_images_account() -> None:
    found = account(ROOTLESS)
    assert (found.uid, found.gid, found.name, found.known, found.keep_id) == (1000, 1000, "stoker", True, True)
    assert (found.host_uid, found.host_gid) == (12345, 100)
    assert account(dataclasses.replace(ROOTLESS, version=())) == found


@pytest.mark.usefixtures("as_user")
def test_an_old_podman_maps_the_caller_to_themselves() -> None:
    found = account(dataclasses.replace(ROOTLESS, version=(4, 2, 1)))
    assert (found.uid, found.gid, found.name, found.known, found.keep_id) == (12345, 100, "ada", False, True)
    with pytest.raises(LaunchUnfit, match=r"podman 4\.2\.1 without root"):
        account(dataclasses.replace(ROOTLESS, version=(4, 2, 1)), user="7")


@pytest.mark.usefixtures("as_user")
def test_without_root_dockers_root_is_the_caller() -> None:
    found = account(ROOTLESS_DOCKER, files=Path("/f"))
    assert (found.uid, found.gid, found.host_uid, found.files) == (0, 0, 12345, None)
    assert account(ROOTLESS_DOCKER, user="0:0") == found
    with pytest.raises(LaunchUnfit, match="uid 1000"):
        account(ROOTLESS_DOCKER, user="1000")


def test_for_root_it_is_the_one_who_called_sudo_else_the_projects_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be(monkeypatch, 0, 0)
    sudo = {"SUDO_UID": "12345", "SUDO_GID": "100"}
    assert account(PODMAN, environment=sudo).uid == 12345
    # sudo called by root, or a variable that somebody made up.
    for nonsense in ({"SUDO_UID": "0", "SUDO_GID": "0"}, {"SUDO_UID": "x", "SUDO_GID": "1"}, {"SUDO_UID": "12345"}, {}):
        assert account(PODMAN, environment=nonsense).uid == 1000
    assert account(PODMAN, environment={}, project=tmp_path / "nothing").uid == 1000
    for owner, ids in (((12345, 100), (12345, 100)), ((12345, 0), (12345, 12345)), ((0, 0), (1000, 1000))):
        monkeypatch.setattr(Path, "stat", lambda path, owner=owner: os.stat_result((0, 0, 0, 0, *owner, 0, 0, 0, 0)))
        found = account(PODMAN, environment={}, project=tmp_path)
        assert (found.uid, found.gid) == ids


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("text", "ids"), [("7", (7, 7)), ("7:8", (7, 8)), ("0", (0, 0)), (" 4294967294:1 ", (4294967294, 1))])
def test_another_user_can_be_asked_for(text: str, ids: tuple[int, int]) -> None:
    for engine in (PODMAN, DOCKER, ROOTLESS):
        found = account(engine, user=text, files=Path("/f"))
        assert (found.uid, found.gid) == ids
        assert found.keep_id is (engine is ROOTLESS and ids[0] != 0)
        assert (found.files is not None) is (engine is DOCKER and ids[0] != 0)


@pytest.mark.parametrize("text", ["ada", "", ":", "1:", "-1", "4294967295", "1:4294967295", "1.5", "1:2:3", "٣"])
def test_a_user_is_a_number(text: str) -> None:
    with pytest.raises(BadValue, match="--user"):
        account(PODMAN, user=text)


@pytest.mark.parametrize(
    ("uid", "name", "inside"),
    [
        (12345, "ada", "ada"),
        (12345, "Ada Lovelace", "user12345"),
        (12345, "CORP\\ada", "user12345"),
        (12345, "ada:x:0", "user12345"),
        (12345, "stoker", "user12345"),
        (102, "sshd", "user102"),
        (1000, "ada", "stoker"),
    ],
)
def test_a_name_does_not_meet_one_of_the_image(monkeypatch: pytest.MonkeyPatch, uid: int, name: str, inside: str) -> None:
    be(monkeypatch, uid, uid, name)
    assert account(PODMAN).name == inside


def test_a_caller_without_an_account_has_a_name_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 4_000_000_000, 1)

    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert account(PODMAN).name == "user4000000000"


def test_the_account_files_have_every_number_and_name_once() -> None:
    for one in (STRANGER, dataclasses.replace(STRANGER, gid=1000), dataclasses.replace(STRANGER, gid=0)):
        for lines in (passwd_lines(one), group_lines(one)):
            for field in (0, 2):
                found = [line.split(":")[field] for line in lines]
                assert len(found) == len(set(found))
        assert len({line.count(":") for line in passwd_lines(one)}) == 1
        assert str(one.gid) in [line.split(":")[2] for line in group_lines(one)]
    assert passwd_entry(STRANGER) in passwd_lines(STRANGER)


# --- the request ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"name": ""}, {"name": "-x"}, {"name": "A"}, {"name": "a b"}, {"name": "a" * 101}, {"image": ""}, {"image": "--privileged"}, {"image": "a\nb"}],
)
def test_what_would_be_read_as_something_else_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadValue):
        changed(BARE, **changes)


def test_a_value_on_the_command_line_is_refused_and_not_shown() -> None:
    with pytest.raises(BadValue, match="HF_TOKEN") as refused:
        changed(BARE, environment=("HF_TOKEN=hf_secret",))
    assert "hf_secret" not in refused.value.message + refused.value.hint


def test_labels_tell_all_that_there_is_to_know() -> None:
    ports = (Port(host=6006, inside=6006), Port(host=7007, inside=7, address="::1"))
    found = dict(changed(BARE, ports=ports, gpus=read_gpus("0,2"), grace_s=60).labels)
    assert found == {
        "dev.stoker.launch": "1",
        "dev.stoker.launch.name": "digits-run",
        "dev.stoker.launch.kind": "run",
        "dev.stoker.launch.project": "/home/ada/digits",
        "dev.stoker.launch.home": "/home/ada/.local/share/stoker/home",
        "dev.stoker.launch.listen": "127.0.0.1:6006,[::1]:7007",
        "dev.stoker.launch.grace": "60",
        "dev.stoker.launch.gpus": "0,2",
    }
    nothing = dict(changed(BARE, project=None, home=None).labels)
    assert (nothing["dev.stoker.launch.project"], nothing["dev.stoker.launch.home"], nothing["dev.stoker.launch.listen"]) == ("", "", "")


@pytest.mark.parametrize(("engine", "program"), [(PODMAN, "usr/libexec/podman/catatonit"), (DOCKER, "usr/libexec/docker/docker-init")])
def test_an_engine_without_its_init_is_not_asked_for_it(engine: Engine, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_init(engine, root=tmp_path)
    (tmp_path / program).parent.mkdir(parents=True)
    (tmp_path / program).touch()
    assert has_init(engine, root=tmp_path)
