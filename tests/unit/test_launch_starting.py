"""Starting, with a written-down engine: what it is called with, what comes of what it says, and that nothing stays of what failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import (
    CacheUnwritable,
    DiskFull,
    EngineFailed,
    EngineSilent,
    ImageMissing,
    NameTaken,
    PortTaken,
    ProgramMissing,
    StokerError,
)
from stoker.launch import aftermath, attached, starting
from stoker.launch.engine import Engine
from stoker.launch.gpus import NONE
from stoker.launch.locks import held
from stoker.launch.request import Account, Limits, Request
from tests.fakes.engine import ID, PROGRAM, ROW, Fake


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "cache"))
    return Fake(tmp_path / "engine")


def request(**others: Any) -> Request:
    plain: dict[str, Any] = {
        "name": "night",
        "kind": "run",
        "image": "cnn",
        "command": ("true",),
        "project": None,
        "home": None,
        "gpus": NONE,
        "limits": Limits(memory_bytes=None, cpus=None, shm_bytes=None, pids=None),
        "account": Account(uid=1000, gid=1000, name="stoker", keep_id=False, known=True, host_uid=os.getuid(), host_gid=os.getgid()),
    }
    return Request(**plain | others)


def quiet(line: str) -> None:
    raise AssertionError(f"nothing was to be said, but: {line}")


# --- in the background ----------------------------------------------------------------------------------------------


def test_what_was_started_is_returned_and_warnings_of_the_engine_are_said(fake: Fake) -> None:
    fake.does("made; echo 'WARNING: your kernel does not support swap limits' >&2")
    said: list[str] = []
    container = starting.start(request(), fake.engine, on_line=said.append)
    assert (container.id, container.name, container.running) == (ID, "night", True)
    assert said == ["WARNING: your kernel does not support swap limits"]
    assert not fake.removed
    first = (fake.folder / "calls").read_text().splitlines()[0]
    assert first.startswith("run --cidfile ")
    assert "--detach" in first


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('Error: creating container storage: the container name "stoker-night" is already in use by c1.', NameTaken),
        ('docker: Error response from daemon: Conflict. The container name "/stoker-night" is already in use by container "c1".', NameTaken),
        ("Error: rootlessport cannot expose port: listen tcp 127.0.0.1:8080: bind: address already in use", PortTaken),
        ("docker: Error response from daemon: driver failed: Bind for 127.0.0.1:8080 failed: port is already allocated.", PortTaken),
        ("Error: cnn: image not known", ImageMissing),
        ("Unable to find image 'cnn:latest' locally", ImageMissing),
        ("Error: mkdir /var/lib/containers/storage/overlay/x: no space left on device", DiskFull),
        (
            "Error: crun: executable file `nosuch` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command",
            ProgramMissing,
        ),
        ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", EngineSilent),
        ("Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all", EngineFailed),
        ("Error: something that nobody foresaw \x1b[2J", EngineFailed),
        ("", EngineFailed),
    ],
)
def test_what_the_engine_says_becomes_an_error_that_one_can_act_on(fake: Fake, said: str, error: type[StokerError]) -> None:
    (fake.folder / "said").write_text(said)
    fake.does("cat said >&2; exit 125")
    with pytest.raises(error) as raised:
        starting.start(request(), fake.engine, on_line=quiet)
    assert type(raised.value) is error
    assert "\x1b" not in raised.value.message
    assert raised.value.hint
    assert not fake.removed  # it made none: what has the name is somebody else's


def test_of_a_start_that_failed_nothing_stays(fake: Fake) -> None:
    fake.does("made; echo 'Error: runc: something broke' >&2; exit 126")
    with pytest.raises(EngineFailed, match="something broke"):
        starting.start(request(), fake.engine, on_line=quiet)
    assert f"rm --force --volumes {ID}"[:2] in [call[:2] for call in fake.calls]
    assert not (fake.folder.parent / "cache/launch/of-stoker-night").exists()


def test_a_name_that_nobody_chose_gives_way(fake: Fake) -> None:
    fake.does('[ "$name" = night-3 ] || { echo "the name is already in use" >&2; exit 125; }; made')
    assert starting.start(request(), fake.engine, on_line=quiet, rename=True).name == "night-3"
    with pytest.raises(NameTaken):
        starting.start(request(), fake.engine, on_line=quiet)


def test_names_that_other_starts_hold_are_not_even_tried(fake: Fake) -> None:
    fake.does("made")
    with held("names", "stoker-night", wait=True), held("names", "stoker-night-2", wait=True):
        assert starting.start(request(), fake.engine, on_line=quiet, rename=True).name == "night-3"
    assert [call for call in fake.calls if call.startswith("run")] == ["run stoker-night-3"]


def test_a_name_that_was_chosen_and_is_just_being_started_is_taken(fake: Fake) -> None:
    fake.does("made")
    with held("names", "stoker-night", wait=True), pytest.raises(NameTaken, match="being started"):
        starting.start(request(), fake.engine, on_line=quiet)
    assert fake.calls == []


def test_names_end_somewhere(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_TRIES", 3)
    fake.does('echo "the name is already in use" >&2; exit 125')
    with pytest.raises(NameTaken, match="night and 3 names after it"):
        starting.start(request(), fake.engine, on_line=quiet, rename=True)


def test_a_container_that_somebody_removed_at_once_is_said(fake: Fake) -> None:
    fake.does("made; echo '[]' > ps")
    with pytest.raises(EngineFailed, match="gone already"):
        starting.start(request(), fake.engine, on_line=quiet)


def test_an_engine_that_falls_silent_after_a_start_has_not_lost_the_container(fake: Fake) -> None:
    fake.does("made; printf '#!/bin/sh\\necho locked >&2; exit 125' > other; chmod +x other; mv other podman")
    with pytest.raises(EngineSilent, match=f"started {ID[:12]}, and then: podman does not answer: locked") as raised:
        starting.start(request(), fake.engine, on_line=quiet)
    assert "stoker ps" in raised.value.hint
    assert not fake.removed


def test_without_a_folder_for_the_id_nothing_is_started(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    fake.does("made")
    with pytest.raises(CacheUnwritable):
        starting.start(request(), fake.engine, on_line=quiet)
    assert fake.calls == []


_STARTER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.unit.test_launch_starting import Fake, request
from stoker.launch import starting
print("begins", flush=True)
starting.start(request(), Fake(Path({folder!r})).engine, on_line=print)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("known", [True, False], ids=["after the id was written", "before"])
def test_a_start_that_is_interrupted_takes_back_what_it_made(fake: Fake, number: signal.Signals, known: bool) -> None:
    # Before the id is written the container is known by its name and its age.
    fake.does(f"made; {'' if known else 'rm $file;'} touch begun; exec sleep 60", State="created", StartedAt=-1)
    code = _STARTER.format(tests=str(Path(__file__).parents[2]), folder=str(fake.folder))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (fake.folder / "begun").exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGINT else 128 + number)
    assert fake.removed


# --- in the foreground ----------------------------------------------------------------------------------------------


def test_a_run_that_ends_well_is_removed_and_nothing_is_said(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    fake.does("made; echo out; echo err >&2")
    assert starting.run(request(), fake.engine, on_line=quiet) == 0
    assert capfd.readouterr() == ("out\n", "err\n")
    assert [call.split()[0] for call in fake.calls] == ["run", "rm"]
    assert not (fake.folder.parent / "cache/launch/of-stoker-night").exists()


def test_a_run_that_fails_says_why_in_one_line(fake: Fake) -> None:
    fake.does("made; exit 3", State="exited", ExitCode=3, ExitedAt=4e9)
    said: list[str] = []
    assert starting.run(request(), fake.engine, on_line=said.append) == 3
    assert len(said) == 1
    assert said[0].startswith("night: ")
    assert "3" in said[0]
    assert fake.removed


def _interrupt(monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Have a signal come to the run that follows."""
    run = attached.run

    def interrupted(words: list[str], *, came: Callable[[int], object], **others: Any) -> int:
        came(number)
        return run(words, **others)

    monkeypatch.setattr(attached, "run", interrupted)


def test_a_run_that_somebody_interrupted_says_so(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.does("made; exit 143", State="exited", ExitCode=143, ExitedAt=4e9)
    _interrupt(monkeypatch)
    said: list[str] = []
    assert starting.run(request(), fake.engine, on_line=said.append) == 143
    assert said == ["night: interrupted by you (Ctrl-C), exit status 143"]


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_run_that_is_interrupted_before_its_container_is_known_leaves_none(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BaseException]
) -> None:
    # A daemon goes on making it. Its name counts as taken then: the program must not be started under the next one.
    fake.does("made; rm $file; exit 130", State="created", StartedAt=-1)
    _interrupt(monkeypatch, number)
    with pytest.raises(kind):
        starting.run(request(), fake.engine, on_line=quiet, rename=True)
    assert fake.calls == ["run stoker-night", "ps", "rm"]
    assert (fake.folder / "ps").read_text() == "[]\n"


def test_a_daemon_is_waited_for_that_is_making_a_container(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["", "", ID])
    monkeypatch.setattr(aftermath, "_made_since", lambda *given: next(answers))
    monkeypatch.setitem(aftermath._GOES_ON_S, "podman", 60.0)
    assert aftermath.made_since(0, request(), fake.engine) == ID


def test_a_key_that_came_before_the_program_ends_the_run_as_ctrl_c_does(fake: Fake) -> None:
    told = "failed to start task: cannot start a stopped process: unknown"
    state = json.dumps([{"State": {"Status": "created", "ExitCode": 128, "Error": told}, "HostConfig": {}}])
    fake.does("made; exit 125", State="created", StartedAt=-1)
    (fake.folder / "podman").write_text(PROGRAM.replace("rm) echo", f"inspect) echo '{state}' ;;\nrm) echo"))
    said: list[str] = []
    assert starting.run(request(), fake.engine, on_line=said.append) == 130
    assert said == ["night: ended before its program began, by Ctrl-C or a stop"]
    assert fake.removed


def test_a_run_of_which_only_the_terminal_was_let_go_goes_on(fake: Fake) -> None:
    fake.does("made")
    (fake.folder / "podman").write_text(PROGRAM.replace("rm) echo '[]' > ps ;;", "rm) echo 'it is running' >&2; exit 2 ;;"))
    said: list[str] = []
    assert starting.run(request(), fake.engine, on_line=said.append) == 0
    assert said == ["night goes on: stoker logs -f night, stoker stop night"]


def test_a_run_whose_reader_went_away_ends(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.does("made; exit 126")
    monkeypatch.setattr(aftermath, "_reader_is_gone", lambda: True)
    assert starting.run(request(grace_s=7), fake.engine, on_line=quiet) == 126
    assert f"stop -t 10 {ID}" in (fake.folder / "calls").read_text()
    assert fake.removed


def test_a_reader_that_is_gone_is_seen() -> None:
    code = "import sys; sys.stdin.readline(); from stoker.launch.aftermath import _reader_is_gone; sys.exit(int(_reader_is_gone()))"
    for gone in (True, False):
        reading, writing = os.pipe()
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=writing)
        os.close(writing)
        if gone:
            os.close(reading)
        process.communicate(b"go\n", timeout=60)
        assert process.returncode == gone
        if not gone:
            os.close(reading)


def test_a_run_that_was_removed_meanwhile_has_its_status(fake: Fake) -> None:
    fake.does("made; echo '[]' > ps; exit 137")
    assert starting.run(request(), fake.engine, on_line=quiet) == 137


def test_a_run_whose_container_the_engine_took_back_itself(fake: Fake) -> None:
    # podman 4.3 with a CDI device that it does not know: the id is written, the container is not.
    fake.does("made; echo '[]' > ps; exit 126")
    with pytest.raises(EngineFailed, match="exit status 126"):
        starting.run(request(), fake.engine, on_line=quiet)


def test_a_run_that_the_engine_refused(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    fake.does("echo 'Error: it does not like it' >&2; exit 125")
    with pytest.raises(EngineFailed, match="exit status 125"):
        starting.run(request(), fake.engine, on_line=quiet)
    assert "does not like it" in capfd.readouterr().err
    assert not fake.removed


def test_a_run_whose_name_somebody_took_in_between(fake: Fake) -> None:
    other = json.dumps([ROW | {"Id": "f" * 60, "Names": ["stoker-night"]}])
    (fake.folder / "ps").write_text(other)
    fake.does("[ $name = night-2 ] && made || exit 125")
    with pytest.raises(NameTaken):
        starting.run(request(), fake.engine, on_line=quiet)
    assert starting.run(request(), fake.engine, on_line=quiet, rename=True) == 0


def test_docker_is_sent_signals_by_name_where_there_is_a_terminal(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(starting.attached, "run", lambda words, *, on_signal, **others: given.append(on_signal) or 0)
    docker = Engine(name="docker", program=fake.engine.program, version=(28, 0))
    for terminal, engine, expected in ((True, docker, True), (False, docker, False), (True, fake.engine, False)):
        given.clear()
        with pytest.raises(EngineFailed):
            starting.run(request(terminal=terminal, interactive=terminal), engine, on_line=quiet)
        assert (given[0] is not None) == expected


def test_what_comes_before_the_start_must_succeed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from stoker.launch.command import Command, Option

    command = Command(program=(fake.engine.program, "run"), options=(), image="cnn", words=(), before=(Option(words=("false",), why="it fails"),))
    monkeypatch.setattr(starting, "render", lambda request, engine: command)
    with pytest.raises(EngineFailed, match="`false` failed"):
        starting.start(request(), fake.engine, on_line=quiet)
    assert fake.calls == []
