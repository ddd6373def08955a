"""The user's own way of making a batch: what replay is compared with, and what goes on where replay cannot."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data._utils import worker as torch_worker

from stoker.boost.replay.openmp import threads
from stoker.boost.replay.stream import Stream


def fetched(fetcher: Any, index: Any, stream: Stream) -> Any:
    """Return the batch that a worker with this stream would send.

    The samples are made with the worker's random state; they are collated outside of it, since a worker would collate into shared memory.
    """
    with stream.made_global(), threads(1), _first_dtype():
        dataset = fetcher.dataset
        if getattr(dataset, "__getitems__", None):
            samples = dataset.__getitems__(index)
        else:
            samples = [dataset[place] for place in index]
    return fetcher.collate_fn(samples)


@contextlib.contextmanager
def _first_dtype() -> Iterator[None]:
    """Have the default dtype that a plan's workers were begun with, whatever the script has set since."""
    now = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(now)


def sent(fetcher: Any, index: Any, stream: Stream, worker: int) -> Any:
    """Return what a worker would send: the batch, or its exception as PyTorch wraps it."""
    before = stream.snapshot()
    try:
        return fetched(fetcher, index, stream)
    except Exception:
        stream.restore(before)
    # Outside of the `except`, so that the exception has no context that it would not have in a worker; once more the whole way, so that
    # the traceback has the frames that a worker's has.
    with stream.made_global(), threads(1), _first_dtype():
        try:
            return fetcher.fetch(index)
        except Exception:
            return _wrapped(sys.exc_info(), f"in DataLoader worker process {worker}")


def _wrapped(caught: Any, where: str) -> ExceptionWrapper:
    kind, error, trace = caught
    wrapper = ExceptionWrapper((kind, error, trace), where=where)
    frame = _fetching_frame()
    if frame is not None and trace is not None:
        below = "".join(traceback.format_list(traceback.extract_tb(trace.tb_next)))
        wrapper.exc_msg = f"Traceback (most recent call last):\n{frame}{below}{''.join(traceback.format_exception_only(kind, error))}"
    return wrapper


@functools.cache
def _fetching_frame() -> str | None:
    """Return the frame of a traceback in which a worker of this PyTorch fetches; None when it cannot be found."""
    try:
        lines, first = inspect.getsourcelines(torch_worker._worker_loop)
    except (OSError, TypeError):
        return None
    for number, text in enumerate(lines, first):
        if "data = fetcher.fetch(index)" in text:
            code = torch_worker._worker_loop.__code__
            frame = traceback.FrameSummary(str(inspect.getsourcefile(torch_worker)), number, "_worker_loop", **_columns(code, number))
            return "".join(traceback.format_list([frame]))
    return None


def _columns(code: Any, line: int) -> dict[str, Any]:
    """Return where in `line` the call stands, for the marks that Python 3.11 and newer set below it."""
    if not hasattr(code, "co_positions"):
        return {}
    # No instruction spans the assignment as a whole: the widest one is the call.
    spans = [(end - start, start, end) for begin, _, start, end in code.co_positions() if begin == line and start is not None and end is not None]
    if not spans:
        return {}
    _, start, end = max(spans)
    return {"end_lineno": line, "colno": start, "end_colno": end}


def same(one: Any, other: Any) -> str | None:
    """Return in what two batches differ, None when they are the same to the bit: types, shapes, strides and values."""
    if type(one) is not type(other):
        return f"{type(one).__name__} and {type(other).__name__}"
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f"{len(one)} and {len(other)} fields"
        return next((reason for a, b in zip(one, other, strict=True) if (reason := same(a, b)) is not None), None)
    if isinstance(one, dict):
        return same([*one.keys(), *one.values()], [*other.keys(), *other.values()])
    if isinstance(one, np.ndarray):
        return None if (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()) else "two arrays"
    if not isinstance(one, torch.Tensor):
        return None if one == other else f"{one!r} and {other!r}"
    facts = [_facts(tensor) for tensor in (one, other)]
    if facts[0] != facts[1]:
        return f"{facts[0]} and {facts[1]}"
    if one.numel() == 0:
        return None
    bits = [tensor.detach().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    if torch.equal(*bits):
        return None
    differ = int((bits[0] != bits[1]).reshape(one.numel(), -1).any(1).sum())
    return f"{differ} of {one.numel()} values"


def _facts(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device, tensor.requires_grad, tensor.is_inference()
