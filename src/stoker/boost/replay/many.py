"""A replayed loader with workers: their random streams without their processes, and indices asked for when PyTorch's iterator would."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import _DatasetKind
from torch.utils.data._utils.pin_memory import pin_memory
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from stoker.boost import copies, guard
from stoker.boost.notes import Note
from stoker.boost.replay import plainly
from stoker.boost.replay.account import Account
from stoker.boost.replay.check import Check
from stoker.boost.replay.crew import Crew, Job
from stoker.boost.replay.handover import Continued
from stoker.boost.replay.indices import indices, why_not
from stoker.boost.replay.lines import begin
from stoker.boost.replay.plan import Plan
from stoker.boost.replay.rooms import Rooms, handed
from stoker.boost.replay.snapshot import tensors_of
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit


class ReplayMany(_MultiProcessingDataLoaderIter):
    """With workers: their random streams without their processes."""

    def __init__(self, loader: Any, plan: Plan, note: Note, check: Check) -> None:
        """Draw what PyTorch's iterator draws when it is made. Raises Unfit when the check fails; whoever calls then puts the generators back."""
        begin(self, loader)
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
        self._workers_own: Continued | None = None
        """PyTorch's own iterator, where it has taken over."""
        self._thread, self._loader_of = threading.get_ident(), weakref.ref(loader)
        self._shared = tensors_of(plan.dataset)
        self._threads_before = torch.get_num_threads()
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
        if self._workers_own is not None:
            self._workers_own._reset(loader, first_iter)
            self._num_yielded = 0
            return
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
        if self._plan.engine.serial and self._workers_own is None and threading.get_ident() != self._thread and not self._num_yielded:
            # Code of the script's would draw from the global state in a thread that is not the only one to draw.
            self._hand_over("it is iterated in another thread than it was made in, and its transforms draw random numbers in code of their own")
        if self._workers_own is not None:
            data = next(self._workers_own)
            self._account.add(_length(data), began, plain=True)
            return data
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
        if not self._plain and torch.get_default_dtype() != torch.float32:
            self._turn_plain("the default dtype was changed while it was iterated", for_good=False)
        if not self._plain and torch.get_num_threads() == self._threads_before and not self._plan.engine.current():
            text = "variables that a transform reads were changed while workers keep the old ones: from here on batches may differ"
            guard.say("changed variables", text)
            self._turn_plain("variables that its transforms read were changed while it was iterated")
        if not self._plain and any(tensor._version != version for tensor, version in self._shared):
            text = "the script writes into the tensors of a data set, of which workers have their own copy: from here on batches may differ"
            guard.say("shared tensors", text)
            self._turn_plain("its tensors were written to while it was iterated")
        if not self._plain:
            assert self._crew is not None
            try:
                room = self._serial(job) if self._plan.engine.serial else self._crew.finish(job)
                self._crew.pop()
                if self._plan.pinned and room.rest is not None:
                    return pin_memory(room.rest.around(room.tensors[0]), self._pin_memory_device), False
                if self._plan.pinned:
                    # As from PyTorch's thread that locks pages, in which no inference mode is on.
                    copies.hand_out(*room.tensors)
                    return list(room.tensors), False
                return handed(room, self._plan.kind), False
            except Exception as error:
                self._turn_plain(why_not(error))
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
                self._hand_over(reason)
                return
        self._check.passed()

    def _hand_over(self, why: str) -> None:
        """Let PyTorch's own workers make the batches from the first on."""
        loader = self._loader_of()
        self._turn_plain(why)
        if loader is not None:
            sent = [job.index for _, job in self._sent]
            self._workers_own = Continued(loader, int(self._base_seed), sent, self._sampler_iter)
            self._sent.clear()

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

    def _turn_plain(self, why: str, *, for_good: bool = True) -> None:
        """From here on the user's own code makes the batches, in this process and with the workers' random states, which are put back."""
        if self._plain:
            return
        self._plain = True
        self._check.refuse(why, for_good=for_good)
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
        if (own := getattr(self, "_workers_own", None)) is not None:
            own._shutdown_workers()
        if self._crew is not None:
            self._crew.close()

    def __del__(self) -> None:
        if (crew := getattr(self, "_crew", None)) is not None:
            crew.close()


def _length(batch: Any) -> int:
    first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    return len(first) if isinstance(first, torch.Tensor) and first.dim() else 1
