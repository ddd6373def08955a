"""A training from its request to its report: data, model, run folder, arithmetic, loop, evaluation, record."""

from __future__ import annotations

import copy
import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stoker import arithmetic as arithmetic_
from stoker import host
from stoker.arithmetic import Arithmetic
from stoker.console import be_quiet, say
from stoker.data.feed import Feed
from stoker.data.sets import Dataset, Files, Resident
from stoker.data.shares import Shares
from stoker.data.sources import open_dataset
from stoker.data.stream import Stream
from stoker.errors import CheckpointUnfit, DataInvalid, Interrupted, RepeatRefused, RunBroken, StokerError, Terminated
from stoker.runs.events import Events
from stoker.runs.report import write_report
from stoker.runs.run import Run
from stoker.train import dynamo, models, optimizers, ranks, shortage
from stoker.train.account import record_of, result_of, say_plan
from stoker.train.checkpoint import Checkpoints, load_weights
from stoker.train.evaluation import Evaluation, evaluate
from stoker.train.images import evaluation_feed, first_images, training_feed
from stoker.train.loop import Loop, unwrapped
from stoker.train.mistakes import write_evaluation
from stoker.train.prediction import predict
from stoker.train.probe import Choice, Probe
from stoker.train.ranks import Ranks
from stoker.train.recipe import Recipe
from stoker.train.step import Step
from stoker.train.stopping import StopSignals

PREPARATION_IMAGES = 5000


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for on the command line."""

    recipe: Recipe
    data: Path | None
    """Where the images are; None: where the recipe's data set is downloaded to."""
    root: Path
    """The folder that holds the run folders."""
    run_id: str | None = None
    """The name of the new run; None: one is made."""
    resume: Run | None = None
    """The run to go on with, instead of a new one."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded, and count them."""
    command: list[str] = field(default_factory=list)
    repeats: str | None = None
    """The run that this one repeats."""
    fingerprint: str | None = None
    """What the data must be (when a run is repeated or resumed)."""
    lock: str | None = None
    """The digest of the lock that the environment was made from."""

    @classmethod
    def recorded(cls, run: Run, *, data: Path | None, **more: Any) -> Request:
        """Return the request for what `run` recorded, on the same data (`data`: where it is now); `more` goes to the request.

        Raises RunBroken when the record lacks what a training needs, BadValue when its configuration is another version's.
        """
        record = run.record()
        try:
            recorded = record["data"]
            return cls(
                recipe=Recipe.from_dict(record["configuration"]),
                data=data or (Path(recorded["path"]) if recorded["path"] else None),
                root=run.path.parent,
                skip_broken=recorded["skip_broken"],
                fingerprint=recorded["fingerprint"],
                **more,
            )
        except (KeyError, TypeError) as error:
            raise RunBroken(
                f"{run.path / 'run.json'} lacks what a training needs ({error})", hint="start the training anew: its command is in the record"
            ) from error


def train(request: Request) -> Run:
    """Do what was asked; returns the finished run. Raises StokerErrors; the run folder then says how it ended."""
    arithmetic_.use_large_allocations()
    arithmetic_.limit_threads(host.find_limits().cores)
    arithmetic_.keep_compiled_code()
    if request.recipe.compile != "yes":
        dynamo.spare()
    if request.recipe.deterministic:
        arithmetic_.only_deterministic()
    own = ranks.join()
    be_quiet(not own.first)
    try:
        return _Session(request, own).run()
    finally:
        own.leave()


class _Session:
    def __init__(self, request: Request, own: Ranks) -> None:
        self.request, self.ranks = request, own
        self.dataset = self._open()
        self.recipe = _fitted(request.recipe, self.dataset)
        # Refuses a batch that does not fit before there is a run folder.
        Shares(images=len(self.dataset.train.labels_N), batch_size=self.recipe.batch_size, drop_last=True, rank=own.rank, world_size=own.world_size)
        torch.manual_seed(self.recipe.seed)
        self.model = self._model()
        self.events: Events | None = None
        self.test_feed: Feed | Stream | None = None
        self.eval_s = 0.0

    def run(self) -> Run:
        """Open the run folder, train in it, and leave it with a status, however it ends."""
        run = self._folder()
        status, error = "failed", None
        try:
            with StopSignals() as stop:
                self._train(run, stop)
            status = "done"
        except StokerError as refusal:
            status = {Interrupted: "interrupted", Terminated: "terminated"}.get(type(refusal), "failed")
            error = {"slug": refusal.slug, "message": refusal.message}
            raise
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            if self.ranks.first:
                self._close(run, status, error)
        return run

    def _open(self) -> Dataset:
        """Open the data, on the first rank before the others: what is decoded is then in the cache for them."""
        dataset = self._dataset() if self.ranks.first else None
        self.ranks.share(None)
        dataset = dataset or self._dataset()
        wanted = self.request.fingerprint
        if wanted and dataset.fingerprint != wanted:
            kind = RepeatRefused if self.request.repeats else DataInvalid
            raise kind(
                f"{dataset.source} is not the data of the run: {dataset.fingerprint} instead of {wanted}",
                hint="give the path of the same data with --data PATH",
            )
        return dataset

    def _dataset(self) -> Dataset:
        recipe = self.request.recipe
        return open_dataset(
            recipe.dataset,
            self.request.data,
            resident=recipe.resident,
            test_fraction=recipe.test_fraction,
            seed=recipe.seed,
            skip_broken=self.request.skip_broken,
        )

    def _model(self) -> nn.Module:
        recipe = self.recipe
        return models.build(recipe.model, classes=len(self.dataset.classes), channels=recipe.channels, image_size=recipe.image_size)

    def _folder(self) -> Run:
        """Make or take over the run folder on the first rank; the others only learn its name."""
        request, path = self.request, None
        if self.ranks.first:
            if request.resume:
                run = request.resume
                run.hold()
                run.update(status="running")
            else:
                run = Run.create(request.root, run_id=request.run_id, record=self._record())
            path = str(run.path)
        path = self.ranks.share(path)
        return run if self.ranks.first else Run(Path(path))

    def _record(self) -> dict[str, Any]:
        request = self.request
        return record_of(
            self.recipe,
            self.dataset,
            self.ranks,
            command=request.command,
            data=request.data,
            skip_broken=request.skip_broken,
            repeats=request.repeats,
            lock=request.lock,
        )

    def _train(self, run: Run, stop: StopSignals) -> None:
        checkpoints = Checkpoints(run.path / "checkpoints")
        loaded = checkpoints.load() if self.request.resume else None
        device, recipe = self.ranks.device, self.recipe
        with shortage.explained(recipe.batch_size // self.ranks.world_size, self._try_step, device):
            self._place(loaded)
            arithmetic, choices = self._arithmetic(loaded)
            if self.ranks.first:
                run.update(choices=[choice.as_dict() for choice in choices])
            say_plan(self.recipe, self.dataset, self.ranks, choices)
            loop = self._loop(run, stop, checkpoints, arithmetic, choices, loaded[0]["position"]["step"] if loaded else None)
            if loaded:
                self._restore(loop, run, *loaded)
            elif self.request.resume:
                say("no checkpoint was written yet: starting from the beginning")
                if self.ranks.first:
                    run.truncate_metrics(-1)
            self._fit(run, loop, arithmetic)

    def _place(self, loaded: tuple[dict[str, Any], Path] | None) -> None:
        """Put the model on the device, with the weights of a checkpoint or prepared for its data."""
        if loaded:
            load_weights(self.model, *loaded)
        prepare = getattr(self.model, "prepare", None)
        if prepare and not loaded:
            some = first_images(self.dataset.train, PREPARATION_IMAGES)
            feed = evaluation_feed(self.recipe, some, Arithmetic(), torch.device("cpu"), skip_broken=self.request.skip_broken)
            prepare(torch.cat([images.clone() for images, _ in feed.epoch(0)]))
        self.model.to(self.ranks.device)

    def _arithmetic(self, loaded: tuple[dict[str, Any], Path] | None) -> tuple[Arithmetic, list[Choice]]:
        """Return what the interrupted part of this run was computed with, or what a probe finds."""
        if loaded and loaded[0]["device"] == self.ranks.device.type:
            return Arithmetic(**loaded[0]["arithmetic"]), [Choice(**choice) for choice in loaded[0]["choices"]]
        chosen = None
        if self.ranks.first:
            recipe = self.recipe
            count = recipe.batch_size // self.ranks.world_size
            images, labels = self._first_batch(count)
            probe = Probe(recipe, self.model, self._optimizer, images, labels, self.ranks.device)
            chosen = probe.choose(recipe.epochs * (len(self.dataset.train.labels_N) // recipe.batch_size))
        return self.ranks.share(chosen)

    def _first_batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        some = first_images(self.dataset.train, count)
        feed = evaluation_feed(self.recipe, some, Arithmetic(), self.ranks.device, skip_broken=self.request.skip_broken)
        batches = [(images.clone(), labels.clone()) for images, labels in feed.epoch(0)]
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])

    def _optimizer(self, model: nn.Module, fused: bool) -> torch.optim.Optimizer:
        recipe = self.recipe
        optimizer, _ = optimizers.build(
            recipe.optimizer,
            model,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=fused,
        )
        return optimizer

    def _loop(
        self, run: Run, stop: StopSignals, checkpoints: Checkpoints, arithmetic: Arithmetic, choices: list[Choice], resumed_at: int | None
    ) -> Loop:
        recipe, device = self.recipe, self.ranks.device
        arithmetic_.apply(arithmetic, self.model, device)
        optimizer = self._optimizer(self.model, arithmetic.fused)
        local = [device.index] if device.type == "cuda" else None
        model = self.model if self.ranks.alone else DistributedDataParallel(self.model, device_ids=local)
        feed = training_feed(recipe, self.dataset.train, arithmetic, self.ranks, skip_broken=self.request.skip_broken)
        say(f"fed by {feed.how}; pixels on the {feed.where}: {feed.why}")
        if self.ranks.first:
            run.update(feed={"how": feed.how, "where": feed.where, "why": feed.why, "bytes": feed.bytes})
        self.events = Events(run.path, resumed_at=resumed_at) if self.ranks.first else None
        return Loop(
            recipe=recipe,
            step=Step(model, optimizer, arithmetic, device, recipe.label_smoothing),
            feed=feed,
            evaluate=functools.partial(self._evaluate, arithmetic, "none"),
            checkpoints=checkpoints,
            save_also={
                "arithmetic": arithmetic.as_dict(),
                "choices": [choice.as_dict() for choice in choices],
                "configuration": recipe.as_dict(),
                "device": device.type,
            },
            ranks=self.ranks,
            log=functools.partial(self._log, run),
            stop=stop,
            run_name=run.id,
        )

    def _restore(self, loop: Loop, run: Run, state: dict[str, Any], path: Path) -> None:
        if state["configuration"] != self.recipe.as_dict():
            raise CheckpointUnfit(f"{path} was made with another configuration", hint=f"`stoker runs show {run.id}` prints it")
        loop.step.optimizer.load_state_dict(state["optimizer"])
        loop.restore(state)
        if self.ranks.first:
            # What was written after the checkpoint will be written again; so will the end of an epoch whose last step it holds.
            run.truncate_metrics(loop.position.step - (loop.position.batch > 0))
            run.update(resumed_from=[*run.record().get("resumed_from", []), loop.position.step])
        say(f"going on at step {loop.position.step:,} of {loop.total_steps:,} ({path.name})")

    def _fit(self, run: Run, loop: Loop, arithmetic: Arithmetic) -> None:
        warm_up_s = self._warm_up(loop) if arithmetic.compiled else 0.0
        started_s, before_s = time.time(), loop.position.train_s
        loop.run()
        found = self._evaluate(arithmetic, self.recipe.tta)
        event = loop.finish(found)
        ended_s = time.time()
        if not self.ranks.first:
            return
        broken = [_broken(feed) for feed in (loop.feed, self.test_feed)]
        if any(broken):
            skipped = [*broken[0], *broken[1]]
            say(f"left out {len(skipped)} broken images, first: {skipped[0]}")
            run.update(data=run.record()["data"] | {"skipped": skipped})
        images = _without(self.dataset.test, broken[1])
        write_evaluation(run.path / "evaluation.npz", found, images, len(self.dataset.classes))
        run.update(result=result_of(loop, event, warm_up_s=warm_up_s, warm_s=ended_s - started_s + before_s))

    def _warm_up(self, loop: Loop) -> float:
        """Compile before the clock starts, by two steps that are then undone; returns the seconds it took."""
        start = time.time()
        model, optimizer = unwrapped(loop.step.model), loop.step.optimizer
        weights, updates, random = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
        model.train()
        batches = loop.feed.epoch(loop.position.epoch)
        images, labels = next(iter(batches))
        for _ in range(2):
            loop.step(images, labels)
        del images, labels, batches
        model.load_state_dict(weights)
        optimizer.load_state_dict(updates)
        torch.set_rng_state(random)
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        say(f"compiled in {time.time() - start:.1f} s; the clock starts now")
        return time.time() - start

    def _evaluate(self, arithmetic: Arithmetic, tta: str) -> Evaluation:
        if self.test_feed is None:
            self.test_feed = evaluation_feed(self.recipe, self.dataset.test, arithmetic, self.ranks.device, skip_broken=self.request.skip_broken)
        model = unwrapped(self.model)
        start = time.time()
        found = evaluate(model, self.test_feed.epoch(0), arithmetic, self.ranks.device, functools.partial(predict, mode=tta))
        self.eval_s = time.time() - start
        return found

    def _log(self, run: Run, kind: str, **values: Any) -> None:
        if not self.ranks.first:
            return
        if kind == "epoch":
            values["eval_s"] = round(self.eval_s, 3)
        run.log(kind, time=round(time.time(), 3), **values)
        if self.events:
            scalars = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, float)}
            self.events.add(values["step"], scalars)

    def _try_step(self, size: int) -> None:
        """Take one plain step on copies with a batch of `size`; raises when there is no memory for it."""
        model = self._model().to(self.ranks.device)
        optimizer = self._optimizer(model, False)
        some = self._first_batch(min(size, len(self.dataset.train.labels_N)))
        Step(model, optimizer, Arithmetic(), self.ranks.device, self.recipe.label_smoothing)(*some)

    def _close(self, run: Run, status: str, error: dict[str, str] | None) -> None:
        """Leave the run folder with how it ended; what cannot be written any more must not hide why it ended."""
        ended = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        try:
            run.update(status=status, ended=f"{ended[:-2]}:{ended[-2:]}", error=error)
            if self.events:
                self.events.close()
            write_report(run)
        except StokerError as refusal:
            if status == "done":
                raise
            say(f"the record could not be completed: {refusal.message}")
        finally:
            run.close()


def _fitted(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return the recipe with what only the data can say: size and channels of resident images; refuse what does not fit."""
    if isinstance(dataset.train, Files):
        return recipe
    _, height, width, channels = dataset.train.pixels_NHWC.shape
    if height != width:
        raise DataInvalid(
            f"{dataset.source} holds images of {height}x{width} pixels; this recipe takes square ones", hint="`stoker train folder` crops them"
        )
    changes = []
    if height != recipe.image_size:
        changes.append(f"image_size={height}")
    if channels != recipe.channels:
        changes += [f"mean={','.join(['0.5'] * channels)}", f"std={','.join(['0.25'] * channels)}"]
    return recipe.changed(changes)


def _broken(feed: object) -> tuple[str, ...]:
    """Return the images that could not be decoded while they were fed; resident ones were left out before."""
    return feed.broken if isinstance(feed, Stream) else ()


def _without(images: Resident | Files, broken: tuple[str, ...]) -> Resident | Files:
    """Return the images that were evaluated: those that turned out to be broken were left out."""
    if isinstance(images, Resident) or not broken:
        return images
    left_out = set(broken)
    whole = [index for index, path in enumerate(images.paths) if path not in left_out]
    return Files(paths=tuple(images.paths[index] for index in whole), labels_N=images.labels_N[whole])
