"""`stoker boost` under scripts in the styles found in the wild: the same numbers to the bit, none slower, feeding taken away, `fast` faster.

Every script of benchmarks/boost/ runs plainly and with STOKER_BOOST=exact in turn (A B B A), each run a process of its own; what it prints (all
losses and a hash of the weights) must be the same. Times are from the first batch asked for to the end of training, evaluation and boost's own
checks included, Python's start not. The small CIFAR CNN and the MNIST example also run in tier fast.
Goals: all identical; none slower than 0.98 x; small CIFAR CNN 1.2 x in exact and 2.5 x in fast, MNIST example 1.8 x in fast; at least 90 %
of the waiting for data taken away where the script's own process makes the batches.
--quick: 1,280 images, one round, and no claim about speed but those.
--only A,B: these alone, scripts (cifar_0, mnist, ...) or small_cnn_fast, mnist_fast.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from causes import option
from claims import Benchmark, benchmark
from wild import ALL, Run, Wild, loaders, prepare, run

from stoker.measure import Ratio, ratio, timing

EPOCHS = 2
FAST_EPOCHS = 12
"""Tier fast first tries its changes for some steps (60 to 140): that is in the time, and must be small beside the rest as it is in a real training,
which has ten times as many steps as these 1,200."""
FAST_GOALS = {"cifar_0": ("small_cnn_fast", 2.5), "mnist": ("mnist_fast", 1.8)}
FEEDING = ("cifar_0", "mnist")
"""Scripts whose batches are made where they are waited for: what is waited is what feeding costs."""


def main() -> None:
    """Run all scripts in turn and claim."""
    only = option("--only")
    bench = benchmark(__doc__)
    titles = (*(wild.name for wild in ALL), *(title for title, _ in FAST_GOALS.values()))
    chosen = tuple(only.split(",")) if only else titles
    if unknown := sorted(set(chosen) - set(titles)):
        raise SystemExit(f"error: there is no {', '.join(unknown)}; there are {', '.join(titles)}")
    rounds = 1 if bench.quick else 2
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        images, photos = (1_280, 64) if bench.quick else (6_400, 200)
        bench.fact("data", f"{prepare(bench.data, data, images=images, photos=photos)}, {images} images, {EPOCHS} epochs, {rounds} rounds")
        ratios = {wild.name: found for wild in ALL if wild.name in chosen and (found := exact(bench, wild, data, rounds)) is not None}
        if not only:
            whole_suite(bench, ratios)
        exact_claims(bench, ratios)
        for name_, (title, goal) in FAST_GOALS.items():
            if title not in chosen:
                continue
            wild = next(wild for wild in ALL if wild.name == name_)
            found = paired(bench, title, in_turn(wild, data, "fast", rounds, epochs=EPOCHS if bench.quick else FAST_EPOCHS))
            bench.claim(title, found.median, "x", at_least=goal)
    bench.finish()


def in_turn(wild: Wild, data: Path, tier: str, rounds: int, epochs: int = EPOCHS) -> dict[str, list[Run]]:
    """Run a script plainly and in a tier, A B B A ...; stops at once when it lacks a package."""
    runs: dict[str, list[Run]] = {"plain": [], tier: []}
    for number in range(rounds):
        for variant in ("plain", tier) if number % 2 == 0 else (tier, "plain"):
            found = run(wild.command(data, epochs), tier=None if variant == "plain" else tier)
            runs[variant].append(found)
            if found.missing:
                return runs
    return runs


def exact(bench: Benchmark, wild: Wild, data: Path, rounds: int) -> Ratio | None:
    """Compare one script's outputs and times; None when it was left out, for which the reason is kept."""
    runs = in_turn(wild, data, "exact", rounds)
    first = runs["plain"][0]
    if first.missing:
        bench.fact(f"{wild.name} left out", first.err.strip().splitlines()[-1])
        return None
    outputs = [found.out for found in runs["plain"] + runs["exact"]]
    failed = [found for found in runs["plain"] + runs["exact"] if found.status]
    lines = first.out.count("\n")
    same = not failed and lines > 0 and all(out == first.out for out in outputs)
    bench.fact(f"{wild.name} identical", f"{lines} lines" if same else f"no: {why_not(failed, outputs)}")
    bench.facts.setdefault("identical", {})[wild.name] = same
    notes = [f"{note['outcome']}: {note['what']}: {note['why']}" for note in loaders(runs["exact"][-1])]
    bench.fact(f"{wild.name} loaders", notes)
    return None if failed else paired(bench, wild.name, runs)


def why_not(failed: list[Run], outputs: list[str]) -> str:
    """Return the first line that differs, or how a run failed."""
    if failed:
        return f"exit status {failed[0].status}: {failed[0].err.strip().splitlines()[-1:]}"
    for other in outputs[1:]:
        for number, (a, b) in enumerate(zip(outputs[0].splitlines(), other.splitlines(), strict=False), 1):
            if a != b:
                return f"line {number}: {a!r} and {b!r}"
    return "different numbers of lines"


def paired(bench: Benchmark, name: str, runs: dict[str, list[Run]]) -> Ratio:
    """Keep the times of both kinds of runs, and return their ratio."""
    found = {}
    for variant, taken in runs.items():
        spans = [(span, each.window) for each in (one.records[0] for one in taken) if (span := each.whole) is not None]
        works = [sum((each.whole.work_s or 0.0) if each.whole else 0.0 for each in one.records) for one in taken]
        found[variant] = timing([span.seconds for span, _ in spans], works)
        waited = sum(window.data_s for _, window in spans if window) / max(1, sum(window.steps for _, window in spans if window))
        waited_all = sum(span.data_s for span, _ in spans) / len(spans)
        steps = [window.step_s for _, window in spans if window]
        step = {"step_s": statistics.median(steps)} if steps else {}
        bench.measured(f"{name}_{variant}", found[variant], waited_s=waited_all, waited_a_step_s=waited, **step)
    plain, boosted = found.values()
    gain = ratio(plain, boosted)
    bench.compared(f"{name}: plain / {list(found)[1]}", gain)
    bench.fact(f"{name} CPU ratio", round(plain.cpu_s / max(boosted.cpu_s, 1e-9), 3))
    return gain


def whole_suite(bench: Benchmark, ratios: dict[str, Ratio]) -> None:
    """Claim what is said of all scripts together."""
    identical = bench.facts.get("identical", {})
    bench.claim("identical_scripts", sum(identical.values()), "scripts", at_least=len(identical))
    bench.claim("scripts", len(identical), "scripts", at_least=10)
    if ratios:
        slowest = min(ratios, key=lambda name: ratios[name].median)
        bench.fact("slowest", slowest)
        bench.claim("slowest_script", ratios[slowest].median, "x", at_least=0.98)


def exact_claims(bench: Benchmark, ratios: dict[str, Ratio]) -> None:
    """Claim what tier exact promises of single ones."""
    if "cifar_0" in ratios:
        bench.claim("small_cnn_exact", ratios["cifar_0"].median, "x", at_least=1.2)
    for name in FEEDING:
        if name in ratios:
            before, after = (bench.measurements[f"{name}_{variant}"]["waited_a_step_s"] for variant in ("plain", "exact"))
            bench.claim(f"{name}_waiting_removed", 100 * (1 - after / before), "%", at_least=90.0)


if __name__ == "__main__":
    main()
