"""What the door costs those who do not use it: `import torch` with Stoker's entry point and without it, STOKER_BOOST not set.

PyTorch looks through the installed packages for entry points in both cases; what is timed, in new processes in turn, is that search with what
it then loads and calls. Goal: less than 2 ms more with ours. The whole import is shown beside it.
--quick: fewer processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from claims import Benchmark, benchmark

from stoker.measure import timing
from stoker.runner.interpreter import has_door

# The search is kept from running inside the import, and then run by itself; without ours it finds everything else.
CHILD = """
import importlib.metadata as metadata, os, sys, time
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
begin_s = time.perf_counter()
import torch
import_s = time.perf_counter() - begin_s
if sys.argv[1] == "without":
    find = metadata.entry_points
    metadata.entry_points = lambda **asked: [entry for entry in find(**asked) if entry.name != "stoker"]
begin_s, cpu_s = time.perf_counter(), time.process_time()
torch._import_device_backends()
print(time.perf_counter() - begin_s, time.process_time() - cpu_s, import_s, "stoker.door" in sys.modules)
"""


def main() -> None:
    """Measure and claim."""
    bench = benchmark(__doc__)
    if not has_door(Path(sys.executable)):
        raise SystemExit("the entry point is not installed here: ./dev prepare renews the environment")
    measure(bench, 5 if bench.quick else 25)
    bench.finish()


def measure(bench: Benchmark, rounds: int) -> None:
    """Start processes with the door and without, in turn."""
    search_s: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    import_s: list[float] = []
    for turn in range(rounds + 1):
        for name in ("with", "without") if turn % 2 else ("without", "with"):
            wall_s, cpu_s, whole_s = child(name)
            if turn:  # the first ones read the files from the disk
                search_s[name].append((wall_s, cpu_s))
                import_s.append(whole_s)
    found = {name: timing(*map(list, zip(*samples, strict=True))) for name, samples in search_s.items()}
    for name, samples in found.items():
        bench.measured(f"entry points {name} ours", samples)
    bench.fact("import_torch_s", sorted(import_s)[len(import_s) // 2])
    bench.claim("door_when_off", 1e3 * (found["with"].median_s - found["without"].median_s), "ms", at_most=2.0)
    bench.claim("door_when_off_cpu", 1e3 * (found["with"].cpu_s - found["without"].cpu_s), "ms", at_most=2.0)


def child(name: str) -> tuple[float, float, float]:
    """Return how long the search took, its CPU time, and how long the import before it took, in seconds."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("STOKER_BOOST")}
    done = subprocess.run([sys.executable, "-c", CHILD, name], stdout=subprocess.PIPE, text=True, check=True, env=variables)
    search_s, cpu_s, import_s, loaded = done.stdout.split()
    if loaded != str(name == "with"):
        raise SystemExit(f"the door was {'not ' if name == 'with' else ''}loaded {name} it")
    return float(search_s), float(cpu_s), float(import_s)


if __name__ == "__main__":
    main()
