"""What Stoker costs beside the training step: memory, and time before the first step.

1. Peak memory (resident) of `stoker train cifar10.small`, one epoch, against a script that only steps on one batch. Goal: the data set plus at most
   1.2 times the bare step.
2. From the call of `./stoker train` to the end of the first step, everything included, on the second call and later. Goal: under 4 s.
--quick: fewer repetitions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cifar import real_pixels
from claims import REPOSITORY, Benchmark, benchmark

from stoker.data.sets import Resident
from stoker.measure import timing


def main() -> None:
    """Measure both and claim."""
    bench = benchmark(__doc__)
    with tempfile.TemporaryDirectory() as name:
        memory(bench, Path(name))
        start(bench, Path(name))
    bench.finish()


def memory(bench: Benchmark, folder: Path) -> None:
    """Compare the peaks of the two processes, in turn."""
    dataset = real_pixels(bench.data)  # fills the cache: decoding is not training
    assert isinstance(dataset.train, Resident)
    assert isinstance(dataset.test, Resident)
    data_bytes = dataset.train.pixels_NHWC.nbytes + dataset.test.pixels_NHWC.nbytes
    train = [sys.executable, "-m", "stoker", "train", "cifar10.small", f"--data={bench.data / 'cifar10-jpeg.tar.xz'}", "--set=epochs=1"]
    bare = [sys.executable, str(REPOSITORY / "benchmarks" / "plain" / "bare_step.py")]
    peaks: dict[str, list[int]] = {"stoker": [], "bare": []}
    for _ in range(1 if bench.quick else 3):
        peaks["stoker"].append(peak_bytes(train, folder))
        peaks["bare"].append(peak_bytes(bare, folder))
    stoker, bare_peak = sorted(peaks["stoker"])[len(peaks["stoker"]) // 2], sorted(peaks["bare"])[len(peaks["bare"]) // 2]
    bench.fact("peak_bytes", {**peaks, "data_set": data_bytes})
    bench.claim("memory_beside_data", (stoker - data_bytes) / bare_peak, "x_bare_step", at_most=1.2)


def peak_bytes(command: list[str], folder: Path) -> int:
    """Return the most memory that the process of `command` held resident."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return usage.ru_maxrss * 1024


def start(bench: Benchmark, folder: Path) -> None:
    """Time both recipes from the call to the first step, in turn."""
    recipes = {
        "digits": ["digits", "--set=epochs=1"],
        "cifar10.small": ["cifar10.small", f"--data={bench.data / 'cifar10-jpeg.tar.xz'}", "--set=epochs=1"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    for turn in range(4 if bench.quick else 8):
        for name, arguments in recipes.items():
            began = time.time()
            done = subprocess.run(
                [str(REPOSITORY / "stoker"), "train", *arguments, "--json"], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
            )
            if turn:  # the first call may have had to make the environment or fill the disk's cache
                seconds[name].append(json.loads(done.stdout)["result"]["first_step_at"] - began)
    for name, samples in seconds.items():
        found = timing(samples, [0.0] * len(samples))
        bench.measured(f"first_step {name}", found)
        bench.claim(f"first_step_{name}", found.median_s, "s", at_most=4.0)


if __name__ == "__main__":
    main()
