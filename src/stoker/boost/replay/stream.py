"""The random state of a worker process, or of the user's own: raw words in bulk, single draws, and made global for the user's code."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker

from stoker.boost.replay.twister import Twister, same_state
from stoker.boost.replay.unfit import Unfit


@dataclass(frozen=True, kw_only=True)
class State:
    """Exact states of a stream's generators; None: not used yet, so as the seed makes it."""

    torch: torch.Tensor
    python: tuple[Any, ...] | None
    numpy: dict[str, Any] | None


class Stream:
    """Random numbers as one process draws them: torch's CPU generator, Python's `random` and numpy's legacy generator.

    One thread at a time. `Stream.of_worker` and `Stream.of_process` make them.
    """

    def __init__(self, generators: _Generators) -> None:
        self._own = self._now = generators

    @staticmethod
    def of_worker(base_seed: int, worker: int, workers: int, dataset: object) -> Stream:
        """Return the stream of worker `worker` of `workers`, as `_worker_loop` of the running PyTorch seeds it. Raises Unfit."""
        if not isinstance(_numpy_global()._bit_generator, np.random.MT19937):
            raise Unfit("numpy's global generator is not a Mersenne Twister: a worker could not seed it")
        return _WorkerStream(base_seed, worker, workers, dataset)

    @staticmethod
    def of_process() -> Stream:
        """Return the stream of this process: what is drawn from it has been drawn from the global generators."""
        return Stream(_Global())

    @staticmethod
    def apart() -> Stream:
        """Return a stream that nobody else draws from; `restore` says where it stands."""
        return Stream(_Seeded(0, 0))

    def torch_words(self, n: int) -> np.ndarray:
        """Return the next `n` raw 32-bit outputs of torch's generator, uint32 [n]; it stands behind them afterwards."""
        return self._now.words(n)

    @property
    def generator(self) -> torch.Generator:
        """torch's generator, for single draws. Ask for it anew after `torch_words`: what was returned before may be behind."""
        return self._now.torch()

    @property
    def python(self) -> random.Random:
        """What the functions of the `random` module draw from."""
        return self._now.python()

    @property
    def numpy(self) -> np.random.RandomState:
        """What the functions of `numpy.random` draw from."""
        return self._now.numpy()

    def made_global(self) -> AbstractContextManager[None]:
        """Have the user's code draw from this stream: inside, the global generators and `get_worker_info()` are the worker's.

        Afterwards they are the user's own again, whatever is raised inside and whatever was seeded there. Streams of workers wait for each
        other: one thread at a time is inside. For `of_process` nothing is to be done.
        """
        return contextlib.nullcontext()

    def snapshot(self) -> State:
        """Return the exact state, for `restore` and `stands_at`."""
        return self._now.state()

    def restore(self, state: State) -> None:
        """Put the stream where it was at `snapshot`."""
        self._now.load(state)

    def stands_at(self, state: State) -> bool:
        """Return whether the stream is where it was at `snapshot`: every next draw of every kind would be the same."""
        now = self.snapshot()
        if not same_state(now.torch, state.torch):
            return False
        if (now.python is None) != (state.python is None) or (now.numpy is None) != (state.numpy is None):
            now, state = self._now.filled(now), self._now.filled(state)
        return now.python == state.python and _same_numpy(now.numpy, state.numpy)


class _WorkerStream(Stream):
    """The stream of a worker process that does not exist."""

    def __init__(self, base_seed: int, worker: int, workers: int, dataset: object) -> None:
        self._mine = _Seeded(base_seed, worker)
        super().__init__(self._mine)
        seed = base_seed + worker
        self._info = torch_worker.WorkerInfo(id=worker, num_workers=workers, seed=seed, dataset=dataset)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        with _lock:
            everywhere = _Global()
            users, users_info = everywhere.state(), torch_worker._worker_info
            try:
                with _no_device_seeds():
                    everywhere.load(self._mine.filled(self._mine.state()))
                    torch_worker._worker_info = self._info
                    self._now = everywhere
                    try:
                        yield
                    finally:
                        self._now = self._mine
                        self._mine.load(everywhere.state())
            finally:
                torch_worker._worker_info = users_info
                everywhere.load(users)

    def made_global(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._now is not self._own else self._inside()


class _Generators:
    """Three generators and their states."""

    def torch(self) -> torch.Generator:
        raise NotImplementedError

    def python(self) -> random.Random:
        raise NotImplementedError

    def numpy(self) -> np.random.RandomState:
        raise NotImplementedError

    def words(self, n: int) -> np.ndarray:
        raise NotImplementedError

    def state(self) -> State:
        return State(torch=self.torch().get_state(), python=self.python().getstate(), numpy=_numpy_state(self.numpy()))

    def load(self, state: State) -> None:
        self.torch().set_state(state.torch)
        if state.python is not None:
            self.python().setstate(state.python)
        if state.numpy is not None:
            self.numpy().set_state(state.numpy)

    def filled(self, state: State) -> State:
        """Return the state with what is not used yet as the seed makes it."""
        return state


class _Global(_Generators):
    """The global generators of this process, live."""

    def __init__(self) -> None:
        self._twister = Twister()

    def torch(self) -> torch.Generator:
        return torch.default_generator

    def python(self) -> random.Random:
        return random._inst

    def numpy(self) -> np.random.RandomState:
        return _numpy_global()

    def words(self, n: int) -> np.ndarray:
        self._twister.read(torch.default_generator)
        words = self._twister.draw(n)
        self._twister.write(torch.default_generator)
        return words


class _Seeded(_Generators):
    """A worker's generators. Python's and numpy's are made when something asks for them: most pipelines never do."""

    def __init__(self, base_seed: int, worker: int) -> None:
        self._base_seed, self._worker = base_seed, worker
        self._torch = torch.Generator()
        self._torch.manual_seed(base_seed + worker)
        self._python: random.Random | None = None
        self._numpy: np.random.RandomState | None = None
        self._twister = Twister()
        self._handed_out, self._behind = True, False

    def torch(self) -> torch.Generator:
        if self._behind:
            self._twister.write(self._torch)
        self._handed_out, self._behind = True, False
        return self._torch

    def python(self) -> random.Random:
        if self._python is None:
            self._python = random.Random(self._base_seed + self._worker)
        return self._python

    def numpy(self) -> np.random.RandomState:
        if self._numpy is None:
            self._numpy = np.random.RandomState(torch_worker._generate_state(self._base_seed, self._worker))
        return self._numpy

    def words(self, n: int) -> np.ndarray:
        if self._handed_out:
            self._twister.read(self._torch)
        self._handed_out, self._behind = False, True
        return self._twister.draw(n)

    def state(self) -> State:
        return State(
            torch=self.torch().get_state(),
            python=None if self._python is None else self._python.getstate(),
            numpy=None if self._numpy is None else _numpy_state(self._numpy),
        )

    def load(self, state: State) -> None:
        super().load(state)
        if state.python is None:
            self._python = None
        if state.numpy is None:
            self._numpy = None

    def filled(self, state: State) -> State:
        if state.python is not None and state.numpy is not None:
            return state
        fresh = _Seeded(self._base_seed, self._worker)
        return State(
            torch=state.torch,
            python=state.python or fresh.python().getstate(),
            numpy=state.numpy or _numpy_state(fresh.numpy()),
        )


def _numpy_global() -> np.random.RandomState:
    return np.random.mtrand._rand


def _numpy_state(generator: np.random.RandomState) -> dict[str, Any]:
    return generator.get_state(legacy=False)


def _same_numpy(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_numpy(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


# --- while a worker's stream is global ------------------------------------------------------------------------------

_DEVICES = (
    *((device, name) for device in ("cuda", "mps", "xpu", "mtia") for name in ("manual_seed_all", "manual_seed")),
    ("random", "_seed_custom_device"),
)
"""What `torch.manual_seed` calls besides the CPU's generator: in a worker it seeds generators that nobody sees, or none at all."""


@contextlib.contextmanager
def _no_device_seeds() -> Iterator[None]:
    """Let `torch.manual_seed` seed nothing but the CPU's generator in this thread: the devices' generators are the user's own."""
    replaced: list[tuple[Any, str, Any, Any]] = []
    thread = threading.get_ident()
    try:
        for module_name, name in _DEVICES:
            module = vars(torch).get(module_name)
            original = None if module is None else vars(module).get(name)
            if original is not None:
                substitute = _except_in(thread, original)
                setattr(module, name, substitute)
                replaced.append((module, name, original, substitute))
        yield
    finally:
        for module, name, original, substitute in replaced:
            if vars(module).get(name) is substitute:
                setattr(module, name, original)


def _except_in(thread: int, original: Callable[..., Any]) -> Callable[..., Any]:
    def seed(*args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() == thread else original(*args, **kwargs)

    return seed


_lock = threading.RLock()


def _renew_lock() -> None:
    # A child that was forked while another thread held it would wait for that thread for ever.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)
