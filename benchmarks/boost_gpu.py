"""`stoker boost` on a GPU: the small CNN on CIFAR-10 in tier exact, ResNet-18 in tier fast, and how long the device waits for data.

Scripts of benchmarks/boost/ as they are, plainly and boosted in turn, each run a process of its own; times from the first batch asked for to the
end of the training, evaluation and boost's own checks and trials included. First both ways run with deterministic algorithms: all losses and the
hash of the weights must be the same to the bit.
Goals: small CNN at batch 64 at least 10 x in exact (no workers), ResNet-18 at least 2 x in fast, waiting for data under 5 % of a step of ResNet-18.
Part of benchmarks/gpu.py. --quick: fewer images. Without a GPU it says so and claims nothing.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch
from claims import Benchmark, benchmark
from wild import ALL, ON_GPU, Run, Wild, loaders, prepare, run

from stoker.measure import ratio, timing

SMALL, SMALL_WORKERS = (next(wild for wild in ALL if wild.name == name) for name in ("cifar_0", "cifar_2"))
(RESNET,) = ON_GPU


def main() -> None:
    """Measure where there is a device."""
    bench = benchmark(__doc__)
    if not torch.cuda.is_available():
        print("not measured: PyTorch sees no GPU here; run `./dev bench boost_gpu --json FILE` where there is one")
        bench.finish()
    measure(bench, images=12_800 if bench.quick else 50_000)
    bench.finish()


def measure(bench: Benchmark, *, images: int) -> None:
    """Run and claim everything of `boost` that is about a GPU."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        bench.fact("boost data", f"{prepare(bench.data, data, images=images, photos=8)}, {images} images")
        identical(bench, SMALL, data)
        bench.claim("boost_small_cnn_exact", gain(bench, SMALL, data, "exact", epochs=2), "x", at_least=10.0)
        bench.fact("boost small CNN, 2 workers, exact", round(gain(bench, SMALL_WORKERS, data, "exact", epochs=2), 2))
        bench.claim("boost_resnet18_fast", gain(bench, RESNET, data, "fast", epochs=4), "x", at_least=2.0)
        found = bench.measurements["boost resnet18 fast"]
        bench.claim("boost_resnet18_waiting", 100 * found["waited_a_step_s"] / found["step_s"], "%", at_most=5.0)


def identical(bench: Benchmark, wild: Wild, data: Path) -> None:
    """Claim that a script prints the same bits, with deterministic algorithms on."""
    both = [
        run([*wild.command(data, 1), "--deterministic"], tier=tier, CUBLAS_WORKSPACE_CONFIG=":4096:8")  # what cuBLAS asks for
        for tier in (None, "exact")
    ]
    lines = both[0].out.splitlines()
    same = not any(one.status for one in both) and bool(lines) and both[1].out == both[0].out
    bench.fact(f"boost {wild.name} deterministic", f"{len(lines)} lines, {'identical' if same else both[0].err[-300:] + both[1].err[-300:]}")
    bench.claim(f"boost_{wild.name}_identical", int(same), "run", at_least=1)


def gain(bench: Benchmark, wild: Wild, data: Path, tier: str, *, epochs: int) -> float:
    """Run a script plainly and boosted, A B B A, and return how many times as fast it is boosted."""
    runs: dict[str, list[Run]] = {"plain": [], tier: []}
    for variant in ("plain", tier, tier, "plain"):
        found = run(wild.command(data, epochs), tier=None if variant == "plain" else tier)
        if found.status:
            raise SystemExit(f"{wild.name} {variant}: exit status {found.status}: {found.err[-1000:]}")
        runs[variant].append(found)
    for variant, taken in runs.items():
        wholes = [span for one in taken if (span := one.records[0].whole) is not None]
        windows = [span for one in taken if (span := one.records[0].window) is not None]
        steps = max(1, sum(span.steps for span in windows))
        bench.measured(
            f"boost {wild.name} {variant}",
            timing([span.seconds for span in wholes], [span.work_s or 0.0 for span in wholes]),
            waited_a_step_s=sum(span.data_s for span in windows) / steps,
            step_s=statistics.median(span.step_s for span in windows),
        )
    bench.fact(f"boost {wild.name} loaders", [f"{note['outcome']}: {note['why']}" for note in loaders(runs[tier][-1])])
    whole = [timing([one.records[0].whole.seconds for one in runs[variant]], [0.0] * 2) for variant in runs]  # type: ignore[union-attr]
    found_ratio = ratio(*whole)
    bench.compared(f"boost {wild.name} plain / {tier}", found_ratio)
    return found_ratio.median


if __name__ == "__main__":
    main()
