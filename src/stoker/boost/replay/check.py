"""Every plan checks itself: its first batches are made both ways and compared bit for bit, and the time of both is taken."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from stoker.boost.notes import Note
from stoker.boost.replay.crew import Job
from stoker.boost.replay.engine import Room
from stoker.boost.replay.form import begun
from stoker.boost.replay.indices import indices
from stoker.boost.replay.plainly import fetched, same
from stoker.boost.replay.plan import Plan
from stoker.boost.replay.rooms import Rooms, handed
from stoker.boost.replay.stream import Stream
from stoker.host import find_limits

_BATCHES = 2
"""Without workers so many batches are made both ways."""
_MOST_S = 0.1
"""A prefix of a batch is compared when the whole would take longer."""
_FIRST, _MOST = 4, 32
"""With workers: samples to find out what one costs, and the most that are compared of a batch."""

_TIMINGS, _MOST_TIMINGS, _SMALL_S = 2, 10, 0.003
"""Our way is timed so often, and the best counts: what the first time costs (pages of memory, tables) is not the rule. More often where it takes
little: on a busy machine two timings of a tenth of a millisecond are now and then both wrong by half."""
_PATIENCE = 1.5
"""So much slower may the first batches be where samples are kept: later epochs find them made."""

_BESIDE = 2
"""The script and one worker: as much as that is done at once at least."""

_known: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], str | int]] = weakref.WeakKeyDictionary()
"""By data set and plan: why it was refused, or how many batches are still to be made both ways."""


def refusal(plan: Plan) -> str | None:
    """Return why a plan like this was refused earlier for the same data set, None when it was not."""
    found = _findings(plan).get(plan.signature)
    return found if isinstance(found, str) else None


def forget() -> None:
    """Check everything anew: when boost is switched on again."""
    _known.clear()


def _findings(plan: Plan) -> dict[tuple[Any, ...], str | int]:
    try:
        return _known.setdefault(plan.subject, {})
    except TypeError:  # a class whose objects cannot be keys: checked every time
        return {}


class Check:
    """The check of one loader's plan."""

    def __init__(self, plan: Plan, note: Note) -> None:
        """Nothing is left to do for a plan like one that has passed."""
        self._plan, self._note = plan, note
        found = _findings(plan).get(plan.signature, _BATCHES)
        self._left = found if isinstance(found, int) else 0
        self._rooms = Rooms(pinned=False, keep=1)

    @property
    def wanted(self) -> bool:
        """Whether batches are still to be made both ways."""
        return self._left > 0

    def passed(self) -> None:
        """Remember that plans like this one give the user's bits."""
        self._left = _findings(self._plan)[self._plan.signature] = 0

    def refuse(self, why: str, *, for_good: bool) -> None:
        """Remember why the plan was given up; `for_good`: in later epochs too."""
        self._left = 0
        self._note.outcome, self._note.why = "declined", why
        if for_good:
            _findings(self._plan)[self._plan.signature] = why
        if os.environ.get("STOKER_BOOST_DEBUG"):
            print(f"stoker boost: {self._note.what} goes on as the script wrote it: {why}", file=sys.stderr)

    def single(self, stream: Stream, index: Any, data: Any, after: Any, plain_s: float) -> str | None:
        """Return in what our batch differs from `data`, which the user's code has made in `plain_s` seconds and after which the state was `after`."""
        rows = len(index) if plain_s <= _MOST_S else max(1, int(len(index) * _MOST_S / plain_s))
        before = stream.snapshot()
        room = self._made(stream, index, rows)
        if not stream.stands_at(after):
            return "the random state after a batch differs from PyTorch's"
        data = self._listed(data)
        reason = same(begun(data, rows), begun(handed(room), rows))
        if reason is not None:
            return f"a batch differs from PyTorch's: {reason}"
        del room  # so that the next one is made in the same memory, as all batches after the first are
        self._left -= 1
        _findings(self._plan)[self._plan.signature] = self._left
        if not self._left:  # the batches before it have warmed both ways up
            self._count(plain_s * rows / len(index), self._timed(stream, before, lambda: self._whole(stream, index, rows)), rows)
            if self._slower(1):
                return self._pace(1)
            self.passed()
        return None

    def _whole(self, stream: Stream, index: Any, rows: int) -> None:
        """Make a batch with what is done for every one without workers: for few small samples that is the most of it."""
        self._plan.engine.current()
        indices(index, len(self._plan.dataset))
        handed(self._made(stream, index, rows))

    def _timed(self, stream: Stream, before: Any, make: Callable[[], object]) -> float:
        """Return how long our batch takes when memory, tables and kernels are there already."""
        taken: list[float] = []
        while len(taken) < _TIMINGS or (len(taken) < _MOST_TIMINGS and sum(taken) < _SMALL_S):
            if self._plan.engine.draws:  # putting all states back takes longer than a small batch
                stream.restore(before)
            began = time.thread_time()
            make()
            taken.append(time.thread_time() - began)
        return min(taken)

    def many(self, fetcher: Any, job: Job, workers: int) -> str | None:
        """Return in what the beginning of our batch differs from what the user's code makes of it in a worker's random state.

        Leaves the stream anywhere; the caller puts it back.
        """
        before = job.stream.snapshot()
        count = min(_FIRST, len(job.index))
        while True:
            began = time.thread_time()
            data = fetched(fetcher, list(job.index[:count]), job.stream)
            plain_s = time.thread_time() - began
            after = job.stream.snapshot()
            job.stream.restore(before)
            wanted = min(len(job.index), _MOST, max(count, int(count * _MOST_S / 4 / max(plain_s, 1e-9))))
            if wanted < 2 * count:
                break
            count = wanted
        began = time.thread_time()
        room = self._made(job.stream, job.index[:count], count)
        first_s = time.thread_time() - began
        if not job.stream.stands_at(after):
            return "a worker's random state after some samples differs from PyTorch's"
        reason = same(self._listed(data), handed(room))
        if reason is not None:
            return f"the first samples differ from PyTorch's: {reason}"
        del room  # as above
        if not self._plan.engine.serial:
            self._count(plain_s, self._timed(job.stream, before, lambda: self._made(job.stream, job.index[:count], count)), count)
            return self._pace(1) if self._slower(1) else None
        # It runs in the script's own thread, where the whole first epoch waits for files to be decoded; even one worker works beside the script.
        self._count(plain_s, first_s, count)
        at_once = min(max(_BESIDE, workers), find_limits().cores)
        return self._pace(at_once) if self._slower(at_once) else None

    def _listed(self, data: Any) -> Any:
        """Return the fields of a batch as a list, where they stand in what the known collate_fn puts them in."""
        return list(data) if type(data) is self._plan.collate.kind else data

    def _made(self, stream: Stream, index: Any, rows: int) -> Room:
        engine = self._plan.engine
        index_B = np.array(index, dtype=np.int64)
        room = self._rooms.take(engine.shapes(len(index_B)))
        if engine.serial:
            with stream.made_global():
                drawn = engine.draw(stream, index_B)
        else:
            drawn = engine.draw(stream, index_B)
        engine.fill(drawn, room, 0, rows)
        return room

    def _count(self, plain_s: float, replay_s: float, images: int) -> None:
        numbers = self._note.numbers
        for name, value in (("check_plain_s", plain_s), ("check_replay_s", replay_s), ("check_images", images)):
            numbers[name] = numbers.get(name, 0) + value

    def _slower(self, at_once: int) -> bool:
        """Whether the user's way with `at_once` workers that really run at once takes no longer than ours.

        Seconds are the thread's own: what else runs on the machine is not to decide.
        """
        numbers = self._note.numbers
        patience = _PATIENCE if at_once == 1 and getattr(self._plan.engine, "keeps", False) else 1.0
        return bool(numbers["check_replay_s"] > patience * numbers["check_plain_s"] / at_once)

    def _pace(self, at_once: int) -> str:
        numbers = self._note.numbers
        micros = [1e6 * numbers[name] / numbers["check_images"] for name in ("check_replay_s", "check_plain_s")]
        beside = f", {at_once} at once" if at_once > 1 else ""
        return f"it would not be faster: {micros[0]:.3g} us a sample, the script's own way {micros[1]:.3g} us{beside}"
