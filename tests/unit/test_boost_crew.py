"""The threads that make batches ahead: draws in order, nothing lost, nothing left behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from stoker.boost.replay.crew import Crew, Job
from stoker.boost.replay.engine import Room
from stoker.boost.replay.rooms import Rooms
from stoker.boost.replay.stream import Stream

ROWS = 6


class Numbers:
    """An engine whose batch is the index beside a word of the stream, slow enough that threads meet."""

    what, draws, serial, ahead = "numbers", True, False, True

    def __init__(self, *, broken: int = -1, slow_s: float = 0.0) -> None:
        self.broken, self.slow_s = broken, slow_s
        self.drawn: list[int] = []

    def shapes(self, count: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [((count,), torch.int64), ((count,), torch.int64)]

    def draw(self, stream: Stream, index_B: np.ndarray) -> Any:
        if int(index_B[0]) == self.broken:
            raise OSError("cannot be drawn")
        self.drawn.append(int(index_B[0]))
        time.sleep(self.slow_s)
        return index_B, stream.torch_words(len(index_B)).astype(np.int64)

    def fill(self, drawn: Any, room: Room, start: int, stop: int) -> None:
        index_B, words_B = drawn
        time.sleep(self.slow_s)
        room.tensors[0].numpy()[start:stop] = index_B[start:stop]
        room.tensors[1].numpy()[start:stop] = words_B[start:stop]

    def current(self) -> bool:
        return True


def crew_of(engine: Numbers, threads: int, jobs: int = 12, streams: int = 2) -> tuple[Crew, list[Job]]:
    """A crew with jobs of six rows each, which take turns between the streams of two workers."""
    workers = [Stream.of_worker(7, worker, streams, None) for worker in range(streams)]
    crew = Crew(engine, Rooms(pinned=False, keep=9), threads=threads, ahead=4, grain=2)
    made = []
    for number in range(jobs):
        index_B = np.arange(ROWS, dtype=np.int64) + ROWS * number
        made.append(Job(index=list(index_B), index_B=index_B, stream=workers[number % streams]))
        crew.put(made[-1])
    crew.start()
    return crew, made


def expected_words(jobs: int = 12, streams: int = 2) -> list[list[int]]:
    workers = [Stream.of_worker(7, worker, streams, None) for worker in range(streams)]
    return [workers[number % streams].torch_words(ROWS).astype(np.int64).tolist() for number in range(jobs)]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_come_in_order_with_the_words_of_their_worker(threads: int) -> None:
    crew, jobs = crew_of(Numbers(slow_s=0.001), threads)
    for number, (job, words) in enumerate(zip(jobs, expected_words(), strict=True)):
        room = crew.finish(job)
        crew.pop()
        assert room.tensors[0].tolist() == list(range(ROWS * number, ROWS * number + ROWS))
        assert room.tensors[1].tolist() == words
    crew.close()
    crew.join()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_is_raised_where_its_batch_is_due_and_streams_can_be_put_back(threads: int) -> None:
    crew, jobs = crew_of(Numbers(broken=ROWS * 3), threads)
    for job in jobs[:3]:
        crew.finish(job)
        crew.pop()
    with pytest.raises(OSError, match="cannot be drawn"):
        crew.finish(jobs[3])
    crew.hold()
    jobs[3].stream.restore(jobs[3].before)
    assert jobs[3].stream.torch_words(ROWS).astype(np.int64).tolist() == expected_words()[3]
    crew.close()


def test_draw_all_leaves_the_streams_where_workers_that_live_on_leave_them() -> None:
    engine = Numbers(slow_s=0.001)
    crew, jobs = crew_of(engine, 2)
    crew.finish(jobs[0])
    crew.pop()
    crew.draw_all()
    assert engine.drawn == [ROWS * number for number in range(len(jobs))]
    workers = [Stream.of_worker(7, worker, 2, None) for worker in range(2)]
    for number in range(len(jobs)):
        workers[number % 2].torch_words(ROWS)
    assert [job.stream.torch_words(1)[0] for job in jobs[:2]] == [worker.torch_words(1)[0] for worker in workers]
    crew.close()


def test_nobody_is_left_behind() -> None:
    before = set(threading.enumerate())
    crew, jobs = crew_of(Numbers(), 3)
    crew.finish(jobs[0])
    assert set(threading.enumerate()) - before
    crew.close()
    crew.join()
    assert not set(threading.enumerate()) - before


def test_a_finished_batch_is_not_kept_alive_by_an_idle_thread() -> None:
    crew, jobs = crew_of(Numbers(), 2, jobs=1)
    room = crew.finish(jobs[0])
    crew.pop()
    jobs.clear()
    until = time.monotonic() + 20  # the thread becomes idle when it gets a core
    while (owners := [owner for owner in gc.get_referrers(room) if isinstance(owner, Job)]) and time.monotonic() < until:
        del owners
        time.sleep(0.01)
        gc.collect()
    assert owners == []
    crew.close()


def test_a_forked_child_goes_on_without_the_threads() -> None:
    crew, jobs = crew_of(Numbers(slow_s=0.002), 2)
    crew.finish(jobs[0])
    crew.pop()
    child = os.fork()
    if child == 0:
        try:
            tensors = crew.finish(jobs[1]).tensors
            os._exit(0 if tensors[0].tolist() == list(range(ROWS, 2 * ROWS)) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert crew.finish(jobs[1]).tensors[0].tolist() == list(range(ROWS, 2 * ROWS))
    crew.close()
