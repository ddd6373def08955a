"""Models and optimizers that train together, and the parts that are tried on them, one after the other."""

from __future__ import annotations

import time
import weakref
from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch.optim import Optimizer

from stoker.boost.guard import complain
from stoker.boost.models import ranks
from stoker.boost.models.attempt import Attempt
from stoker.boost.models.entry import Entry
from stoker.boost.models.trial import Trial, Verdict
from stoker.boost.models.waiting import waited_s
from stoker.boost.models.ways import Way
from stoker.boost.notes import NOTES, Note, Outcome

_FIRST_STEPS = 3
"""Steps that are left alone: they set up the optimizer's state and whatever else is made once."""

_REHEARSAL_STEPS = 3
"""How long a model may not be called before it is left as it is."""

_CUDA_LAP = 4
"""Steps a lap on a GPU, which works on after the host has gone on: it is waited for once a lap."""


@dataclass(eq=False)
class _Running:
    """What is being tried."""

    attempt: Attempt
    trial: Trial | None = None
    patience: int = _REHEARSAL_STEPS
    asked: bool = False
    begun: bool = False
    lap_began_s: float | None = None
    lap_steps: int = 0
    notes: list[Note] = field(default_factory=list)
    """One a way, there from the beginning: the run may end before the trial does."""


class Training:
    """Its clock is the first optimizer that steps: from one of its steps to the next is one training step."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: list[Entry] = []
        self.on: dict[str, Way] = {}
        """What is switched on now: kept, or being tried."""
        self.finished = False
        self.steps = 0
        self.trained_s = 0.0
        """Time of the steps so far."""
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._beat: int | None = None
        self._last_s: float | None = None
        self._disturbed = False
        self._plan: Generator[Attempt, Verdict | None, None] | None = None
        self._running: _Running | None = None
        self._broken: str | None = None
        self._kept: dict[str, Note] = {}
        """By part: what says that it is kept, as long as it is."""

    def optimizers(self) -> list[Optimizer]:
        """Return those that are alive."""
        return [optimizer for ref in self._optimizers if (optimizer := ref()) is not None]

    def able(self) -> list[Entry]:
        """Return the models whose copies have passed the last rehearsal."""
        return [entry for entry in self.entries if entry.module is not None and entry.obstacle is None]

    def alive(self) -> bool:
        """Whether any of its models is."""
        return any(entry.module is not None for entry in self.entries)

    def join(self, optimizer: Optimizer) -> None:
        """Take in an optimizer of the same models."""
        self._optimizers = [ref for ref in self._optimizers if ref() is not None] + [weakref.ref(optimizer)]
        for way in list(self.on.values()):
            way.joined(optimizer)

    def disturbed(self) -> None:
        """Something else than a training step is going on: an evaluation, a rehearsal. The current step is not timed."""
        self._disturbed = True

    def failed(self, why: str) -> None:
        """A model has failed in other arithmetic: all of it is taken back, for good."""
        names = ["compile"] if "compile" in self.on else [name for name, way in self.on.items() if way.rehearsed]
        for name in names:
            self._take_back(name, "failed", why)
        self._disturbed = True

    def withdraw(self, part: str, why: str) -> None:
        """Take one part back, because the script needs it so."""
        if part in self.on:
            self._take_back(part, "dropped", why)

    def _take_back(self, part: str, outcome: Outcome, why: str) -> None:
        self._switch(self.on[part], False)
        if self._running is not None and self._running.attempt.involves(part):
            self._broken = why
        elif (kept := self._kept.pop(part, None)) is not None:
            kept.outcome, kept.why = outcome, f"{why}; until then it was kept: {kept.why}"
        else:
            self.note(part, outcome, why)

    def stop(self, why: str | None = None) -> None:
        """Take everything back and try nothing more."""
        if self._running is not None and why is not None:
            for note in self._running.notes:
                note.why = f"not decided: {why}"
        self.finished, self._running, self._plan = True, None, None
        for entry in self.entries:
            entry.give_up()
        for way in reversed(list(self.on.values())):
            self._switch(way, False)

    def begin(self, plan: Generator[Attempt, Verdict | None, None]) -> None:
        """Work through a plan from the next step on."""
        self._plan = plan

    @property
    def waits_for_plan(self) -> bool:
        """Whether the first steps are over and nothing was tried yet."""
        return self._plan is None and not self.finished and self.steps >= _FIRST_STEPS

    @property
    def resting(self) -> bool:
        """Whether the next attempt is for later: only a long training gets that far."""
        return self._running is not None and not self._running.begun and self.trained_s < self._running.attempt.after_s

    def stepped(self, optimizer: Optimizer, *, turn: bool) -> bool:
        """Note a step; return whether it was one of the clock's. `turn`: whether this training may try things now."""
        beat = id(optimizer.param_groups[0]["params"][0]) if optimizer.param_groups and optimizer.param_groups[0]["params"] else id(optimizer)
        if self._beat is None:
            self._beat = beat
        if beat != self._beat:
            return False
        step_s = self._step_s()
        self.steps += 1
        if step_s is not None:
            self.trained_s += step_s
        if self._plan is not None and turn:
            self._advance(step_s)
        for entry in self.entries:
            entry.calls = 0
        return True

    def _step_s(self) -> float | None:
        now_s = time.perf_counter() - waited_s()
        last_s, self._last_s = self._last_s, now_s
        disturbed, self._disturbed = self._disturbed, False
        return None if last_s is None or disturbed else now_s - last_s

    def _advance(self, step_s: float | None) -> None:
        if self._running is None:
            self._next(None)
        elif self.resting:
            return
        elif not self._running.asked:
            self._ask()
        elif self._broken is not None:
            self._answer("failed", Verdict(keep=False, why=self._broken, plain_step_s=None, step_s=None, steps=0))
        elif not self._running.begun:
            self._rehearsed()
        else:
            self._lap(step_s)

    def _next(self, answer: Verdict | None) -> None:
        """Go on to the next attempt of the plan, or to its end."""
        assert self._plan is not None
        self._running, self._broken = None, None
        try:
            attempt = self._plan.send(answer) if answer is not None else next(self._plan)
        except StopIteration:
            self.finished = True
            self._plan = None
            return
        self._running = running = _Running(attempt)
        for way in attempt.ways:
            running.notes.append(self.note(way.name, "dropped", f"{way.told}: the run was over before enough steps were timed"))
        if self.resting:
            running.notes[0].outcome = "declined"
            running.notes[0].why = f"not tried in a run that may not go on for long enough: it would come after {attempt.after_s:.0f} s of training"
        else:
            self._ask()

    def _ask(self) -> None:
        """Have every model rehearse at its next call, where that is needed."""
        running = self._running
        assert running is not None
        running.asked = True
        running.notes[0].outcome = "dropped"
        wanted = frozenset(way.name for way in running.attempt.ways if way.rehearsed)
        for entry in self.entries:
            entry.wanted, entry.obstacle = wanted or None, None
        if not wanted:
            self._start()

    def _rehearsed(self) -> None:
        """Wait until every model was called once; what is not called stays as it is."""
        running = self._running
        assert running is not None
        if any(entry.still_rehearsing() for entry in self.entries):
            return
        waiting = [entry for entry in self.entries if entry.wanted is not None]
        running.patience -= 1
        if waiting and running.patience > 0:
            return
        called = [entry for entry in self.entries if entry not in waiting]
        for entry in waiting:
            entry.wanted, entry.obstacle = None, "it was not called with gradients"
        if self.able() or ranks.world() > 1:
            self._start()
        else:
            # What is called tells more than what is not: parametrizations are called alone when they are put on, and never again.
            obstacles = [entry.obstacle for entry in (*called, *waiting) if entry.obstacle]
            why = obstacles[0] if obstacles else "the model is gone"
            self._answer("declined", Verdict(keep=False, why=why, plain_step_s=None, step_s=None, steps=0))

    def _start(self) -> None:
        running = self._running
        assert running is not None
        cuda = any(entry.device.type == "cuda" for entry in self.entries)
        count, lap = (2, _CUDA_LAP) if cuda else (4, 1)
        running.trial = Trial(count=count, pairs=4 if cuda else 3, steps_a_lap=lap, early=ranks.world() == 1)
        running.begun = True
        self._lap_begins()

    def _lap_begins(self) -> None:
        running = self._running
        assert running is not None
        assert running.trial is not None
        running.lap_steps = 0
        if running.trial.steps_a_lap > 1:
            torch.cuda.synchronize()
            running.lap_began_s = time.perf_counter() - waited_s()

    def _lap(self, step_s: float | None) -> None:
        running = self._running
        assert running is not None
        assert running.trial is not None
        trial = running.trial
        running.lap_steps += 1
        if step_s is None:
            running.lap_began_s = None
        if running.lap_steps < trial.steps_a_lap:
            return
        if trial.steps_a_lap > 1:
            torch.cuda.synchronize()
            began_s = running.lap_began_s
            step_s = None if began_s is None else (time.perf_counter() - waited_s() - began_s) / trial.steps_a_lap
        tried = trial.tried
        verdict = trial.lap(step_s)
        if verdict is not None:
            self._decide(verdict)
            return
        if trial.tried != tried:
            for way in running.attempt.ways:
                self._switch(way, trial.tried)
        self._lap_begins()
        # What switching took is no part of a step.
        self._last_s = time.perf_counter() - waited_s()

    def _decide(self, verdict: Verdict) -> None:
        running = self._running
        assert running is not None
        try:
            keep = ranks.decided(f"{self.number}/{self.steps}", verdict.keep)
        except Exception as error:
            complain("models", error, consequence="the ranks' steps are not in step, and nothing more is tried")
            self.stop()
            return
        if keep != verdict.keep:
            verdict = Verdict(keep=keep, why="as the first rank decided", plain_step_s=None, step_s=None, steps=verdict.steps)
        self._answer("kept" if keep else "dropped", verdict)

    def _answer(self, outcome: Outcome, verdict: Verdict) -> None:
        running = self._running
        assert running is not None
        kept = outcome == "kept"
        for way in running.attempt.ways:
            self._switch(way, kept)
        for number, (way, note) in enumerate(zip(running.attempt.ways, running.notes, strict=True)):
            together = f" (together with {running.attempt.ways[0].name})" if number else ""
            note.outcome, note.why = outcome, f"{way.told}{together}: {verdict.why}"
            note.numbers.update({} if number else verdict.numbers())
            if kept:
                self._kept[way.name] = note
        self._next(verdict)
        self._last_s = time.perf_counter() - waited_s()

    def _switch(self, way: Way, on: bool) -> None:
        if (way.name in self.on) == on:
            return
        try:
            if on:
                self.on[way.name] = way
                way.on(self)
            else:
                del self.on[way.name]
                way.off(self)
        except Exception as error:
            complain(f"models.{way.name}", error, consequence="it is taken back")
            self.on.pop(way.name, None)
            way.off(self)
            self._broken = f"it could not be switched: {type(error).__name__}: {error}"

    def note(self, part: str, outcome: Outcome, why: str) -> Note:
        """Keep what became of a part."""
        entry = self.entries[0]
        what = ", ".join(dict.fromkeys(entry.what for entry in self.entries))
        return NOTES.add(Note(kind="model", part=part, what=what, where=entry.where, outcome=outcome, why=why))
