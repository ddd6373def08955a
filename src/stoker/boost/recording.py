"""What a training computed and when: losses to the bit, times of steps, the weights at the end; for `--measure`, `--verify` and benchmarks.

Switched on by STOKER_BOOST_RECORD=FOLDER, in plain and in boosted runs alike, so that its cost is the same on both sides. A process writes JSON
lines to `process-PID.jsonl`: `start`; `losses` (the roots of every backward: bits as hexadecimal floats); `steps` [time_us, cpu_us, data_us,
batches, losses so far, optimizer]; `begin` when the warm-up is over; `end` with a hash of the weights and what boost noted. It draws no random
numbers and waits for a GPU only at `begin`, at `end` and once in _MOST_PENDING losses.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from multiprocessing.process import parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.data.dataloader as loading
from torch.optim import optimizer as optimizing

from stoker.boost import guard
from stoker.boost.notes import NOTES
from stoker.boost.work import work_s
from stoker.runs.strict_json import dumps

if TYPE_CHECKING:
    from stoker.boost.session import Session

_FLUSH_S = 0.5
_MOST_PENDING = 64
_MOST_PENDING_BYTES = 2**24
_MOST_OPTIMIZERS = 4
"""So many optimizers' parameters are kept alive for the hash at the end, the latest: a script that makes a model a fold does not keep them all."""


def apply(session: Session) -> None:
    """Record this process when `session.request.record` names a folder."""
    folder = session.request.record
    if folder is None:
        return
    if (seed := os.environ.get("STOKER_BOOST_RECORD_SEED")) and parent_process() is None:
        _seed(int(seed))
    recorder = Recorder(folder, Limits.from_environment(os.environ))
    _patch(session, recorder)
    recorder.write("start", **_facts(session.request.tier))
    recorder.flush()
    session.at_off(functools.partial(recorder.finish, "off"))
    atexit.register(recorder.finish, "exit")
    if parent_process() is not None:  # such a process leaves without running atexit
        Finalize(None, recorder.finish, args=("exit",), exitpriority=100)


class Limits:
    """Which steps count."""

    def __init__(self, *, skip: int = 0, steps: int | None = None, seconds: float | None = None) -> None:
        self.skip = skip
        """Steps of warm-up."""
        self.steps = steps
        """Steps after them; None: all."""
        self.seconds = seconds
        """The window ends earlier when it has lasted so long."""

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> Limits:
        """Read STOKER_BOOST_RECORD_SKIP, _STEPS and _SECONDS. Raises ValueError for what is no number."""
        steps, seconds = environment.get("STOKER_BOOST_RECORD_STEPS"), environment.get("STOKER_BOOST_RECORD_SECONDS")
        return Limits(
            skip=int(environment.get("STOKER_BOOST_RECORD_SKIP") or 0),
            steps=int(steps) if steps else None,
            seconds=float(seconds) if seconds else None,
        )


class Recorder:
    """Writes what one process computes. Every public method may be called from any thread; none of them raises."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._lock = threading.RLock()
        self.on = True
        self._reset()

    def _reset(self) -> None:
        """Begin anew: at the start, and in a forked child, which is another process (and records nothing when its parent no longer did)."""
        self.pid = os.getpid()
        self._lines: list[str] = []
        self._steps: list[list[int]] = []
        self._losses: list[torch.Tensor | str] = []
        self._pending = self._pending_bytes = 0
        self._optimizers: dict[int, tuple[int, list[torch.Tensor]]] = {}
        self._numbers = itertools.count()
        self._inside = threading.local()
        self._flushed = time.perf_counter()
        self.step_count = self.loss_count = self.batches = 0
        self.data_s = 0.0
        self._first_s: float | None = None
        self._last_s = 0.0
        self._begin_s: float | None = None

    # --- what happens in the program ------------------------------------------------------------------------------

    def roots(self, tensors: Any) -> None:
        """Keep the values from which a backward begins, before it begins."""
        if not self._here():
            return
        try:
            with self._lock:
                for tensor in (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors):
                    self._keep(tensor.detach())
        except Exception as error:
            self._give_up(error)

    def stepped(self, optimizer: torch.optim.Optimizer, args: Any = (), kwargs: Any = None) -> None:
        """Count a step that an optimizer has done."""
        if not self._here():
            return
        try:
            with self._lock:
                self._step(optimizer)
        except Exception as error:
            self._give_up(error)

    def enter_data(self) -> float | None:
        """Return when waiting for data begins; None within such waiting, and when nothing is recorded."""
        if not self._here() or getattr(self._inside, "data", False):
            return None
        self._inside.data = True
        now = time.perf_counter()
        self._begin(now)
        return now

    def leave_data(self, began: float | None, *, batches: int) -> None:
        """End the waiting that began at `began`."""
        if began is None:
            return
        self._inside.data = False
        now = time.perf_counter()
        self.data_s += now - began
        self.batches += batches
        self._last_s = now

    # --- inside ---------------------------------------------------------------------------------------------------

    def _here(self) -> bool:
        if self.pid != os.getpid():
            self._reset()
        return self.on and not torch.compiler.is_compiling()

    def _begin(self, now: float) -> None:
        """Note the first thing that is seen of a training."""
        if self._first_s is not None:
            return
        self._first_s = now
        try:
            with self._lock:
                self.write("first", at_s=now, work_s=work_s())
        except Exception as error:
            self._give_up(error)

    def _keep(self, value: torch.Tensor) -> None:
        self.loss_count += 1
        if value.device.type == "cpu":
            self._losses.append(_text(value))
            return
        self._losses.append(value.clone())
        self._pending += 1
        self._pending_bytes += value.numel() * value.element_size()
        if self._pending >= _MOST_PENDING or self._pending_bytes > _MOST_PENDING_BYTES:
            self._settle()

    def _settle(self) -> None:
        """Turn the values that are still on a device into text."""
        self._losses = [_text(value) for value in self._losses]
        self._pending = self._pending_bytes = 0

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        number = self._number(optimizer)
        self.step_count += 1
        waiting = self._begin_s is None and self.step_count >= self.limits.skip
        if waiting:
            _wait_for_device(self._parameters())
        now = self._last_s = time.perf_counter()
        self._begin(now)
        times_us = [int(1e6 * value) for value in (now, time.process_time(), self.data_s)]
        self._steps.append([*times_us, self.batches, self.loss_count, number])
        if waiting:
            self._begin_s = now
            self.write("begin", step=self.step_count, at_s=now, work_s=work_s(), data_s=self.data_s)
        elif self._is_over(now):
            self.finish("limit")
        elif now - self._flushed >= _FLUSH_S:
            self.flush()

    def _is_over(self, now: float) -> bool:
        if self._begin_s is None:
            return False
        done, limits = self.step_count - max(1, self.limits.skip), self.limits
        return (limits.steps is not None and done >= limits.steps) or (
            limits.seconds is not None and now - self._begin_s >= limits.seconds and done >= 2
        )

    def _number(self, optimizer: torch.optim.Optimizer) -> int:
        known = self._optimizers.get(id(optimizer))
        if known is not None:
            return known[0]
        while len(self._optimizers) >= _MOST_OPTIMIZERS:
            self._optimizers.pop(next(iter(self._optimizers)))
        number = next(self._numbers)
        self._optimizers[id(optimizer)] = (number, [parameter for group in optimizer.param_groups for parameter in group["params"]])
        return number

    def _parameters(self) -> list[torch.Tensor]:
        found = {id(parameter): parameter for _, parameters in self._optimizers.values() for parameter in parameters}
        return list(found.values())

    # --- the file -------------------------------------------------------------------------------------------------

    def write(self, kind: str, **values: Any) -> None:
        """Keep a line for the next flush, after the losses and steps that came before it."""
        self._gather()
        self._lines.append(dumps({"kind": kind, **values}))

    def _gather(self) -> None:
        if self._losses and not self._pending:
            self._lines.append(dumps({"kind": "losses", "v": self._losses}))
            self._losses = []
        if self._steps:
            self._lines.append(dumps({"kind": "steps", "v": self._steps}))
            self._steps = []

    def flush(self) -> None:
        """Append what was kept to this process's file."""
        self._flushed = time.perf_counter()
        self._gather()
        if self._lines:
            with open(self.folder / f"process-{self.pid}.jsonl", "a", encoding="utf-8") as file:
                file.write("\n".join(self._lines) + "\n")
            self._lines = []

    def finish(self, why: str) -> None:
        """Write the end and record no more. `why`: `limit`, `exit` or `off`."""
        if not self.on or self.pid != os.getpid():
            return
        try:
            with self._lock:
                parameters = self._parameters()
                _wait_for_device(parameters)
                self.on, now = False, time.perf_counter()
                used_s = work_s()
                self._settle()
                span = {"first_s": self._first_s, "last_s": self._last_s, "at_s": now if why == "limit" else self._last_s}
                counts = {"steps": self.step_count, "losses": self.loss_count, "batches": self.batches}
                notes = [asdict(note) for note in NOTES.kept]
                weights = _weights(parameters)
                self.write("end", why=why, **span, **counts, data_s=self.data_s, work_s=used_s, weights=weights, notes=notes)
                self.flush()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.on = False
        guard.complain("recording", error)
        with contextlib.suppress(Exception):  # what was seen until now
            self.flush()


def _patch(session: Session, recorder: Recorder) -> None:
    """Look at backward, at batches and at optimizers' steps."""
    patches = session.patches
    patches.set(torch.autograd, "backward", _backward(recorder, torch.autograd.backward))
    patches.set(loading._BaseDataLoaderIter, "__next__", _waiting(recorder, loading._BaseDataLoaderIter.__next__, batches=1))
    patches.set(loading.DataLoader, "__iter__", _waiting(recorder, loading.DataLoader.__iter__, batches=0))
    session.at_off(optimizing.register_optimizer_step_post_hook(recorder.stepped).remove)


def _backward(recorder: Recorder, original: Any) -> Any:
    @functools.wraps(original)
    def backward(*args: Any, **kwargs: Any) -> Any:
        recorder.roots(args[0] if args else kwargs.get("tensors", ()))
        return original(*args, **kwargs)

    return backward


def _waiting(recorder: Recorder, original: Any, *, batches: int) -> Any:
    @functools.wraps(original)
    def wait(self: Any) -> Any:
        began, given = recorder.enter_data(), 0
        try:
            value = original(self)
            given = batches
            return value
        finally:
            recorder.leave_data(began, batches=given)

    return wait


def _seed(seed: int) -> None:
    """Give the process's random states a beginning that every run has. A script that seeds them itself later is not touched by it."""
    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _facts(tier: str | None) -> dict[str, Any]:
    return {
        **{"pid": os.getpid(), "parent": os.getppid(), "tier": tier},
        **{"argv": list(getattr(sys, "argv", [])), "torch": str(torch.__version__), "python": sys.version.split()[0]},
        **{"rank": os.environ.get("RANK"), "local_world_size": os.environ.get("LOCAL_WORLD_SIZE")},
        "clock_s": time.time() - time.perf_counter(),
    }


def _bits(value: Any) -> str:
    return value.hex() if isinstance(value, float) else repr(value)


def _text(value: torch.Tensor | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return _bits(value.item()) if value.numel() == 1 else _digest([value])
    except Exception as error:  # a kind of tensor without plain bytes (sparse, a subclass): the other losses are worth keeping without it
        return f"unread:{type(error).__name__}"


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return `sha256:...` of the bytes of dense tensors, in order."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{found.hexdigest()}"


def _weights(parameters: list[torch.Tensor]) -> str | None:
    try:
        return _digest(parameters) if parameters else None
    except Exception as error:  # a kind of tensor without bytes of its own: the losses are worth keeping without it
        guard.complain("recording weights", error)
        return None


def _wait_for_device(tensors: Iterable[torch.Tensor]) -> None:
    """Wait until the GPU of these parameters has done what it was given, so that a time means that the work is over."""
    if any(tensor.is_cuda for tensor in tensors):
        torch.cuda.synchronize()
