"""Hostile script: every way in which a script can end while loaders are in use. One case a process."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from stage import FOLDER, case, cifar, digest, main, pictures, say, seed, states
from torch.utils.data import DataLoader

# isort: split
from errors import Fragile  # after stage, which may spare torchvision an import

WORKERS = int(os.environ.get("CASE_WORKERS", "0"))
HELD: list[Any] = []


def loader(count: int = 96, **more: Any) -> DataLoader[Any]:
    """The loader of every case."""
    return DataLoader(cifar(count), 4, shuffle=True, num_workers=WORKERS, **more)


def some(count: int = 14) -> None:
    """Leave an iterator in the middle of its epoch, held by a global."""
    HELD.append(iter(loader()))
    for _ in range(count):
        say(digest(next(HELD[0])))


@case
def falls_off_the_end() -> None:
    some()


@case
def sys_exit() -> None:
    some()
    sys.exit(3)


@case
def sys_exit_with_words() -> None:
    some()
    sys.exit("enough")


@case
def at_once() -> None:
    some()
    os._exit(5)


@case
def raises() -> None:
    for place, batch in enumerate(loader()):
        say(digest(batch))
        if place == 13:
            raise RuntimeError("the user's own mistake")


@case
def sample_raises() -> None:
    for batch in DataLoader(Fragile(), 4, num_workers=WORKERS):
        say(digest(batch))


@case
def picture_broken() -> None:
    made = pictures(60, name="end")
    with open(made.samples[55][0], "wb") as file:
        file.write(b"nothing")
    for batch in DataLoader(made, 2, num_workers=WORKERS):
        say(digest(batch))


@case
def interrupted() -> None:
    for place, batch in enumerate(loader()):
        say(digest(batch))
        if place == 13:
            signal.raise_signal(signal.SIGINT)


@case
def interrupted_and_going_on() -> None:
    iterator = iter(loader())
    for place in range(24):
        try:
            say(digest(next(iterator)))
            if place % 5 == 4:
                signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            say("interrupted")
    say(states())


@case
def interrupted_inside() -> None:
    """A signal at any time while batches are made; what is printed does not depend on when."""
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        while True:
            for _ in loader(4000): pass  # fmt: skip  # noqa: E701
    except KeyboardInterrupt:
        say("interrupted")
    seed()
    say(*(digest(batch) for batch in loader()), states())


@case
def interrupted_inside_uncaught() -> None:
    # One line for the signal to meet, whenever it comes: making the data set would be frames of the script's own.
    made = loader(40_000)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    while True:
        for _ in made: pass  # fmt: skip  # noqa: E701


@case
def terminated() -> None:
    some()
    signal.raise_signal(signal.SIGTERM)


@case
def killed() -> None:
    some()
    os.kill(os.getpid(), signal.SIGKILL)


@case
def aborts() -> None:
    some()
    os.abort()


@case
def handler_raises() -> None:
    def handler(number: int, frame: Any) -> None:
        raise TimeoutError("time is up")

    signal.signal(signal.SIGALRM, handler)
    for place, batch in enumerate(loader()):
        say(digest(batch))
        if place == 13:
            signal.raise_signal(signal.SIGALRM)


@case
def at_exit_it_goes_on() -> None:
    """The script's own exit handler takes the rest of the epoch and begins another."""
    atexit.register(lambda: say(*(digest(batch) for batch in HELD[0]), *(digest(batch) for batch in DataLoader(cifar(), 4)), states()))
    some()


@case
def destructor_at_exit() -> None:
    class Last:
        def __init__(self) -> None:
            self.iterator = iter(DataLoader(cifar(), 4, shuffle=True))
            next(self.iterator)

        def __del__(self) -> None:
            say("last words", digest(next(self.iterator)))

    HELD.append(Last())
    del HELD[0]
    gc.collect()


@case
def daemon_thread() -> None:
    """A thread that iterates for ever when the main thread ends."""

    def work() -> None:
        while True:
            for batch in loader(400):
                digest(batch)

    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.7)
    say("bye")


@case
def other_thread_ends_later() -> None:
    said = threading.Event()

    def work() -> None:
        for batch in DataLoader(cifar(), 4):
            said.wait()
            say(digest(batch))
            time.sleep(0.02)

    threading.Thread(target=work).start()
    say("main thread is done")
    said.set()  # two threads that print at once mix their lines


@case
def stdout_closed() -> None:
    some()
    os.close(1)


@case
def exec_in_the_middle() -> None:
    some()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-c", "print('another program')"])


@case
def subprocess_of_itself() -> None:
    some()
    done = subprocess.run([sys.executable, __file__, "sys_exit", str(FOLDER)], capture_output=True, text=True)
    say(done.returncode, done.stdout)


@case
def deleted_in_the_middle() -> None:
    made = loader()
    iterator = iter(made)
    say(*(digest(next(iterator)) for _ in range(14)))
    del made
    gc.collect()
    say(digest(next(iterator)))
    del iterator
    gc.collect()
    say(states(), threading.active_count())


@case
def little_address_space() -> None:
    """An address space with room for what the script does, and little more."""
    import resource

    made = loader(2000)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 24 * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for _ in range(2):
        for batch in made:
            say(digest(batch))
    say(states())


@case
def few_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for batch in DataLoader(pictures(60), 2, shuffle=True, num_workers=WORKERS):
        say(digest(batch))


@case
def no_more_threads() -> None:
    """Threads cannot be made: the script without workers does not need any."""

    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = refuse  # type: ignore[method-assign]
    for _ in range(2):
        for batch in loader():
            say(digest(batch))


@case
def recursion() -> None:
    """An iterator asked at the bottom of a deep stack."""
    iterator = iter(loader())

    def deep(level: int) -> str:
        return digest(next(iterator)) if level == 0 else deep(level - 1)

    say(*(deep(800) for _ in range(20)), states())


@case
def profiled_and_traced() -> None:
    """Profilers see the script; the script does not see boost in its lines."""
    lines: list[int] = []
    sys.settrace(lambda frame, event, argument: lines.append(frame.f_lineno) if frame.f_code.co_filename == __file__ else None)
    some()
    sys.settrace(None)
    torch.autograd.set_detect_anomaly(True)
    some(0)
    say(len(lines) > 0)


if __name__ == "__main__":
    main()
