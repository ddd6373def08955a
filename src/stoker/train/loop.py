"""The training loop: epochs of steps that never wait for the device, evaluations, checkpoints, and stopping in between."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from stoker.console import progress, say
from stoker.errors import DeviceMismatch, LossNotFinite
from stoker.train.checkpoint import Checkpoints
from stoker.train.evaluation import Evaluation
from stoker.train.ranks import Ranks
from stoker.train.recipe import Recipe
from stoker.train.schedules import factor, set_rates
from stoker.train.step import Step, Tally
from stoker.train.stopping import StopSignals, stopped

TICK_S = 1.0
"""How often speed is written down and the loss looked at."""
CROWDED = 4.0
"""A speed of less than the best so far divided by this, for three ticks, says that others took the cores."""
AGREE_EVERY = 50
"""Steps between the moments in which several ranks ask each other whether to stop."""


class Feeds(Protocol):
    """What the loop needs of its images: batches of an epoch from any position on."""

    @property
    def batch_size(self) -> int:
        """Images a step, over all ranks."""
        ...

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        ...

    def epoch(self, epoch: int, *, start: int = 0) -> Any:
        """Yield (images, labels) from batch `start` of the epoch on."""
        ...


class Log(Protocol):
    """Where events of the training go."""

    def __call__(self, kind: str, **values: Any) -> None:
        """Write down one event."""
        ...


@dataclass(kw_only=True)
class Position:
    """How far the training is; with the checkpoint's tensors all that is needed to go on."""

    epoch: int = 0
    """Whole epochs done."""
    batch: int = 0
    """Steps done of the epoch that was begun."""
    step: int = 0
    """Steps done in all."""
    train_s: float = 0.0
    """Seconds spent in steps."""
    cpu_s: float = 0.0
    """CPU seconds of this process in whole epochs, over all cores."""
    best_test_accuracy: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    """The epoch events so far."""


class Loop:
    """Runs `step` over `feed` until the recipe's epochs are done, or somebody asks to stop."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        step: Step,
        feed: Feeds,
        evaluate: Callable[[], Evaluation],
        checkpoints: Checkpoints,
        save_also: dict[str, Any],
        ranks: Ranks,
        log: Log,
        stop: StopSignals,
        run_name: str,
    ) -> None:
        self.recipe = recipe
        self.step = step
        self.feed = feed
        self.evaluate = evaluate
        self.checkpoints = checkpoints
        self.save_also = save_also
        self.ranks = ranks
        self.log = log
        self.stop = stop
        self.run_name = run_name
        self.position = Position()
        self.tally = Tally(feed.steps, ranks.device)
        self.total_steps = recipe.epochs * feed.steps
        self.warmup_steps = round(recipe.warmup_epochs * feed.steps)
        self.last_saved = time.monotonic()
        self.checked = 0
        self.first_step_at: float | None = None
        self.best_images_per_s = 0.0
        self.slow_ticks = 0
        # Masks and the like hold infinities by design.
        self.never_finite = not_finite(unwrapped(step.model))

    def run(self) -> Position:
        """Train to the end; returns the last position. Raises LossNotFinite, Interrupted or Terminated (after saving)."""
        while self.position.epoch < self.recipe.epochs:
            self._epoch()
        return self.position

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: position, tally and random streams (weights and optimizer are the caller's)."""
        self.position = Position(**state["position"])
        self.tally.restore(state["tally"])
        self.checked = self.tally.steps
        torch.set_rng_state(state["random"]["cpu"])
        if self.ranks.device.type == "cuda" and state["random"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.ranks.device)

    def save(self) -> None:
        """Write a checkpoint of this moment (first rank only). Raises LossNotFinite rather than save a lost model."""
        self._check_losses()
        self._check_weights()
        self.last_saved = time.monotonic()
        if not self.ranks.first:
            return
        device = self.ranks.device
        state = {
            "model": unwrapped(self.step.model).state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "position": vars(self.position).copy(),
            "tally": self.tally.state(),
            "random": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None},
            **self.save_also,
        }
        self.checkpoints.save(state, self.position.step)

    def _epoch(self) -> None:
        position = self.position
        if position.batch == 0:
            self.tally = Tally(self.feed.steps, self.ranks.device)
            self.checked = 0
        self.step.model.train()
        title = f"epoch {position.epoch + 1} of {self.recipe.epochs}"
        with progress(title, self.feed.steps * self.feed.batch_size, "images") as advance:
            advance(position.batch * self.feed.batch_size)
            self._steps(advance)
        self._check_losses()
        self._end_epoch()

    def _steps(self, advance: Callable[[int], None]) -> None:
        position, recipe, feed = self.position, self.recipe, self.feed
        started = tick = time.perf_counter()
        cpu_began = time.process_time()
        tick_batch, began_s = position.batch, position.train_s
        for images, labels in feed.epoch(position.epoch, start=position.batch):
            if self.first_step_at is None:
                same_device(self.step.model, images)
            set_rates(
                self.step.optimizer,
                recipe.schedule,
                step=position.step,
                total_steps=self.total_steps,
                warmup_steps=self.warmup_steps,
                final=recipe.final_factor,
            )
            loss, logits = self.step(images, labels)
            self.tally.add(loss, logits, labels)
            position.batch += 1
            position.step += 1
            if self.first_step_at is None:
                self.first_step_at = time.time()
            now = time.perf_counter()
            if now - tick >= TICK_S:
                self._check_losses()  # waits for the device: from here on the clock is true
                now = time.perf_counter()
                position.train_s = began_s + now - started
                images_per_s = (position.batch - tick_batch) * feed.batch_size / (now - tick)
                self.log("speed", step=position.step, images_per_s=round(images_per_s, 1), elapsed_s=round(position.train_s, 3))
                advance((position.batch - tick_batch) * feed.batch_size)
                self._watch_crowding(images_per_s)
                tick, tick_batch = now, position.batch
            self._perhaps_save()
            self._perhaps_stop()
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        position.train_s = began_s + time.perf_counter() - started
        position.cpu_s += time.process_time() - cpu_began

    def _watch_crowding(self, images_per_s: float) -> None:
        """Go on with one thread when others crowd the machine: threads that wait for each other then wait for the others' turns too.

        Measured on two cores with other programs on both: a step of the digits model 129 ms with two threads, 7 ms with one.
        """
        self.best_images_per_s = max(self.best_images_per_s, images_per_s)
        self.slow_ticks = self.slow_ticks + 1 if images_per_s < self.best_images_per_s / CROWDED else 0
        if self.slow_ticks < 3 or torch.get_num_threads() == 1 or self.recipe.deterministic or self.ranks.device.type != "cpu":
            return
        say(f"the machine is crowded: {images_per_s:,.0f} instead of {self.best_images_per_s:,.0f} images/s; going on with one thread")
        self.log("choice", step=self.position.step, name="1 thread", kept=True, why="the machine became crowded", threads=1)
        torch.set_num_threads(1)
        self.slow_ticks = 0

    def _perhaps_save(self) -> None:
        every = self.recipe.checkpoint_every_steps
        if (every and self.position.step % every == 0) or time.monotonic() - self.last_saved >= self.recipe.checkpoint_every_s:
            self.save()

    def _perhaps_stop(self) -> None:
        number = int(self.stop.requested or 0)
        if not self.ranks.alone:
            if self.position.step % AGREE_EVERY:
                return
            number = self.ranks.any(number)
        if number:
            self.save()
            raise stopped(
                signal.Signals(number),
                f"stopped by {signal.Signals(number).name} at step {self.position.step:,} of {self.total_steps:,}; a checkpoint is saved",
                f"go on with: stoker train --resume {self.run_name}",
            )

    def _check_losses(self) -> None:
        """Raise LossNotFinite at the first NaN since the last look (waits for the device)."""
        bad = self.tally.first_not_finite(self.checked)
        self.checked = self.tally.steps
        if bad is None:
            return
        step = self.position.step - self.position.batch + bad
        raise self._lost(f"the loss became {float(self.tally.losses[bad])} at step {step + 1:,}", step)

    def _lost(self, what: str, step: int) -> LossNotFinite:
        recipe = self.recipe
        share = factor(recipe.schedule, step=step, total_steps=self.total_steps, warmup_steps=self.warmup_steps, final=recipe.final_factor)
        paths = self.checkpoints.paths()
        return LossNotFinite(
            f"{what} (epoch {self.position.epoch + 1}) with learning rate {recipe.learning_rate * share:.4g}; "
            f"last good checkpoint: {paths[-1] if paths else 'none yet'}",
            hint=f"a lower learning rate (--set learning_rate={recipe.learning_rate / 10:g}), a longer warm-up (--set warmup_epochs=2) "
            "or --precision fp32",
        )

    def _check_weights(self) -> None:
        """Raise LossNotFinite when the update after a finite loss has lost the model (waits for the device)."""
        lost = sorted(not_finite(unwrapped(self.step.model)) - self.never_finite)
        if lost:
            raise self._lost(f"{lost[0]} is no longer finite after step {self.position.step:,}", self.position.step - 1)

    def _end_epoch(self) -> None:
        position, recipe = self.position, self.recipe
        step_in_epoch = self.tally.steps
        loss, hits = self.ranks.total(self.tally.losses.double().sum().float()), self.ranks.total(self.tally.hits.clone())
        images = self.tally.images * self.ranks.world_size
        position.epoch += 1
        position.batch = 0
        event: dict[str, Any] = {
            "epoch": position.epoch,
            "step": position.step,
            "train_loss": float(loss) / (step_in_epoch * self.ranks.world_size),
            "train_accuracy": int(hits) / images,
            "learning_rate": self.step.optimizer.param_groups[0]["lr"],
            "train_s": position.train_s - (position.history[-1]["elapsed_s"] if position.history else 0.0),
            "elapsed_s": position.train_s,
            "cpu_s": position.cpu_s - (position.history[-1]["cpu_elapsed_s"] if position.history else 0.0),
            "cpu_elapsed_s": position.cpu_s,
        }
        event["images_per_s"] = round(self.feed.steps * self.feed.batch_size / max(event["train_s"], 1e-9), 1)
        position.history.append(event)
        if position.epoch == recipe.epochs:
            return  # the last epoch is written down with the final evaluation, which the caller makes
        if recipe.eval_every and position.epoch % recipe.eval_every == 0:
            self._add_evaluation(event, self.evaluate())
        self.log("epoch", **event)
        say(epoch_line(event, recipe.epochs))

    def _add_evaluation(self, event: dict[str, Any], found: Evaluation) -> None:
        event.update(test_loss=found.loss, test_accuracy=found.accuracy)
        self.position.best_test_accuracy = max(self.position.best_test_accuracy, found.accuracy)

    def finish(self, found: Evaluation) -> dict[str, Any]:
        """Write down the last epoch with its evaluation and save; returns the event."""
        event = self.position.history[-1]
        written = "test_accuracy" in event  # by a process that was killed after it had saved
        self._add_evaluation(event, found)
        if not written:
            self.log("epoch", **event)
        say(epoch_line(event, self.recipe.epochs))
        self.save()
        return event


def same_device(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Refuse to start with the model on one device and the images on another: torch would only say so from deep inside a layer."""
    device = next(model.parameters()).device
    if images.device != device:
        raise DeviceMismatch(f"the model is on {device} and the images are on {images.device}", hint=f"move the images: images.to('{device}')")


def not_finite(model: torch.nn.Module) -> set[str]:
    """Return the names of the tensors of `model` that hold NaN or infinity (waits for the device once)."""
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if not tensors:
        return set()
    finite = torch.stack([torch.isfinite(value).all() for value in tensors.values()]).tolist()
    return {name for name, whole in zip(tensors, finite, strict=True) if not whole}


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def epoch_line(event: dict[str, Any], epochs: int) -> str:
    """Return the line that is printed after an epoch."""
    width = len(str(epochs))
    test = f"   test {100 * event['test_accuracy']:5.2f} %" if "test_accuracy" in event else ""
    return (
        f"epoch {event['epoch']:{width}}/{epochs}   loss {event['train_loss']:.4f}   train {100 * event['train_accuracy']:5.2f} %{test}"
        f"   {event['images_per_s']:10,.0f} images/s   {event['train_s']:6.2f} s"
    )
