"""Threads that make batches ahead of the training: draws in order, pixels in any order, and whoever waits helps."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stoker.boost.replay.engine import Engine, Room
from stoker.boost.replay.openmp import quiet_thread
from stoker.boost.replay.rooms import Rooms
from stoker.boost.replay.stream import Stream

_JOIN_S = 2.0


@dataclass(eq=False, kw_only=True)
class Job:
    """One batch on its way."""

    index: Any
    """What the sampler gave."""
    index_B: np.ndarray
    """The same as int64."""
    stream: Stream
    """Whose random numbers it uses."""
    read: Any = None
    """What the samples were made of, where the batch is made before it is asked for."""
    before: Any = None
    """The stream's state before the batch's first draw."""
    drawn: Any = None
    is_drawn: bool = False
    room: Room | None = None
    taken: int = 0
    """Rows that somebody makes or has made."""
    left: int = 0
    """Rows that are not finished."""
    error: BaseException | None = None
    """What stood in the way; the batch will not be finished."""

    @property
    def done(self) -> bool:
        """Whether every row is there."""
        return self.is_drawn and self.left == 0 and self.error is None


@dataclass(eq=False)
class Crew:
    """The jobs of one iterator and the threads that work on them. Holds no reference to the iterator, whose end ends it."""

    engine: Engine
    rooms: Rooms
    threads: int
    """0: the consumer does all."""
    ahead: int
    """How many jobs beyond the consumer's are worked on."""
    grain: int
    """Rows that one thread takes at a time."""
    jobs: deque[Job] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._ready = threading.Condition()
        self._running: list[threading.Thread] = []
        self._busy = 0
        self._drawing = self._closed = self._held = False
        _CREWS.add(self)

    def put(self, job: Job) -> None:
        """Queue a job behind the others."""
        with self._ready:
            self.jobs.append(job)
            self._ready.notify_all()

    def start(self) -> None:
        """Let the threads work from now on."""
        for number in range(self.threads):
            thread = threading.Thread(target=self._work, name=f"stoker-feed-{number}", daemon=True)
            thread.start()
            self._running.append(thread)  # one that could not be started must not be waited for at the exit

    def finish(self, job: Job) -> Room:
        """Return the finished room of the first job, working on it as far as nobody else does.

        Raises what making it raised, and RuntimeError when the crew is closed.
        """
        while True:
            with self._ready:
                if job.error is not None:
                    raise job.error
                if job.done:
                    assert job.room is not None
                    return job.room
                if self._closed:
                    raise RuntimeError("its threads were ended")
                task = self._task(1)
                if task is None:
                    self._ready.wait(1.0)
                    continue
            self._do(task)

    def pop(self) -> None:
        """Take the first job away: it was delivered."""
        with self._ready:
            self.jobs.popleft()
            self._ready.notify_all()

    def draw_all(self) -> None:
        """Draw for every queued job: what workers that go on would have drawn."""
        self.hold()
        for job in self.jobs:
            if not job.is_drawn:
                job.before = job.stream.snapshot()
                job.drawn, job.is_drawn = self.engine.draw(job.stream, job.index_B), True

    def hold(self) -> None:
        """Stop the threads' work and wait until none of them touches a stream or a room; `go_on` ends it."""
        with self._ready:
            self._held = True
            while self._busy:
                self._ready.wait(0.1)

    def go_on(self) -> None:
        """Let the threads work again."""
        with self._ready:
            self._held = False
            self._ready.notify_all()

    def close(self) -> None:
        """End the threads; what they are at is finished first."""
        with self._ready:
            self._closed = True
            self.jobs.clear()
            self._ready.notify_all()

    def join(self) -> None:
        """Wait for the threads, for a while."""
        for thread in self._running:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    # --- work -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        quiet_thread()
        while True:
            with self._ready:
                task = None
                while not self._closed and (self._held or (task := self._task(self.ahead)) is None):
                    self._ready.wait()
                if task is None:
                    return
            self._do(task)
            del task  # an idle thread must not keep a batch alive

    def _task(self, depth: int) -> Callable[[], None] | None:
        """Return a piece of work on the first `depth` jobs, marked as taken; None when there is none. Called with the lock held."""
        if self._closed:
            return None
        for place, job in enumerate(self.jobs):
            if place >= depth or job.error is not None:
                return None
            if not job.is_drawn:
                # One after the other: a stream's draws have an order.
                if self._drawing:
                    return None
                self._drawing = True
                self._busy += 1
                return lambda: self._draw(job)
            count = len(job.index_B)
            if job.taken < count:
                start = job.taken
                job.taken = stop = min(count, start + self.grain)
                self._busy += 1
                return lambda: self._fill(job, start, stop)
        return None

    def _do(self, task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            with self._ready:
                self._busy -= 1
                self._ready.notify_all()

    def _draw(self, job: Job) -> None:
        drawn, room, error = None, None, None
        try:
            room = self.rooms.take(self.engine.shapes(len(job.index_B)))
            job.before = job.stream.snapshot()
            drawn = self.engine.draw(job.stream, job.index_B)
        except BaseException as caught:
            error = caught
        with self._ready:
            self._drawing = False
            job.drawn, job.room, job.error, job.left = drawn, room, error, len(job.index_B)
            job.is_drawn = error is None

    def _fill(self, job: Job, start: int, stop: int) -> None:
        error = None
        try:
            assert job.room is not None
            self.engine.fill(job.drawn, job.room, start, stop)
        except BaseException as caught:
            error = caught
        with self._ready:
            job.left -= stop - start
            job.error = job.error or error

    # --- fork -----------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """In a forked child: its threads are not there, so the consumer does all, and what they were at is begun again."""
        self._ready = threading.Condition()
        self._running, self.threads, self._busy, self._drawing = [], 0, 0, False
        for job in self.jobs:
            if job.is_drawn and job.left:
                job.taken, job.left = 0, len(job.index_B)


_CREWS: weakref.WeakSet[Crew] = weakref.WeakSet()


def _before_fork() -> None:
    for crew in list(_CREWS):
        crew._ready.acquire()


def _after_fork_here() -> None:
    for crew in list(_CREWS):
        crew._ready.release()


def _after_fork_in_child() -> None:
    for crew in list(_CREWS):
        crew.renew()


def _at_exit() -> None:
    # A thread that still works while Python takes itself apart would die inside a library.
    for crew in list(_CREWS):
        crew.close()
    for crew in list(_CREWS):
        crew.join()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_here, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
