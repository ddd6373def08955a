"""The checks before a start: pure verdicts on written-down facts, and the facts read from real folders."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.doctor.facts.cdi import CdiSpecification
from stoker.doctor.facts.gpus import Gpu, GpuProcess, MigDevice
from stoker.doctor.finding import Finding, Severity
from stoker.errors import StartRefused
from stoker.launch.checks import before as look
from stoker.launch.checks import gathering, judge
from stoker.launch.checks.gathering import Before, Restarts
from stoker.launch.checks.places import Disk, Place, read_disk, read_place
from stoker.launch.containers import Container
from stoker.launch.defaults import decide
from stoker.launch.engine import Engine, Image
from stoker.launch.gpus import read_gpus
from stoker.launch.limits import Unset, fitted
from stoker.launch.request import Account, Limits, Mount, Port, Request
from stoker.launch.site import Site
from stoker.launch.starting import refuse
from stoker.launch.wanted import Wanted

GIBIBYTE = 2**30
STACKS = json.dumps([{"name": "cu130", "driver_min": "580.65.06"}, {"name": "cu126", "driver_min": "525.60.13"}])
OWN = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
UUID = "GPU-00000000-0000-0000-0000-00000000000{}"


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "kept"))


def gpu(index: int, **others: Any) -> Gpu:
    plain = Gpu(index=index, name="NVIDIA H200", uuid=UUID.format(index), memory_bytes=140 * GIBIBYTE, memory_used_bytes=2**20)
    return replace(plain, **others)


def site(wanted: Wanted | None = None, **others: Any) -> Site:
    plain = Site(
        wanted=wanted or Wanted(),
        engine=Engine(name="podman", program="/usr/bin/podman", version=(5, 4, 0)),
        image_name="localhost/cnn:latest",
        image=Image(name="cnn", digest="sha256:1", labels={"dev.stoker.stacks": STACKS}, user="stoker", architecture=OWN),
        uid=1000,
        memory_bytes=100 * GIBIBYTE,
        cores=16,
        gpus=2,
        driver="580.95.05",
    )
    return replace(plain, **others)


def facts(*, request: dict[str, Any] | None = None, at: Site | None = None, **others: Any) -> Before:
    """A machine on which nothing is wrong, with two GPUs, and what a test changes of it."""
    at = at or site()
    decided = decide(replace(at.wanted, project=Path("/p"), home="none"), at)
    plain = Before(
        request=replace(decided, **(request or {})),
        site=at,
        gpus=(gpu(0), gpu(1)),
        cdi=(CdiSpecification(path="/etc/cdi/nvidia.yaml", version="0.5.0", kind="nvidia.com/gpu", devices=("0", "1", "all")),),
        toolkit=True,
        places=(Place(mount=Mount(source=Path("/p"), target="/workspace", writable=True), mode=0o755, uid=decided.account.host_uid),),
        disks=(Disk(use="project", folder=Path("/p"), device=1, free_bytes=100 * GIBIBYTE, files_free=10**6),),
        available_bytes=90 * GIBIBYTE,
    )
    return replace(plain, **others)


def only(before: Before) -> Finding:
    """The one finding on these facts, which says all that a finding has to say."""
    found = judge(before)
    assert len(found) == 1, [finding.what for finding in found]
    assert found[0].what
    assert all(found[0].evidence)
    assert found[0].consequence
    assert found[0].fix.strip()
    return found[0]


def test_where_nothing_is_wrong_nothing_is_said() -> None:
    assert judge(facts()) == ()
    assert judge(facts(request={"gpus": read_gpus("none")}, at=site(gpus=0, driver=None), gpus=None, cdi=(), toolkit=False)) == ()


# --- image and engine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "sources", "fix"),
    [
        (
            Wanted(own_image="team/cnn"),
            ("stoker.toml", "stoker.lock", "cnn.oci"),
            "stoker image build -f /p/stoker.toml --load podman   # it is built",
        ),
        (Wanted(own_image="team/cnn"), ("stoker.toml", "stoker.lock"), "stoker image build -f /p/stoker.toml --load podman"),
        (Wanted(own_image="team/cnn"), ("stoker.toml",), "stoker image lock -f /p/stoker.toml && stoker image build -f /p/stoker.toml --load podman"),
        (Wanted(image="registry.example.org/x:1", own_image="cnn"), ("stoker.toml", "stoker.lock"), "podman pull registry.example.org/x:1"),
        (Wanted(image="x"), (), "podman pull x"),
        (Wanted(image="localhost/cnn"), (), "stoker image build --load podman"),
    ],
)
def test_a_missing_image_is_said_with_the_command_that_brings_it(wanted: Wanted, sources: tuple[str, ...], fix: str) -> None:
    where = site(replace(wanted, project=Path("/p")), image=None)
    found = only(facts(at=replace(where, image_name=wanted.image or where.image_name), sources=sources))
    assert found.severity is Severity.ERROR
    assert found.fix.startswith(fix)


def test_in_the_project_the_command_needs_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = only(facts(at=site(Wanted(project=tmp_path, own_image="cnn"), image=None), sources=("stoker.toml", "stoker.lock")))
    assert found.fix == "stoker image build --load podman"


def test_an_engine_that_is_silent_is_the_one_finding() -> None:
    silent = Engine(name="docker", program="docker", answers="Cannot connect to the Docker daemon")
    found = only(facts(at=site(image=None, engine=silent), request={"gpus": read_gpus("none")}))
    assert found.severity is Severity.ERROR
    assert "systemctl start docker" in found.fix


def test_an_image_of_another_machine_is_said() -> None:
    image = Image(name="cnn", digest="", labels={}, user="", architecture="s390x")
    assert "for s390x" in only(facts(at=site(image=image))).what


@pytest.mark.parametrize(("driver", "fits"), [("580.95.05", True), ("525.60.13", True), ("525.60.12", False), ("470.0.1", False), (None, True)])
def test_the_driver_is_held_against_the_images_stacks(driver: str | None, fits: bool) -> None:
    before = facts(at=site(driver=driver))
    if fits:
        assert judge(before) == ()
    else:
        found = only(before)
        assert "525.60.13 or newer" in found.what
        assert "--gpus none" in found.fix
        assert judge(replace(before, request=replace(before.request, gpus=read_gpus("none")))) == ()


@pytest.mark.parametrize(
    "label", ["", "{", "[]", "3", "null", '[{"name": "cpu", "driver_min": null}]', "[{}]", '[{"driver_min": "x.y"}]', '[{"driver_min": 5}]', '"abc"']
)
def test_a_label_that_says_nothing_is_no_finding(label: str) -> None:
    image = Image(name="cnn", digest="", labels={"dev.stoker.stacks": label}, user="", architecture=OWN)
    assert judge(facts(at=site(image=image, driver="1.0"))) == ()


def test_limits_that_cannot_be_set_are_said_memory_loudest() -> None:
    unset = tuple(Unset(option=option, reason="no controller", consequence="what then") for option in ("--memory", "--cpus"))
    for engine in (
        Engine(name="podman", program="p", rootless=True, cgroups=1),
        Engine(name="podman", program="p", version=(5, 0), rootless=True),
        Engine(name="podman", program="p", version=(5, 0)),
    ):
        memory, cpus = judge(facts(at=site(engine=engine), unset=unset))
        assert (memory.severity, cpus.severity) == (Severity.WARNING, Severity.NOTE)
        assert memory.fix


def test_without_a_session_of_systemd_rootless_podman_sets_no_limits() -> None:
    engine = Engine(name="podman", program="p", version=(4, 3, 1), rootless=True, session=False)
    left, unset = fitted(Limits(memory_bytes=GIBIBYTE, cpus=None, shm_bytes=None, pids=4096), engine)
    assert (left.memory_bytes, left.pids, [one.option for one in unset]) == (None, None, ["--memory", "--pids"])
    memory = judge(facts(at=site(engine=engine), unset=unset[:1]))[0]
    assert "no session" in memory.evidence[0]
    assert "enable-linger" in memory.fix


def test_a_restart_that_nothing_would_do_is_said() -> None:
    rootless = Engine(name="podman", program="p", version=(5, 0), rootless=True)
    assert judge(facts(restarts=Restarts(systemd=True, enabled=True))) == ()
    assert only(facts(restarts=Restarts(systemd=True, enabled=False))).fix == "sudo systemctl enable podman-restart.service"
    both = only(facts(at=site(engine=rootless), restarts=Restarts(systemd=True, enabled=False, lingering=False, account="ann")))
    assert both.fix == "systemctl --user enable podman-restart.service\nsudo loginctl enable-linger ann"
    assert "no systemd" in only(facts(restarts=Restarts(systemd=False, enabled=False))).what


# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_gpus_that_are_not_there_are_said() -> None:
    none = facts(at=site(gpus=0, driver=None), gpus=None, request={"gpus": read_gpus("all")})
    assert "no GPU that could be given" in only(none).what
    lacking = only(facts(request={"gpus": read_gpus("0,7")}, cdi=(CdiSpecification(kind="nvidia.com/gpu", devices=("0", "7")),)))
    assert lacking.what == "--gpus 0,7: there is no GPU 7"
    assert "GPU 1: NVIDIA H200" in lacking.evidence[1]


@pytest.mark.parametrize(
    "asked", ["0", "1", "0,1", UUID.format(1), UUID.format(1).replace("GPU", "gpu"), "1:3", "MIG-11111111-1111-1111-1111-111111111111"]
)
def test_gpus_are_found_by_number_uuid_and_slice(asked: str) -> None:
    part = MigDevice(index=3, name="MIG 1g", uuid="MIG-11111111-1111-1111-1111-111111111111", memory_bytes=GIBIBYTE)
    cdi = (CdiSpecification(kind="nvidia.com/gpu", devices=tuple(read_gpus(asked).devices)),)
    assert judge(facts(request={"gpus": read_gpus(asked)}, gpus=(gpu(0), gpu(1, mig=True, mig_devices=(part,))), cdi=cdi)) == ()


def test_a_lost_gpu_is_an_error_when_it_was_asked_for() -> None:
    gpus = (gpu(0), gpu(1, lost=True, lost_text="GPU is lost"))
    assert only(facts(gpus=gpus)).severity is Severity.WARNING
    assert only(facts(gpus=gpus, request={"gpus": read_gpus("1")})).severity is Severity.ERROR
    assert judge(facts(gpus=gpus, request={"gpus": read_gpus("0")})) == ()


def test_podman_without_a_specification_or_with_one_that_lacks_the_gpu() -> None:
    missing = only(facts(cdi=()))
    assert missing.fix.startswith("sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    assert "install nvidia-container-toolkit" in only(facts(cdi=(), toolkit=False)).fix
    lacks = only(
        facts(request={"gpus": read_gpus("1")}, cdi=(CdiSpecification(path="/run/cdi/n.yaml", kind="nvidia.com/gpu", devices=("0", "all")),))
    )
    assert lacks.what == "the CDI specification lacks 1"
    assert "/run/cdi/n.yaml" in lacks.fix


def test_a_specification_of_another_driver_or_too_new_for_podman() -> None:
    stale = CdiSpecification(path="/etc/cdi/n.yaml", kind="nvidia.com/gpu", devices=("all",), driver_versions=("535.1.1",))
    assert "written for driver 535.1.1; this one is 580.95.05" in only(facts(cdi=(stale,))).what
    new = CdiSpecification(path="/etc/cdi/n.yaml", version="0.6.0", kind="nvidia.com/gpu", devices=("all",))
    assert judge(facts(cdi=(new,))) == ()
    old_podman = site(engine=Engine(name="podman", program="p", version=(4, 3, 1)))
    assert "cdiVersion 0.6.0" in only(facts(cdi=(new,), at=old_podman)).what


def test_docker_without_the_toolkit() -> None:
    docker = Engine(name="docker", program="docker", version=(28, 0))
    assert "toolkit is not installed" in only(facts(at=site(engine=docker), toolkit=False, cdi=())).what
    assert judge(facts(at=site(engine=docker), toolkit=True, cdi=())) == ()
    assert judge(facts(at=site(engine=replace(docker, runtimes=("nvidia", "runc"))), toolkit=False, cdi=())) == ()


def test_a_gpu_in_use_is_said_with_its_user_and_those_that_are_free() -> None:
    busy = gpu(0, memory_used_bytes=70 * GIBIBYTE, processes=(GpuProcess(pid=77, name="python", memory_bytes=69 * GIBIBYTE),))
    found = only(facts(gpus=(busy, gpu(1)), users={77: "container night"}))
    assert found.severity is Severity.WARNING
    assert found.what == "GPU 0 is in use: container night"
    assert found.fix == "take those that are free: --gpus 1\nstoker stop night"
    assert judge(facts(gpus=(busy, gpu(1)), request={"gpus": read_gpus("1")})) == ()
    unseen = only(facts(gpus=(gpu(0, memory_used_bytes=70 * GIBIBYTE), gpu(1))))
    assert "cannot be seen from here" in unseen.what
    desktop = gpu(0, memory_used_bytes=300 * 2**20, processes=(GpuProcess(pid=5, name="Xorg", memory_bytes=200 * 2**20),))
    assert judge(facts(gpus=(desktop, gpu(1)))) == ()


def test_gpus_that_gave_no_answer_are_a_note() -> None:
    assert only(facts(gpus=None)).severity is Severity.NOTE


# --- mounts ---------------------------------------------------------------------------------------------------------


def place(**others: Any) -> Place:
    plain = Place(mount=Mount(source=Path("/data set"), target="/data"), mode=0o755, uid=0, gid=0)
    return replace(plain, **others)


WRITABLE = Mount(source=Path("/out"), target="/out", writable=True)
ANN = Account(uid=1234, gid=1234, name="ann", keep_id=False, known=False, host_uid=1234, host_gid=1234)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (place(error="No such file or directory"), "No such file"),
        (place(mount=WRITABLE, error="No such file or directory"), "No such file"),
        (place(answered=False), "gives no answer"),
        (place(mode=0o700), "uid 1234, as which it runs, may not read /data set"),
        (place(mode=0o754), "may not read"),
        (place(mount=WRITABLE, mode=0o755), "may not write to /out"),
        (place(mount=WRITABLE, mode=0o755, gid=1234), "may not write to /out"),
        (place(mount=WRITABLE, mode=0o077, uid=1234), "may not write to /out"),
        (place(mount=WRITABLE, mode=0o777, read_only=True), "read-only file system"),
        (place(folder=False, mode=0o640), "may not read"),
    ],
)
def test_a_mount_that_will_not_work_is_an_error(seen: Place, told: str) -> None:
    found = only(facts(request={"account": ANN}, places=(seen,)))
    assert found.severity is Severity.ERROR
    assert told in found.what


@pytest.mark.parametrize(
    "seen",
    [
        place(),
        place(mode=0o750, gid=1234),
        place(folder=False, mode=0o644),
        place(mount=WRITABLE, mode=0o700, uid=1234),
        place(mount=WRITABLE, mode=0o770, gid=1234),
        place(mount=WRITABLE, mode=0o700, rules=True),
        place(read_only=True),
    ],
)
def test_a_mount_that_works_is_none(seen: Place) -> None:
    assert judge(facts(request={"account": ANN}, places=(seen,))) == ()


def test_root_may_everything() -> None:
    root = Account(uid=0, gid=0, name="root", keep_id=False, known=True, host_uid=0, host_gid=0)
    assert judge(facts(request={"account": root}, places=(place(mount=WRITABLE, mode=0, uid=5),))) == ()


def test_places_and_disks_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir(mode=0o750)
    found = read_place(Mount(source=folder, target="/f"))
    assert (found.error, found.folder, found.mode, found.uid, found.read_only) == (None, True, 0o750, os.getuid(), False)
    assert read_place(Mount(source=tmp_path / "no", target="/f")).error == "No such file or directory"
    assert read_place(Mount(source=Path("/proc/self/cmdline/x"), target="/f")).error == "Not a directory"
    disk = read_disk("home", tmp_path / "not" / "yet")
    assert disk is not None
    assert disk.folder == tmp_path
    assert disk.free_bytes > 0


# --- room -----------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_said_with_its_owner() -> None:
    port = Port(host=8888, inside=88)
    owner = Container(
        id="1",
        name="night",
        engine="podman",
        container="stoker-night",
        kind="run",
        image="",
        state="running",
        exit_code=None,
        created=None,
        started=None,
        ended=None,
        ports=(port,),
        project=None,
        home=None,
        grace_s=1,
        gpus="",
        command=(),
        labels={},
    )
    assert only(facts(taken=(port,))).what == "port 127.0.0.1:8888 is taken"
    ours = only(facts(taken=(port,), at=site(containers=(owner,))))
    assert ours.what == "port 127.0.0.1:8888 is taken by container night"
    assert ours.fix.startswith("stoker stop night\n")
    assert "by" not in only(facts(taken=(port,), at=site(containers=(replace(owner, state="exited"),)))).what


def test_ports_for_root_and_ports_for_everybody() -> None:
    rootless = site(engine=Engine(name="podman", program="p", version=(5, 0), rootless=True))
    low = only(facts(at=rootless, request={"ports": (Port(host=80, inside=8080),)}))
    assert low.fix.startswith("-p 8080:8080\n") or low.fix.startswith("-p 8080:")
    assert judge(facts(request={"ports": (Port(host=80, inside=80),)})) == ()
    open_port = only(facts(request={"ports": (Port(host=8080, inside=80, address="0.0.0.0"),)}))
    assert open_port.severity is Severity.WARNING
    assert "ssh -L 8080:127.0.0.1:8080" in open_port.fix
    for address in ("127.0.0.1", "127.8.8.8", "::1"):
        assert judge(facts(request={"ports": (Port(host=8080, inside=80, address=address),)})) == ()
    # The services have TLS and a token, or keys.
    assert judge(facts(request={"kind": "notebook", "ports": (Port(host=8080, inside=80, address="0.0.0.0"),)})) == ()


def test_an_address_that_is_not_ours() -> None:
    assert "--listen 192.0.2.1" in only(facts(foreign=("192.0.2.1",))).what


def test_a_full_disk_is_said_once_for_all_that_lies_on_it() -> None:
    def disk(use: str, free: int, files: int | None = None, device: int = 1) -> Disk:
        return Disk(use=use, folder=Path(f"/{use}"), device=device, free_bytes=free, files_free=files)

    found = only(facts(disks=(disk("home", 2**20), disk("project", 2**20))))
    assert found.severity is Severity.ERROR
    assert "home and project" in found.what
    assert only(facts(disks=(disk("home", 500 * 2**20),))).severity is Severity.WARNING
    assert "image prune" in only(facts(disks=(disk("podman's storage", 2**20),))).fix
    assert "df -i" in only(facts(disks=(disk("home", 10**12, files=3),))).fix
    assert judge(facts(disks=(disk("home", 2**31, files=10**5), disk("project", 2**31, device=2)))) == ()


def test_hardly_any_memory_is_said() -> None:
    assert "only 3 GiB of 100 GiB" in only(facts(available_bytes=3 * GIBIBYTE)).what
    assert judge(facts(available_bytes=None)) == ()


def test_shared_memory_that_workers_will_run_out_of() -> None:
    wanted = Wanted(batch=1024, workers=8, shm="1g")
    found = only(facts(at=site(wanted)))
    assert "the container gets 1 GiB" in found.what
    assert "--shm" in found.fix
    assert judge(facts(at=site(Wanted(batch=1024, workers=8)))) == ()
    assert judge(facts(at=site(Wanted(shm="1g")))) == ()


# --- all of it ------------------------------------------------------------------------------------------------------


def test_errors_come_first_and_refuse_the_start() -> None:
    before = facts(available_bytes=GIBIBYTE, taken=(Port(host=1, inside=1),), places=(place(error="No such file or directory"),))
    found = judge(before)
    assert [finding.severity for finding in found] == [Severity.ERROR, Severity.ERROR, Severity.WARNING]
    said: list[str] = []
    with pytest.raises(StartRefused) as raised:
        refuse(found, on_line=said.append)
    assert raised.value.message.startswith(found[0].what)
    assert found[1].what in raised.value.message
    assert raised.value.hint.startswith(found[0].fix)
    assert "--no-check" in raised.value.hint
    assert len(said) == 1
    assert said[0].startswith("warning: only 1 GiB")
    refuse(found[2:], on_line=said.append)


def request_of(tmp_path: Path, **said: Any) -> tuple[Request, Site]:
    project = tmp_path / "p"
    project.mkdir(exist_ok=True)
    at = site(Wanted(project=project, own_image="cnn", **said), gpus=0, driver=None, uid=os.getuid())
    return decide(at.wanted, at), at


def test_a_real_start_is_looked_at_in_no_time(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "cnn.oci").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = Port(host=taken.getsockname()[1], inside=1)
        request, at = request_of(tmp_path, data=(str(tmp_path / "nothing"),))
        request = replace(request, ports=(port, Port(host=9, inside=9, address="192.0.2.7")), restart=True)
        begun = time.monotonic()
        found = gathering.gather(request, at)
        assert time.monotonic() - begun < 5
    assert found.taken == (port,)
    assert found.foreign == ("192.0.2.7",)
    assert [place.error for place in found.places] == [None, "No such file or directory"]
    assert {disk.use for disk in found.disks} == {"project", "home"}
    assert found.sources == ("cnn.oci",)
    assert found.available_bytes
    assert found.restarts is not None
    assert {finding.severity for finding in look(request, at)} >= {Severity.ERROR}


def test_a_disk_that_hangs_does_not_hang_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_LIMIT_S", 0.05)
    monkeypatch.setattr(gathering, "read_place", lambda mount: time.sleep(30))
    request, at = request_of(tmp_path)
    found = look(request, at)
    assert [finding for finding in found if "gives no answer" in finding.what]


def test_whose_a_process_is(tmp_path: Path) -> None:
    process = tmp_path / "77"
    process.mkdir()
    (process / "cgroup").write_text(f"0::/machine.slice/libpod-{'a' * 64}.scope\n")
    assert gathering._user(process, {"a" * 64: "night"}) == "container night"
    assert str(gathering._user(process, {})).startswith(("user ", "uid "))
    assert gathering._user(tmp_path / "78", {}) is None


def test_specifications_are_read_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "etc/cdi").mkdir(parents=True)
    (tmp_path / "etc/cdi/n.yaml").write_text('cdiVersion: "0.5.0"\nkind: nvidia.com/gpu\ndevices:\n- name: "0"\n- name: all\n')
    (tmp_path / "etc/cdi/x.yaml").write_text("kind: vendor.com/net\n")
    (tmp_path / "etc/cdi/broken.json").write_text("{")
    assert [one.devices for one in gathering._cdi(tmp_path)] == [("0", "all")]
