"""Which way to compute the step is fastest on this chip, in this very run: tried on copies, kept only where measured faster."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stoker import arithmetic as arithmetic_
from stoker.arithmetic import Arithmetic
from stoker.files import write_text_atomically
from stoker.measure import Timing, in_turn
from stoker.settings import cache_folder
from stoker.train.recipe import Recipe
from stoker.train.step import Step

KEPT_ABOVE = 1.03
"""A choice is kept when the plain way takes at least this many times as long: less is within the noise of a short probe."""
SHARE_OF_RUN = 0.08
"""Each of the two trials (layout and precision; threads) may take this share of the time that the steps still to do would take."""
LONGEST_S = 8.0
"""And no longer than this."""
ROUNDS = 6
WARMUP = 2

MakeOptimizer = Callable[[nn.Module, bool], torch.optim.Optimizer]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One thing that was decided about the arithmetic, and why."""

    name: str
    kept: bool
    why: str
    ratio: float | None = None
    """Seconds without it / seconds with it; None where nothing was measured."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return dataclasses.asdict(self)


class Probe:
    """Tries the candidates on copies of model and optimizer: the training itself is not touched, nor its random streams."""

    def __init__(
        self, recipe: Recipe, model: nn.Module, make_optimizer: MakeOptimizer, images_NCHW: torch.Tensor, labels_N: torch.Tensor, device: torch.device
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.make_optimizer = make_optimizer
        # Copies: the feed uses its batch memory again.
        self.images_NCHW = images_NCHW.detach().float().clone(memory_format=torch.contiguous_format)
        self.labels_N = labels_N.clone()
        self.device = device

    def choose(self, steps_left: int) -> tuple[Arithmetic, list[Choice]]:
        """Return how to compute the step, and what was decided why. `steps_left`: of the run, at this batch size."""
        if self.recipe.deterministic:
            why = "--deterministic: plain float32, so that every run gives the same bits"
            return Arithmetic(), [Choice(name=name, kept=False, why=why) for name in ("channels_last", "bf16", "fused", "compile")]
        random = _random_state(self.device)
        try:
            return self._choose(steps_left)
        finally:
            _restore_random_state(random, self.device)
            gc.collect()

    def _choose(self, steps_left: int) -> tuple[Arithmetic, list[Choice]]:
        recipe = self.recipe
        layouts = {"auto": (False, True), "yes": (True,), "no": (False,)}[recipe.channels_last]
        precisions = {"auto": ("fp32", "bf16"), "bf16": ("bf16",), "fp32": ("fp32",)}[recipe.precision]
        tf32 = recipe.precision != "fp32"
        candidates = [
            Arithmetic(channels_last=layout, precision=precision, tf32=tf32, fused=recipe.fused == "yes")
            for layout in layouts
            for precision in precisions
        ]
        plain = candidates[0]
        step_s = self._one_step(plain)
        # Before all else: on a crowded machine every further trial with too many threads would take a hundred times as long.
        crowded, threads = self._threads(plain, min(LONGEST_S, SHARE_OF_RUN / 2 * steps_left * step_s), step_s)
        if crowded.threads not in (0, most := torch.get_num_threads()):
            torch.set_num_threads(crowded.threads)
            try:
                best, choices = self._with_threads_set(candidates, steps_left, self._one_step(plain))
            finally:
                torch.set_num_threads(most)
            return dataclasses.replace(best, threads=crowded.threads), [*threads, *choices]
        return self._with_threads_set(candidates, steps_left, step_s)

    def _with_threads_set(self, candidates: list[Arithmetic], steps_left: int, step_s: float) -> tuple[Arithmetic, list[Choice]]:
        """Choose layout, precision and all that follows, with the threads that are set now (and perhaps fewer in the end)."""
        recipe, plain = self.recipe, candidates[0]
        budget_s = min(LONGEST_S, SHARE_OF_RUN * steps_left * step_s)
        timings: dict[str, Timing] = {}
        if len(candidates) > 1 and budget_s >= (WARMUP + 2) * len(candidates) * step_s:
            timings = self._time_steps(candidates, budget_s)
            best = min(candidates, key=lambda one: timings[_label(one)].median_s)
            if timings[_label(plain)].median_s < KEPT_ABOVE * timings[_label(best)].median_s:
                best = plain
        else:
            best = plain
        choices = _layout_choices(recipe, best, timings, steps_left)
        step_s = timings[_label(best)].median_s if timings else step_s
        best, threads = self._threads(best, budget_s / 2, step_s)
        best, fused = self._fused(best, budget_s)
        best, compiled = self._compiled(best, steps_left, step_s)
        return best, [*choices, *threads, fused, compiled]

    def _copy(self, arithmetic: Arithmetic) -> Callable[[], object]:
        """Return a step on a copy of the model, computed as `arithmetic` says."""
        model = copy.deepcopy(self.model)
        arithmetic_.apply(arithmetic, model, self.device)
        optimizer = self.make_optimizer(model, arithmetic.fused)
        step = Step(model, optimizer, arithmetic, self.device, self.recipe.label_smoothing)
        images = self.images_NCHW.to(dtype=arithmetic.dtype).contiguous(memory_format=arithmetic.memory_format)
        return lambda: step(images, self.labels_N)

    def _one_step(self, arithmetic: Arithmetic) -> float:
        """Return the seconds of a step after a first one; on a slow machine of a part of the batch, so that probing stays short."""
        step = self._copy(arithmetic)
        first_s = self._seconds(step)
        if first_s > 2.0 and len(self.labels_N) > 1:
            part = max(1, int(len(self.labels_N) / first_s))
            self.images_NCHW, self.labels_N = self.images_NCHW[:part].clone(), self.labels_N[:part].clone()
            whole, step = first_s, self._copy(arithmetic)
            self._seconds(step)
            return min(whole, self._seconds(step))
        return min(self._seconds(step), self._seconds(step))

    def _seconds(self, step: Callable[[], object]) -> float:
        start = time.perf_counter()
        step()
        self._synchronise()
        return time.perf_counter() - start

    def _time_steps(self, candidates: list[Arithmetic], budget_s: float) -> dict[str, Timing]:
        steps = {_label(one): self._copy(one) for one in candidates}
        return in_turn(steps, rounds=ROUNDS, warmup=WARMUP, budget_s=budget_s, synchronise=self._synchronise)

    def _threads(self, arithmetic: Arithmetic, budget_s: float, step_s: float) -> tuple[Arithmetic, list[Choice]]:
        """Try fewer threads: many small operations lose more by waiting for each other than they gain, and on a shared machine far more."""
        most = torch.get_num_threads()
        counts = sorted({most, *(count for count in (most // 2, most // 4, 1) if count >= 1)}, reverse=True)
        if self.device.type != "cpu" or len(counts) == 1 or budget_s < 6 * len(counts) * step_s:
            return arithmetic, []
        step = self._copy(arithmetic)

        def with_threads(count: int) -> Callable[[], object]:
            def threaded() -> None:
                torch.set_num_threads(count)
                step()

            return threaded

        try:
            timings = in_turn({str(count): with_threads(count) for count in counts}, rounds=ROUNDS, inner=2, warmup=1, budget_s=budget_s)
        finally:
            torch.set_num_threads(most)
        # Equally fast: the fewest. They leave the other cores to feeding, and to whoever else is on the machine.
        least_s = min(timing.median_s for timing in timings.values())
        chosen = min(count for count in counts if timings[str(count)].median_s < KEPT_ABOVE * least_s)
        ratio = timings[str(most)].median_s / timings[str(chosen)].median_s
        name = f"{chosen} thread{'s' if chosen > 1 else ''} instead of {most}"
        if chosen == most:
            name, ratio = "fewer threads", timings[str(most)].median_s / min(timings[str(count)].median_s for count in counts[1:])
        choice = Choice(
            name=name, kept=chosen != most, ratio=round(ratio, 3), why=f"{ratio:.2f}x on the step{'' if chosen != most else ': not faster'}"
        )
        return dataclasses.replace(arithmetic, threads=chosen), [choice]

    def _fused(self, arithmetic: Arithmetic, budget_s: float) -> tuple[Arithmetic, Choice]:
        if self.recipe.fused != "auto":
            return arithmetic, Choice(name="fused", kept=arithmetic.fused, why=f"fused={self.recipe.fused} was asked for")
        model = copy.deepcopy(self.model)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-6)
        plain, fused = self.make_optimizer(model, False), self.make_optimizer(model, True)
        if not any(group.get("fused") for group in fused.param_groups):
            return arithmetic, Choice(name="fused", kept=False, why="this optimizer has no fused form here")
        update_s = self._seconds(plain.step)
        if 2 * (WARMUP + ROUNDS) * update_s > budget_s:
            return arithmetic, Choice(name="fused", kept=False, why="the run is too short to try it")
        timings = in_turn({"plain": plain.step, "fused": fused.step}, rounds=ROUNDS, inner=3, warmup=WARMUP, synchronise=self._synchronise)
        ratio = timings["plain"].median_s / timings["fused"].median_s
        choice = _measured("fused", ratio, "the optimizer's update")
        return dataclasses.replace(arithmetic, fused=choice.kept), choice

    def _compiled(self, arithmetic: Arithmetic, steps_left: int, step_s: float) -> tuple[Arithmetic, Choice]:
        recipe, compiled = self.recipe, dataclasses.replace(arithmetic, compiled=True)
        if recipe.compile == "no":
            return arithmetic, Choice(name="compile", kept=False, why="compile=no was asked for")
        history = CompileTimes(recipe.model, self.device)
        # The most that compiling took off a step of a CNN in our own measurements: 15 % on a CPU; half on a GPU.
        most_s = steps_left * step_s * (0.15 if self.device.type == "cpu" else 0.5)
        if recipe.compile == "auto" and most_s < 2 * history.expected_s():
            why = f"it cannot save more than {most_s:.1f} s in the {steps_left:,} steps left and takes about {history.expected_s():.0f} s"
            return arithmetic, Choice(name="compile", kept=False, why=why)
        start = time.perf_counter()
        try:
            step = self._copy(compiled)
            self._seconds(step)
        except Exception as error:
            # A compiler that is missing or fails is no reason to stop a training.
            return arithmetic, Choice(
                name="compile", kept=False, why=f"it failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            )
        took_s = time.perf_counter() - start
        history.add(took_s)
        if recipe.compile == "yes":
            return compiled, Choice(name="compile", kept=True, why="--compile was asked for")
        timings = in_turn({"eager": self._copy(arithmetic), "compiled": step}, rounds=ROUNDS, inner=2, warmup=WARMUP, synchronise=self._synchronise)
        choice = _measured("compile", timings["eager"].median_s / timings["compiled"].median_s, f"the step, after {took_s:.1f} s of compiling")
        return (compiled if choice.kept else arithmetic), choice

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class CompileTimes:
    """How long compiling a model took here before: kept in the cache folder, a line of JSON a model and device."""

    def __init__(self, model: str, device: torch.device) -> None:
        self.path = cache_folder() / "compile-times.json"
        self.key = f"{model} {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'} torch {torch.__version__}"
        self.assumed_s = 40.0 if device.type == "cuda" else 20.0

    def expected_s(self) -> float:
        """Return the seconds that it took last time, or an assumption."""
        return float(self._read().get(self.key, self.assumed_s))

    def add(self, seconds: float) -> None:
        """Remember what it took; a cache folder that cannot be written to is no reason to stop."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self.path, json.dumps({**self._read(), self.key: round(seconds, 2)}, indent=2), durable=False)
        except Exception:
            return

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _label(arithmetic: Arithmetic) -> str:
    return f"{'channels_last' if arithmetic.channels_last else 'contiguous'} {arithmetic.precision}"


def _measured(name: str, ratio: float, what: str) -> Choice:
    kept = ratio >= KEPT_ABOVE
    return Choice(name=name, kept=kept, ratio=round(ratio, 3), why=f"{ratio:.2f}x on {what}" if kept else f"{ratio:.2f}x on {what}: not faster")


def _layout_choices(recipe: Recipe, best: Arithmetic, timings: dict[str, Timing], steps_left: int) -> list[Choice]:
    """Say of channels_last and of bf16 what each gave, the other being as it was chosen."""
    choices = []
    for name, asked, kept in (
        ("channels_last", recipe.channels_last, best.channels_last),
        ("bf16", recipe.precision, best.precision == "bf16"),
    ):
        if asked != "auto":
            choices.append(Choice(name=name, kept=kept, why=f"{'precision' if name == 'bf16' else name}={asked} was asked for"))
            continue
        if not timings:
            choices.append(Choice(name=name, kept=False, why=f"the run is too short to try it ({steps_left:,} steps left)"))
            continue
        if name == "channels_last":
            without, with_ = (dataclasses.replace(best, channels_last=on) for on in (False, True))
        else:
            without, with_ = (dataclasses.replace(best, precision=precision) for precision in ("fp32", "bf16"))
        ratio = timings[_label(without)].median_s / timings[_label(with_)].median_s
        choices.append(Choice(name=name, kept=kept, ratio=round(ratio, 3), why=f"{ratio:.2f}x on the step{'' if kept else ': not faster'}"))
    return choices


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_random_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
