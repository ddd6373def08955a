"""The iterator that a replayed loader gives."""

from __future__ import annotations

import functools
import inspect
from types import CodeType
from typing import Any

from torch.utils.data import dataloader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from stoker.boost.notes import Note
from stoker.boost.replay.check import Check
from stoker.boost.replay.many import ReplayMany
from stoker.boost.replay.plan import Plan
from stoker.boost.replay.single import ReplaySingle


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
