"""From written-down segments, stacks and observations to steps, splits, verdicts, text and page; nothing here trains."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.diagnosis.bars import share_bar
from stoker.diagnosis.fixes import at_most, duration, fixes
from stoker.diagnosis.gpus import GpuWatch
from stoker.diagnosis.observation import Breathing, GpuUse, Memory, Observation, Pauses, ProcessUse, Site, Split
from stoker.diagnosis.page import page
from stoker.diagnosis.program import environment, how_ended
from stoker.diagnosis.recording import progress, read_recording, read_recordings
from stoker.diagnosis.split import breathing, split_of
from stoker.diagnosis.stacks import split_of_stacks
from stoker.diagnosis.steps import steps_of
from stoker.diagnosis.summary import summary
from stoker.diagnosis.verdict import judge

LOADER = {"num_workers": 2, "batch_size": 32, "persistent_workers": False, "file": "train.py", "line": 20, "dataset": "Photos"}
SGD = {"name": "SGD", "tensors": 10, "fused": None}
IMAGES = {"batch_shape": [32, 3, 64, 64], "device": "cpu", "loaders": [LOADER], "optimizer": SGD, "threads": 2}


def split(**changes: Any) -> Split:
    """100 steps of 100 ms: 62 % data, 20 forward, 15 backward, 3 optimizer."""
    shares = {"data": 0.62, "copy": 0.0, "forward": 0.2, "backward": 0.15, "optimizer": 0.03, "sync": 0.0, "other": 0.0}
    given = Split(
        pid=10,
        rank=None,
        source="observer",
        steps=100,
        step_s=0.1,
        median_s=0.1,
        samples=0,
        shares=shares,
        gpu_shares=None,
        batch=32,
        data_cpu=0.1,
        breathing=None,
        waits_s=(0.062,) * 100,
        warmup_s=(0.1,),
        pauses=None,
        evaluation_s=0.0,
        observed_s=10.0,
        sites=(),
        facts=IMAGES,
        memory=None,
        cost=0.004,
        typical=((("data", 0.0, 0.062), ("forward", 0.062, 0.038)),),
    )
    return replace(given, **changes)


def use(role: str, cores: float, disk: float = 0.0, pid: int = 10) -> ProcessUse:
    counters = {"read_bytes_s": None, "faults_s": 1.0, "switches_s": 1.0, "rss_bytes": 1, "threads": 4, "busy_threads": 1}
    return ProcessUse(pid=pid, role=role, name="python", cores=cores, disk=disk, **counters)  # type: ignore[arg-type]


def observation(*splits: Split, **changes: Any) -> Observation:
    given = Observation(
        command="python train.py",
        mode="program",
        cores=8,
        seconds=10.0,
        splits=splits,
        processes=(use("training", 0.4), use("worker", 0.95, pid=11), use("worker", 0.95, pid=12)),
        gpus=(),
        blind=(),
        ended=None,
        boost=False,
    )
    return replace(given, **changes)


def shares(**given: float) -> dict[str, float]:
    return {"data": 0.0, "copy": 0.0, "forward": 0.0, "backward": 0.0, "optimizer": 0.0, "sync": 0.0, "other": 0.0, **given}


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_starving_workers_are_said_in_one_sentence_with_both_rates() -> None:
    found = judge(observation(split()))
    assert found.bottleneck == "data"
    assert found.sentence == "62 % of each step waits for data: the loader's 2 workers give 320 images/s, and the rest of the step could take 842."
    first = found.fixes[0]
    assert first.where == "train.py:20"
    assert "num_workers=6" in first.what  # 2 / (1 - 0.62) = 5.3
    assert first.gain == pytest.approx(1 / 0.38)
    assert first.bound


def test_more_workers_gain_no_more_than_their_share() -> None:
    found = fixes(observation(split(), cores=4, processes=(use("training", 0.4), use("worker", 1.0), use("worker", 1.0))), split())
    # 1.6 cores are free, so one worker more: the step is then bound by 3 workers in the place of 2.
    assert "num_workers=3" in found[0].what
    assert found[0].gain == pytest.approx(1 / (2 / 3))


def test_workers_that_fill_every_core_need_cheaper_samples_not_more_workers() -> None:
    found = fixes(observation(split(), cores=2, processes=(use("training", 0.3), use("worker", 0.85), use("worker", 0.85))), split())
    assert "cheaper" in found[0].what
    assert not any("num_workers" in fix.what for fix in found)


def test_workers_that_wait_for_the_disk() -> None:
    found = fixes(observation(split(), processes=(use("training", 0.3), use("worker", 0.1, disk=0.8), use("worker", 0.1, disk=0.6))), split())
    assert "the workers wait for the disk 70 % of the time" in found[0].what


def test_no_workers_is_loading_in_the_training_process() -> None:
    one = split(facts={**IMAGES, "loaders": [{**LOADER, "num_workers": 0}]}, data_cpu=0.0)
    found = judge(observation(one))
    assert "(num_workers=0), makes 516 images/s and the rest of the step takes 842, one after the other: 320 in all" in found.sentence
    assert "DataLoader(num_workers=2)" in found.fixes[0].what
    assert found.fixes[0].gain == pytest.approx(1 / 0.38)


def test_loading_that_computes_cannot_beat_the_cores() -> None:
    one = split(facts={**IMAGES, "loaders": [{**LOADER, "num_workers": 0}]}, data_cpu=1.0)
    found = fixes(observation(one, cores=2, processes=(use("training", 1.6),)), one)
    assert found[0].gain == pytest.approx(1 / 0.8)  # 1.6 cores' work on 2
    assert "1.6 cores' work on 2" in found[0].formula


def test_a_training_that_computes_is_left_in_peace() -> None:
    found = judge(observation(split(shares=shares(data=0.01, forward=0.5, backward=0.47, optimizer=0.02))))
    assert found.bottleneck == "compute"
    assert "nothing outside of them can gain more than 1.03 x" in found.sentence
    assert not [fix for fix in found.fixes if fix.gain is not None]


def test_waiting_that_the_gpu_does_not_feel_is_no_waiting() -> None:
    hidden = split(gpu_shares=shares(data=0.01, forward=0.4, backward=0.57, optimizer=0.02))
    assert judge(observation(hidden)).bottleneck == "compute"


def test_reading_the_loss_in_every_step_is_named_by_its_line_and_bounded_by_the_idle_gpu() -> None:
    site = Site(what=".item()", phase="sync", file="train.py", line=41, per_step=1.0, share=0.4, pinned=None, non_blocking=None)
    one = split(
        shares=shares(forward=0.3, backward=0.2, optimizer=0.1, sync=0.4),
        gpu_shares=shares(forward=0.5, backward=0.2, optimizer=0.1, other=0.2),
        sites=(site,),
        facts={**IMAGES, "device": "cuda"},
    )
    busy = GpuUse(index=0, name="GPU", busy=0.75, low=0.2, memory_used_bytes=None, series=((0.0, 0.75), (1.0, 0.75)))
    fix = next(fix for fix in fixes(observation(one, gpus=(busy,)), one) if ".item()" in fix.what)
    assert fix.where == "train.py:41"
    assert fix.gain == pytest.approx(1 / 0.75)  # 40 % waiting, but the GPU was idle for 25 % only
    rare = replace(one, sites=(replace(site, per_step=0.02),))
    assert not [fix for fix in fixes(observation(rare), rare) if ".item()" in fix.what]


def test_a_gpu_that_idles_between_kernels_is_not_called_full() -> None:
    busy = GpuUse(index=0, name="GPU", busy=0.5, low=0.2, memory_used_bytes=None, series=())
    one = split(shares=shares(forward=0.5, backward=0.5), gpu_shares=shares(forward=0.5, backward=0.5))
    found = judge(observation(one, gpus=(busy,)))
    assert found.bottleneck == "launch"
    assert found.sentence.startswith("The GPU is idle 50 % of the time")
    assert found.fixes[0].gain == pytest.approx(2.0)
    full = judge(observation(one, gpus=(replace(busy, busy=0.97),)))
    assert full.bottleneck == "compute"
    waiting = replace(one, shares=shares(forward=0.3, backward=0.3, sync=0.4))
    assert judge(observation(waiting, gpus=(busy,))).bottleneck == "sync"


def test_pageable_copies_name_what_is_missing() -> None:
    site = Site(what=".to()", phase="copy", file="train.py", line=30, per_step=1.0, share=0.2, pinned=False, non_blocking=False)
    one = split(shares=shares(copy=0.2, forward=0.8), gpu_shares=shares(copy=0.25, forward=0.75), sites=(site,))
    fix = next(fix for fix in fixes(observation(one), one) if fix.where == "train.py:30")
    assert "pin_memory=True" in fix.what
    assert "non_blocking=True" in fix.what
    assert fix.gain == pytest.approx(1 / 0.75)
    good = replace(one, sites=(replace(site, pinned=True, non_blocking=True),))
    assert not [fix for fix in fixes(observation(good), good) if fix.where == "train.py:30"]


def test_a_heavy_optimizer_and_one_that_is_fused_already() -> None:
    one = split(shares=shares(forward=0.3, backward=0.2, optimizer=0.5))
    found = judge(observation(one))
    assert found.bottleneck == "optimizer"
    assert found.fixes[0].what.startswith("SGD(fused=True)")
    assert found.fixes[0].gain == pytest.approx(2.0)
    fused = replace(one, facts={**IMAGES, "optimizer": {"name": "SGD", "fused": True}})
    assert not [fix for fix in fixes(observation(fused), fused) if "fused" in fix.what]


def test_threads_that_get_in_each_others_way_have_no_computed_gain() -> None:
    one = split(facts={**IMAGES, "threads": 64})
    fix = next(fix for fix in fixes(observation(one), one) if "OMP_NUM_THREADS=8" in fix.what)
    assert fix.gain is None
    slow = split(shares=shares(forward=0.4, backward=0.6), facts={**IMAGES, "threads": 4})
    assert any("4 threads use 1.0 cores" in fix.what for fix in fixes(observation(slow, processes=(use("training", 1.0),)), slow))
    assert not any("OMP" in fix.what for fix in fixes(observation(slow, processes=(use("training", 3.6),)), slow))
    on_gpu = replace(slow, facts={**slow.facts, "device": "cuda"})
    assert not any("OMP" in fix.what for fix in fixes(observation(on_gpu, processes=(use("training", 1.0),)), on_gpu))


def test_worker_start_and_evaluation_count_against_the_whole_time() -> None:
    one = split(shares=shares(forward=0.5, backward=0.5), pauses=Pauses(count=3, seconds=2.0, chief="data"), evaluation_s=4.0)
    by_what = {fix.what.split(":")[0]: fix.gain for fix in fixes(observation(one), one) if fix.gain}
    assert by_what["persistent_workers=True"] == pytest.approx(1 / 0.8)
    assert by_what["evaluate half as often"] == pytest.approx(1 / 0.8)


def test_boost_is_named_only_where_it_is_a_command() -> None:
    assert not [fix for fix in fixes(observation(split()), split()) if "boost" in fix.what]
    assert [fix for fix in fixes(observation(split(), boost=True), split()) if "stoker boost -- python train.py" in fix.what]


def test_the_rank_that_waits_is_the_one_that_is_judged() -> None:
    calm = split(pid=1, rank=0, shares=shares(data=0.02, forward=0.3, backward=0.68))
    found = judge(observation(calm, split(pid=2, rank=1)))
    assert found.sentence.startswith("62 % of each step waits for data")
    assert any("rank 0 2 %, rank 1 62 %" in note for note in found.notes)


def test_memory_notes_come_from_the_counters() -> None:
    gib = 2**30
    memory = Memory(
        rss_bytes=gib,
        peak_allocated_bytes=8 * gib,
        peak_reserved_bytes=10 * gib,
        steady_allocated_bytes=4 * gib,
        reserved_bytes=10 * gib,
        inactive_split_bytes=3 * gib,
        alloc_retries=2,
        series=(),
    )
    facts = {**IMAGES, "cudnn_benchmark": True, "device": "cuda"}
    notes = " / ".join(judge(observation(split(memory=memory, facts=facts, warmup_s=(3.0, 0.1)))).notes)
    for said in (
        "8.00 GiB at most, the allocator held 10.00 GiB",
        "emptied its cache 2 times",
        "fragmented: 3.00 GiB",
        "the peak is 4.00 GiB above",
        "3 s in the place of 100 ms",
    ):
        assert said in notes


@pytest.mark.parametrize("mode", ["program", "process"])
def test_without_a_split_it_says_what_it_did_not_see(mode: str) -> None:
    found = judge(observation(mode=mode, processes=(), blind=("py-spy is not installed",)))
    assert found.bottleneck == "unknown"
    assert not found.fixes
    assert "py-spy is not installed" in found.notes
    busy = judge(observation(mode=mode, cores=2, processes=(use("training", 1.95),)))
    assert ("CPU is the limit" in busy.sentence) == (mode == "process")


def test_the_numbers_that_carry_the_gains() -> None:
    assert at_most(0.5) == 2.0
    assert at_most(1.0) == 1000.0  # finite
    assert [duration(seconds) for seconds in (0.0123, 1.5, 4.2e-5, 0.9999)] == ["12.3 ms", "1.5 s", "42 us", "1 s"]


# --- steps ----------------------------------------------------------------------------------------------------------


def written(folder: Path, rows: list[list[Any]], **more: Any) -> Path:
    """Write a recording; rows are [phase, milliseconds] or [phase, milliseconds, site, gpu milliseconds], or ["step", optimizer]."""
    at, segments = 1_000_000, []
    for phase, value, *rest in rows:
        if phase == "step":
            segments.append(["step", at, 0, None, value, None])
            continue
        site, gpu = [*rest, None, None][:2]
        segments.append([phase, at, round(1000 * value), None if gpu is None else round(1000 * gpu), site, None])
        at += round(1000 * value)
    lines = [{"kind": "start", "pid": 7, "clock_s": 0.0}, {"kind": "facts", "optimizer": {}, **more}, {"kind": "segments", "v": segments}]
    path = folder / "process-7.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"kind": "segm')  # cut off in the middle
    return path


def steps(folder: Path, rows: list[list[Any]]) -> list[Any]:
    recording = read_recording(written(folder, rows))
    assert recording is not None
    return steps_of(recording)


def test_the_loss_counts_as_forward_and_the_observer_as_nothing(tmp_path: Path) -> None:
    one = [["data", 5], ["other", 1], ["forward", 10], ["other", 2], ["backward", 20], ["other", 3], ["optimizer", 4], ["step", 0], ["observer", 50]]
    (step,) = steps(tmp_path, [["step", 0], *one])
    assert step.host_s == pytest.approx({**shares(data=0.005, forward=0.012, backward=0.02, optimizer=0.004, other=0.004), "evaluation": 0})
    (_, second) = steps(tmp_path, [["step", 0], *one, *one])
    assert second.observer_s == pytest.approx(0.05)
    assert second.duration_s == pytest.approx(0.045)


def test_two_optimizers_make_one_step(tmp_path: Path) -> None:
    first = [["data", 1], ["forward", 1], ["backward", 1], ["optimizer", 1], ["step", 0]]
    round_ = [*first, ["forward", 2], ["backward", 2], ["optimizer", 2], ["step", 1]]
    found = steps(tmp_path, round_ * 5)
    assert len(found) == 4
    assert all(step.duration_s == pytest.approx(0.010) for step in found)


def test_the_optimizer_that_steps_most_marks_the_steps(tmp_path: Path) -> None:
    found = steps(tmp_path, [["forward", 1], ["step", 0], *([["forward", 1], ["optimizer", 1], ["step", 1]] * 6)])
    assert len(found) == 5


def test_without_a_loader_what_comes_before_the_forward_is_data(tmp_path: Path) -> None:
    (step,) = steps(tmp_path, [["step", 0], ["other", 30], ["forward", 10], ["backward", 10], ["other", 5], ["step", 0]])
    assert step.host_s["data"] == pytest.approx(0.030)
    assert step.host_s["other"] == pytest.approx(0.005)


def test_a_forward_without_gradients_is_an_evaluation_unless_every_step_has_one(tmp_path: Path) -> None:
    plain, with_it = [["forward", 10], ["step", 0]], [["evaluation", 500], ["forward", 10], ["step", 0]]
    rare = steps(tmp_path, [["step", 0], *plain, *plain, *with_it, *plain])
    assert [step.evaluates for step in rare] == [False, False, True, False]
    teacher = steps(tmp_path, [["step", 0], *with_it, *with_it, *with_it])
    assert not any(step.evaluates for step in teacher)
    assert teacher[0].host_s["forward"] == pytest.approx(0.51)


def test_pauses_are_taken_out_of_the_split_and_told(tmp_path: Path) -> None:
    rows = [["step", 0], *([["data", 5], ["forward", 5], ["step", 0]] * 20), ["data", 900], ["forward", 5], ["step", 0]]
    recording = read_recording(written(tmp_path, rows))
    assert recording is not None
    found = split_of(recording)
    assert found is not None
    assert found.pauses == Pauses(count=1, seconds=pytest.approx(0.905), chief="data")
    assert found.step_s == pytest.approx(0.010)
    assert math.isclose(sum(found.shares.values()), 1.0)


def test_garbage_in_a_recording_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "process-3.jsonl"
    for text in ("", "{", "[1,2]\nnull\n", '{"kind": "segments", "v": [1]}', "\0\xff" * 50):
        path.write_text(text)
        assert read_recording(path) is None
    rows = '[["data"], [1,2,3], ["data", null, 3], ["data", 1e999, 3], ["data", 1, -3], {}]'
    path.write_text('{"kind": "start", "pid": "x"}\n{"kind": "segments", "v": ' + rows + "}\n")
    (recording,) = read_recordings(tmp_path)
    assert recording.segments == ()
    assert split_of(recording) is None
    assert progress(tmp_path) == (0, 0)
    assert progress(tmp_path / "gone") == (0, 0)


def test_waiting_in_bursts_has_the_period_of_the_workers() -> None:
    found = breathing([0.04, 0.0, 0.0, 0.001] * 20)
    assert found is not None
    assert found.period_steps == 4
    assert found.variation > 1
    even = breathing([0.01, 0.0101] * 20)
    assert even is not None
    assert even.period_steps is None
    assert breathing([0.0] * 50) is None
    assert breathing([0.1] * 3) is None
    notes = judge(observation(split(breathing=Breathing(variation=1.2, period_steps=2)))).notes
    assert any("it breathes" in note and "the batches of 2 workers arrive together" in note for note in notes)


# --- stacks, gpus, text, page ---------------------------------------------------------------------------------------

TORCH = "/env/lib/python3.11/site-packages/torch"
STACKS = f"""thread (0x1): MainThread;main (/home/me/train.py:10);__next__ ({TORCH}/utils/data/dataloader.py:7);get (/usr/lib/python3.11/q.py:1) 60
thread (0x1): MainThread;main (/home/me/train.py:12);_call_impl ({TORCH}/nn/modules/module.py:9);relu ({TORCH}/nn/functional.py:1) 10
thread (0x1): MainThread;main (/home/me/train.py:13);backward ({TORCH}/_tensor.py:6);backward ({TORCH}/autograd/__init__.py:3) 15
thread (0x1): MainThread;main (/home/me/train.py:14);wrapper ({TORCH}/optim/optimizer.py:5);step ({TORCH}/optim/adam.py:2) 5
thread (0x1): MainThread;main (/home/me/train.py:15) 10
thread (0x2): pin;run (/usr/lib/python3.11/threading.py:9);_pin_memory_loop ({TORCH}/utils/data/_utils/pin_memory.py:30) 90
garbage
;;; 4
"""


def test_a_transform_that_is_a_module_is_no_forward() -> None:
    inside = f"fetch ({TORCH}/utils/data/_utils/fetch.py:5);prepare (/home/me/train.py:3);_call_impl ({TORCH}/nn/modules/module.py:9)"
    found = split_of_stacks(7, f"thread (0x1): MainThread;main (/home/me/train.py:10);{inside} 5", gpu=False)
    assert found is not None
    assert found.shares["data"] == 1.0
    assert found.sites[0].line == 10


def test_stacks_are_sorted_into_phases() -> None:
    found = split_of_stacks(7, STACKS, gpu=True, line_of=lambda file, line: "total += loss.item()" if line == 15 else "")
    assert found is not None
    assert found.samples == 100
    assert found.shares == pytest.approx(shares(data=0.6, forward=0.1, backward=0.15, optimizer=0.05, sync=0.1))
    assert [(site.phase, site.file, site.line) for site in found.sites] == [("data", "/home/me/train.py", 10), ("sync", "/home/me/train.py", 15)]
    cpu = split_of_stacks(7, STACKS, gpu=False, line_of=lambda file, line: "total += loss.item()")
    assert cpu is not None
    assert cpu.shares["other"] == pytest.approx(0.1)  # nothing to wait for without a GPU
    assert split_of_stacks(7, "", gpu=False) is None
    assert split_of_stacks(7, "thread (1): x;f (a.py:1) 5", gpu=False) is None


class FakeNvml:
    """Two GPUs, of which one is lost."""

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            raise RuntimeError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"Fake 9000"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return "GPU-1-2"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return type("Rates", (), {"gpu": 25})

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        raise RuntimeError("not supported")


def test_a_lost_gpu_and_a_refused_reading_leave_the_rest() -> None:
    watch = GpuWatch(nvml=FakeNvml())
    watch.open()
    assert watch.there
    for _ in range(4):
        watch.look()
    (found,) = watch.uses(["1-2"])
    assert (found.name, found.busy, found.low, found.memory_used_bytes) == ("Fake 9000", 0.25, 1.0, None)
    nothing = GpuWatch(nvml=object())
    nothing.open()
    nothing.look()
    assert not nothing.there
    assert nothing.uses([]) == ()


def test_the_text_holds_the_split_and_the_fixes() -> None:
    seen = observation(split(), ended="exit status 3")
    text = "\n".join(summary(seen, judge(seen)))
    assert "waiting for data     62.0 %    62 ms" in text
    assert "train.py:20: DataLoader(num_workers=6)" in text
    assert "at most 2.63 x" in text
    assert "The program ended while it was observed: exit status 3." in text


def test_the_page_loads_nothing_and_escapes_what_strangers_wrote() -> None:
    evil = "<script>alert(1)</script>"
    sites = (Site(what=evil, phase="sync", file=evil, line=1, per_step=1.0, share=0.5, pinned=None, non_blocking=None),)
    gpu = GpuUse(index=0, name=evil, busy=0.5, low=0.5, memory_used_bytes=1, series=((0.0, 0.1), (1.0, 0.9)))
    seen = observation(split(sites=sites, gpu_shares=shares(data=0.5, forward=0.5)), command=evil, gpus=(gpu,), blind=(evil,))
    html = page(seen, judge(seen))
    assert "<script" not in html
    assert "http:" not in html.replace("http://www.w3.org", "")
    assert html.count('class="bar"') == 3  # mean step, GPU stream, one typical step
    assert "{{" not in html
    for empty in (observation(processes=()), observation(processes=(), mode="process", blind=(evil,))):
        assert "<h1>" in page(empty, judge(empty))


def test_a_bar_has_letters_where_there_is_room_and_a_text_for_each_piece() -> None:
    bar = share_bar("x", shares(data=0.9, forward=0.02, backward=0.08))
    assert ">D</text>" in bar
    assert ">F</text>" not in bar
    assert "forward and loss: 2.0 %" in bar


def test_the_environment_keeps_the_persons_path() -> None:
    outer = {"PYTHONPATH": "/mine", "HOME": "/h"}
    found = environment(outer, Path("/raw"), 20.0, 5)
    assert found["PYTHONPATH"].endswith("injected:/mine")
    assert found["HOME"] == "/h"
    assert not environment({}, Path("/raw"), 1, 1)["PYTHONPATH"].endswith(":")  # an empty entry would mean the working directory
    assert [how_ended(3), how_ended(-9), how_ended(-199)] == ["exit status 3", "signal SIGKILL", "signal 199"]
