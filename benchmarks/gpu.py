"""Everything that is claimed of a GPU, in one call of under 8 minutes; prints a table. Without a GPU it says so and claims nothing.

1. Epoch seconds of both small CNNs at batch 64, beside the plain script (goal: under 0.5 s on an H200).
2. `cifar10.speedrun`: mean accuracy of 20 runs with the model compiled (goal: 94 % on the original CIFAR-10 files), its clocks (training and final
   evaluation after compiling; the first run's total with everything), beside the same network in eager mode.
3. ResNet-50 at 224 pixels: images/s of the bare step on a batch that never moves, and fed from real JPEGs.
4. Where the small CNN's step spends the GPU's time: share of the time in which a kernel runs, and the longest kernels.
5. `stoker boost` under unchanged scripts: benchmarks/boost_gpu.py.
6. `stoker verify --quick`: handshake, feeding and compute against the data sheet and the ceilings measured on the spot.
--quick: fewer repetitions. --rehearse: tiny sizes on whatever device there is, to try the script itself; claims nothing.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boost_gpu
import torch
from cifar import real_pixels, write_batches
from claims import REPOSITORY, Benchmark, benchmark

from stoker import arithmetic as arithmetic_
from stoker.arithmetic import Arithmetic
from stoker.bench import verify
from stoker.data.feed import Feed
from stoker.data.sets import Resident
from stoker.measure import in_turn, ratio, timing
from stoker.train import models, optimizers
from stoker.train.recipe import Recipe
from stoker.train.recipes import recipe
from stoker.train.session import Request, train
from stoker.train.step import Step

REHEARSE = "--rehearse" in sys.argv


def main() -> None:
    """Measure what there is a device for."""
    if REHEARSE:
        sys.argv.remove("--rehearse")
    bench = benchmark(__doc__)
    if not torch.cuda.is_available() and not REHEARSE:
        print("not measured: PyTorch sees no GPU here; run `./dev bench gpu --json benchmarks/results/gpu-NAME.json` where there is one")
        bench.finish()
    arithmetic_.use_large_allocations()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench.fact("driver", driver() if device.type == "cuda" else "none")
    dataset = real_pixels(bench.data)
    verification(bench)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (1000, 500) if REHEARSE else (50_000, 10_000)
        data = write_batches(dataset, folder / "data", train_images=sizes[0], test_images=sizes[1])
        for model in ("small", "small1"):
            small_cnn(bench, model, data, folder, device)
        assert isinstance(dataset.train, Resident)
        utilisation(bench, dataset.train, device)
        resnet50(bench, folder, device)
        speedrun(bench, data, folder)
    boost_gpu.measure(bench, images=640 if REHEARSE else 12_800 if bench.quick else 25_600)
    if REHEARSE:
        bench.claims.clear()
    table(bench)
    bench.finish()


def verification(bench: Benchmark) -> None:
    """Verify the machine, so that every other number stands beside what the machine gives."""
    found = verify(quick=True)
    for check in found.checks:
        print(f"verify, {check.title}: {check.verdict}. {check.sentence}")
    bench.facts["verify"] = found.as_dict()


def driver() -> str:
    """Return the driver's version."""
    done = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"


def small_cnn(bench: Benchmark, model: str, data: Path, folder: Path, device: torch.device) -> None:
    """Time epochs of a small CNN, and of the plain script, in turn."""
    plain_s: list[float] = []
    ours: list[dict[str, Any]] = []
    for _ in range(1 if bench.quick or REHEARSE else 2):
        script = REPOSITORY / "benchmarks" / "plain" / "small_cnn.py"
        command = [sys.executable, str(script), str(data), "--workers=2", "--epochs=2", f"--model={model}", f"--device={device.type}"]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        plain_s += [json.loads(line)["seconds"] for line in lines[:-1]]
        ours += epochs_of(train_in(recipe(f"cifar10.{model}").changed(["epochs=8"]), data, folder))
    plain = timing(plain_s, [0.0] * len(plain_s))
    # The first epoch of a run holds what happens once: cuDNN's search for algorithms.
    stoker = timing([event["train_s"] for event in ours if event["epoch"] > 1], [event["cpu_s"] for event in ours if event["epoch"] > 1])
    bench.measured(f"{model} epoch, plain script with 2 workers", plain)
    bench.measured(f"{model} epoch, stoker", stoker)
    bench.fact(f"{model} ratio", round(plain.median_s / stoker.median_s, 1))
    bench.claim(f"{model}_epoch", stoker.median_s, "s", at_most=0.5)


def train_in(chosen: Recipe, data: Path, folder: Path) -> Path:
    """Run a recipe in this process; returns its run folder."""
    return train(Request(recipe=chosen, data=data, root=folder / "runs", command=["benchmarks/gpu.py"])).path


def epochs_of(run: Path) -> list[dict[str, Any]]:
    """Return the epoch events of a run."""
    return [event for line in (run / "metrics.jsonl").read_text().splitlines() if (event := json.loads(line))["kind"] == "epoch"]


def speedrun(bench: Benchmark, data: Path, folder: Path) -> None:
    """Repeat the speed run with and without compiling."""
    compiled, eager = (2, 2) if REHEARSE else (5, 2) if bench.quick else (20, 5)
    accuracies: list[float] = []
    clocks: dict[str, list[float]] = {"compiled": [], "eager": []}
    colds: list[float] = []
    for turn in range(compiled):
        for kind in ("compiled", "eager") if turn < eager else ("compiled",):
            chosen = recipe("cifar10.speedrun").changed([f"seed={turn}", f"compile={'yes' if kind == 'compiled' else 'no'}"])
            if REHEARSE:
                chosen = chosen.changed(["epochs=1", "batch_size=200", "compile=no"])
            began = time.time()
            result = json.loads((train_in(chosen, data, folder) / "run.json").read_text())["result"]
            clocks[kind].append(result["warm_s"])
            if kind == "compiled":
                accuracies.append(result["test_accuracy"])
                colds.append(time.time() - began)
    for kind, samples in clocks.items():
        bench.measured(f"speedrun {kind}, training and evaluation (warm: after compiling)", timing(samples, [0.0] * len(samples)))
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    bench.fact("speedrun accuracy", f"mean {100 * statistics.mean(accuracies):.2f} %, standard deviation {100 * spread:.2f}, n={len(accuracies)}")
    bench.fact("speedrun cold, first run and median of the others", f"{colds[0]:.1f} s, {statistics.median(colds[1:] or colds):.1f} s")
    bench.claim("speedrun_accuracy", 100 * statistics.mean(accuracies), "%", at_least=94.0)


def small_step(model: torch.nn.Module, arithmetic: Arithmetic, device: torch.device, rate: float) -> Step:
    """Return a training step of `model` with fused SGD."""
    arithmetic_.apply(arithmetic, model, device)
    optimizer, _ = optimizers.build("sgd", model, learning_rate=rate, momentum=0.9, fused=True)
    return Step(model, optimizer, arithmetic, device, 0.0)


def utilisation(bench: Benchmark, images: Resident, device: torch.device) -> None:
    """Say how busy the small CNN keeps the device, fed and on a fixed batch, and with what."""
    arithmetic = Arithmetic(precision="bf16", channels_last=True, fused=True)
    chosen = recipe("cifar10.small")
    feed = Feed(
        resident=images, batch_size=64, device=device, dtype=arithmetic.dtype, channels_last=True, mean=chosen.mean, std=chosen.std,
        padding=4, flip="random", seed=0, shuffle=True, drop_last=True,
    )  # fmt: skip
    bench.fact("feed", f"{feed.how}; pixels on the {feed.where} ({feed.why})")
    model = models.build("small", classes=10, channels=3, image_size=32).to(device)
    step = small_step(model, arithmetic, device, chosen.learning_rate)
    source = iter(batch for epoch in range(1000) for batch in feed.epoch(epoch))
    fixed = [tensor.clone() for tensor in next(source)]

    def block(batches: Any) -> None:
        for _ in range(5 if REHEARSE else 100):
            step(*next(batches))

    found = in_turn({"fed": lambda: block(source), "floor": lambda: block(iter(lambda: fixed, None))}, rounds=4 if bench.quick else 10)
    bench.measured("small CNN, 100 steps fed", found["fed"])
    bench.measured("small CNN, 100 steps on a fixed batch", found["floor"])
    bench.claim("fed_of_floor", ratio(found["floor"], found["fed"]).median, "ratio", at_least=0.97)
    if device.type == "cuda":
        busy, longest = profiled(lambda: block(source))
        bench.fact("small CNN, share of time with a kernel running", f"{busy:.2f}")
        bench.fact("small CNN, longest kernels", longest)


def profiled(call: Any) -> tuple[float, list[str]]:
    """Return the share of wall time in which the GPU worked, and its longest kernels."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - start
    kernels = sorted((event for event in profile.key_averages() if event.self_device_time_total > 0), key=lambda event: -event.self_device_time_total)
    total_us = sum(event.self_device_time_total for event in kernels)
    return total_us / 1e6 / wall_s, [f"{event.key[:60]} {100 * event.self_device_time_total / total_us:.0f} %" for event in kernels[:6]]


def resnet50(bench: Benchmark, folder: Path, device: torch.device) -> None:
    """Compare ResNet-50's step on a batch that never moves with the same fed from real JPEGs."""
    photos = sorted((bench.data / "photos").glob("*.JPEG"))
    if not photos:
        bench.fact("resnet50", f"not measured: no photos in {bench.data}")
        return
    batch, size = (4, 64) if REHEARSE else (256, 224)
    arithmetic = Arithmetic(precision="bf16", channels_last=True, fused=True, compiled=not REHEARSE)
    model = models.build("timm:resnet50", classes=10, channels=3, image_size=size).to(device)
    step = small_step(model, arithmetic, device, 0.01)
    images = torch.randn(batch, 3, size, size, device=device).to(dtype=arithmetic.dtype, memory_format=arithmetic.memory_format)
    labels = torch.randint(0, 10, (batch,), device=device)
    floor = in_turn({"floor": lambda: step(images, labels)}, rounds=3 if bench.quick else 10, warmup=4)["floor"]
    bench.measured(f"resnet50 bare step, batch {batch} at {size} px", floor, images_per_s=batch / floor.median_s)
    tree = folder / "photos"
    for number, photo in enumerate(photos):
        # 334 photos, each many times: the decoder cannot tell, and the page cache holds them.
        for copy in range(1 if REHEARSE else 30):
            target = tree / f"class{number % 10}" / f"{copy:02d}-{photo.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, target) if not copy else target.hardlink_to(tree / f"class{number % 10}" / f"00-{photo.name}")
    changes = [f"batch_size={batch}", f"image_size={size}", "epochs=1", "test_fraction=0.01"]
    chosen = dataclasses.replace(recipe("folder"), eval_batch_size=64).changed([*changes, "model=timm:resnet50"])
    run = train_in(chosen, tree, folder)
    fed = epochs_of(run)[0]["images_per_s"]
    bench.fact("resnet50 fed from JPEGs, images/s", fed)
    bench.fact("resnet50 fed / bare", round(fed * floor.median_s / batch, 3))


def table(bench: Benchmark) -> None:
    """Print every measurement as one table."""
    print(f"\n{'measurement':64}{'median':>12}{'low':>12}{'high':>12}{'n':>5}")
    for name, found in bench.measurements.items():
        if "median_s" in found:
            print(f"{name[:63]:64}{found['median_s']:>11.4f}s{found['low_s']:>11.4f}s{found['high_s']:>11.4f}s{found['n']:>5}")
    print()


if __name__ == "__main__":
    main()
