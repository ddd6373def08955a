"""What `stoker.toml`, environment and command line say together, and the request that is made of it."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import BadValue, LimitRefused, MountRefused, NameTaken, SpecificationBroken, StokerError, UnknownName, UsageError
from stoker.launch import site as site_file
from stoker.launch.asked import with_defaults
from stoker.launch.containers import Container
from stoker.launch.defaults import decide
from stoker.launch.engine import Engine, Image
from stoker.launch.grace import training_grace_s
from stoker.launch.mounts import data_mounts, volume_mount
from stoker.launch.names import fit, free_name
from stoker.launch.publishing import published
from stoker.launch.request import Mount
from stoker.launch.site import Answer, Site, choose, find_site
from stoker.launch.wanted import Wanted

GIBIBYTE = 2**30


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "kept"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "cats and dogs"
    folder.mkdir()
    return folder


def site(wanted: Wanted, **others: Any) -> Site:
    plain = Site(
        wanted=wanted,
        engine=Engine(name="podman", program="/usr/bin/podman", version=(4, 3, 1)),
        image_name="localhost/cnn:latest",
        image=Image(name="cnn", digest="sha256:1", labels={"dev.stoker.variants": "cli"}, user="stoker", architecture="amd64"),
        uid=0,
        memory_bytes=100 * GIBIBYTE,
        cores=16,
    )
    return replace(plain, **others)


def container(name: str, state: str = "running") -> Container:
    return Container(
        id=f"id-{name}",
        name=name,
        engine="podman",
        container=f"stoker-{name}",
        kind="run",
        image="cnn",
        state=state,
        exit_code=None,
        created=None,
        started=None,
        ended=None,
        ports=(),
        project=None,
        home=None,
        grace_s=10,
        gpus="none",
        command=(),
        labels={},
    )


def team(project: Path, table: str) -> Wanted:
    (project / "stoker.toml").write_text(f"[launch]\n{table}\n")
    return with_defaults(Wanted(project=project), {})


# --- stoker.toml ----------------------------------------------------------------------------------------------------


def test_every_key_of_the_table_arrives(project: Path) -> None:
    (project / "stoker.toml").write_text("""
[image]
name = "team/cnn"
[launch]
image = "registry.example.org/cnn:1"
engine = "docker"
name = "Vision"
home = "kept"
data = ["sets/a", "/abs/b"]
volumes = "weights:/weights:ro"
gpus = [0, 2]
memory = "50%"
cpus = 4
shm = "2g"
batch = 256
workers = 8
pids = 100
env = ["HF_TOKEN", "NOT_SET"]
env_file = "team.env"
listen = "10.0.0.1"
port = 8890
stop_timeout = 300
restart = true
writable = true
""")
    with pytest.raises(BadValue, match=r"team\.env: there is no such file"):
        with_defaults(Wanted(project=project), {})
    (project / "team.env").touch()
    wanted = with_defaults(Wanted(project=project), {"HF_TOKEN": "secret"})
    assert wanted == Wanted(
        prefix="Vision",
        image="registry.example.org/cnn:1",
        own_image="team/cnn",
        engine="docker",
        project=project,
        home=str(project / "kept"),
        data=(str(project / "sets/a"), "/abs/b"),
        volumes=(f"{project}/weights:/weights:ro",),
        gpus="0,2",
        memory="50%",
        cpus=4.0,
        shm="2g",
        batch=256,
        workers=8,
        pids=100,
        environment=("HF_TOKEN",),
        env_file=project / "team.env",
        listen="10.0.0.1",
        port=8890,
        stop_timeout_s=300,
        restart=True,
        writable=True,
    )


@pytest.mark.parametrize(
    ("table", "error", "told"),
    [
        ('memroy = "8g"', UnknownName, "there is no key 'memroy' in [launch]; the nearest is 'memory'"),
        ('"\\u001b[2J" = 1', UnknownName, r"there is no key '\x1b[2J' in [launch]"),
        ("memory = 8", BadValue, "[launch] memory: 8 has no unit"),
        ('memory = "lots"', BadValue, "[launch] memory:"),
        ('shm = "x"', BadValue, "[launch] shm:"),
        ('gpus = "0,,1"', BadValue, "[launch] gpus:"),
        ("gpus = true", BadValue, "[launch] gpus: True is no text"),
        ("restart = 1", BadValue, "[launch] restart: 1 is neither true nor false"),
        ('restart = "yes"', BadValue, "[launch] restart: 'yes' is neither true nor false"),
        ("port = 70000", BadValue, "[launch] port: 70000 is no whole number from 1 to 65535"),
        ("port = true", BadValue, "[launch] port: True is no whole number"),
        ('pids = "100"', BadValue, "[launch] pids: '100' is no whole number"),
        ("cpus = 0", BadValue, "[launch] cpus: 0 is no number of CPUs"),
        ("cpus = nan", BadValue, "[launch] cpus: nan is no number of CPUs"),
        ("workers = -1", BadValue, "[launch] workers: -1 is no whole number"),
        ("image = []", BadValue, "[launch] image: [] is no text"),
        ('image = ""', BadValue, "[launch] image: '' is no text"),
        ("volumes = [1]", BadValue, "[launch] volumes: 1 is no text"),
        ('engine = "pod-man"', BadValue, "[launch] engine: there is no engine 'pod-man'; the nearest is 'podman'"),
        ('env = ["A=hunter2"]', BadValue, "[launch] env: 'A' stands here with its value"),
        ('env = ["1A"]', BadValue, "[launch] env: '1A' is no name of a variable"),
    ],
)
def test_a_table_that_says_nonsense_is_an_error_with_file_and_key(project: Path, table: str, error: type[StokerError], told: str) -> None:
    with pytest.raises(error) as raised:
        team(project, table)
    assert told in raised.value.message
    assert raised.value.hint
    assert str(project / "stoker.toml") in raised.value.message
    assert "hunter2" not in raised.value.message + raised.value.hint


@pytest.mark.parametrize("text", ["[launch", "launch = 1\x00", "[launch]\nimage = \udce9", "a = " + "[" * 3000])
def test_a_file_that_is_no_toml_is_said_with_its_name(project: Path, text: str) -> None:
    (project / "stoker.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpecificationBroken, match=r"stoker\.toml is no TOML"):
        with_defaults(Wanted(project=project), {})


def test_a_table_that_is_none_is_said(project: Path) -> None:
    (project / "stoker.toml").write_text("launch = 3\n")
    with pytest.raises(BadValue, match="launch is no table but 3"):
        with_defaults(Wanted(project=project), {})


def test_the_command_line_wins_over_the_environment_and_that_over_the_table(project: Path) -> None:
    (project / "stoker.toml").write_text('[launch]\nengine = "podman"\nmemory = "8g"\ngpus = "0"\nrestart = true\ncpus = 2\nwritable = true\n')
    assert with_defaults(Wanted(project=project), {"STOKER_ENGINE": "docker"}).engine == "docker"
    said = Wanted(project=project, engine="local", memory="1g", restart=False, cpus=0.0, writable=False)
    wanted = with_defaults(said, {"STOKER_ENGINE": "docker"})
    assert (wanted.engine, wanted.memory, wanted.gpus, wanted.restart, wanted.cpus, wanted.writable) == ("local", "1g", "0", False, 0.0, False)


def test_volumes_and_variables_of_both_count_and_one_place_has_one_volume(project: Path) -> None:
    (project / "stoker.toml").write_text('[launch]\nvolumes = ["/a:/x:ro", "/b:/y/"]\nenv = ["A", "B"]\ndata = "/team"\n')
    wanted = with_defaults(Wanted(project=project, volumes=("/mine:/y",), environment=("C", "A"), data=("/mine",)), {"A": "", "B": "", "C": ""})
    assert wanted.volumes == ("/a:/x:ro", "/mine:/y")
    assert wanted.environment == ("A", "B", "C")
    assert wanted.data == ("/mine",)


def test_an_engine_that_is_none_is_said_with_where_it_was_named(project: Path) -> None:
    with pytest.raises(BadValue, match="STOKER_ENGINE: there is no engine 'dokcer'; the nearest is 'docker'"):
        with_defaults(Wanted(project=project), {"STOKER_ENGINE": "dokcer"})


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_address_without_a_port_is_a_wrong_command_line(project: Path) -> None:
    with pytest.raises(UsageError, match="none is"):
        with_defaults(Wanted(project=project, listen="0.0.0.0"), {})
    (project / "stoker.toml").write_text('[launch]\nlisten = "0.0.0.0"\n')
    assert with_defaults(Wanted(project=project), {}).listen == "0.0.0.0", "a team's default is for those that publish one"
    assert with_defaults(Wanted(project=project, listen="::1", publish=("80",)), {}).listen == "::1"
    assert with_defaults(Wanted(project=project, listen="::1", kind="notebook"), {}).listen == "::1"


def test_values_never_stand_on_the_command_line(project: Path) -> None:
    with pytest.raises(BadValue) as raised:
        with_defaults(Wanted(project=project, environment=("TOKEN=hunter2",)), {})
    assert "hunter2" not in raised.value.message + raised.value.hint
    with pytest.raises(BadValue, match="TOKEN: it is not set here"):
        with_defaults(Wanted(project=project, environment=("TOKEN",)), {})
    with pytest.raises(BadValue, match="is no name of a variable"):
        with_defaults(Wanted(project=project, environment=("-v/:/host",)), {})


def test_the_project_is_never_the_machine_or_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for folder, told in (("/", "whole machine"), (tmp_path, "your home"), (tmp_path / "link", "your home"), ("/x/..", "whole machine")):
        with pytest.raises(MountRefused, match=told) as raised:
            with_defaults(Wanted(project=Path(folder)), {})
        assert "--project" in raised.value.hint
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(MountRefused, match=r"is not there|no folder"):
            with_defaults(Wanted(project=folder), {})


def test_somebody_whom_this_machine_does_not_know_has_no_folder(project: Path) -> None:
    """Python's own words for it are an exception that nobody expects."""
    (project / "stoker.toml").write_text('[launch]\ndata = "~nobody-of-this-name/x"\nhome = "~nobody-of-this-name"\n')
    wanted = with_defaults(Wanted(project=project), {})
    assert [mount.source for mount in data_mounts(wanted.data)] == [project / "~nobody-of-this-name/x"]
    with pytest.raises(MountRefused, match="is not there"):
        with_defaults(Wanted(project=Path("~nobody-of-this-name")), {})


def test_a_working_directory_that_was_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(MountRefused, match="working directory"):
        with_defaults(Wanted(), {})


def test_sockets_of_engines_are_never_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "daemon.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{own}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "var").symlink_to(tmp_path)
    for source in (
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run",
        "/run/podman",
        "/",
        "//",
        "/run/../",
        own,
        tmp_path,
        tmp_path / "var/daemon.sock",
        tmp_path / "runtime/podman",
    ):
        for refused in (lambda source=source: volume_mount(f"{source}:/s"), lambda source=source: data_mounts([str(source)])):
            with pytest.raises(MountRefused):
                refused()


def test_a_socket_of_an_engine_elsewhere_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("docker.sock")  # relative: the path of a test's folder can be longer than sockets' may
        with pytest.raises(MountRefused, match="socket of a container engine"):
            volume_mount(f"{tmp_path}/docker.sock:/s")
    assert volume_mount(f"{tmp_path}:/s").source == tmp_path


@pytest.mark.parametrize("text", ["", "/a", "/a:", ":/b", "/a:b", "/a:/b:rx", "/a:/b:ro:z", "/a:/b,c", "/a:/b\0"])
def test_a_volume_that_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(BadValue, match="-v"):
        volume_mount(text)


def test_volumes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert volume_mount("w:/weights:ro") == Mount(source=tmp_path / "w", target="/weights")
    assert volume_mount("/x/../w:/a/../b/") == Mount(source=Path("/w"), target="/b", writable=True)
    with pytest.raises(MountRefused, match="hide the image"):
        volume_mount("/w:/..")


def test_one_place_inside_has_one_mount(project: Path) -> None:
    with pytest.raises(BadValue, match="would both be /data/a"):
        decide(wanted := Wanted(project=project, data=("/x/a", "/y/a")), site(wanted))


def test_restart_goes_with_the_background(project: Path) -> None:
    with pytest.raises(UsageError, match="--restart"):
        with_defaults(Wanted(project=project, restart=True), {})
    assert with_defaults(Wanted(project=project, restart=True, detach=True), {}).restart
    assert with_defaults(Wanted(kind="notebook", project=project, restart=True), {}).restart
    # A team's default of its services does not stand in the way of a run in the foreground.
    wanted = team(project, "restart = true")
    assert not decide(wanted, site(wanted)).restart


# --- the request ----------------------------------------------------------------------------------------------------


def test_the_defaults_of_a_request(project: Path, tmp_path: Path) -> None:
    wanted = with_defaults(Wanted(project=project), {})
    request = decide(wanted, site(wanted, gpus=2), command=("python", "train.py"), terminal=True)
    assert (request.name, request.kind, request.image, request.command) == (
        "cats-and-dogs-run",
        "run",
        "localhost/cnn:latest",
        ("python", "train.py"),
    )
    assert (request.project, request.home, request.mounts, request.ports) == (project, tmp_path / "kept", (), ())
    assert request.gpus.text == "all"
    assert request.limits.memory_bytes == 90 * GIBIBYTE
    assert request.limits.cpus is None
    assert request.limits.pids == 4096
    assert (request.detach, request.terminal, request.interactive, request.restart, request.writable, request.init) == (
        False,
        True,
        True,
        False,
        False,
        False,
    )
    assert request.grace_s == 60
    assert dict(request.fixed)["TORCHINDUCTOR_CACHE_DIR"].startswith("/home/stoker/")


def test_in_the_background_there_is_no_terminal(project: Path) -> None:
    request = decide(wanted := Wanted(project=project, detach=True, restart=True), site(wanted), terminal=True)
    assert (request.detach, request.terminal, request.interactive, request.restart) == (True, False, False, True)


def test_without_a_home_no_cache_is_promised(project: Path) -> None:
    request = decide(wanted := Wanted(project=project, home="none"), site(wanted))
    assert request.home is None
    assert request.fixed == ()


def test_gpus_are_those_that_there_are(project: Path) -> None:
    wanted = Wanted(project=project)
    assert decide(wanted, site(wanted, gpus=0)).gpus.text == "none"
    wanted = Wanted(project=project, gpus="0,2")
    assert decide(wanted, site(wanted, gpus=0)).gpus.text == "0,2"


def test_shared_memory_is_computed_from_batch_workers_and_gpus(project: Path) -> None:
    def shm(**said: Any) -> int | None:
        wanted = Wanted(project=project, **said)
        return decide(wanted, site(wanted, gpus=4)).limits.shm_bytes

    assert shm(batch=64, workers=2, gpus="0") == GIBIBYTE
    assert shm(batch=256, workers=8, gpus="0") == 2.5 * GIBIBYTE
    assert shm(batch=256, workers=8, gpus="0,1") > shm(batch=256, workers=8, gpus="0")  # type: ignore[operator]
    assert shm(batch=100_000, workers=8) == 45 * GIBIBYTE
    assert shm(shm="3g") == 3 * GIBIBYTE
    with pytest.raises(LimitRefused):
        shm(shm="200g")


def test_limits_as_asked(project: Path) -> None:
    wanted = Wanted(project=project, memory="8g", cpus=2.5, pids=50)
    limits = decide(wanted, site(wanted)).limits
    assert (limits.memory_bytes, limits.cpus, limits.pids) == (8 * GIBIBYTE, 2.5, 50)
    wanted = Wanted(project=project, memory="none", cpus=0.0)
    limits = decide(wanted, site(wanted)).limits
    assert (limits.memory_bytes, limits.cpus) == (None, None)
    with pytest.raises(LimitRefused):
        decide(wanted := Wanted(project=project, cpus=64.0), site(wanted))
    with pytest.raises(LimitRefused):
        decide(wanted := Wanted(project=project, memory="200g"), site(wanted))


def test_limits_that_the_host_cannot_set_are_left_out(project: Path) -> None:
    wanted = Wanted(project=project, memory="8g")
    rootless = Engine(name="podman", program="podman", version=(4, 9), rootless=True, cgroups=1)
    limits = decide(wanted, site(wanted, engine=rootless)).limits
    assert (limits.memory_bytes, limits.pids) == (None, None)


def test_on_a_machine_of_unknown_memory_nothing_is_guessed(project: Path) -> None:
    wanted = Wanted(project=project)
    limits = decide(wanted, site(wanted, memory_bytes=None)).limits
    assert (limits.memory_bytes, limits.shm_bytes) == (None, None)


def test_names_are_made_fit_and_counted(project: Path) -> None:
    assert fit("Über CNN (v2)!") == "ber-cnn-v2"
    assert fit("///") == "project"
    assert len(fit("x" * 300)) < 64
    assert free_name("a", ()) == "a"
    assert free_name("a", {"a", "a-2", "a-4"}) == "a-3"
    wanted = Wanted(project=project)
    taken = (container("cats-and-dogs-run"), container("cats-and-dogs-run-2", "exited"))
    assert decide(wanted, site(wanted, containers=taken)).name == "cats-and-dogs-run-3"
    wanted = Wanted(project=project, prefix="Vision Team", kind="notebook")
    assert decide(wanted, site(wanted)).name == "vision-team-notebook"


@pytest.mark.parametrize("name", ["", "-a", ".a", "A", "a b", "a/b", "ä", "a\n", "x" * 64, "$(id)"])
def test_a_name_that_is_none_is_said_with_one_that_is(project: Path, name: str) -> None:
    with pytest.raises(BadValue) as raised:
        with_defaults(Wanted(project=project, name=name), {})
    with_defaults(Wanted(project=project, name=raised.value.hint.removeprefix("--name ")), {})


def test_a_name_that_was_chosen_and_is_taken_is_an_error_for_a_run_only(project: Path) -> None:
    wanted = Wanted(project=project, name="night")
    for state, hint in (("running", "stoker stop night"), ("exited", "stoker rm night")):
        with pytest.raises(NameTaken) as raised:
            decide(wanted, site(wanted, containers=(container("night", state),)))
        assert raised.value.hint.startswith(hint)
    other = replace(wanted, kind="notebook")
    assert decide(other, site(other, containers=(container("night"),))).name == "night"


def test_an_image_of_somebody_else_gets_an_init_where_the_engine_has_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Wanted(project=project)
    foreign = Image(name="busybox", digest="sha256:2", labels={}, user="", architecture="amd64")
    for there in (True, False):
        monkeypatch.setattr("stoker.launch.defaults.has_init", lambda engine, there=there: there)
        assert decide(wanted, site(wanted, image=foreign)).init is there
        assert not decide(wanted, site(wanted)).init


def test_a_training_gets_the_time_that_its_checkpoints_take(tmp_path: Path) -> None:
    assert training_grace_s(tmp_path) == 60
    folder = tmp_path / "runs" / "20261121-1" / "checkpoints"
    folder.mkdir(parents=True)
    with open(folder / "step.pt", "wb") as file:
        file.truncate(10_000_000_000)
    assert training_grace_s(tmp_path) == 500
    (tmp_path / "runs" / "file").write_text("no run")
    assert training_grace_s(tmp_path) == 500


def test_the_stop_time_that_was_asked_for_counts(project: Path) -> None:
    for kind, seconds in (("run", 60), ("notebook", 10)):
        wanted = Wanted(project=project, kind=kind)  # type: ignore[arg-type]
        assert decide(wanted, site(wanted)).grace_s == seconds
    wanted = Wanted(project=project, stop_timeout_s=0)
    assert decide(wanted, site(wanted)).grace_s == 0


# --- ports ----------------------------------------------------------------------------------------------------------


def test_ports_are_read_and_the_next_free_one_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with published([str(port), "9:7"], None) as ports:
            assert ports[0].host > port
            assert ports[0].inside == port
            assert (ports[1].host, ports[1].inside, ports[1].address) == (9, 7, "127.0.0.1")
            with published([str(port)], None) as others:
                assert others[0].host > ports[0].host


def test_a_low_port_gets_a_high_one() -> None:
    with published(["80"], "0.0.0.0") as ports:
        assert ports[0].host >= 8080
        assert ports[0].address == "0.0.0.0"


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "1:2:3", "127.0.0.1:80:80", "-1", "80/udp", "٣"])
def test_a_port_that_is_none_is_said(text: str) -> None:
    with pytest.raises(BadValue, match="-p"), published([text], None):
        pass


def test_one_port_is_published_once() -> None:
    with pytest.raises(BadValue, match="twice"), published(["9:1", "9:2"], None):
        pass


# --- the engine -----------------------------------------------------------------------------------------------------


def answer(name: str, *, image: bool = False, silent: bool = False) -> Answer:
    engine = Engine(name=name, program=name, answers="no daemon" if silent else None)  # type: ignore[arg-type]
    found = Image(name="i", digest="", labels={}, user="", architecture="") if image else None
    return Answer(engine=engine, image_name="i", image=found)


def test_the_engine_that_has_the_image_is_taken_then_one_that_answers() -> None:
    assert choose([answer("podman"), answer("docker", image=True)]).engine.name == "docker"
    assert choose([answer("podman", image=True), answer("docker", image=True)]).engine.name == "podman"
    assert choose([answer("podman"), answer("docker")]).engine.name == "podman"
    assert choose([answer("podman", silent=True), answer("docker")]).engine.name == "docker"
    assert choose([answer("podman", silent=True), answer("docker", silent=True)]).engine.name == "podman"


def test_podman_calls_what_was_built_here_localhost() -> None:
    wanted = Wanted(own_image="team/cnn")
    assert site_file.image_name(wanted, "podman") == "localhost/team/cnn:latest"
    assert site_file.image_name(wanted, "docker") == "team/cnn:latest"
    assert site_file.image_name(replace(wanted, image="x"), "podman") == "x"


def test_without_an_image_the_error_says_where_one_comes_from(project: Path) -> None:
    with pytest.raises(UsageError, match="no image is named") as raised:
        find_site(Wanted(project=project))
    assert "stoker image init" in raised.value.hint
