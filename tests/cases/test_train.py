"""`stoker train` as a program: it trains, it can be killed at any moment, and it says no in one clear way."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import warm
from tests.conftest import REPOSITORY, need

# Small and quick, but with all that a real one has: augmentation, momentum, a schedule, evaluation, batch norm.
SMALL = ("digits", "--set", "epochs=4", "--set", "checkpoint_every_steps=3")


@pytest.fixture
def stoker(tmp_path: Path) -> Any:
    """Run `stoker ARGUMENTS` in an empty folder; returns the finished process."""
    need(importlib.util.find_spec("sklearn") is not None, "scikit-learn (its digits are the data)")

    def run(*arguments: str, code: int | None = 0, env: dict[str, str] | None = None, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        done = warm.run(arguments, folder=tmp_path, environment=environment(env), limit_s=timeout_s)
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a run: this checkout first, one thread, so that tests on a busy machine end."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "150", **(more or {})}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights in the last checkpoint of a run."""
    path = sorted((run / "checkpoints").glob("step-*.pt"))[-1]
    return torch.load(path, weights_only=True)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two models agree in every bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def record(run: Path) -> dict[str, Any]:
    """The record of a run."""
    return json.loads((run / "run.json").read_text())


def test_the_default_run_leaves_everything_that_is_promised(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stoker", "train", "--set", "epochs=6", "--name", "one", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "one"
    found = json.loads(done.stdout)
    assert found == record(run)
    assert found["status"] == "done"
    assert found["result"]["test_accuracy"] > 0.9
    assert found["configuration"]["epochs"] == 6
    assert found["packages"]["torch"] == torch.__version__.split("+")[0]
    assert {choice["name"] for choice in found["choices"]} >= {"channels_last", "bf16", "fused", "compile"}
    assert "kept:" in done.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3, 4, 5, 6]
    assert len(list((run / "checkpoints").iterdir())) in (1, 2)
    assert list(run.glob("events.out.tfevents.*"))
    assert "<svg" in (run / "report.html").read_text()
    confusion = np.load(run / "evaluation.npz")["confusion_CC"]
    assert confusion.sum() == found["data"]["test_images"]
    assert np.trace(confusion) / confusion.sum() == pytest.approx(found["result"]["test_accuracy"])


def test_kill_9_at_ten_random_moments_then_resume_gives_the_weights_of_the_undisturbed_run(stoker: Any, tmp_path: Path) -> None:
    stoker("train", *SMALL, "--deterministic", "--name", "whole")
    undisturbed = weights(tmp_path / "runs" / "whole")
    chance = random.Random(7)
    arguments = ["train", *SMALL, "--deterministic", "--name", "killed"]
    killed = 0
    while killed < 10:
        before = newest(tmp_path)
        process = warm.Program(arguments, folder=tmp_path, environment=environment())
        # Past the start: a moment within the steps, or while a checkpoint is written.
        wait_for(functools.partial(moved_on, tmp_path, before, process))
        time.sleep(chance.uniform(0, 0.15))
        if process.poll() is not None:
            break
        process.kill()
        killed += 1
        arguments = ["train", "--resume", "killed"]
    assert killed >= 3, "the run ended before it could be disturbed"
    if record(tmp_path / "runs" / "killed")["status"] != "done":
        stoker("train", "--resume", "killed")
    assert same(weights(tmp_path / "runs" / "killed"), undisturbed)
    ours, theirs = (
        [
            {
                key: value
                for key, value in json.loads(line).items()
                if key in ("epoch", "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
            }
            for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()
            if '"epoch"' in line
        ]
        for name in ("killed", "whole")
    )
    assert ours == theirs
    assert killed == 10 or record(tmp_path / "runs" / "killed")["status"] == "done"


def moved_on(folder: Path, before: str | None, process: warm.Program) -> bool:
    """Whether the run `killed` has a newer checkpoint than `before`, or its process has ended."""
    return newest(folder) != before or process.poll() is not None


def newest(folder: Path) -> str | None:
    """The name of the newest checkpoint of the run `killed`."""
    names = sorted(path.name for path in (folder / "runs" / "killed" / "checkpoints").glob("step-*.pt"))
    return names[-1] if names else None


def wait_for(condition: Any, limit_s: float = 120) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code", "status"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")])
def test_a_signal_saves_and_resume_goes_on_bit_by_bit(stoker: Any, tmp_path: Path, number: signal.Signals, code: int, status: str) -> None:
    # Long enough that the signal comes before the end, though a loaded machine lets this process wait after the first checkpoint.
    stoker("train", "digits", "--set", "epochs=8", "--deterministic", "--name", "whole")
    arguments = ["train", "digits", "--set=epochs=8", "--set=checkpoint_every_steps=10", "--deterministic", "--name=cut"]
    process = warm.Program(arguments, folder=tmp_path, environment=environment())
    wait_for(lambda: any((tmp_path / "runs" / "cut" / "checkpoints").glob("step-*.pt")) or process.poll() is not None)
    process.send_signal(number)
    done = process.end(120)
    assert done.returncode == code, done.stderr
    assert "a checkpoint is saved" in done.stderr
    assert "stoker train --resume cut" in done.stderr
    assert record(tmp_path / "runs" / "cut")["status"] == status
    stoker("train", "--resume", "cut")
    resumed = record(tmp_path / "runs" / "cut")
    assert resumed["status"] == "done"
    assert 0 < resumed["resumed_from"][0] < resumed["result"]["steps"]
    assert same(weights(tmp_path / "runs" / "cut"), weights(tmp_path / "runs" / "whole"))


def test_a_kill_at_the_end_of_an_epoch_or_of_the_run_writes_no_epoch_twice(stoker: Any, tmp_path: Path) -> None:
    # 22 steps an epoch: the checkpoint of step 22 lies before the end of the epoch is written down, that of step 44 after it.
    stoker("train", "digits", "--set=epochs=2", "--set=checkpoint_every_steps=22", "--deterministic", "--name=one")
    run = tmp_path / "runs" / "one"
    whole = weights(run)
    for path in sorted((run / "checkpoints").glob("*.pt"), reverse=True):
        (run / "run.json").write_text(json.dumps(record(run) | {"status": "running", "result": None}))
        stoker("train", "--resume", "one")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2]
        assert same(weights(run), whole)
        if path.exists():
            path.unlink()


def test_two_trainings_in_one_folder_is_refused(stoker: Any, tmp_path: Path) -> None:
    # So long a run would be compiled first.
    arguments = ["train", "digits", "--set", "epochs=2000", "--set", "compile=no", "--set", "checkpoint_every_steps=5", "--name", "one"]
    process = warm.Program(arguments, folder=tmp_path, environment=environment())
    try:
        wait_for(lambda: any((tmp_path / "runs" / "one" / "checkpoints").glob("step-*.pt")))
        for again in (["digits", "--name", "one"], ["--resume", "one"]):
            assert str(process.pid) in stoker("train", *again, code=31).stderr
        assert process.poll() is None
    finally:
        process.kill()


def test_nan_stops_with_step_rate_and_last_good_checkpoint(stoker: Any, tmp_path: Path) -> None:
    done = stoker(
        "train", "digits", "--set", "warmup_epochs=0", "--set", "learning_rate=1e3", "--set", "schedule=constant", "--set", "momentum=1",
        "--set", "checkpoint_every_steps=1", "--precision", "fp32", "--set", "epochs=60", "--name", "lost", code=None,
    )  # fmt: skip
    assert done.returncode == 25, done.stderr
    assert " step " in done.stderr
    assert "learning rate 1000" in done.stderr
    found = record(tmp_path / "runs" / "lost")
    assert found["status"] == "failed"
    assert found["error"]["slug"] == "loss-not-finite"
    paths = sorted((tmp_path / "runs" / "lost" / "checkpoints").glob("step-*.pt"))
    if paths:
        assert str(paths[-1].relative_to(tmp_path)) in done.stderr
        assert all(torch.isfinite(value.float()).all() for value in torch.load(paths[-1], weights_only=True)["model"].values())


def test_a_folder_with_a_broken_image_is_refused_or_counted(stoker: Any, tmp_path: Path, data_folder: Path) -> None:
    photos = sorted((data_folder / "photos").glob("*.JPEG"))[:24]
    for number, photo in enumerate(photos):
        target = tmp_path / "tree" / f"class{number % 2}" / photo.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo.read_bytes())
    broken = tmp_path / "tree" / "class0" / "broken.JPEG"
    broken.write_bytes(photos[0].read_bytes()[:3000])
    arguments = ["train", "folder", "--data=tree", "--set=model=small", "--set=image_size=32", "--set=batch_size=4", "--set=epochs=2"]
    assert "broken.JPEG" in stoker(*arguments, "--name=refused", code=12).stderr
    told = stoker(*arguments, "--skip-broken", "--name=counted").stderr
    assert "left out 1 broken images" in told
    found = record(tmp_path / "runs" / "counted")
    assert [Path(name).name for name in found["data"]["skipped"]] == ["broken.JPEG"]
    assert found["data"]["classes"] == ["class0", "class1"]
    assert np.load(tmp_path / "runs" / "counted" / "evaluation.npz")["confusion_CC"].shape == (2, 2)


LITTLE_MEMORY = """
import resource, sys
import torch
from stoker.cli import main
torch.zeros(64, 64) @ torch.zeros(64, 64)
held = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (held + 1_500_000_000,) * 2)
main(sys.argv[1:])
"""


def test_too_little_memory_names_a_batch_that_then_trains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "large.npz", x=rng.integers(0, 256, (96, 256, 256, 3), dtype=np.uint8), y=np.arange(96) % 2)

    def train(batch: int) -> subprocess.CompletedProcess[str]:
        arguments = ["train", "cifar10.small1", "--data=large.npz", f"--set=batch_size={batch}", "--set=eval_batch_size=4", "--set=epochs=1"]
        return subprocess.run(
            [sys.executable, "-c", LITTLE_MEMORY, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
        )

    done = train(72)
    assert done.returncode == 24, done.stderr
    fits = re.search(r"--set batch_size=(\d+)", done.stderr)
    assert fits, done.stderr
    assert train(int(fits[1])).returncode == 0


def test_a_disk_that_fills_up_ends_the_run_with_its_checkpoints_whole(stoker: Any, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2000k", "none", str(folder)], capture_output=True).returncode == 0
    need(mounted, "the right to mount a small tmpfs (root)")
    try:
        done = stoker("train", *SMALL, "--name", "full", code=34, env={"STOKER_RUNS": str(folder)})
        assert "no space left" in done.stderr
        paths = sorted((folder / "full" / "checkpoints").glob("step-*.pt"))
        assert paths, "it should have had room for one"
        for path in paths:
            torch.load(path, weights_only=True)
        assert not list((folder / "full" / "checkpoints").glob(".*"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_run_folder_is_said_before_any_training(stoker: Any, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "none", str(folder)], capture_output=True).returncode == 0
    need(mounted, "the right to mount a read-only tmpfs (root)")
    try:
        assert "read-only" in stoker("train", code=30, env={"STOKER_RUNS": str(folder)}).stderr.lower()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["digit"], 20, "digits"),
        (["digits", "--set", "epoch=3"], 20, "epochs"),
        (["digits", "--set", "epochs=many"], 21, "epochs"),
        (["digits", "--set", "model=resnet5O"], 20, "resnet50"),
        (["digits", "--set", "model=speedrun"], 22, "9"),
        (["digits", "--set", "batch_size=5000"], 21, "batch_size"),
        (["folder"], 10, "--data"),
        (["folder", "--data", "no-such-folder"], 10, "no-such-folder"),
        (["digits", "--gpus", "64"], 6, "64"),
        (["--resume", "nothing"], 35, "stoker train"),
        (["digits", "--resume"], 2, "digits"),
    ],
)
def test_wrong_input_is_answered_with_one_error_and_leaves_no_run(stoker: Any, tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    done = stoker("train", *arguments, code=code)
    assert told in done.stderr
    assert done.stderr.count("error:") == 1
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("*/run.json"))


def test_a_checkpoint_of_another_model_is_refused(stoker: Any, tmp_path: Path) -> None:
    stoker("train", *SMALL, "--name", "one")
    path = sorted((tmp_path / "runs" / "one" / "checkpoints").glob("*.pt"))[-1]
    state = torch.load(path, weights_only=True)
    state["model"]["linear.weight"] = torch.zeros(10, 7)
    for old in path.parent.glob("*.pt"):
        torch.save(state, old)
    changed = record(tmp_path / "runs" / "one") | {"status": "interrupted"}
    (tmp_path / "runs" / "one" / "run.json").write_text(json.dumps(changed))
    assert "linear.weight" in stoker("train", "--resume", "one", code=32).stderr


def test_two_ranks_train_one_model(stoker: Any, tmp_path: Path) -> None:
    # torchrun itself on two CPU processes; --gpus N takes the same way with one process a GPU.
    def torchrun(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "stoker", "train", *arguments],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    torchrun("digits", "--set", "epochs=4", "--deterministic", "--name", "two")
    found = record(tmp_path / "runs" / "two")
    assert found["status"] == "done"
    assert found["result"]["test_accuracy"] > 0.8
    # Both ranks see halves of the very batches that one process sees, so the steps are as many.
    stoker("train", "digits", "--set", "epochs=4", "--deterministic", "--name", "one")
    alone = record(tmp_path / "runs" / "one")["result"]
    assert alone["steps"] == found["result"]["steps"]


def test_workers_are_started_through_torchruns_api(tmp_path: Path) -> None:
    code = "import sys; from stoker.train.workers import start; sys.exit(start(2, ['train', 'digits', '--set', 'epochs=1', '--name', 'many']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "runs" / "many")["status"] == "done"
    code = code.replace("epochs=1", "epochs=none")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 21, done.stderr


def test_a_repeat_gives_the_same_bits_and_refuses_when_something_differs(stoker: Any, tmp_path: Path) -> None:
    stoker("train", *SMALL, "--deterministic", "--name", "one")
    done = stoker("repeat", "one")
    assert "to the last bit" in done.stderr
    again = next(run for run in (tmp_path / "runs").iterdir() if run.name not in ("one", ".gitignore"))
    assert record(again)["repeats"] == "one"
    assert same(weights(again), weights(tmp_path / "runs" / "one"))
    changed = record(tmp_path / "runs" / "one")
    changed["packages"]["torch"] = "1.0.0"
    (tmp_path / "runs" / "one" / "run.json").write_text(json.dumps(changed))
    refused = stoker("repeat", "one", code=36).stderr
    assert "packages.torch: 1.0.0 then" in refused
    assert "--anyway" in refused


def test_the_tracer_is_not_imported_by_a_run_that_compiles_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['stoker', 'train', 'digits', '--set', 'epochs=2']\n"
        "from stoker.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print([m for m in ('torch._dynamo', 'torchvision', 'sklearn', 'timm', 'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "[]", done.stderr


def test_compile_is_done_when_asked_for(stoker: Any, tmp_path: Path) -> None:
    need(any(subprocess.run(["which", name], capture_output=True).returncode == 0 for name in ("g++", "clang++")), "a C++ compiler")
    stoker("train", "digits", "--set", "epochs=2", "--compile", "--name", "compiled")
    choice = next(one for one in record(tmp_path / "runs" / "compiled")["choices"] if one["name"] == "compile")
    assert choice["kept"], choice
