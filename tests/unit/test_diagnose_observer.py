"""The observer inside a training: what it wraps and puts back, the segments it cuts, CUDA events against a fake, and its own failures."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.data.dataloader as loading
from torch import nn
from torch.optim import optimizer as optimizing
from torch.utils.data import DataLoader, Dataset, TensorDataset

import stoker.diagnosis
from stoker.diagnosis.recording import Recording, read_recordings
from stoker.diagnosis.steps import steps_of

ROOM = Path(stoker.diagnosis.__file__).parent


@pytest.fixture
def observer() -> Iterator[types.ModuleType]:
    spec = importlib.util.spec_from_file_location("_stoker_observer", ROOM / "observer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_stoker_observer"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["_stoker_observer"]


@pytest.fixture
def recorder(observer: Any, tmp_path: Path) -> Iterator[Any]:
    made = observer.Recorder(str(tmp_path), 3600.0, 2)
    yield made
    made.finish("test")


def places() -> dict[str, Any]:
    """What the observer may replace, as it stands now."""
    owners = {
        "Module": (nn.Module, ("__call__",)),
        "autograd": (torch.autograd, ("backward", "grad")),
        "Optimizer": (torch.optim.Optimizer, ("zero_grad",)),
        "iterator": (loading._BaseDataLoaderIter, ("__next__",)),
        "DataLoader": (loading.DataLoader, ("__iter__", "__init__")),
        "Tensor": (torch.Tensor, ("to", "cuda", "item", "tolist", "cpu", "copy_", "__bool__", "__float__", "__int__")),
        "cuda": (torch.cuda, ("synchronize",)),
    }
    found = {f"{title}.{name}": vars(owner).get(name) for title, (owner, names) in owners.items() for name in names}
    hooks = {"pre": dict(optimizing._global_optimizer_pre_hooks), "post": dict(optimizing._global_optimizer_post_hooks)}
    return {**found, **hooks}


def train(steps: int, **loader: Any) -> list[float]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = TensorDataset(torch.randn(4 * steps, 1, 8, 8), torch.randint(0, 3, (4 * steps,)))
    losses = []
    for images, labels in DataLoader(data, batch_size=4, shuffle=True, **loader):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def only(folder: Path) -> Recording:
    (recording,) = read_recordings(folder)
    return recording


def test_everything_is_put_back_by_identity(observer: Any, recorder: Any) -> None:
    before = places()
    observer.apply(recorder)
    during = places()
    replaced = {name for name in before if during[name] is not before[name] and during[name] != before[name]}
    assert {"Module.__call__", "autograd.backward", "iterator.__next__", "Optimizer.zero_grad", "DataLoader.__iter__", "pre", "post"} <= replaced
    train(4)
    recorder.finish("test")
    after = places()
    assert all(after[name] is before[name] or after[name] == before[name] for name in before)
    assert "item" not in vars(torch.Tensor)  # it was inherited before, and is again


def test_the_numbers_and_the_random_state_are_the_same(observer: Any, recorder: Any) -> None:
    plain, state = train(12), torch.get_rng_state()
    observer.apply(recorder)
    assert train(12) == plain
    assert torch.equal(torch.get_rng_state(), state)


def test_the_segments_cover_the_time_without_gaps(observer: Any, recorder: Any, tmp_path: Path) -> None:
    observer.start(recorder)
    observer.apply(recorder)
    train(10)
    recorder.finish("test")
    recording = only(tmp_path)
    spans = [segment for segment in recording.segments if segment.phase != "step"]
    assert {segment.phase for segment in spans} >= {"data", "forward", "backward", "optimizer", "other"}
    for earlier, later in pairwise(spans):
        assert later.start_s == pytest.approx(earlier.start_s + earlier.duration_s, abs=3e-6)
    steps = steps_of(recording)
    assert len(steps) == 9  # from the end of the first to the end of the tenth
    for step in steps:
        assert step.duration_s == pytest.approx(sum(step.host_s.values()))
        assert step.host_s["data"] > 0
    assert recording.facts["loaders"][0]["num_workers"] == 0
    assert recording.facts["loaders"][0]["file"] == __file__
    assert recording.facts["optimizer"]["name"] == "SGD"
    assert recording.facts["model"] == "Sequential"
    assert recording.window_s is not None
    assert recording.end is not None
    assert recording.end["steps"] == 10


def test_a_transform_that_is_a_module_is_no_forward(observer: Any, recorder: Any, tmp_path: Path) -> None:
    class Slow(nn.Module):
        def forward(self, index: int) -> torch.Tensor:
            time.sleep(0.01)
            return torch.full((4,), float(index))

    class Pictures(Dataset):  # type: ignore[type-arg]
        prepare = Slow()

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.prepare(index)  # type: ignore[no-any-return]

    observer.start(recorder)
    observer.apply(recorder)
    train(2)
    for _ in DataLoader(Pictures()):
        pass
    recorder.finish("test")
    seconds = {phase: sum(segment.duration_s for segment in only(tmp_path).segments if segment.phase == phase) for phase in ("data", "forward")}
    assert seconds["data"] > 0.08
    assert seconds["forward"] < seconds["data"]


def test_a_copy_to_another_device_is_a_phase_and_names_its_line(observer: Any, recorder: Any, tmp_path: Path) -> None:
    if not torch.version.cuda:
        pytest.skip("a CPU-only build of torch: no tensor leaves the CPU, and nothing is wrapped for it")
    observer.start(recorder)
    observer.apply(recorder)
    train(2)  # the thread that trains is known from here on
    tensor = torch.ones(8)
    tensor.to("meta")
    tensor.to(torch.device("meta"), non_blocking=True)
    tensor.to(torch.float64)
    tensor.to("cpu")
    recorder.finish("test")
    recording = only(tmp_path)
    copies = [segment for segment in recording.segments if segment.phase == "copy"]
    assert len(copies) == 2
    sites = [recording.sites[copy.site] for copy in copies if copy.site is not None]
    assert {site["file"] for site in sites} == {__file__}
    assert [site["non_blocking"] for site in sites] == [False, True]


def test_what_somebody_else_wrapped_too_stays_and_does_nothing(observer: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    observer.apply(recorder)
    ours = torch.autograd.backward
    monkeypatch.setattr(torch.autograd, "backward", lambda *arguments, **named: ours(*arguments, **named))
    assert recorder.restore() == ["backward"]
    recorder.on = False
    assert len(train(2)) == 2
    setattr(torch.autograd, "backward", ours.__wrapped__)  # noqa: B010 (monkeypatch would put ours back)
    monkeypatch.undo()
    torch.autograd.backward = ours.__wrapped__


def test_a_folder_that_is_not_there_is_said_once_and_the_training_goes_on(observer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = places()
    recorder = observer.Recorder(str(tmp_path / "gone"), 3600.0, 0)
    observer._FLUSH_S = 0.0
    observer.apply(recorder)
    assert len(train(5)) == 5
    recorder.finish("test")
    assert capsys.readouterr().err.count("goes on unobserved") == 1
    assert places() == before


def test_the_persons_own_error_comes_through(observer: Any, recorder: Any) -> None:
    class Fails(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise KeyError("theirs")

    observer.apply(recorder)
    train(2)
    with pytest.raises(KeyError, match="theirs"):
        Fails()(torch.ones(1))
    assert recorder.phase == "other"
    assert len(train(3)) == 3


def test_the_window_ends_by_itself(observer: Any, tmp_path: Path) -> None:
    recorder = observer.Recorder(str(tmp_path), 0.0, 3)
    observer.start(recorder)
    before = places()
    observer.apply(recorder)
    train(20)
    assert not recorder.on
    assert all(before[name] is value or before[name] == value for name, value in places().items() if name not in ("pre", "post"))
    assert only(tmp_path).end["why"] == "window"  # type: ignore[index]
    assert only(tmp_path).end["steps"] == 5  # type: ignore[index] # three of warm-up, two at the least


class FakeEvent:
    """A CUDA event on a stream that works twice as fast as the clock."""

    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        FakeEvent.made += 1
        self.at_ms = 0.0

    def record(self) -> None:
        self.at_ms = 0.5e3 * FakeCuda.clock()

    def query(self) -> bool:
        return True

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.at_ms - self.at_ms


class FakeCuda:
    """What the observer uses of torch.cuda."""

    clock: Any = None
    Event = FakeEvent
    capturing = False

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def memory_stats(self) -> dict[str, int]:
        return {"allocated_bytes.all.current": 100, "allocated_bytes.all.peak": 300, "reserved_bytes.all.peak": 400, "num_alloc_retries": 2}


def test_cuda_events_time_the_stream_and_are_used_again(observer: Any, tmp_path: Path) -> None:
    now = [100.0]
    FakeCuda.clock = staticmethod(lambda: now[0])
    FakeEvent.made = 0
    recorder = observer.Recorder(str(tmp_path), 3600.0, 1, clock=lambda: now[0])
    observer.start(recorder)
    recorder.arm()
    recorder.cuda = FakeCuda()
    for _ in range(40):
        for phase, seconds in (("data", 0.2), ("forward", 0.1), ("backward", 0.2)):
            recorder.enter(phase)
            now[0] += seconds
            recorder.leave()
        recorder.step_done(recorder)
    recorder.finish("test")
    recording = only(tmp_path)
    data = [segment for segment in recording.segments if segment.phase == "data"]
    assert len(data) == 40
    assert all(segment.gpu_s == pytest.approx(0.5 * segment.duration_s, abs=2e-6) for segment in data)
    assert FakeEvent.made < 40  # of 240 that were recorded
    assert recording.memory[0]["peak_allocated_bytes"] == 300
    shares = steps_of(recording)[0].gpu_s
    assert shares is not None
    assert shares["data"] == pytest.approx(0.1, abs=1e-5)


def test_nothing_is_recorded_on_a_stream_that_is_captured(observer: Any, tmp_path: Path) -> None:
    recorder = observer.Recorder(str(tmp_path), 3600.0, 1)
    recorder.arm()
    recorder.cuda = FakeCuda()
    recorder.cuda.capturing = True
    recorder.enter("forward")
    recorder.leave()
    assert [segment[5] for segment in recorder.segments] == [None, None]
    recorder.flush()
    assert not list(tmp_path.glob("*.jsonl"))
    recorder.on = False


def test_an_error_of_cuda_in_our_event_does_not_reach_the_program(observer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = observer.Recorder(str(tmp_path), 3600.0, 1)
    recorder.arm()
    recorder.cuda = FakeCuda()
    recorder.stamp = lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: device-side assert triggered"))
    recorder.enter("forward")
    recorder.leave()
    assert not recorder.on
    assert capsys.readouterr().err.count("device-side assert") == 1


def test_a_forked_child_writes_a_file_of_its_own(observer: Any, recorder: Any, tmp_path: Path) -> None:
    observer.start(recorder)
    observer.apply(recorder)
    train(3)
    recorder.flush()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # OpenMP's threads did not come along
        observer._forked(recorder)
        train(4)
        recorder.finish("exit")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    recorder.finish("test")
    recordings = {recording.start["pid"]: recording for recording in read_recordings(tmp_path)}
    assert set(recordings) == {os.getpid(), child}
    assert recordings[child].end["steps"] == 4  # type: ignore[index]
    assert recordings[os.getpid()].end["steps"] == 3  # type: ignore[index]


def test_the_own_sitecustomize_runs_and_our_folder_leaves_the_path(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.theirs = __file__")
    code = "import sys, sitecustomize as s; print(theirs, s.__file__, [p for p in sys.path if 'injected' in p], 'torch' in sys.modules, sep='\\n')"
    variables = {**os.environ, "PYTHONPATH": f"{ROOM / 'injected'}{os.pathsep}{tmp_path}", "STOKER_DIAGNOSE_FOLDER": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True)
    own = str(tmp_path / "sitecustomize.py")
    assert done.stdout.split("\n")[:4] == [own, own, "[]", "False"]
    assert done.stderr == ""
    assert not list(tmp_path.glob("process-*"))  # torch was not imported


def test_without_an_own_sitecustomize_python_starts_as_ever(tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOM / "injected"), "STOKER_DIAGNOSE_FOLDER": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True, env=variables, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_the_observer_reads_as_python_3_8() -> None:
    import ast

    for file in (ROOM / "observer.py", ROOM / "injected" / "sitecustomize.py"):
        ast.parse(file.read_text(), feature_version=(3, 8))
