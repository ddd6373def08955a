"""Stopping, what was saved, removing, and who it was."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import ContainerMissing, EngineSilent, LaunchUnfit, UsageError
from stoker.launch import monitor, stops
from stoker.launch.containers import Container, from_podman
from stoker.launch.keepers import containers, find, find_all, listed
from stoker.launch.locks import held
from stoker.launch.removal import is_starting, remove
from stoker.launch.saved import saved_since
from stoker.launch.stopping import stop


class Shelf:
    """A keeper of containers that exist here only; whoever is stopped ends with a code, after `on_stop`."""

    def __init__(self, name: str, *held: Container, code: int = 143, on_stop: Any = None) -> None:
        self.name, self.held, self.code, self.on_stop = name, list(held), code, on_stop
        self.did: list[str] = []
        self.returning: tuple[str, ...] = ()

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        return tuple(one for one in self.held if everything or one.running)

    def stop(self, container: Container, *, grace_s: int) -> None:
        self.did.append(f"stop {container.name} {grace_s}")
        if self.on_stop:
            self.on_stop()
        self.held = [dataclasses.replace(one, state="exited", exit_code=self.code) if one.id == container.id else one for one in self.held]

    def returns(self, container: Container) -> bool:
        return container.name in self.returning

    def remove(self, container: Container, *, force: bool = False) -> bool:
        self.did.append(f"remove {container.name}")
        there = container in self.held
        self.held = [one for one in self.held if one.id != container.id]
        return there


class Silent(Shelf):
    """One whose daemon is down."""

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        raise EngineSilent(f"{self.name} does not answer", hint="start it")


def container(
    name: str, *, number: str = "1", engine: str = "podman", state: str = "running", project: Path | None = None, created: int = 9
) -> Container:
    labels = {"dev.stoker.launch.name": name, "dev.stoker.launch.kind": "run", "dev.stoker.launch.project": str(project or "")}
    row = {
        "Id": f"{number * 8}ffff",
        "Names": [f"stoker-{name}"],
        "State": state,
        "Labels": labels,
        "StartedAt": 5,
        "Created": created,
        "ExitedAt": 6,
    }
    return dataclasses.replace(from_podman(row), engine=engine)


def shelf(name: str, *held: Container, **how: Any) -> Any:
    return Shelf(name, *(dataclasses.replace(one, engine=name) for one in held), **how)


def test_it_is_found_by_its_name_the_engines_and_its_id() -> None:
    among = [shelf("podman", container("night", number="a"), container("day", number="b")), shelf("local", container("dusk", number="c"))]
    for name in ("night", "stoker-night", "aaaa", "aaaaaaaaffff"):
        keeper, one = find(among, name)
        assert (keeper.name, one.name) == ("podman", "night")
    assert find(among, "dusk")[0].name == "local"
    assert [one.name for _, one in find_all(among, ["day", "bbbb", "night"])] == ["day", "night"]
    for wrong in ("aaa", "", "x"):
        with pytest.raises(ContainerMissing):
            find(among, wrong)
    with pytest.raises(ContainerMissing) as error:
        find_all(among, ["day", "nihgt"])
    assert "night" in error.value.hint


def test_a_name_in_two_engines() -> None:
    among = [shelf("podman", container("night", number="a")), shelf("docker", container("night", number="b"))]
    with pytest.raises(UsageError, match="several") as error:
        find(among, "night")
    assert "--engine" in error.value.hint
    assert find(among, "bbbb")[0].name == "docker"
    with pytest.raises(UsageError) as error:
        find([shelf("podman", container("night", number="a"), container("night", number="b"))], "night")
    assert "id" in error.value.hint


def test_the_newest_stands_first() -> None:
    among = [shelf("podman", container("old", created=5)), shelf("docker", container("new", number="2", created=7, state="exited"))]
    assert [one.name for one in containers(among)] == ["new", "old"]
    assert [one.name for one in containers(among, everything=False)] == ["old"]


def test_an_engine_that_does_not_answer() -> None:
    down: Any = Silent("docker")
    found, silent = listed([shelf("podman", container("night")), down])
    assert ([one.name for one in found], list(silent)) == (["night"], ["docker"])
    assert list(listed([shelf("podman"), down])[1]) == ["docker"]
    for among in ([down], [down, shelf("local")]):
        with pytest.raises(EngineSilent):
            listed(among)
    with pytest.raises(ContainerMissing, match="docker does not answer"):
        find([shelf("podman"), down], "x")


def test_a_stop_says_what_was_saved(tmp_path: Path) -> None:
    folder = tmp_path / "runs/20261121-cnn/checkpoints"
    folder.mkdir(parents=True)
    old = folder / "step-0000000001.pt"
    old.write_bytes(b"1")
    os.utime(old, (time.time() - 60, time.time() - 60))

    def save() -> None:
        (folder / "step-0000000002.pt").write_bytes(b"22")
        (folder / ".step-0000000003.pt.9.tmp").write_bytes(b"333")

    keeper = shelf("podman", container("night", project=tmp_path), on_stop=save)
    result = stop(keeper, keeper.held[0], grace_s=30)
    assert keeper.did == ["stop night 30"]
    assert [(one.path.name, one.size_bytes) for one in result.saved] == [("step-0000000002.pt", 2)]
    assert (result.ran, result.exit_code, result.killed, result.gone) == (True, 143, False, False)
    assert stops.stopped_by(result.container.id, since=5) is not None


def test_the_grace_is_that_of_the_label() -> None:
    keeper = shelf("podman", dataclasses.replace(container("night"), grace_s=120), code=137)
    result = stop(keeper, keeper.held[0])
    assert keeper.did == ["stop night 120"]
    assert result.killed
    assert result.saved == ()


def test_one_that_comes_back_with_the_machine() -> None:
    keeper = shelf("podman", container("night"), container("day", number="2"))
    keeper.returning = ("night",)
    assert [stop(keeper, one).returns for one in keeper.held] == [True, False]


def test_what_does_not_run_is_not_stopped() -> None:
    keeper = shelf("podman", container("night", state="exited"))
    assert not stop(keeper, keeper.held[0]).ran
    assert keeper.did == []


def test_one_that_is_removed_while_it_is_stopped() -> None:
    keeper = shelf("podman", container("night"))
    one = keeper.held[0]
    keeper.held = []
    assert stop(keeper, one).gone


def test_only_what_is_new_and_whole_counts_as_saved(tmp_path: Path) -> None:
    (tmp_path / "lightning_logs/version_0/checkpoints").mkdir(parents=True)
    (tmp_path / "a/b/c/d/e/f").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("lightning_logs/version_0/checkpoints/x.ckpt", "model.safetensors", "notes.txt", ".hidden.pt", ".git/x.pt", "a/b/c/d/e/f/deep.pt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.pt").symlink_to("nothing")
    assert {one.path.name for one in saved_since(tmp_path, time.time() - 60)} == {"x.ckpt", "model.safetensors"}
    assert saved_since(tmp_path, time.time() + 60) == ()
    assert saved_since(tmp_path / "nowhere", 0) == ()


def test_runs_are_looked_at_before_many_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.launch.saved._MOST_FILES", 20)
    for folder in ("a-photos", "runs/one/checkpoints", "z-photos"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(30):
            (tmp_path / folder / f"{number}.{'pt' if 'runs' in folder else 'jpg'}").touch()
    assert [one.path.parent.name for one in saved_since(tmp_path, 0)] == ["checkpoints"]


def test_what_runs_is_removed_by_force_only() -> None:
    keeper = shelf("podman", container("night"))
    one = keeper.held[0]
    stops.note_stop(one.id)
    with pytest.raises(LaunchUnfit, match="still runs"):
        remove(keeper, one, force=False)
    assert keeper.did == []
    assert remove(keeper, one, force=True) is True
    assert remove(keeper, one, force=True) is False
    assert stops.stopped_by(one.id, since=None) is None


def test_what_is_just_being_started_is_left_alone() -> None:
    keeper = shelf("podman", container("night", state="created"), container("old", state="exited"))
    night, old = keeper.held
    with held("names", "stoker-night", wait=True), held("names", "stoker-old", wait=True):
        assert is_starting(night)
        assert not is_starting(old)
        with pytest.raises(LaunchUnfit, match="night is being started"):
            remove(keeper, night, force=False)
    assert not is_starting(night)
    assert remove(keeper, night, force=False) is True


def test_a_note_of_an_earlier_life_does_not_count() -> None:
    stops.note_stop("abc")
    assert stops.stopped_by("abc", since=time.time() + 60) is None
    assert "stoker stop" in str(stops.stopped_by("abc", since=time.time() - 60))
    assert stops.stopped_by("../../etc/passwd", since=None) is None


def test_notes_that_cannot_be_written_are_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "file"))
    stops.note_stop("abc")
    stops.forget_stop("abc")
    assert stops.stopped_by("abc", since=None) is None
    assert monitor.calling_folder("stoker-x") is None
    assert not monitor.killed_for_memory("stoker-x", since=None)


def test_the_monitors_mark() -> None:
    folder = monitor.calling_folder("stoker-x")
    assert folder is not None
    assert not monitor.killed_for_memory("stoker-x", since=time.time())
    (folder / "oom").touch()
    assert monitor.killed_for_memory("stoker-x", since=time.time())
    assert not monitor.killed_for_memory("stoker-x", since=time.time() + 60)
    monitor.calling_folder("stoker-x")
    assert not monitor.killed_for_memory("stoker-x", since=None)
    monitor.forget_folder("stoker-x")
    assert not folder.exists()
