"""The iterators that a replayed loader gives: they ask sampler and generators at the very moments at which PyTorch's own do."""

from __future__ import annotations

import functools
import inspect
import itertools
import time
from collections import deque
from collections.abc import Callable
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import _DatasetKind, dataloader
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

from stoker.boost import copies, guard
from stoker.boost.notes import Note
from stoker.boost.replay import plainly
from stoker.boost.replay.check import Check
from stoker.boost.replay.crew import Crew, Job
from stoker.boost.replay.plan import Plan
from stoker.boost.replay.rooms import Rooms, handed
from stoker.boost.replay.snapshot import tensors_of
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

_waited_s = 0.0


def waited_s() -> float:
    """Return for how long, in seconds, this process has waited for batches of replayed loaders."""
    return _waited_s


class Account:
    """What one iteration of a loader cost, added to the loader's note."""

    def __init__(self, note: Note) -> None:
        self._numbers = note.numbers
        self._numbers["epochs"] = self._numbers.get("epochs", 0) + 1

    def add(self, images: int, began: float, *, plain: bool) -> None:
        """Count a batch that was asked for at `began` (time.perf_counter) and is there now."""
        global _waited_s
        now = time.perf_counter()
        _waited_s += now - began
        numbers = self._numbers
        numbers.setdefault("first_s", began)
        numbers["last_s"] = now
        numbers["batches"] = numbers.get("batches", 0) + 1
        numbers["images"] = numbers.get("images", 0) + images
        numbers["waited_s"] = numbers.get("waited_s", 0.0) + now - began
        if plain:
            numbers["plain_batches"] = numbers.get("plain_batches", 0) + 1


class ReplaySingle(_SingleProcessDataLoaderIter):
    """Without workers: random numbers are drawn from the process's own state when the batch is asked for, as PyTorch's iterator does."""

    def __init__(self, loader: Any, plan: Plan, note: Note, check: Check) -> None:
        # Not the single-process one's own: the same, without what data pipes need.
        _BaseDataLoaderIter.__init__(self, loader)
        if self._timeout != 0:
            raise AssertionError("_SingleProcessDataLoaderIter requires timeout == 0")
        if self._num_workers != 0:
            raise AssertionError("_SingleProcessDataLoaderIter requires num_workers == 0")
        self._profile_name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
        fetching = self._dataset, self._auto_collation, self._collate_fn, self._drop_last
        self._dataset_fetcher = _DatasetKind.create_fetcher(self._dataset_kind, *fetching)
        self._plan, self._note, self._check, self._account = plan, note, check, Account(note)
        self._stream = Stream.of_process()
        self._rooms = Rooms(pinned=plan.pinned, keep=plan.ahead + 3)
        threads = plan.threads if plan.reads_ahead or plan.engine.ahead else 0
        self._crew: Crew | None = None
        if threads:
            self._crew = Crew(plan.engine, self._rooms, threads=threads, ahead=plan.ahead, grain=plan.grain)
        self._started = False
        self._plain = False
        self._given: deque[Any] = deque()
        """Indices that were read ahead: their jobs are the crew's."""
        self._unread = len(self._index_sampler) - 1 if plan.reads_ahead else 0
        """Batches that may still be read ahead: never the last one, at which samplers draw once more."""

    def _next_data(self) -> Any:
        began = time.perf_counter()
        was_read = bool(self._given)
        index = self._given[0] if was_read else self._next_index()
        count, plain = len(index), True
        if not self._plain and not (self._plan.engine.current() and torch.get_default_dtype() == torch.float32):
            self._turn_plain("the data set or its transforms were changed while it was iterated", for_good=False)
        if self._plain:
            data = self._own(index)
        elif self._check.wanted:
            data = self._both(index)
        else:
            data, plain = self._replayed(index, was_read)
        if was_read:
            self._given.popleft()
        self._account.add(count, began, plain=plain)
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
            self._stream.restore(before)
            reason = self._check.single(self._stream, index, data, after, plain_s)
        except Exception as error:
            reason = f"it could not be made both ways ({type(error).__name__}: {error})"
        finally:
            self._stream.restore(after)
        if reason is not None:
            self._turn_plain(reason)
        return data

    def _replayed(self, index: Any, was_read: bool) -> tuple[Any, bool]:
        before = None
        try:
            index_B = indices(index, len(self._plan.dataset))
            before = self._before()
            data = self._made(index, index_B, was_read)
            if self._plan.pinned:
                copies.hand_out(*data)
            return data, False
        except Exception as error:
            if before is not None:
                before()
            self._turn_plain(_why(error))
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

    def _made(self, index: Any, index_B: np.ndarray, was_read: bool) -> Any:
        engine = self._plan.engine
        if self._crew is None:
            room = self._rooms.take(engine.shapes(len(index_B)))
            engine.fill(engine.draw(self._stream, index_B), room, 0, len(index_B))
            return handed(room.tensors)
        if not self._started:
            self._started = True
            self._crew.start()
        if not was_read:
            self._crew.put(self._job(index, index_B))
        self._read_ahead()
        room = self._crew.finish(self._crew.jobs[0])
        self._crew.pop()
        return handed(room.tensors)

    def _job(self, index: Any, index_B: np.ndarray) -> Job:
        job = Job(index=index, index_B=index_B, stream=self._stream)
        if self._plan.engine.draws:  # in this thread, now
            job.room = self._rooms.take(self._plan.engine.shapes(len(index_B)))
            job.drawn, job.left = self._plan.engine.draw(self._stream, index_B), len(index_B)
            job.is_drawn = True
        return job

    def _read_ahead(self) -> None:
        assert self._crew is not None
        while len(self._crew.jobs) <= self._plan.ahead and self._num_yielded + len(self._crew.jobs) < self._unread:
            index = self._next_index()
            self._given.append(index)
            self._crew.put(self._job(index, indices(index, len(self._plan.dataset))))

    def _turn_plain(self, why: str, *, for_good: bool = True) -> None:
        self._plain = True
        self._check.refuse(why, for_good=for_good)
        if self._crew is not None:
            self._crew.close()

    def __del__(self) -> None:
        if (crew := getattr(self, "_crew", None)) is not None:
            crew.close()


class ReplayMany(_MultiProcessingDataLoaderIter):
    """With workers: their random streams without their processes."""

    def __init__(self, loader: Any, plan: Plan, note: Note, check: Check) -> None:
        """Draw what PyTorch's iterator draws when it is made. Raises Unfit when the check fails; whoever calls then puts the generators back."""
        _BaseDataLoaderIter.__init__(self, loader)
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._prefetch_factor, self._in_order = loader.prefetch_factor, True
        self._worker_init_fn = loader.worker_init_fn
        self._workers: list[Any] = []  # PyTorch's name for its processes
        self._shutdown = False
        self._plan, self._note, self._check, self._account = plan, note, check, Account(note)
        self._fetcher = _DatasetKind.create_fetcher(self._dataset_kind, plan.dataset, self._auto_collation, self._collate_fn, self._drop_last)
        self._rooms = Rooms(pinned=plan.pinned, keep=plan.ahead + 3)
        self._streams = [Stream.of_worker(int(self._base_seed), worker, self._num_workers, plan.dataset) for worker in range(self._num_workers)]
        for worker, stream in enumerate(self._streams):
            if self._worker_init_fn is not None:
                with stream.made_global():
                    self._worker_init_fn(worker)
        self._plain = False
        self._shared = tensors_of(plan.dataset)
        self._sent: deque[tuple[int, Job]] = deque()
        self._crew: Crew | None = self._opened()
        self._reset(loader, first_iter=True)
        if check.wanted:
            self._look_twice()
        if self._crew is not None:
            self._crew.start()

    def _opened(self) -> Crew:
        threads = 0 if self._plan.engine.serial else self._plan.threads
        return Crew(self._plan.engine, self._rooms, threads=threads, ahead=self._plan.ahead, grain=self._plan.grain)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        if not first_iter:
            # Workers that go on finish what was sent to them, whether or not anybody takes it.
            self._leave()
            self._account = Account(self._note)
        _BaseDataLoaderIter._reset(self, loader, first_iter)
        self._cycle = itertools.cycle(range(self._num_workers))
        for _ in range(self._prefetch_factor * self._num_workers):
            self._try_put_index()

    def _try_put_index(self) -> None:
        try:
            index = self._next_index()
        except StopIteration:
            return
        worker = next(self._cycle)
        try:
            index_B = indices(index, len(self._plan.dataset))
        except Unfit as reason:
            self._turn_plain(str(reason))
            index_B = np.empty(0, np.int64)
        job = Job(index=index, index_B=index_B, stream=self._streams[worker])
        self._sent.append((worker, job))
        if self._crew is not None:
            self._crew.put(job)

    def _next_data(self) -> Any:
        began = time.perf_counter()
        if not self._sent:
            if not self._persistent_workers:
                self._shutdown_workers()
            raise StopIteration
        worker, job = self._sent[0]
        data, plain = self._made(worker, job)
        self._sent.popleft()
        self._try_put_index()
        self._account.add(len(job.index), began, plain=plain)
        if isinstance(data, ExceptionWrapper):
            data.reraise()
        return data

    def _made(self, worker: int, job: Job) -> tuple[Any, bool]:
        if not self._plain and any(tensor._version != version for tensor, version in self._shared):
            text = "the script writes into the tensors of a data set, of which workers have their own copy: from here on batches may differ"
            guard.say("shared tensors", text)
            self._turn_plain("its tensors were written to while it was iterated")
        if not self._plain:
            assert self._crew is not None
            try:
                room = self._serial(job) if self._plan.engine.serial else self._crew.finish(job)
                self._crew.pop()
                if self._plan.pinned:
                    # As from PyTorch's thread that locks pages, in which no inference mode is on.
                    copies.hand_out(*room.tensors)
                    return list(room.tensors), False
                return handed(room.tensors), False
            except Exception as error:
                self._turn_plain(_why(error))
        data = plainly.sent(self._fetcher, job.index, job.stream, worker)
        if self._pin_memory and not isinstance(data, ExceptionWrapper):
            data = torch.utils.data._utils.pin_memory.pin_memory(data, self._pin_memory_device)
        return data, True

    def _serial(self, job: Job) -> Any:
        engine = self._plan.engine
        if not job.is_drawn:
            job.before = job.stream.snapshot()
            with job.stream.made_global():
                job.drawn, job.is_drawn = engine.draw(job.stream, job.index_B), True
        room = self._rooms.take(engine.shapes(len(job.index_B)))
        engine.fill(job.drawn, room, 0, len(job.index_B))
        return room

    def _look_twice(self) -> None:
        """Make the beginning of the first batches both ways. Raises Unfit when they differ and the iteration can be begun again."""
        for _, job in list(self._sent)[: min(2, self._num_workers)]:
            before = job.stream.snapshot()
            try:
                reason = self._check.many(self._fetcher, job, self._num_workers)
            except Exception as error:
                reason = f"its first batches could not be made both ways ({type(error).__name__}: {error})"
            finally:
                job.stream.restore(before)
            if reason is not None and self._plan.rewindable:
                raise Unfit(reason)
            if reason is not None:
                self._turn_plain(reason)
                return
        self._check.passed()

    def _leave(self) -> None:
        """Draw for everything that was sent and not taken, as workers that live on do, and forget it."""
        pending = list(self._sent)
        self._sent.clear()
        if self._plain or self._crew is None:
            for worker, job in pending:
                plainly.sent(self._fetcher, job.index, job.stream, worker)
            return
        try:
            if self._plan.engine.serial:
                for _, job in pending:
                    self._serial(job)
            else:
                self._crew.draw_all()
            self._crew.close()
            self._crew = self._opened()
            self._crew.start()
        except Exception as error:
            self._sent.extend(pending)
            self._turn_plain(f"a batch could not be drawn ({type(error).__name__}: {error})")
            self._leave()

    def _turn_plain(self, why: str) -> None:
        """From here on the user's own code makes the batches, in this process and with the workers' random states, which are put back."""
        if self._plain:
            return
        self._plain = True
        self._check.refuse(why, for_good=True)
        crew, self._crew = self._crew, None
        if crew is None:
            return
        crew.hold()
        put_back: set[int] = set()
        for _, job in self._sent:
            if job.before is not None and id(job.stream) not in put_back:
                job.stream.restore(job.before)
            put_back.add(id(job.stream))
        crew.close()

    def _shutdown_workers(self) -> None:
        self._shutdown = True
        self._sent.clear()
        if self._crew is not None:
            self._crew.close()

    def __del__(self) -> None:
        if (crew := getattr(self, "_crew", None)) is not None:
            crew.close()


def indices(index: Any, length: int) -> np.ndarray:
    """Return a sampler's batch as int64. Raises Unfit for anything but a list of whole numbers within the data set."""
    if not isinstance(index, (list, tuple)) or not index:
        raise Unfit(f"its sampler gives {type(index).__name__}, not lists of indices")
    if not all(type(place) is int or isinstance(place, np.integer) for place in index):
        raise Unfit("its sampler gives indices that are no plain numbers")
    index_B = np.array(index, dtype=np.int64)
    if int(index_B.min()) < 0 or int(index_B.max()) >= length:
        raise Unfit("its sampler gives indices outside the data set")
    return index_B


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, Unfit) else f"a batch could not be made ({type(error).__name__}: {error})"


@functools.cache
def _warning_line() -> CodeType:
    """Return the call that warns of too many workers as it stands in PyTorch: a warning knows its line, and is shown once for it."""
    call = "self.check_worker_number_rationality()"
    lines = inspect.getsource(dataloader).splitlines()
    begin = next((number for number, text in enumerate(lines) if text.strip().startswith("def _get_iterator(")), 0)
    number = next((number for number in range(begin, len(lines)) if lines[number].strip() == call), 0) + 1
    return compile("\n" * (number - 1) + call, str(dataloader.__file__), "exec")


def iterator_for(loader: Any, plan: Plan, note: Note, check: Check) -> _BaseDataLoaderIter:
    """Return the iterator that replays `loader`. Raises Unfit, and whatever the user's sampler raises."""
    if loader.num_workers:
        exec(_warning_line(), vars(dataloader), {"self": loader})
        return ReplayMany(loader, plan, note, check)
    return ReplaySingle(loader, plan, note, check)
