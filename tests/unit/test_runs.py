"""Run folders: records, metrics, locks, surroundings and differences."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import RunBroken, RunBusy, RunFolderUnwritable, RunMissing, UsageError
from stoker.runs import Run, all_runs
from stoker.runs.columns import fold, padded, table, width
from stoker.runs.differences import differences, mentions, refusals
from stoker.runs.durations import ago, spoken
from stoker.runs.summary import summarise
from stoker.runs.surroundings import gather, git_state, masked, packages, stoker_code


def made(root: Path, name: str | None = None, **record: Any) -> Run:
    """Return a run that has ended."""
    run = Run.create(root, run_id=name, record={"recipe": "digits", **record})
    run.close()
    return run


# --- making and finding ---------------------------------------------------------------------------------------------


def test_a_new_run_has_a_telling_name_and_a_record(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", run_id=None, record={"recipe": "cifar10.small", "status": "done", "seed": 3})
    assert re.fullmatch(r"\d{8}-\d{6}-cifar10\.small-[0-9a-f]{4}", run.id)
    record = json.loads((run.path / "run.json").read_text())
    assert (record["id"], record["status"], record["seed"]) == (run.id, "running", 3)
    assert run.status() == "running"
    run.update(status="done", result={"test_accuracy": 0.99})
    run.close()
    assert run.record()["seed"] == 3
    assert run.status() == "done"


def test_the_runs_folder_keeps_itself_out_of_git_but_a_folder_that_was_there_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path / "new")
    assert (tmp_path / "new" / ".gitignore").read_text() == "*\n"
    made(tmp_path)
    assert not (tmp_path / ".gitignore").exists()


def test_a_name_that_is_taken_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    made(tmp_path, "mine", seed=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(UsageError, match="already a run called mine") as refusal:
        made(tmp_path, "mine", seed=2)
    assert "--resume" in refusal.value.hint
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_a_foreign_folder_or_file_of_that_name_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("photos", "file"):
        with pytest.raises(UsageError):
            made(tmp_path, name)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert made(tmp_path, "mine").record()["id"] == "mine"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../x", "a..b", "", ".hidden", "-x", "last", "a\nb", "x" * 200, "a\0b"])
def test_names_that_are_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        made(tmp_path, name)
    made(tmp_path, "there")
    if name != "last":
        with pytest.raises(UsageError):
            Run.find(tmp_path, name)


def test_a_recipe_name_that_is_no_file_name_still_gives_a_run(tmp_path: Path) -> None:
    run = made(tmp_path, recipe="../../ä <b>" + "x" * 300)
    assert run.path.parent == tmp_path
    assert run.path.is_dir()


def test_runs_are_found_by_name_beginning_end_and_last(tmp_path: Path) -> None:
    for name, month in (("alpha-1", 1), ("alpha-2", 3), ("beta-3", 2)):
        made(tmp_path, name, started=f"2026-0{month}-01T00:00:00+00:00")
    assert [run.id for run in all_runs(tmp_path)] == ["alpha-2", "beta-3", "alpha-1"]
    found = {name: Run.find(tmp_path, name).id for name in ("alpha-1", "b", "ta-3", "last")}
    assert found == {"alpha-1": "alpha-1", "b": "beta-3", "ta-3": "beta-3", "last": "alpha-2"}


def test_a_missing_run_names_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(RunMissing, match="no run in"):
        Run.find(tmp_path / "nowhere", "x")
    made(tmp_path, "alpha-1")
    made(tmp_path, "alpha-2")
    with pytest.raises(RunMissing, match=r"alpha-1.*alpha-2|alpha-2.*alpha-1"):
        Run.find(tmp_path, "alpha")
    with pytest.raises(RunMissing) as missing:
        Run.find(tmp_path, "alhpa-1")
    assert "alpha-1" in missing.value.hint


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x")
    for root in (tmp_path / "runs", tmp_path / "runs" / "below"):
        with pytest.raises(RunFolderUnwritable):
            made(root)


# --- the lock -------------------------------------------------------------------------------------------------------


def test_a_run_that_is_held_is_busy_for_others(tmp_path: Path) -> None:
    run = Run.create(tmp_path, run_id="mine", record={})
    with pytest.raises(RunBusy, match=r"process \d+ on "):
        Run.find(tmp_path, "mine").hold()
    with pytest.raises(RunBusy, match=r"process \d+ on "):
        Run.create(tmp_path, run_id="mine", record={})
    run.close()
    run.close()
    again = Run.find(tmp_path, "mine")
    again.hold()
    again.hold()
    again.update(status="done")
    again.close()


def test_nothing_is_written_without_the_lock(tmp_path: Path) -> None:
    run = made(tmp_path, "mine")
    for write in (lambda: run.update(status="x"), lambda: run.log("epoch"), lambda: run.truncate_metrics(1)):
        with pytest.raises(RuntimeError, match="without its lock"):
            write()


def test_running_without_a_holder_is_shown_as_died(tmp_path: Path) -> None:
    assert made(tmp_path, "mine").status() == "died"


def test_what_a_killed_writer_left_is_cleared_by_the_next_holder(tmp_path: Path) -> None:
    run = made(tmp_path, "mine")
    (run.path / ".run.json.4711.tmp").write_text('{"id": "mi')
    run.hold()
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "run.json"]
    run.close()


# --- records --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"", b"{", b"[1]", b"null", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_broken_record_is_named_and_the_others_are_still_listed(tmp_path: Path, garbage: bytes) -> None:
    made(tmp_path, "good")
    broken = made(tmp_path, "bad")
    (broken.path / "run.json").write_bytes(garbage)
    with pytest.raises(RunBroken, match=r"run\.json"):
        broken.record()
    assert {run.id: run.status() for run in all_runs(tmp_path)} == {"good": "died", "bad": "broken"}
    assert summarise(broken).status == "broken"


@pytest.mark.parametrize("strange", [{"result": "x", "configuration": [1], "started": 7, "status": None}, {"result": {"test_accuracy": "high"}}, {}])
def test_a_record_of_strange_values_is_still_summarised(tmp_path: Path, strange: dict[str, Any]) -> None:
    run = made(tmp_path, "odd")
    (run.path / "run.json").write_text(json.dumps(strange))
    assert summarise(run).test_accuracy is None
    assert [one.id for one in all_runs(tmp_path)] == ["odd"]


def test_records_are_strict_json(tmp_path: Path) -> None:
    class Scalar:
        def item(self) -> float:
            return float("inf")

    run = Run.create(tmp_path, run_id="mine", record={"path": Path("/x"), "bad name": "\udcff", 1: (1, 2)})
    run.update(result={"test_loss": float("nan"), "train_loss": Scalar()})
    run.log("epoch", loss=float("inf"))
    run.close()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    record = json.loads((run.path / "run.json").read_text(), parse_constant=refuse)
    assert record["result"] == {"test_loss": None, "train_loss": None}
    assert (record["path"], record["1"], record["bad name"]) == ("/x", [1, 2], "\udcff")
    assert json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)["loss"] is None


def test_a_folder_that_is_removed_midway_is_said(tmp_path: Path) -> None:
    run = Run.create(tmp_path, run_id="mine", record={})
    run.log("epoch", epoch=1)
    shutil.rmtree(run.path)
    for write in (lambda: run.log("epoch", epoch=2), lambda: run.update(status="done"), lambda: run.truncate_metrics(0)):
        with pytest.raises(RunMissing, match="is gone"):
            write()
    run.close()
    assert not run.path.exists()
    assert summarise(run).status == "broken"


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_come_back_by_kind_and_without_torn_lines(tmp_path: Path) -> None:
    run = Run.create(tmp_path, run_id="mine", record={})
    run.log("epoch", epoch=1, step=10)
    run.log("speed", step=5, images_per_s=3.5)
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "epoch", "epoch": 2, "st')
    assert [line["epoch"] for line in run.metrics("epoch")] == [1]
    run.log("epoch", epoch=3, step=30)  # a torn line must not swallow the next
    assert [line["epoch"] for line in run.metrics("epoch")] == [1, 3]
    assert [line["kind"] for line in run.metrics()] == ["epoch", "speed", "epoch"]
    run.close()
    assert Run.find(tmp_path, "mine").metrics("none") == []


def test_a_resumed_run_drops_the_lines_that_it_goes_through_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path, run_id="mine", record={})
    run.truncate_metrics(0)
    run.log("choice", name="bf16")
    for step in (1, 2, 3, 4):
        run.log("epoch", epoch=step, step=step)
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"torn')
    run.truncate_metrics(2)
    run.log("epoch", epoch=30, step=3)
    assert [line.get("step") for line in run.metrics()] == [None, 1, 2, 3]
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 4
    run.close()


def test_the_summary_of_an_unfinished_run_comes_from_its_metrics(tmp_path: Path) -> None:
    run = Run.create(tmp_path, run_id="mine", record={"recipe": "digits", "configuration": {"schedule": {"epochs": 5}}})
    run.log("epoch", epoch=1, test_accuracy=0.9, train_s=2.0, images_per_s=100.0)
    run.log("epoch", epoch=2, test_accuracy=0.8, train_s=3.0, images_per_s=110.0)
    summary = summarise(run)
    run.close()
    assert (summary.status, summary.epochs, summary.epochs_planned) == ("running", 2, 5)
    assert (summary.test_accuracy, summary.best_test_accuracy, summary.train_s, summary.images_per_s) == (0.8, 0.9, 5.0, 110.0)


# --- surroundings ---------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state_has_commit_diff_and_untracked_names(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "train.py").write_text("rate = 1\n")
    (tmp_path / ".env").write_text("A=1\n")
    fresh = git_state(tmp_path)
    assert fresh is not None
    assert (fresh["commit"], fresh["dirty"], fresh["untracked"]) == (None, True, [".env", "train.py"])
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    clean = git_state(tmp_path)
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"])
    assert (clean["dirty"], clean["diff"], clean["diff_digest"]) == (False, "", None)
    (tmp_path / "train.py").write_text("rate = 2\n")
    (tmp_path / ".env").write_text("TOKEN=hunter2\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "new ö.py").write_text("")
    changed = git_state(tmp_path / "sub")
    assert changed is not None
    assert "+rate = 2" in changed["diff"]
    assert "hunter2" not in changed["diff"]
    assert changed["dirty"]
    assert changed["untracked"] == ["sub/"] or changed["untracked"] == ["sub/new ö.py"]


def test_a_long_diff_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    (tmp_path / "a.txt").write_text("ü\n" * 1000)
    whole = git_state(tmp_path)
    monkeypatch.setattr("stoker.runs.surroundings.DIFF_LIMIT_BYTES", 500)
    cut = git_state(tmp_path)
    assert whole is not None
    assert cut is not None
    assert (whole["diff_cut"], cut["diff_cut"]) == (False, True)
    assert whole["diff"].startswith(cut["diff"])
    assert whole["diff_digest"] == cut["diff_digest"]


def test_a_git_that_does_not_answer_is_said(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("garbage")
    state = git_state(tmp_path)
    assert state is not None
    assert state["commit"] is None
    assert state["why"]


def test_a_run_folder_in_a_work_tree_does_not_make_it_dirty(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    made(tmp_path / "runs")
    state = git_state(tmp_path)
    assert state is not None
    assert not state["dirty"]


def test_secrets_on_the_command_line_are_masked() -> None:
    command = [
        "stoker",
        "--token",
        "abc",
        "--api-key=abc",
        "--set",
        "hub.password=abc",
        "HF_TOKEN=abc",
        "-secret",
        "abc",
        "https://me:abc@example.org/x",
    ]
    assert "abc" not in " ".join(masked(command))
    harmless = ["stoker", "train", "--set", "tokenizer=x", "--keyframes", "3", "--set", "monkey=1", "--seed", "1"]
    assert masked(harmless) == harmless


def test_the_surroundings_hold_no_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    monkeypatch.setenv("STOKER_IMAGE_DIGEST", "sha256:" + "0" * 64)
    found = gather(tmp_path, ["stoker", "train"], lock="sha256:abc")
    assert "hunter2" not in json.dumps(found)
    assert found["lock"] == "sha256:abc"
    assert found["image"] == "sha256:" + "0" * 64
    assert gather(tmp_path, [], lock=None)["lock"] is None


def test_packages_are_sorted_and_normalised() -> None:
    found = packages()
    assert list(found) == sorted(found)
    assert "pytest" in found
    assert all(name == name.lower() and "_" not in name for name in found)


def test_stoker_knows_its_own_code() -> None:
    assert stoker_code() == stoker_code()
    assert stoker_code()["digest"].startswith("sha256:")


# --- differences ----------------------------------------------------------------------------------------------------


def surroundings(**changes: Any) -> dict[str, Any]:
    """Return a record's surroundings."""
    return {
        "stoker": {"version": "1", "commit": "c1", "digest": "d1"},
        "git": {"commit": "a1", "dirty": False, "diff": "", "untracked": []},
        "python": "3.11.7",
        "packages": {"torch": "2.9", "rich": "14"},
        "lock": "sha256:1",
        "image": None,
        "host": {"cpu": "x", "gpus": [{"name": "H100"}], "memory_free_bytes": 1},
        "data": {"source": "cifar10", "fingerprint": "sha256:f", "classes": ["a", "b"]},
    } | changes


def names(found: list[Any]) -> list[str]:
    return [entry.what for entry in found]


def test_equal_records_do_not_differ_whatever_came_of_them() -> None:
    assert differences(surroundings(result={"test_loss": 1}), surroundings(result=None, started="x")) == []


def test_differences_are_named_with_both_values() -> None:
    a = surroundings(configuration={"epochs": 5, "optimizer": {"name": "sgd"}, "mean": (0.1, 0.2)}, seed=1)
    b = surroundings(configuration={"epochs": 6, "optimizer": {"name": "adam"}, "mean": [0.1, 0.2]}, seed=1, host={"gpus": [{"name": "H200"}]})
    found = differences(a, b)
    assert names(found) == ["configuration.epochs", "configuration.optimizer.name", "host.cpu", "host.gpus.0.name"]
    assert (found[0].a, found[0].b, found[2].b) == (5, 6, None)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"stoker": {"version": "1", "commit": "c2", "digest": "d2"}}, ["stoker.digest"]),
        ({"stoker": {"version": "1", "commit": "c2", "digest": "d1"}}, []),  # a commit that leaves the sources as they are
        ({"stoker": {"version": "1", "commit": "c2"}}, ["stoker.commit"]),
        ({"git": {"commit": "a2", "diff": ""}}, ["git.commit"]),
        ({"git": {"commit": "a1", "diff": "+x"}}, ["git.diff"]),
        ({"git": None}, ["git.commit"]),
        ({"packages": {"torch": "2.10", "rich": "15"}}, ["packages.torch"]),
        ({"packages": {"rich": "14"}}, ["packages.torch"]),
        ({"data": {"source": "elsewhere", "fingerprint": "sha256:f", "classes": ["a", "b"]}}, []),
        ({"data": {"fingerprint": "sha256:g"}}, ["data.fingerprint"]),
        ({"host": {"cpu": "y"}, "lock": "sha256:2", "python": "3.12"}, []),
    ],
)
def test_what_refuses_a_repeat(changes: dict[str, Any], refused: list[str]) -> None:
    here = surroundings(**changes)
    assert names(refusals(surroundings(), here)) == refused
    assert not set(names(mentions(surroundings(), here))) & set(refused)


def test_hosts_are_mentioned_and_what_is_not_said_does_not_differ() -> None:
    assert names(mentions(surroundings(), surroundings(host={"cpu": "y", "gpus": [{"name": "H100"}], "memory_free_bytes": 2}))) == ["host.cpu"]
    here = {key: value for key, value in surroundings().items() if key not in ("data", "host")}
    assert refusals(surroundings(), here) == mentions(surroundings(), here) == []
    assert refusals(surroundings(git=None), surroundings()) == []
    assert refusals({}, surroundings()) == []


# --- words ----------------------------------------------------------------------------------------------------------


def test_durations() -> None:
    spans = [None, 0.42, 8.26, 9.96, 59.6, 192, 7500, 90_000]
    assert [spoken(seconds) for seconds in spans] == ["–", "0.42 s", "8.3 s", "10 s", "1 min", "3 min 12 s", "2 h 5 min", "1 d 1 h"]
    assert [ago(seconds) for seconds in (None, 3, 61, 7300, 100_000)] == ["–", "3 s", "1 min", "2 h", "1 d"]


def test_columns_stay_within_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.runs.columns.terminal_width", lambda: 60)
    lines = table(("name", "a", "b"), [("k" * 10, "x" * 90, "word " * 20), ("猫猫", "\033[31mred", "1")], right=(2,), folded=None)
    assert max(width(line) for line in lines) <= 60
    assert "\033" not in "".join(lines)
    assert width("猫") == 2
    assert padded("猫", 4) == "猫  "
    assert fold("abcdef", 3) == ["abc", "def"]
