"""Engines asked: programs that answer as podman and docker do, or do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.errors import EngineFailed, EngineMissing, EngineSilent, LaunchUnfit, UsageError
from stoker.launch.containers import Container, from_podman
from stoker.launch.engine import Engine, find_engines, find_image, installed, silent
from stoker.launch.engine_keeper import EngineKeeper
from stoker.launch.keepers import keepers
from stoker.launch.session import Session

NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
FORBIDDEN = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: dial unix: connect: permission denied"
)
GONE = 'Error: no container with name or ID "x" found: no such container'
INFO = {
    "ServerVersion": "28.2.2",
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "CpuCfsQuota": True,
    "CPUSet": False,
    "PidsLimit": True,
    "DockerRootDir": "/srv/docker",
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"],
    "Runtimes": {"runc": {}, "nvidia": {}},
    "CDISpecDirs": ["/etc/cdi"],
}

Fake = Callable[[str, str], None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A machine on which only the programs are installed that a test makes: of a name, with a body in sh."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin/nowhere")
    monkeypatch.setenv("DOCKER_HOST", "unix:///somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))

    def make(name: str, body: str) -> None:
        path = programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return make


def silence(text: str) -> str:
    return f"echo '{text}' >&2; exit 1"


def podman() -> EngineKeeper:
    return EngineKeeper(engine=installed(("podman",))[0])


def container(state: str = "running", **labels: str) -> Container:
    named = {"dev.stoker.launch": "1", **labels}
    return from_podman({"Id": "6c11aa", "Names": ["stoker-x"], "State": state, "Labels": named, "StartedAt": 5, "ExitedAt": 6})


def test_no_engine_at_all(fake: Fake) -> None:
    assert find_engines() == ()
    assert [keeper.name for keeper in keepers()] == ["local"]
    with pytest.raises(EngineMissing, match="docker is not installed"):
        keepers("docker")
    with pytest.raises(UsageError, match="podmn"):
        keepers("podmn")


def test_docker_says_what_it_is(fake: Fake) -> None:
    fake("docker", f"echo '{json.dumps(INFO)}'")
    (found,) = find_engines()
    assert (found.name, found.version, found.rootless, found.cgroups, found.answers) == ("docker", (28, 2, 2), True, 2, None)
    assert (found.controllers, found.storage) == (("memory", "cpu", "pids"), Path("/srv/docker"))
    assert (found.security, found.runtimes, found.cdi) == (("seccomp", "rootless", "cgroupns"), ("runc", "nvidia"), True)


@pytest.mark.parametrize("said", [NO_DAEMON, FORBIDDEN])
def test_docker_without_a_daemon(fake: Fake, said: str) -> None:
    fake("docker", f'[ "$1" = --version ] && echo "Docker version 28.2.2" || {silence(said)}')
    (found,) = find_engines()
    assert found.answers is not None
    assert said[:20] in found.answers
    with pytest.raises(EngineSilent, match="docker does not answer") as error:
        find_image(found, "pets")
    assert ("usermod" in error.value.hint) == (said is FORBIDDEN)


def test_docker_that_is_podman_under_another_name(fake: Fake) -> None:
    fake("podman", "echo podman version 5.4.2")
    fake("docker", '[ "$1" = --version ] && echo "podman version 5.4.2" || echo "{}"')
    assert [(found.name, found.version) for found in find_engines()] == [("podman", (5, 4, 2))]


def test_whether_rootless_podman_has_a_session_of_systemd(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("podman", "echo podman version 4.3.1")
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1001)
    own = tmp_path / "sys/fs/cgroup/user.slice/user-1001.slice/user@1001.service"
    own.mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu memory pids\n")
    assert not find_engines(("podman",))[0].session
    (own / "cgroup.controllers").write_text("memory pids\n")
    assert find_engines(("podman",))[0].session
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert find_engines(("podman",))[0].session


def test_a_docker_client_where_no_daemon_ever_ran_is_left_out(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("docker", silence(NO_DAEMON))
    assert [keeper.name for keeper in keepers()] == ["docker", "local"]
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    for name in ("DOCKER_CONTEXT", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert [keeper.name for keeper in keepers()] == ["local"]
    assert [keeper.name for keeper in keepers("docker")] == ["docker"]
    (tmp_path / "var/lib/docker").mkdir(parents=True)
    assert [keeper.name for keeper in keepers()] == ["docker", "local"]


def test_an_image(fake: Fake) -> None:
    row = {"Id": "3a79", "Architecture": "amd64", "Config": {"User": "stoker", "Labels": {"dev.stoker.variants": "cli"}}}
    fake("podman", f"echo '[{json.dumps(row)}]'")
    found = find_image(podman().engine, "pets")
    assert found is not None
    assert (found.digest, found.user, found.architecture, found.labels) == ("sha256:3a79", "stoker", "amd64", {"dev.stoker.variants": "cli"})


@pytest.mark.parametrize(
    "said",
    [
        "Error: inspecting object: pets: image not known",
        "Error: No such image: pets",
        "Error: inspecting object: repository name must be lowercase",
        "Error: inspecting object: invalid reference format",
    ],
)
def test_an_image_that_is_not_there(fake: Fake, said: str) -> None:
    fake("podman", silence(said))
    assert find_image(podman().engine, "pets") is None


def test_what_a_storage_says_that_is_broken_is_no_missing_image(fake: Fake) -> None:
    fake("podman", silence('Error: overlay: mount: "/var/lib/containers": input/output error'))
    with pytest.raises(EngineSilent, match="input/output error"):
        find_image(podman().engine, "pets")


def test_a_container_that_is_gone_is_nothing_to_do(fake: Fake) -> None:
    fake("podman", silence(GONE))
    keeper, one = podman(), container("exited")
    keeper.stop(one, grace_s=1)
    keeper.kill(one, 15)
    assert keeper.remove(one) is False
    assert keeper.log_text(one, lines=None) == ""
    assert keeper.ending(one).code == 0


def test_a_container_that_somebody_else_removes_at_the_same_time(fake: Fake) -> None:
    fake("docker", silence("Error response from daemon: removal of container 6c11aa is already in progress"))
    assert EngineKeeper(engine=installed(("docker",))[0]).remove(container("exited")) is False


def test_one_that_is_removed_while_all_are_listed(fake: Fake, tmp_path: Path) -> None:
    """podman fails as a whole, and is asked again; docker tells of the others."""
    fake("podman", f'[ -e {tmp_path}/again ] && echo \'[{{"Id": "1"}}]\' || {{ : >{tmp_path}/again; {silence(GONE)}; }}')
    assert [one.id for one in podman().containers(everything=True)] == ["1"]
    fake("docker", '[ "$1" = ps ] && echo 1 2 || { echo \'[{"Id": "2"}]\'; echo "Error: No such object: 1" >&2; exit 1; }')
    assert [one.id for one in EngineKeeper(engine=installed(("docker",))[0]).containers(everything=True)] == ["2"]
    fake("docker", '[ "$1" = ps ] && echo 1 2 || { echo "[]"; echo "Error: No such object: 1" >&2; exit 1; }')
    assert EngineKeeper(engine=installed(("docker",))[0]).containers(everything=True) == ()


def test_a_signal_finds_what_it_is_for_or_says_that_nobody_is_there(fake: Fake) -> None:
    session = Session(words=(), mark="STOKER_EXEC=1")
    for status, there in ((0, True), (3, False), (127, True)):
        fake("podman", f"exit {status}")
        assert podman().signal(container(), session, 2) is there


def test_what_was_started_since_it_was_seen_is_not_killed(fake: Fake, tmp_path: Path) -> None:
    fake("podman", f'echo "$@" >> {tmp_path}/asked')
    for state in ("created", "exited", "stopped", "dead", "running"):
        podman().remove(container(state))
    podman().remove(container("created"), force=True)
    removals = [line for line in (tmp_path / "asked").read_text().splitlines() if line.startswith("rm")]
    assert ["--force" in line for line in removals] == [False, False, False, True, True, True]


def test_an_engine_that_refuses_or_goes_away(fake: Fake) -> None:
    fake("podman", silence("Error: container is in use"))
    with pytest.raises(EngineFailed, match="container is in use"):
        podman().remove(container("exited"))
    fake("docker", silence(NO_DAEMON))
    with pytest.raises(EngineSilent, match="docker does not answer"):
        EngineKeeper(engine=installed(("docker",))[0]).stop(container(), grace_s=1)


@pytest.mark.parametrize("answer", ["", "nonsense", "[1, null]", '{"a": 1}', "null"])
def test_answers_that_are_no_list_of_containers(fake: Fake, answer: str) -> None:
    fake("podman", f"echo '{answer}'")
    assert len(podman().containers(everything=True)) <= 1


def test_what_is_run_inside() -> None:
    keeper = EngineKeeper(engine=Engine(name="podman", program="/bin/podman"))
    session = keeper.exec_session(container(), ["env", "-i"], interactive=True, terminal=False, environment=["A"], folder="/x", user="7")
    assert session.words[:3] == ("/bin/podman", "exec", "--interactive")
    assert session.words[-3:] == ("6c11aa", "env", "-i")
    text = " ".join(session.words)
    assert "--env A " in text
    assert "--workdir /x --user 7" in text
    assert session.mark in session.words
    ours = keeper.exec_session(
        container(**{"dev.stoker.variants": "cli"}), ["true"], interactive=False, terminal=True, environment=[], folder=None, user=None
    )
    assert ours.words[-3:] == ("/opt/stoker/bin/stoker-start", "--quiet", "true")
    assert "--tty" in ours.words
    with pytest.raises(LaunchUnfit, match="does not run"):
        keeper.exec_session(container("exited"), ["true"], interactive=False, terminal=False, environment=[], folder=None, user=None)


@pytest.mark.parametrize(("term", "handed_on"), [("xterm-256color", True), ("tmux-256color", True), ("alacritty", False), ("", False)])
def test_only_terminals_that_images_know_are_handed_on(monkeypatch: pytest.MonkeyPatch, term: str, handed_on: bool) -> None:
    monkeypatch.setenv("TERM", term)
    keeper = EngineKeeper(engine=Engine(name="docker", program="docker"))
    session = keeper.exec_session(container(), ["sh"], interactive=True, terminal=True, environment=[], folder=None, user=None)
    assert ("TERM" in session.words) == handed_on


@pytest.mark.parametrize(
    ("socket", "start"), [("/run/user/1000/docker.sock", "systemctl --user start docker"), ("/var/run/docker.sock", "sudo systemctl start docker")]
)
def test_whose_daemon_is_down_is_seen_by_its_socket(socket: str, start: str) -> None:
    assert start in silent("docker", f"Cannot connect to the Docker daemon at unix://{socket}. Is the docker daemon running?").hint
