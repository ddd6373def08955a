"""What `stoker up` finds, refuses, removes and starts: once for each name."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import EngineFailed, LaunchUnfit, NameTaken, PortTaken, StartRefused, UsageError
from stoker.image.specification import read_specification
from stoker.launch import service
from stoker.launch.containers import Container
from stoker.launch.engine import Engine, Image
from stoker.launch.gpus import NONE
from stoker.launch.request import Account, Limits, Port, Request
from stoker.launch.service import Order, bring_up
from stoker.launch.up import NOTEBOOK, SSH, Service, Up
from stoker.launch.wanted import Wanted

ACCOUNT = Account(uid=1000, gid=1000, name="stoker", keep_id=False, known=True, host_uid=0, host_gid=0)


def container(**others: Any) -> Container:
    plain = Container(
        id="1",
        name="cnn-notebook",
        engine="podman",
        container="stoker-cnn-notebook",
        kind="notebook",
        image="localhost/cnn:latest",
        state="running",
        exit_code=None,
        created=None,
        started=None,
        ended=None,
        ports=(Port(host=8888, inside=8888),),
        project=Path("/p/cnn"),
        home=Path("/h"),
        grace_s=10,
        gpus="none",
        command=(),
        labels={},
    )
    return replace(plain, **others)


@dataclass
class Engines:
    """A machine with one engine, told by the test."""

    there: list[Container] = field(default_factory=list)
    started: list[Request] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=lambda: {"dev.stoker.variants": "cli notebook ssh"})
    engine: Engine = field(default_factory=lambda: Engine(name="podman", program="podman"))
    account: Account = ACCOUNT
    home: Path | None = Path("/h")
    findings: tuple[str, ...] = ()
    fails: list[Exception] = field(default_factory=list)
    start_s: float = 0.0

    name = "podman"

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        return tuple(self.there)

    def remove(self, one: Container) -> bool:
        self.removed.append(one.name)
        self.there.remove(one)
        return True

    def site(self, wanted: Wanted) -> Site:
        return Site(self, wanted, containers=tuple(self.there))

    def decide(self, wanted: Wanted, site: object, *, command: tuple[str, ...], ports: tuple[Port, ...]) -> Request:
        assert wanted.detach
        return Request(
            name=service.name_of(wanted),
            kind=wanted.kind,
            image="localhost/cnn:latest",
            command=command,
            project=wanted.project,
            home=self.home,
            ports=ports,
            gpus=NONE,
            limits=Limits(memory_bytes=None, cpus=None, shm_bytes=None, pids=None),
            account=self.account,
        )

    def start(self, request: Request, engine: Engine, *, on_line: object) -> Container:
        time.sleep(self.start_s)
        if self.fails:
            raise self.fails.pop(0)
        self.started.append(request)
        self.there.append(container(name=request.name, kind=request.kind, ports=request.ports, project=request.project))
        return self.there[-1]

    def refuse(self, findings: tuple[str, ...], *, on_line: object) -> None:
        if findings:
            raise StartRefused(findings[0], hint="-")


@dataclass(frozen=True)
class Site:
    """What `find_site` would say."""

    engines: Engines
    wanted: Wanted
    containers: tuple[Container, ...] = ()

    @property
    def engine(self) -> Engine:
        return self.engines.engine

    @property
    def image(self) -> Image:
        return Image(name="i", digest="d", labels=self.engines.labels, user="stoker", architecture="amd64")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    told = Engines()

    @contextlib.contextmanager
    def reserved(first: int, address: str, *, only: bool) -> Iterator[int]:
        yield first

    for name, replacement in (
        ("find_site", told.site),
        ("decide", told.decide),
        ("start", told.start),
        ("before", lambda request, site: told.findings),
        ("refuse", told.refuse),
        ("keepers", lambda engine="auto": (told,)),
        ("reserved", reserved),
    ):
        monkeypatch.setattr(service, name, replacement)
    return told


def up(service_: Service = NOTEBOOK, check: bool = True, **said: Any) -> Up:
    wanted = Wanted(**{"kind": service_.kind, "project": Path("/p/cnn"), **said})
    return bring_up(Order(service=service_, wanted=wanted, complete=lambda request: request, check=check), on_line=lambda line: None)


def test_a_service_is_started_once_and_found_again(engines: Engines) -> None:
    first, again = up(), up()
    assert (first.started, again.started) == (True, False)
    assert again.container == first.container
    (request,) = engines.started
    assert (request.name, request.command, request.ports) == ("cnn-notebook", ("notebook",), (Port(host=8888, inside=8888),))
    assert up(SSH).container.name == "cnn-ssh"
    assert engines.started[1].command == ("sshd",)


def test_two_at_once_start_one(engines: Engines) -> None:
    engines.start_s = 0.2
    found: list[Up] = []
    calls = [threading.Thread(target=lambda: found.append(up())) for _ in range(4)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert sorted(one.started for one in found) == [False, False, False, True]
    assert len(engines.started) == 1


def test_one_that_has_ended_is_made_anew(engines: Engines) -> None:
    engines.there = [container(state="exited", exit_code=1), container(name="other", state="exited")]
    assert up().started
    assert engines.removed == ["cnn-notebook"]


@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_name_of_something_else_is_refused(engines: Engines, state: str) -> None:
    engines.there = [container(kind="run", state=state)]
    with pytest.raises(NameTaken, match="another run"):
        up()
    engines.there = [container(project=Path("/elsewhere/cnn"), state=state)]
    with pytest.raises(NameTaken, match="for another project, /elsewhere/cnn"):
        up()
    assert (engines.removed, engines.started) == ([], [])


def test_a_name_that_was_chosen_is_found_from_anywhere(engines: Engines) -> None:
    engines.there = [container(name="mine", project=Path("/elsewhere"))]
    found = up(name="mine", port=9000, image="cnn")
    assert not found.started
    assert found.ignored(Wanted(name="mine", port=9000, image="cnn", project=Path("/p/cnn"))) == ("--port", "--project")
    assert found.ignored(Wanted(name="mine", engine="local")) == ("--engine",)
    assert found.ignored(Wanted(name="mine", engine="auto")) == ()
    assert found.ignored(Wanted(name="mine", image="registry.example.org/library/other:1")) == ("--image",)
    assert found.ignored(Wanted(name="mine", image="registry.example.org/library/cnn")) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {"dev.stoker.variants": "cli ssh"}}, "has no notebook, only cli, ssh"),
        ({"labels": {}}, "was not built by `stoker image build`"),
        ({"account": replace(ACCOUNT, uid=0)}, "does not run as root"),
        ({"engine": Engine(name="docker", program="docker", rootless=True)}, "rootless docker"),
        ({"home": None}, "needs a home"),
    ],
)
def test_what_could_not_work_is_refused_before_the_start(engines: Engines, change: dict[str, Any], said: str) -> None:
    for name, value in change.items():
        setattr(engines, name, value)
    with pytest.raises(LaunchUnfit, match=said):
        up()
    assert engines.started == []


def test_an_image_without_the_variant_is_mended_by_one_command(engines: Engines, tmp_path: Path) -> None:
    engines.labels = {"dev.stoker.variants": "cli ssh"}
    project = tmp_path / "it's mine"
    project.mkdir()
    (project / "stoker.toml").write_text('[image]\nname = "x"\nvariants = ["cli"]\n')
    with pytest.raises(LaunchUnfit) as raised:
        up(project=project)
    command, _, made = raised.value.hint.partition(" && stoker image lock")
    assert made == f" && stoker image build --load {engines.engine.name}"
    subprocess.run(["sh", "-c", command], check=True)
    assert read_specification(project / "stoker.toml").variants == ("cli", "notebook", "ssh")
    # A list over several lines is for a person to change.
    (project / "stoker.toml").write_text('[image]\nname = "x"\nvariants = [\n  "cli",\n]\n')
    with pytest.raises(LaunchUnfit) as raised:
        up(project=project)
    assert "sed" not in raised.value.hint
    with pytest.raises(LaunchUnfit) as raised:
        up(project=project, image="busybox")
    assert "stoker image init --variants notebook && stoker image lock" in raised.value.hint


def test_what_the_checks_find_stops_the_start_unless_told_not_to_look(engines: Engines) -> None:
    engines.findings = ("no disk",)
    with pytest.raises(StartRefused, match="no disk"):
        up()
    assert up(check=False).started


def test_a_port_that_somebody_took_meanwhile_is_followed_by_the_next(engines: Engines) -> None:
    engines.fails = [PortTaken("in use", hint="-"), PortTaken("in use", hint="-")]
    assert up().port.host == 8890
    engines.there.clear()
    engines.fails = [PortTaken("in use", hint="-")]
    with pytest.raises(PortTaken):
        up(port=8888)
    engines.fails = [PortTaken("in use", hint="-")] * 9
    with pytest.raises(PortTaken):
        up()


def test_what_runs_is_found_without_an_image(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_image(wanted: Wanted) -> None:
        raise UsageError("no image is named", hint="-")

    monkeypatch.setattr(service, "find_site", no_image)
    monkeypatch.setattr(service, "containers", lambda among: tuple(engines.there))
    engines.there = [container(name="mine")]
    assert not up(name="mine").started
    with pytest.raises(UsageError):
        up(name="other")


def test_a_start_that_goes_on_after_its_caller_was_killed_is_found(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_by_now(one: Container) -> bool:
        raise EngineFailed("it is running", hint="-")

    engines.there = [container(state="created")]
    monkeypatch.setattr(engines, "remove", runs_by_now)
    with pytest.raises(EngineFailed):
        up()
    monkeypatch.setattr(engines, "containers", lambda everything: (container(),))
    assert not up().started


def test_without_a_container_the_port_is_chosen_last_and_kept_until_it_listens(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    looks = [False, False, True]
    monkeypatch.setattr(service, "containers", lambda among: tuple(engines.there))
    monkeypatch.setattr(service, "is_answered", lambda port, address: looks.pop(0))

    @contextlib.contextmanager
    def reserved(first: int, address: str, *, only: bool) -> Iterator[int]:
        done.append("port")
        yield first
        done.append("port let go" if not looks else "too early")

    def start_at(port: int) -> Container:
        done.append("start")
        engines.there.append(container(engine="local", ports=(Port(host=port, inside=port),)))
        return engines.there[-1]

    monkeypatch.setattr(service, "reserved", reserved)
    wanted = Wanted(kind="notebook", project=Path("/p/cnn"))
    for started in (True, False):
        found = service.bring_up_here(NOTEBOOK, wanted, prepare=lambda: done.append("environment"), start_at=start_at)
        assert (found.started, found.place) == (started, "on this machine itself")
    assert done == ["environment", "port", "start", "port let go"]


@pytest.mark.parametrize("state", ["running", "exited"])
def test_what_somebody_else_started_is_neither_opened_nor_removed(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    engines.there = [container(home=tmp_path, state=state)]
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(NameTaken, match="somebody else's"):
        up()
    assert engines.removed == []
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert up().started == (state == "exited")
