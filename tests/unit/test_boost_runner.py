"""Recording a training, and comparing two of them: bits, times, and what may not be concluded from them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stoker.boost.recording import Limits, Recorder, apply
from stoker.boost.request import Request
from stoker.boost.session import Session
from stoker.boost.work import work_s
from stoker.errors import NumbersDiffer, ProgramFailed, ProgramMissing
from stoker.runner import comparison, turns
from stoker.runner.comparison import compare
from stoker.runner.losses import agreement, table
from stoker.runner.outcome import Outcome
from stoker.runner.records import Record, StepRow, all_at_limit, read_record, read_records
from stoker.runner.turns import Turn

STOKER = Path(__file__).resolve().parents[2] / "src"


def record(*losses: float, weights: str | None = "sha256:00", steps: int | None = None, step_s: float = 0.01) -> Record:
    count = len(losses) if steps is None else steps
    rows = tuple(StepRow(1e6 * step_s * (at + 1), 0, 1e3 * (at + 1), at + 1, at + 1, 0) for at in range(count))
    begin = {"at_s": step_s, "work_s": 1.0}
    end = {"at_s": step_s * count, "work_s": 1.0 + 2 * step_s * (count - 1), "data_s": 1e-3 * count, "weights": weights}
    return Record(start={}, losses=tuple(loss.hex() for loss in losses), steps=rows, first={"at_s": 0.0, "work_s": 0.5}, begin=begin, end=end)


def turn(variant: str, *records: Record) -> Turn:
    return Turn(variant=variant, records=records, status=0, stopped=True, wall_s=1.0, output="")


def outcome(tier: str, *pairs: tuple[str, Record]) -> Outcome:
    return Outcome(command="python train.py", tier=tier, off=(), verified=True, turns=tuple(turn(variant, each) for variant, each in pairs))


# --- the recorder ------------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in list(os.environ):
        if name.startswith("STOKER_BOOST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STOKER_BOOST_RECORD_SKIP", "2")
    made = Session(Request(tier=None, record=tmp_path))
    apply(made)
    yield made
    made.end()


def train(steps: int, model: nn.Module | None = None) -> list[float]:
    torch.manual_seed(0)
    images, labels = torch.randn(8 * steps, 3), torch.randint(0, 2, (8 * steps,))
    model = model or nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for image, label in DataLoader(TensorDataset(images, labels), batch_size=8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_losses_and_steps_are_recorded_to_the_bit_and_change_nothing(session: Session, tmp_path: Path) -> None:
    losses = train(7)
    state = torch.get_rng_state()
    session.end()
    assert train(7) == losses
    assert torch.equal(torch.get_rng_state(), state)
    (found,) = read_records(tmp_path)
    assert [float.fromhex(loss) for loss in found.losses] == losses
    assert [row.losses for row in found.steps] == [row.batches for row in found.steps] == list(range(1, 8))
    assert found.begin["step"] == 2
    assert found.end["why"] == "off"
    assert found.end["batches"] == 7
    assert found.weights is not None
    assert found.window is not None
    assert found.window.steps == 5
    assert 0 < found.window.data_s < found.window.seconds


def test_what_was_replaced_is_put_back(tmp_path: Path) -> None:
    iterating = torch.utils.data.dataloader._BaseDataLoaderIter
    before = (torch.autograd.backward, vars(iterating)["__next__"], vars(DataLoader)["__iter__"])
    made = Session(Request(tier=None, record=tmp_path))
    apply(made)
    assert torch.autograd.backward is not before[0]
    made.end()
    assert before == (torch.autograd.backward, vars(iterating)["__next__"], vars(DataLoader)["__iter__"])
    train(2)
    assert read_record(next(tmp_path.glob("process-*.jsonl"))) is not None
    assert not read_records(tmp_path)


def test_the_hash_of_the_weights_tells_weights_apart_and_outlives_the_model(session: Session, tmp_path: Path) -> None:
    def inside() -> None:
        train(3)

    inside()
    session.end()
    first = read_records(tmp_path)[0].weights
    other = Session(Request(tier=None, record=tmp_path / "other"))
    (tmp_path / "other").mkdir()
    apply(other)
    train(3, nn.Linear(3, 2, bias=False))
    other.end()
    assert first is not None
    assert first != read_records(tmp_path / "other")[0].weights


def test_roots_of_many_values_are_hashed_and_those_without_bytes_are_passed_over(session: Session, tmp_path: Path) -> None:
    leaf = torch.zeros(3, requires_grad=True)
    (leaf * 2).backward(torch.ones(3))
    sparse = torch.eye(2).to_sparse().requires_grad_()
    torch.autograd.backward([sparse], [torch.eye(2).to_sparse()])
    torch.autograd.backward([leaf.sum(), (leaf + 2).sum()])
    session.end()
    found = read_record(next(tmp_path.glob("process-*.jsonl")))
    assert found is not None
    assert [loss.partition(":")[0] for loss in found.losses] == ["sha256", "unread", "0x0.0p+0", "0x1.8000000000000p+2"]


def test_the_limit_ends_the_window_and_the_program_goes_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Limits(skip=2, steps=3))
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(9):
        recorder.stepped(optimizer)
    (found,) = read_records(tmp_path)
    assert len(found.steps) == 5
    assert found.end["why"] == "limit"
    assert found.window is not None
    assert found.window.steps == 3
    assert not all_at_limit(tmp_path / "nothing")


def test_a_seed_gives_every_run_the_same_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_BOOST_RECORD_SEED", "5")
    values = []
    for _ in range(2):
        made = Session(Request(tier=None, record=tmp_path))
        apply(made)
        made.end()
        values.append((torch.rand(()).item(), random.random()))
    assert values[0] == values[1]


def test_the_work_of_children_counts_while_they_run_and_when_they_are_gone() -> None:
    before = work_s()
    code = "import time\nend = time.time() + 60\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    during = work_s()
    child.kill()
    child.wait()
    child.stdout.close()
    after = work_s()
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before >= 0.25
    assert after - before >= 0.25


# --- reading -----------------------------------------------------------------------------------------------------


def test_broken_lines_are_passed_over_and_a_killed_process_has_no_end(tmp_path: Path) -> None:
    lines = [
        json.dumps({"kind": "start", "pid": 4, "rank": "1"}),
        json.dumps({"kind": "losses", "v": ["0x1.0p+0"]}),
        json.dumps({"kind": "steps", "v": [[1, 2, 3, 4, 5, 0], [1, 2], "x", [None] * 6]}),
        '{"kind": "steps", "v": [[1, 2,',
    ]
    (tmp_path / "process-4.jsonl").write_text("\n".join(lines))
    (tmp_path / "process-5.jsonl").write_text("\x00\x01nothing")
    (found,) = read_records(tmp_path)
    assert len(found.steps) == 1
    assert found.window is None
    assert found.whole is None
    assert found.weights is None
    assert not all_at_limit(tmp_path)


def test_all_ranks_must_be_at_their_limit(tmp_path: Path) -> None:
    def write(rank: int, *kinds: str) -> None:
        start = {"kind": "start", "rank": str(rank), "local_world_size": "2"}
        (tmp_path / f"process-{rank}.jsonl").write_text("\n".join(json.dumps({**start, "kind": kind}) for kind in ("start", *kinds)))

    write(0, "steps", "end")
    assert not all_at_limit(tmp_path)
    write(1, "steps")
    assert not all_at_limit(tmp_path)
    write(1, "steps", "end")
    assert all_at_limit(tmp_path)


def test_processes_that_leave_by_themselves_are_not_stopped(tmp_path: Path) -> None:
    def write(rank: int, why: str) -> None:
        entries = [{"kind": "start", "rank": str(rank), "local_world_size": "2"}, {"kind": "steps", "v": []}, {"kind": "end", "why": why}]
        (tmp_path / f"process-{rank}.jsonl").write_text("\n".join(map(json.dumps, entries)))

    write(0, "exit")
    write(1, "exit")
    assert not all_at_limit(tmp_path)
    write(1, "limit")
    assert all_at_limit(tmp_path)


# --- comparing ---------------------------------------------------------------------------------------------------


def test_the_first_difference_is_named_with_both_values() -> None:
    found = agreement([record(1.0, 0.5, 0.25)], [record(1.0, 0.5000000000000001, 0.25)])
    assert found.losses == 1
    assert found.difference is not None
    assert str(found.difference) == "loss 2: 0.5 (0x1.0000000000000p-1) and 0.5000000000000001 (0x1.0000000000001p-1)"


def test_runs_of_different_length_are_compared_as_far_as_both_go() -> None:
    found = agreement([record(1.0, 0.5)], [record(1.0, 0.5, 0.25, weights="sha256:11")])
    assert (found.losses, found.weights, found.difference) == (2, None, None)


def test_weights_and_the_number_of_processes_count_too() -> None:
    assert agreement([record(1.0)], [record(1.0)]).weights is True
    found = agreement([record(1.0)], [record(1.0, weights="sha256:11")])
    assert found.weights is False
    assert found.difference is not None
    assert agreement([record(1.0)], [record(1.0), record(1.0)]).difference is not None
    second = agreement([record(1.0), record(2.0)], [record(1.0), record(3.0)])
    assert str(second.difference).startswith("loss 1 of process 1")


def test_nan_is_the_same_as_nan_and_zero_is_not_minus_zero() -> None:
    assert agreement([record(float("nan"))], [record(float("nan"))]).difference is None
    assert agreement([record(0.0)], [record(-0.0)]).difference is not None


def test_beyond_what_two_plain_runs_share_nothing_is_said() -> None:
    found = outcome("exact", ("plain", record(1.0, 0.5, 0.2)), ("exact", record(1.0, 0.5, 0.3)), ("plain", record(1.0, 0.5, 0.4)))
    assert found.repeatable.losses == 2
    assert found.worst is not None
    assert found.worst.difference is None
    assert found.worst.losses == 2
    comparison._insist(found)


def test_a_difference_before_that_is_one() -> None:
    found = outcome("exact", ("plain", record(1.0, 0.5, 0.2)), ("exact", record(1.0, 0.6, 0.3)), ("plain", record(1.0, 0.5, 0.4)))
    with pytest.raises(NumbersDiffer, match="loss 2"):
        comparison._insist(found)


def test_runs_with_nothing_in_common_cannot_be_verified() -> None:
    found = outcome("exact", ("plain", record(1.0)), ("exact", record(2.0)), ("plain", record(3.0)))
    with pytest.raises(NumbersDiffer, match="nothing could be compared"):
        comparison._insist(found)


def test_other_tiers_may_differ() -> None:
    comparison._insist(outcome("fast", ("plain", record(1.0)), ("fast", record(1.1)), ("plain", record(1.0))))
    rows = table(record(*[1.0] * 25), record(*[1.1] * 25))
    assert [row.loss for row in rows] == [1, 2, 5, 10, 20, 25]
    assert rows[0].relative == pytest.approx(0.1 / 1.1)


def test_ratios_are_of_times_a_step_and_of_all_processes_work() -> None:
    plain, boosted = record(*[1.0] * 11, step_s=0.03), record(*[1.0] * 21, step_s=0.01)
    found = outcome("exact", ("plain", plain), ("exact", boosted))
    assert found.steps
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(3.0)
    assert found.work_ratio == pytest.approx(3.0)
    value = json.loads(json.dumps(found.as_dict()))
    assert value["unit"] == "step"
    assert value["boosted_agree"]["difference"] is None


# --- whole comparisons --------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A program that records as a training would, without torch: what `compare` makes of it is tested, in a second."""
    script = tmp_path / "train.py"

    def write(body: str) -> list[str]:
        head = """
            import json, os, sys, time
            tier = os.environ["STOKER_BOOST"]
            def record(*losses, rank="0"):
                name = os.path.join(os.environ["STOKER_BOOST_RECORD"], f"process-{os.getpid()}-{rank}.jsonl")
                rows = [[1000 * k, 0, 0, k, k, 0] for k in range(1, len(losses) + 1)]
                lines = [{"kind": "start", "rank": rank}, {"kind": "first", "at_s": 0.0, "work_s": 0.0}]
                lines += [{"kind": "losses", "v": [loss.hex() for loss in losses]}, {"kind": "steps", "v": rows}]
                lines += [{"kind": "end", "why": "exit", "at_s": 0.001 * len(losses), "work_s": 1.0, "data_s": 0.0, "weights": "sha256:0"}]
                open(name, "w").write("\\n".join(map(json.dumps, lines)) + "\\n")
        """
        script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        return [sys.executable, str(script)]

    monkeypatch.setattr(comparison, "phases", lambda *rest, **more: None)
    return write


def test_equal_runs_are_said_to_be_equal_and_written_as_json(program: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = program("record(3.0, 2.0, 1.0, 0.5)")
    assert compare(command, tier="exact", verify=True, json_to=tmp_path / "out.json") == 0
    assert "4 are the same to the bit" in capsys.readouterr().out
    value = json.loads((tmp_path / "out.json").read_text())
    assert [run["variant"] for run in value["runs"]] == ["plain", "exact", "exact", "plain"]


def test_json_on_stdout_is_alone_there(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    compare(program("record(3.0, 2.0, 1.0, 0.5)"), tier="exact", verify=False, json_to="-")
    assert json.loads(capsys.readouterr().out)["tier"] == "exact"


def test_a_boosted_run_with_other_numbers_is_an_error(program: Any) -> None:
    with pytest.raises(NumbersDiffer) as caught:
        compare(program("record(3.0, 2.0, 1.0 if tier == 'record' else 1.5)"), tier="exact", verify=True, json_to=None)
    assert "loss 3" in caught.value.message
    assert caught.value.exit_code == 52


def test_a_run_that_fails_is_an_error_with_the_end_of_its_output(program: Any) -> None:
    with pytest.raises(ProgramFailed, match="status 3") as caught:
        compare(program("record(1.0)\nprint('the reason')\nsys.exit(3 if tier == 'exact' else 0)"), tier="exact", verify=True, json_to=None)
    assert "the exact run" in caught.value.message
    assert "the reason" in caught.value.message


def test_a_program_that_trains_nothing_is_an_error(program: Any) -> None:
    with pytest.raises(ProgramFailed, match="nothing to compare"):
        compare(program("print('hello')"), tier="exact", verify=False, json_to=None)


def test_a_program_that_is_missing_is_an_error() -> None:
    with pytest.raises(ProgramMissing):
        compare(["/no/such/program"], tier="exact", verify=False, json_to=None)


def test_a_program_is_stopped_when_enough_was_seen_and_leaves_nothing_behind(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    code = f"""
        import os, signal, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(marker)!r}, "w").write(str(child.pid))
        time.sleep(600)
    """
    program = [sys.executable, "-c", textwrap.dedent(code)]
    taken = turns.run(program, variant="plain", changes={}, enough=lambda: marker.exists() and bool(marker.read_text()), read=tuple)
    assert taken.stopped
    assert not taken.failed
    pid = int(marker.read_text())
    for _ in range(100):  # its parent is gone: whoever adopted it reaps it in a moment
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("a child of the program still runs")


def test_boost_of_the_outer_environment_does_not_reach_a_plain_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_BOOST", "fast")
    monkeypatch.setenv("STOKER_BOOST_REPORT", "/tmp/report.json")
    program = [sys.executable, "-c", "import os; print(sorted(name for name in os.environ if name.startswith('STOKER_BOOST')))"]
    taken = turns.run(program, variant="plain", changes={"STOKER_BOOST": "record"}, enough=lambda: False, read=tuple)
    assert taken.output.strip() == "['STOKER_BOOST']"
