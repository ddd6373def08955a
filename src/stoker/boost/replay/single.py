"""A replayed loader without workers: it asks sampler and generators at the very moments at which PyTorch's iterator does."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._C import _len_torch_dispatch_stack
from torch.autograd import _profiler_enabled
from torch.utils.data import _DatasetKind
from torch.utils.data._utils.pin_memory import pin_memory
from torch.utils.data.dataloader import _BaseDataLoaderIter, _SingleProcessDataLoaderIter

from stoker.boost import copies
from stoker.boost.notes import Note
from stoker.boost.replay.account import Account
from stoker.boost.replay.check import Check
from stoker.boost.replay.crew import Crew, Job
from stoker.boost.replay.engine import Room
from stoker.boost.replay.fused import Fused
from stoker.boost.replay.guess import LEAST_STEP_S, Guess
from stoker.boost.replay.indices import indices, why_not
from stoker.boost.replay.lines import begin
from stoker.boost.replay.plainly import same
from stoker.boost.replay.plan import Plan, hooked
from stoker.boost.replay.rooms import Rooms, handed
from stoker.boost.replay.sources import folder
from stoker.boost.replay.stream import State, Stream
from stoker.boost.replay.unfit import Unfit

_NEXT = _BaseDataLoaderIter.__next__
_SMALL_S, _TIMINGS = 0.002, 4
"""What takes less is timed so often again, and the least counts."""
_BEGINNING = 32
"""So many samples of a batch are checked, of one that has four times as many or more: as many as of a worker's."""


class ReplaySingle(_SingleProcessDataLoaderIter):
    """Without workers: random numbers are drawn from the process's own state when the batch is asked for, as PyTorch's iterator does."""

    def __init__(self, loader: Any, plan: Plan, note: Note, check: Check) -> None:
        # Not the single-process one's own: the same, without what data pipes need.
        begin(self, loader)
        if self._timeout != 0:
            raise AssertionError("_SingleProcessDataLoaderIter requires timeout == 0")
        if self._num_workers != 0:
            raise AssertionError("_SingleProcessDataLoaderIter requires num_workers == 0")
        self._profile_name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
        fetching = self._dataset, self._auto_collation, self._collate_fn, self._drop_last
        self._dataset_fetcher = _DatasetKind.create_fetcher(self._dataset_kind, *fetching)
        self._plan, self._note, self._check, self._account = plan, note, check, Account(note)
        self._stream = Stream.of_process()
        self._folder = folder()
        self._rooms = Rooms(pinned=plan.pinned, keep=plan.ahead + 3)
        threads = plan.threads if plan.reads_ahead or plan.engine.ahead else 0
        self._crew: Crew | None = None
        if threads:
            self._crew = Crew(plan.engine, self._rooms, threads=threads, ahead=plan.ahead, grain=plan.grain)
        self._guess: Guess | None = None
        self._left_s: float | None = None
        """When the last batch was handed out."""
        self._step_s = 0.0
        """How long the script then took to ask for the next."""
        self._started = False
        self._plain = False
        self._given: deque[Any] = deque()
        """What was read ahead of the sampler: its jobs are the crew's, or the guess."""
        self._unread = len(self._index_sampler) - 1 if plan.reads_ahead or plan.guesses else 0
        """Batches that may still be read ahead: never the last one, at which samplers draw once more."""

    def __next__(self) -> Any:
        """As PyTorch's, which marks each batch for its profiler: that costs a tenth of a millisecond, so it is done where one looks on."""
        if _profiler_enabled() or _BaseDataLoaderIter.__next__ is not _NEXT or _len_torch_dispatch_stack() or self._sampler_iter is None:
            return super().__next__()
        data = self._next_data()
        self._num_yielded += 1
        return data

    def _next_data(self) -> Any:
        began = time.perf_counter()
        if self._left_s is not None:
            self._step_s = began - self._left_s
        was_read = bool(self._given)
        index = self._given[0] if was_read else self._next_index()
        count, plain = len(index), True
        if not self._plain and (not self._plan.engine.current() or torch.get_default_dtype() != torch.float32 or hooked()):
            self._turn_plain("the data set or its transforms were changed while it was iterated", for_good=False)
        if not self._plain and self._plan.engine.ahead and folder() != self._folder:
            self._turn_plain("the script went to another folder while it was iterated", for_good=False)
        if self._plain:
            data = self._own(index)
        elif self._check.wanted and self._begins(index):
            data, plain = self._both_begun(index, was_read)
        elif self._check.wanted:
            data = self._both(index)
        else:
            data, plain = self._replayed(index, was_read)
        if was_read:
            self._given.popleft()
        self._left_s = self._account.add(count, began, plain=plain)
        return data

    def _own(self, index: Any) -> Any:
        data = self._dataset_fetcher.fetch(index)
        if self._pin_memory:
            data = torch.utils.data._utils.pin_memory.pin_memory(data, self._pin_memory_device)
        return data

    def _both(self, index: Any) -> Any:
        """Make the batch in the user's way, which is the one that counts, and again in ours."""
        before = self._stream.snapshot()
        began = time.thread_time()
        data = self._own(index)
        plain_s = time.thread_time() - began
        after = self._stream.snapshot()
        try:
            plain_s = self._warm_s(before, index, plain_s)
            self._stream.restore(before)
            reason = self._check.single(self._stream, index, data, after, plain_s)
        except Exception as error:
            reason = f"it could not be made both ways ({type(error).__name__}: {error})"
        finally:
            self._stream.restore(after)
        if reason is not None:
            self._turn_plain(reason)
        return data

    def _warm_s(self, before: State, index: Any, plain_s: float) -> float:
        """Return what a small batch costs in the user's way, as ours, when code and memory are warm: the first ones take up to ten times as long.

        Not where code of the script's runs, which must run once for every sample.
        """
        if self._plan.engine.serial or plain_s > _SMALL_S:
            return plain_s
        for _ in range(_TIMINGS):
            if self._plan.engine.draws:
                self._stream.restore(before)
            began = time.thread_time()
            self._dataset_fetcher.fetch(index)
            plain_s = min(plain_s, time.thread_time() - began)
        return plain_s

    def _begins(self, index: Any) -> bool:
        """Whether to check the beginning of a batch only: twice the whole of a large one may take longer than an epoch saves.

        Not where code of the script's runs, which must run once for every sample.
        """
        return not self._plan.engine.serial and isinstance(index, (list, tuple)) and len(index) >= 4 * _BEGINNING

    def _both_begun(self, index: Any, was_read: bool) -> tuple[Any, bool]:
        """Make the beginning of the batch in both ways, and the whole in ours if they agree."""
        before = self._stream.snapshot()
        reason: str | None = None
        try:
            began = time.thread_time()
            data = self._dataset_fetcher.fetch(index[:_BEGINNING])
            plain_s = time.thread_time() - began
            after = self._stream.snapshot()
            self._stream.restore(before)
            reason = self._check.single(self._stream, index[:_BEGINNING], data, after, plain_s)
        except Exception as error:
            reason = f"it could not be made both ways ({type(error).__name__}: {error})"
        finally:
            self._stream.restore(before)
        if reason is None:
            return self._replayed(index, was_read)
        self._turn_plain(reason)
        return self._own(index), True

    def _replayed(self, index: Any, was_read: bool) -> tuple[Any, bool]:
        before: Callable[[], object] | None = None
        try:
            room = self._guess.take(index) if self._guess is not None else None
            if room is not None and self._guess is not None:
                before = self._guess.undo
            else:
                index_B = indices(index, len(self._plan.dataset))
                before = self._before()
                room = self._made(index, index_B, was_read)
            if self._plan.guesses:
                self._guess_next()
            data = handed(room, self._plan.kind)
            if self._plan.pinned:
                copies.hand_out(*room.tensors)
                data = data if room.rest is None else pin_memory(data, self._pin_memory_device)
            return data, False
        except Exception as error:
            if before is not None:
                before()
            self._turn_plain(why_not(error))
        # Outside of the `except`: what the user's code raises must not carry our exception as its context.
        return self._own(index), True

    def _before(self) -> Callable[[], object] | None:
        """Return what puts the random state back to where it is now."""
        engine = self._plan.engine
        if not engine.draws:
            return None
        if engine.ahead or engine.serial:
            return functools.partial(self._stream.restore, self._stream.snapshot())
        # Whole batches draw from torch's generator alone: all three states would cost as much as the draws.
        return functools.partial(torch.default_generator.set_state, torch.default_generator.get_state())

    def _made(self, index: Any, index_B: np.ndarray, was_read: bool) -> Room:
        engine = self._plan.engine
        if self._crew is None:
            room = self._rooms.take(engine.shapes(len(index_B)))
            engine.fill(engine.draw(self._stream, index_B), room, 0, len(index_B))
            return room
        if not self._started:
            self._started = True
            self._crew.start()
        if not was_read:
            self._crew.put(self._job(index, index_B))
        self._read_ahead()
        job = self._crew.jobs[0]
        room = self._crew.finish(job)
        if job.read is not None and same(engine.read(index_B), job.read) is not None:
            raise Unfit("the samples of the data set were changed while it was iterated")
        self._crew.pop()
        return room

    def _job(self, index: Any, index_B: np.ndarray) -> Job:
        job = Job(index=index, index_B=index_B, stream=self._stream)
        if self._plan.reads_ahead:
            job.read = self._plan.engine.read(index_B)
        if self._plan.engine.draws:  # in this thread, now
            job.room = self._rooms.take(self._plan.engine.shapes(len(index_B)))
            job.drawn, job.left = self._plan.engine.draw(self._stream, index_B), len(index_B)
            job.is_drawn = True
        return job

    def _read_ahead(self) -> None:
        assert self._crew is not None
        while len(self._crew.jobs) <= self._plan.ahead and self._num_yielded + len(self._crew.jobs) < self._unread:
            index = self._read()
            self._crew.put(self._job(index, indices(index, len(self._plan.dataset))))

    def _read(self) -> Any:
        """Ask the sampler for the next batch before its time."""
        self._given.append(self._next_index())
        return self._given[-1]

    def _guess_next(self) -> None:
        """Have the next batch made while the script computes, unless it is the last one. Raises nothing: the batch of now is there."""
        if self._num_yielded + 1 >= self._unread or self._step_s < LEAST_STEP_S:
            return
        if self._guess is None:
            assert isinstance(self._plan.engine, Fused)
            try:
                self._guess = Guess(self._plan.engine, self._rooms, len(self._plan.dataset))
            except RuntimeError:  # no more threads: every batch is made when it is asked for
                self._unread = 0
                return
        if self._guess.wanted:
            self._guess.begin(self._read())

    def _turn_plain(self, why: str, *, for_good: bool = True) -> None:
        self._plain = True
        self._check.refuse(why, for_good=for_good)
        self._close()

    def _close(self) -> None:
        for made in ("_crew", "_guess"):
            if (threads := getattr(self, made, None)) is not None:
                threads.close()

    def __del__(self) -> None:
        self._close()
