"""Hostile script: loaders in threads, forks and child processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import torch
from stage import CROPPED, case, cifar, digest, main, pictures, say, seed, states
from torch.utils.data import DataLoader


def run(loader: Any) -> list[str]:
    """All batches of one epoch."""
    return [digest(batch) for batch in loader]


@case
def in_a_thread() -> None:
    for workers in (0, 2):
        loader, got = DataLoader(cifar(), 4, shuffle=True, num_workers=workers), []

        def work(loader: Any = loader, got: list[Any] = got) -> None:
            for _ in range(2):
                got.extend(run(loader))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        say(*got, states())


@case
def two_threads() -> None:
    """Workers' streams depend on the base seed only, so each thread has numbers of its own whatever the other does."""
    made = [DataLoader(cifar(), 4, shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for got in pool.map(lambda loader: run(loader) + run(loader), made):
            say(*got)


@case
def iterator_handed_on() -> None:
    """Begun in one thread, continued in another, ended in the first."""
    for workers in (0, 2):
        iterator = iter(DataLoader(cifar(), 4, shuffle=True, num_workers=workers))
        say(*(digest(next(iterator)) for _ in range(5)))
        got: list[str] = []
        thread = threading.Thread(target=lambda got=got, iterator=iterator: got.extend(digest(next(iterator)) for _ in range(12)))
        thread.start()
        thread.join()
        say(*got)
        say(*run(iterator), states())


@case
def producer_and_consumer() -> None:
    """A prefetching thread as scripts write it themselves."""
    import queue

    line: queue.Queue[Any] = queue.Queue(maxsize=3)
    loader = DataLoader(cifar(), 4, shuffle=True)

    def fill() -> None:
        for batch in loader:
            line.put(batch)
        line.put(None)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    while (batch := line.get()) is not None:
        time.sleep(0.001)
        say(digest(batch))
    thread.join()


def of_child() -> list[str]:
    """States of torch and numpy: Python seeds its `random` anew in a forked child."""
    return states().split()[::2]


def _in_child(what: Any) -> None:
    """Fork, run `what` in the child, and wait for it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 9
        try:
            signal.alarm(60)
            what()
            code = 0
        finally:
            os._exit(code)
    say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@case
def fork_in_the_middle() -> None:
    for workers in (0, 2):
        loader = DataLoader(cifar(), 4, shuffle=True, num_workers=workers)
        for place, batch in enumerate(loader):
            say(digest(batch))
            if place == 13:
                _in_child(lambda: say("in the child", torch.rand(1).item()))
        say(states())


@case
def child_goes_on_alone() -> None:
    """The child of a fork continues the iterator that its parent began: with no workers that has always worked."""
    iterator = iter(DataLoader(cifar(), 4, shuffle=True))
    say(*(digest(next(iterator)) for _ in range(14)))
    _in_child(lambda: say(*run(iterator), of_child()))
    say(*run(iterator), states())


@case
def child_begins_anew() -> None:
    for workers in (0, 2):
        loader = DataLoader(cifar(), 4, shuffle=True, num_workers=workers)
        say(*run(loader))
        _in_child(lambda loader=loader: say(*run(loader), *run(loader), of_child()))
        say(*run(loader), states())


@case
def child_of_a_busy_parent() -> None:
    """Forked while feeding threads are at work; the child makes loaders of its own."""
    busy = iter(DataLoader(cifar(4000), 4, shuffle=True, num_workers=2))
    for _ in range(20):
        next(busy)
    for _ in range(3):
        _in_child(lambda: say(*run(DataLoader(cifar(), 4, num_workers=0)), of_child()))
        say(digest(next(busy)))


def _child(line: Any, dataset: Any) -> None:
    seed(9)
    line.put([*run(DataLoader(dataset, 4, shuffle=True)), states()])


@case
def processes() -> None:
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        line = context.Queue()
        child = context.Process(target=_child, args=(line, cifar()))
        child.start()
        say(*line.get())
        child.join()
        say(child.exitcode)


@case
def a_pool_of_processes() -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        for got in pool.map(_epoch_of, range(4)):
            say(*got)


def _epoch_of(number: int) -> list[str]:
    seed(number)
    return run(DataLoader(cifar(), 4, shuffle=True))


@case
def spawned_workers() -> None:
    for method in ("spawn", "forkserver"):
        loader = DataLoader(cifar(40), 4, shuffle=True, num_workers=1, multiprocessing_context=method)
        say(*run(loader), states())


@case
def pickled_loader() -> None:
    loader = DataLoader(cifar(), 4, shuffle=True)
    again = pickle.loads(pickle.dumps(loader))
    say(*run(again), states())
    say(*run(loader), states())


@case
def many_unfinished() -> None:
    """Every iterator is begun and none is ended."""
    loader = DataLoader(cifar(), 4, shuffle=True)
    held = [iter(loader) for _ in range(20)]
    for place in range(14):
        say(*(digest(next(iterator)) for iterator in held[place:]))
    held.clear()
    say(states())
    workers = DataLoader(cifar(), 4, shuffle=True, num_workers=1)
    both = [iter(workers), iter(workers)]
    say(*(digest(next(iterator)) for iterator in itertools.chain(*zip(*[itertools.repeat(one, 15) for one in both], strict=False))))


@case
def threads_of_torch() -> None:
    """What the script asks of PyTorch's own threads stays as it is."""
    say(torch.get_num_threads())
    torch.set_num_threads(2)
    for workers in (0, 2):
        for loader in (DataLoader(cifar(), 4, num_workers=workers), DataLoader(pictures(), 4, num_workers=workers)):
            for batch in loader:
                say(torch.get_num_threads(), digest(batch))
    torch.set_num_threads(1)
    say(torch.get_num_threads(), torch.get_num_interop_threads() > 0)


@case
def signal_handlers() -> None:
    """Handlers of the script are still its own after loaders ran."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    run(DataLoader(cifar(), 4))
    say(before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)])
    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    for place, batch in enumerate(DataLoader(cifar(), 4, shuffle=True)):
        signal.raise_signal(signal.SIGUSR1)
        say(place, digest(batch), len(got))
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@case
def iterating_while_iterating() -> None:
    """A transform that itself runs a loader."""
    inner = DataLoader(cifar(12), 4)

    def nested(image: Any) -> Any:
        return image + next(iter(inner))[0].mean()

    from torchvision import transforms

    say(*run(DataLoader(cifar(transform=transforms.Compose([CROPPED, nested])), 4)), states())


if __name__ == "__main__":
    main()
