"""The part `copies`: a batch from page-locked memory goes to the GPU without making the script wait for what the GPU is at.

`images.to(device)` waits until the GPU has done everything before it, and then for the copy. Nobody needs to wait when the copy is made
from memory that nobody else has: the batch is copied to such memory at once (the script may write into its own afterwards), and from there
by the GPU in its own time. PyTorch's allocator of page-locked memory keeps it until then. This costs a copy on the CPU; whether that is
less than the waiting is measured on the first batches of a process, in turn, and decides for the rest. Not measured on a GPU yet.
"""

from __future__ import annotations

import gc
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

from stoker.boost.guard import complain
from stoker.boost.notes import NOTES, Note
from stoker.boost.session import Session

_WARM_UP = 5
"""Batches before the trial: the first ones allocate and load kernels."""
_TRIAL = 16
"""Batches of the trial, every other one copied as the script asks."""


def apply(session: Session) -> None:
    """Be ready for batches; nothing of PyTorch is replaced before the first page-locked one is handed out."""
    global _copies
    if not torch.version.cuda and not getattr(torch.version, "hip", None):
        return
    _copies = Copies(session)
    session.at_off(_forget)


def hand_out(*tensors: torch.Tensor) -> None:
    """Say that these tensors are a batch that is given to the script now. Those that are not page-locked need not be told. Raises nothing."""
    copies = _copies
    if copies is None:
        return
    try:
        copies.hand_out(tensors)
    except Exception as error:
        _forget()
        complain("copies", error)


class Copies:
    """The batches that were handed out in this process, and what copying them costs the script in either way."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.perf_counter) -> None:
        self.session = session
        self.clock = clock
        self.known: dict[int, weakref.ref[torch.Tensor]] = {}
        """Handed out, by id: comparing tensors would compare their values."""
        self.batches = 0
        self.spent_s = 0.0
        """In copies of the current batch."""
        self.times_s: dict[bool, list[float]] = {True: [], False: []}
        self.staged = False
        """Whether the current batch is copied by way of memory of its own."""
        self.streams = False
        """Whether the script works with CUDA streams of its own."""
        self.originals: dict[str, Callable[..., Any]] = {}

    def hand_out(self, tensors: tuple[torch.Tensor, ...]) -> None:
        """Remember a batch, and choose how it is copied."""
        pinned = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.is_pinned()]
        if not pinned:
            return
        if not self.originals:
            self._replace()
        self._next_batch()
        for tensor in pinned:
            key = id(tensor)
            self.known[key] = weakref.ref(tensor, lambda _, key=key: self.known.pop(key, None))  # type: ignore[misc]

    def move(self, name: str, tensor: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a copy of a tensor that was handed out to wherever the script wants it."""
        original = self.originals[name]
        if not _is_plain(name, args, kwargs) or self.streams or not _is_alone(tensor):
            return original(tensor, *args, **kwargs)
        begin_s = self.clock()
        try:
            own = self._own(tensor) if self.staged else None
            if own is None:
                return original(tensor, *args, **kwargs)
            return original(own, *args, **kwargs, non_blocking=True)
        finally:
            self.spent_s += self.clock() - begin_s

    def _own(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return a copy in page-locked memory of its own; None when there is none."""
        try:
            return torch.empty_like(tensor, pin_memory=True).copy_(tensor)
        except RuntimeError as error:
            complain("copies", error, consequence="copies are made as the script asks")
            self.streams = True
            return None

    def is_handed_out(self, tensor: torch.Tensor) -> bool:
        """Whether it is one of ours, and the very one."""
        known = self.known.get(id(tensor))
        return known is not None and known() is tensor

    # --- the trial ------------------------------------------------------------------------------------------------

    def _next_batch(self) -> None:
        done = self.batches - _WARM_UP
        if 0 < done <= _TRIAL and self.spent_s:
            self.times_s[self.staged].append(self.spent_s)
        self.spent_s = 0.0
        self.batches += 1
        if done < 0:
            return
        if done < _TRIAL:
            self.staged = not self.staged
        elif done == _TRIAL:
            self._decide()

    def _decide(self) -> None:
        if not self.times_s[True] or not self.times_s[False]:  # the script copies nothing, or says itself that it does not want to wait
            self.staged = False
            return
        staged_s, plain_s = (statistics.median(self.times_s[way]) for way in (True, False))
        self.staged = staged_s < plain_s
        why = "copies that nobody waits for" if self.staged else "waiting for a copy takes less time than making it twice"
        numbers = {"plain_s": plain_s, "staged_s": staged_s, "batches": _TRIAL}
        outcome: Any = "kept" if self.staged else "dropped"
        NOTES.add(Note(kind="process", part="copies", what="Tensor.to", where="", outcome=outcome, why=why, numbers=numbers))

    def _replace(self) -> None:
        self.streams = _has_streams()
        made = torch.cuda.Stream.__new__

        def new_stream(cls: Any, *args: Any, **kwargs: Any) -> Any:
            # With a number it is a handle of one that is there: `current_stream()` makes these.
            self.streams = self.streams or "stream_id" not in kwargs
            return made(cls, *args, **kwargs)

        self.session.patches.set(torch.cuda.Stream, "__new__", staticmethod(new_stream))
        for name in ("to", "cuda"):
            self.originals[name] = self.session.patches.set(torch.Tensor, name, _mover(self, name, getattr(torch.Tensor, name)))


_copies: Copies | None = None


def _forget() -> None:
    global _copies
    _copies = None


def _mover(copies: Copies, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    known, live = copies.known, copies.session

    def move(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if id(self) not in known or not live.live or not copies.is_handed_out(self):
            return original(self, *args, **kwargs)
        return copies.move(name, self, args, kwargs)

    move.__name__, move.__qualname__, move.__doc__ = name, f"Tensor.{name}", original.__doc__
    return move


def _is_alone(tensor: torch.Tensor) -> bool:
    """Whether nobody follows what is done with a tensor: no gradient, no mode that sees every call, no tracing."""
    watched = torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack()
    return type(tensor) is torch.Tensor and not (tensor.requires_grad or watched or torch.compiler.is_compiling()) and tensor.is_pinned()


def _is_plain(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call asks for a copy to a GPU and nothing else: `.to(device)`, `.to(device=...)`, `.cuda()`, `.cuda(device)`."""
    if kwargs.keys() - {"device"} or len(args) + len(kwargs) > 1:
        return False
    if not args and not kwargs:
        return name == "cuda"
    target = args[0] if args else kwargs["device"]
    if isinstance(target, int) and not isinstance(target, bool):
        return True
    if isinstance(target, str):
        return target.partition(":")[0] == "cuda"
    if isinstance(target, torch.device):
        return target.type == "cuda"
    return target is None and name == "cuda"


def _has_streams() -> bool:
    """Whether the script has a CUDA stream of its own: what is on it may count on a copy's being done when `.to` returns."""
    streams = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.cuda.Stream)]  # asks no proxy what it stands for
    return any(stream != torch.cuda.default_stream(stream.device) for stream in streams)
