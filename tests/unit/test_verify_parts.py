"""The parts of `stoker verify` that gather: real computations on the CPU, and fakes for GPUs, full disks and dying processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stoker import shell
from stoker.bench import compiled, handshake, loaders, machine, neighbours, photos, products, ranks, verification
from stoker.bench.ceilings import Ceilings, precisions
from stoker.bench.compute import RESNET, better_of, with_ceiling
from stoker.bench.feeding import _best_workers, copies
from stoker.bench.lock import lock_reading
from stoker.bench.plan import plan_for
from stoker.bench.readings import Device, Neighbours, Reading
from stoker.bench.resnet import resnet50
from stoker.bench.rounds import fitting
from stoker.bench.switches import kept_switches, set_tf32
from stoker.bench.verdicts import judge_handshake
from stoker.bench.work import work_of
from stoker.errors import BadValue, DiskFull, NoGpu
from stoker.host import Container, Driver, Host, Limits
from tests.conftest import need

CPU = torch.device("cpu")
ABOUT = Device(kind="cpu", index=0, name="A CPU", memory_bytes=2**34, capability=None, cores=2, threads=2, model=None, sheet={}, sheet_source="")


def host(cards: int = 0, nodes: int = 0, container: Container | None = None) -> Host:
    limits = Limits(cores=2, memory_total_bytes=2**34, memory_limit_bytes=None, shared_memory_bytes=2**30)
    driver = Driver(version=None, cards=cards, nodes=nodes)
    return Host(hostname="h", system="s", kernel="k", architecture="x86_64", cpu="A CPU", limits=limits, driver=driver, gpus=(), container=container)


# --- the handshake finds wrong numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("operation", [products.kernel, products.matrix, products.convolution])
def test_a_machine_that_computes_right_is_within_what_rounding_allows(operation: Callable[..., Any], precision: str) -> None:
    assert products.worst_error(operation, precision, CPU) <= products.tolerance(operation, precision) / 2


def broken_convolution(damage: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A convolution that is right in float64, as the reference is, and damaged in every other precision."""
    right = torch.nn.functional.conv2d

    def convolve(images: torch.Tensor, weights: torch.Tensor, **more: Any) -> torch.Tensor:
        out = right(images, weights, **more)
        return out if images.dtype == torch.float64 else damage(out)

    return convolve


def one_number_off(out: torch.Tensor) -> torch.Tensor:
    off = torch.zeros_like(out)
    off[-1, -1, -1, -1] = 10.0
    return out + off


DAMAGES = {
    "zeros": lambda out: out * 0,
    "another order of channels": lambda out: out.flip(1),
    "not a number": lambda out: out + float("nan"),
    "one number": one_number_off,
    "two percent": lambda out: out * 1.02,
}


FINE = [(damage, precision) for damage in DAMAGES for precision in ("fp32", "bf16") if (damage, precision) != ("two percent", "bf16")]
"""bfloat16 itself may be off by two percent."""


@pytest.mark.parametrize(("damage", "precision"), FINE)
def test_a_convolution_that_is_wrong_is_found(damage: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "conv2d", broken_convolution(DAMAGES[damage]))
    reading = handshake.tried(products.convolution, precision, CPU, "handshake.convolution.x", "Convolution")
    assert judge_handshake([reading]).verdict == "wrong"


def test_gradients_that_are_wrong_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.autograd.grad

    def grad(out: torch.Tensor, inputs: Any, gradient: torch.Tensor) -> Any:
        found = right(out, inputs, gradient)
        return found if out.dtype == torch.float64 else (found[0], found[1].flip(0))

    monkeypatch.setattr(torch.autograd, "grad", grad)
    reading = handshake.tried(products.convolution, "fp32", CPU, "handshake.convolution.x", "Convolution")
    assert judge_handshake([reading]).verdict == "wrong"


def test_a_device_on_which_no_kernel_runs_ends_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: Any) -> float:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(products, "worst_error", dead)
    found = verification.verify(device="cpu", quick=True)
    assert [check.verdict for check in found.checks] == ["wrong", "skipped", "skipped"]
    assert "no kernel image" in found.checks[0].sentence
    assert "--why cuda" in found.checks[0].hint
    assert found.exit_code == 2


# --- all-reduce -------------------------------------------------------------------------------------------------------


def outcome(code: int | None, out: str = "", err: str = "") -> shell.Outcome:
    return shell.Outcome(command="c", code=code, out=out, err=err)


EMPTY = Reading(name="handshake.all_reduce", title="All-reduce", unit="error", ceiling=0.0)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (outcome(-11, "", "Fatal Python error: Segmentation fault"), "rank 1 died with signal 11"),
        (outcome(None, "", "no answer within 60 s"), "rank 1 gave no answer: no answer within 60 s"),
        (outcome(1, "", "Traceback\n  File x\nRuntimeError: NCCL error: unhandled system error\n  more"), "RuntimeError: NCCL error"),
        (outcome(0, "not json\n"), "rank 1 failed"),
    ],
)
def test_a_rank_that_dies_or_hangs_is_an_answer(second: shell.Outcome, said: str) -> None:
    reading = ranks.judged(EMPTY, [outcome(0, '{"ok": true, "wrong": 0, "rate": null}'), second])
    assert said in reading.failed
    assert judge_handshake([reading]).verdict == "wrong"


def test_wrong_sums_of_any_rank_count() -> None:
    reading = ranks.judged(EMPTY, [outcome(0, '{"wrong": 0, "rate": 3e9}'), outcome(0, 'noise\n{"wrong": 7, "rate": 2e9}')])
    assert (reading.value, reading.facts["bus_GB_s"]) == (7.0, 2.0)
    assert judge_handshake([reading]).verdict == "wrong"


def test_gloo_over_two_processes_adds_up_here() -> None:
    reading = ranks.all_reduce(CPU)
    assert (reading.value, reading.failed, reading.facts) == (0.0, "", {"ranks": 2})


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_outside_a_container_or_a_stoker_image_the_lock_is_skipped(tmp_path: Path) -> None:
    assert lock_reading(None, tmp_path).skipped == "not inside a container"
    assert "not made by Stoker" in lock_reading(Container(engine="docker", image_digest=None), tmp_path).skipped


@pytest.mark.parametrize(
    ("installed", "failed"),
    [
        ({"torch": "2.13.0+cu130", "nvidia-x": "1.0"}, ""),
        ({"torch": "2.12.0", "nvidia-x": "1.0"}, "torch is 2.12.0, locked 2.13.0"),
        ({"nvidia-x": "1.0"}, "torch 2.13.0 is missing"),
    ],
)
def test_versions_are_held_against_the_lock(installed: dict[str, str], failed: str, tmp_path: Path) -> None:
    path = tmp_path / "etc/stoker/lock.txt"
    path.parent.mkdir(parents=True)
    path.write_text("# stack: x\ntorch==2.13.0 \\\n    --hash=sha256:00\nNVIDIA_x==1.0\ncolorama==1.0 ; sys_platform == 'win32' \\\n")
    reading = lock_reading(Container(engine="docker", image_digest=None), tmp_path, installed)
    assert reading.failed == failed
    assert bool(reading.value) == (not failed)


# --- which device -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "mps", "cpu:0", "cuda:99999"])
def test_a_device_that_is_no_device_is_refused(word: str) -> None:
    with pytest.raises(BadValue):
        machine.chosen(word)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoGpu, match="can use no GPU"):
        machine.chosen("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(NoGpu, match="sees 2 GPUs"):
        machine.chosen("cuda:2")
    assert machine.chosen(None) == torch.device("cuda", 0)


def test_a_gpu_that_lies_idle_for_want_of_cuda_is_said_unless_the_cpu_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in machine.unused_gpu(CPU, None, host(cards=1))
    assert machine.unused_gpu(CPU, "cpu", host(cards=1)) == ""
    assert machine.unused_gpu(CPU, None, host()) == ""


class FakeNvml:
    """NVML with one GPU in a slot of generation 4, width 8, that another process uses."""

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return b"GPU-1234-5678"

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: int) -> int:
        return 4

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: int) -> int:
        return 8

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return types.SimpleNamespace(gpu=40)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [types.SimpleNamespace(pid=os.getpid()), types.SimpleNamespace(pid=2**22 + 1)]


def with_gpu(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], nvml: Any) -> torch.device:
    found = types.SimpleNamespace(name=name, total_memory=80 * 2**30, major=capability[0], minor=capability[1], uuid="1234-5678")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return torch.device("cuda", 0)


def test_a_gpu_gets_its_peaks_from_the_catalogue_and_its_link_from_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    device = with_gpu(monkeypatch, "NVIDIA H100 80GB HBM3", (9, 0), FakeNvml())
    about = machine.described(device, host())
    assert about.sheet["link"] == pytest.approx(8 * 1.969e9)
    assert about.sheet["bandwidth"] > 3e12
    assert about.sheet["bf16"] == pytest.approx(989e12, rel=0.01)
    assert "checked" in about.sheet_source


def test_a_slice_of_a_gpu_and_an_unknown_one_have_no_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA Graphics Device"):
        about = machine.described(with_gpu(monkeypatch, name, (9, 0), None), host())  # and no NVML
        assert (about.model, about.sheet) == (None, {})


@pytest.mark.parametrize(
    ("capability", "usable"),
    [((9, 0), ["fp32", "tf32", "bf16"]), ((8, 0), ["fp32", "tf32", "bf16"]), ((7, 5), ["fp32", "fp16"]), ((7, 0), ["fp32", "fp16"])],
)
def test_a_gpu_is_only_asked_for_what_it_has(capability: tuple[int, int], usable: list[str]) -> None:
    about = replace(ABOUT, kind="cuda", capability=capability)
    for quick in (False, True):
        found = [name for name, reason in precisions(about, plan_for("cuda", quick=quick)).items() if not reason]
        assert found == (usable if not quick or capability < (8, 0) else usable[1:])


def test_who_else_uses_the_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    device = with_gpu(monkeypatch, "NVIDIA H100 80GB HBM3", (9, 0), FakeNvml())
    start = neighbours.look(device)
    assert start.gpu_processes == (f"process {2**22 + 1} (of another container or user)",)
    said = " ".join(neighbours.disturbances(neighbours.neighbours(start)))
    assert "Other processes hold the GPU" in said
    assert "40% busy" in said


def test_an_nvml_that_fails_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(FakeNvml):
        def nvmlDeviceGetUUID(self, handle: int) -> bytes:
            raise OSError("GPU is lost")

    device = with_gpu(monkeypatch, "NVIDIA H100 80GB HBM3", (9, 0), Lost())
    assert (neighbours.look(device).gpu_busy, machine.described(device, host()).sheet.get("link")) == (None, None)


def test_a_busy_and_a_stolen_cpu_are_said() -> None:
    busy = Neighbours(load=2.0, others_cores=0.9, stolen_cores=0.4, machine_cores=2, busiest=("python",), gpu_processes=(), gpu_busy=None)
    said = neighbours.disturbances(busy)
    assert "0.9 of 2 cores busy" in said[0]
    assert "python" in said[0]
    assert "steal time" in said[1]
    quiet = replace(busy, others_cores=0.05, stolen_cores=None)
    assert neighbours.disturbances(quiet) == []


def test_patience_waits_for_quiet_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = [0.0], iter([1.5, 1.5, 0.0, 2.0, 2.0])

    def others() -> float:
        clock[0] += 0.5
        return next(seen)

    monkeypatch.setattr(neighbours.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(neighbours, "_others_cores", others)
    monkeypatch.setattr(neighbours.psutil, "cpu_count", lambda: 2)
    patience = neighbours.Patience(2.0)
    patience.wait()
    assert (clock[0], patience.left_s) == (1.5, 1.0)  # two busy looks, one quiet one
    patience.wait()
    assert patience.left_s == 0.0
    patience.wait()  # none left: it does not even look
    assert clock[0] == 2.5


def test_of_two_measurements_of_the_same_work_the_better_counts() -> None:
    def pool(value: float | None, batch: int = 32) -> Reading:
        return Reading(name="compute.pool.fp32.contiguous", title="p", unit="GB/s", value=value, facts={"batch": batch})

    assert better_of([pool(1.0)], [pool(2.0)])[0].value == 2.0
    assert better_of([pool(2.0)], [pool(1.0)])[0].value == 2.0
    assert better_of([pool(1.0)], [pool(2.0, batch=8)])[0].value == 1.0
    assert better_of([pool(1.0)], [pool(None)])[0].value == 1.0


# --- work and rounds --------------------------------------------------------------------------------------------------


def test_the_network_is_resnet_50() -> None:
    pytest.importorskip("torchvision")
    from torchvision.models import resnet50 as torchvisions

    with torch.device("meta"):
        ours, theirs = resnet50(), torchvisions()
    shapes = [sorted(tuple(parameter.shape) for parameter in model.parameters()) for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert RESNET.parameters == 25_557_032
    # torchvision's own count for these weights: 4.089 GMACs (its documentation says GFLOPS).
    assert RESNET.forward_flops == pytest.approx(2 * 4.089e9, rel=1e-3)


def test_flops_and_bytes_of_a_convolution_by_hand() -> None:
    work = work_of(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1)), 10)
    first, second = 2 * 27 * 8 * 100, 2 * 8 * 4 * 100
    assert work.forward_flops == first + second
    assert work.training_flops == 2 * first + 3 * second
    # Bandwidth without end: only FLOPs count; the rate of 1 FLOP/s makes seconds of them.
    assert work.training_s(2, number_bytes=4, flops_s=1.0, bytes_s=1e30) == pytest.approx(2 * work.training_flops)
    numbers = (300 + 800) * 2 + (800 + 400) * 3
    assert work.training_s(1, number_bytes=2, flops_s=1e30, bytes_s=1.0) == pytest.approx(2 * numbers + 20 * work.parameters)


def test_a_workload_cannot_be_above_its_ceiling_when_it_takes_the_least_time() -> None:
    def measured(name: str, value: float, unit: str) -> Reading:
        return Reading(name=name, title=name, unit=unit, value=value)

    found = Ceilings(readings=(measured("compute.bandwidth.copy", 40.0, "GB/s"), measured("compute.matrix.fp32.mm", 0.5, "TFLOP/s")))
    least_s = RESNET.training_s(8, number_bytes=4, flops_s=0.5e12, bytes_s=40e9)
    reading = Reading(
        name="compute.resnet50.fp32.contiguous",
        title="r",
        unit="TFLOP/s",
        value=8 * RESNET.training_flops / least_s / 1e12,
        facts={"batch": 8, "precision": "fp32"},
    )
    assert with_ceiling(reading, found).share == pytest.approx(1.0)
    assert with_ceiling(reading, Ceilings(readings=())).ceiling is None


def test_memory_that_runs_out_halves_the_batch() -> None:
    tried = []

    def attempt(batch: int) -> str:
        tried.append(batch)
        if batch > 20:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB") if batch > 60 else torch.cuda.OutOfMemoryError("no")
        return "fits"

    assert fitting(128, 2, attempt, CPU) == (16, "fits")
    assert tried == [128, 64, 32, 16]
    with pytest.raises(MemoryError, match="not even a batch of 32"):
        fitting(128, 32, attempt, CPU)


def test_other_errors_are_not_taken_for_memory_and_end_only_their_part() -> None:
    def attempt(batch: int) -> str:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")

    with pytest.raises(RuntimeError, match="cuDNN"):
        fitting(8, 2, attempt, CPU)
    found = verification._part("compute.pool", "Pool", lambda: [Reading(name="x", title=str(attempt(1)))], CPU)
    assert (found[0].name, found[0].failed) == ("compute.pool.failed", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")


def test_switches_and_random_numbers_are_afterwards_as_before() -> None:
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.get_num_threads())
    random = torch.get_rng_state()

    def meddle() -> None:
        with kept_switches():
            set_tf32(not before[0])
            torch.backends.cudnn.benchmark = not before[1]
            torch.set_num_threads(1)
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        meddle()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.get_num_threads()) == before
    assert torch.equal(torch.get_rng_state(), random)


# --- feeding ----------------------------------------------------------------------------------------------------------


def test_photos_are_photos_and_the_same_every_time(tmp_path: Path) -> None:
    paths = photos.write_photos(tmp_path, 3)
    sizes = [Path(path).stat().st_size for path in paths]
    assert all(90_000 < size < 130_000 for size in sizes)
    with Image.open(paths[2]) as image:
        assert image.size == (375, 500)
        assert 20 < float(np.asarray(image, np.float32).std()) < 110
    assert photos.photo(0) == Path(paths[0]).read_bytes()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull):
        photos.write_photos(tmp_path, 1)


def test_workers_that_shared_memory_cannot_hold_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Any:
        raise AssertionError("started all the same")

    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=64 * 2**20))
    candidates = {2: loaders.Loader(title="two", start=never, workers=2, ahead=4)}
    loader, why = _best_workers(candidates, CPU, plan_for("cpu", quick=True))
    assert loader is None
    assert why == "/dev/shm has 67 MB free; 2 workers can fill 270 MB"


def test_a_loader_that_dies_is_left_out_and_the_others_go_on() -> None:
    def dying() -> Any:
        yield from range(3)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error.\nmore")

    def living() -> Any:
        while True:
            yield 1

    both = {
        "dying": loaders.Loader(title="d", start=dying, workers=2, ahead=4),
        "living": loaders.Loader(title="l", start=living, workers=0, ahead=0),
    }
    found = loaders.in_turn(both, CPU, rounds=2, sample_s=0.01)
    assert found["dying"].failed == "DataLoader worker (pid 1) is killed by signal: Bus error."
    assert (found["living"].failed, found["living"].timing.n) == ("", 2)


def test_on_a_cpu_nothing_is_copied() -> None:
    assert all("nothing is copied" in reading.skipped for reading in copies(CPU, ABOUT, plan_for("cpu", quick=True)))


# --- compiling --------------------------------------------------------------------------------------------------------


def eager() -> list[Reading]:
    facts = {"batch": 8, "precision": "bf16", "layout": "channels_last", "images_per_s": 10.0}
    named = {"pool": "GB/s", "resnet50": "TFLOP/s"}
    return [Reading(name=f"compute.{name}.bf16.channels_last", title=name, unit=unit, value=1.0, n=2, facts=facts) for name, unit in named.items()]


def test_without_a_compiler_or_time_compiling_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for("cpu", quick=False)
    assert "no time was left" in compiled.compiled(CPU, plan, eager(), 2.0)[0].skipped
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert compiled.compiled(CPU, plan, eager(), 60.0)[0].skipped == "there is no C++ compiler"
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert compiled.compiler_missing("cuda") == "Triton is not installed"


@pytest.mark.parametrize(("code", "said"), [(None, "longer than the 30 s"), (-11, "died with signal 11"), (1, "BackendCompilerFailed")])
def test_a_compiler_that_hangs_or_dies_keeps_what_was_done(code: int | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str], *, timeout_s: float) -> shell.Outcome:
        line = json.dumps({"workload": "pool", "compile_s": 3.0, "eager": [0.2, 0.2], "compiled": [0.1, 0.1]})
        Path(json.loads(arguments[-1])["out"]).write_text(f'{line}\n{{"workload": "resn')
        return outcome(code, "", "torch._dynamo.exc.BackendCompilerFailed: Error: no luck")

    monkeypatch.setattr(compiled.shell, "run", run)
    monkeypatch.setattr(compiled, "compiler_missing", lambda kind: "")
    pool, network = compiled.compiled(CPU, replace(plan_for("cpu", quick=False), compile_resnet=True), eager(), 30.0)
    assert pool.facts["ratio"] == 2.0
    assert pool.value is not None
    assert said in network.skipped


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: str, path: Path | None = None, code: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(path or ""), os.environ.get("PYTHONPATH", "")]))}
    start = f"import sys\n{code}\nfrom stoker.cli import main\nmain({['verify', *arguments]!r})"
    return subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, env=environment, timeout=120)


def test_the_help_imports_no_torch() -> None:
    done = command("--help", code="sys.modules['torch'] = None")
    assert (done.returncode, "--compare" in done.stdout) == (0, True)


def test_without_torch_there_is_one_clear_error() -> None:
    done = command(code="sys.modules['torch'] = None")
    assert done.returncode == 5
    assert "PyTorch is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_torch_that_cannot_be_loaded_is_named_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    done = command(path=tmp_path)
    assert done.returncode == 5
    assert "libcudart.so.13" in done.stderr
    assert "stoker doctor" in done.stderr


def test_a_bad_file_to_compare_with_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"format": 99, "checks": []}')
    done = command("--compare", str(tmp_path / "old.json"), "--output", str(tmp_path / "out"))
    assert done.returncode == 50
    assert "format 99" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("--output", str(tmp_path / "file"))
    assert done.returncode == 30
    assert "handshake" not in done.stderr
    done = command("--output", str(tmp_path), "--json", str(tmp_path))
    assert done.returncode == 2


def test_a_device_that_cannot_be_had_is_refused() -> None:
    need(not torch.cuda.is_available(), "a machine without a GPU")
    assert command("--device", "cuda:0").returncode == 6
    assert command("--device", "tpu").returncode == 21
