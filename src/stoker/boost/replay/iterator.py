"""The iterator that a replayed loader gives."""

from __future__ import annotations

from typing import Any

from torch.utils.data.dataloader import _BaseDataLoaderIter

from stoker.boost.notes import Note
from stoker.boost.replay.check import Check
from stoker.boost.replay.lines import warn_of_workers
from stoker.boost.replay.many import ReplayMany
from stoker.boost.replay.plan import Plan
from stoker.boost.replay.single import ReplaySingle


def iterator_for(loader: Any, plan: Plan, note: Note, check: Check) -> _BaseDataLoaderIter:
    """Return the iterator that replays `loader`. Raises Unfit, and whatever the user's sampler raises."""
    if loader.num_workers:
        warn_of_workers(loader)
        return ReplayMany(loader, plan, note, check)
    return ReplaySingle(loader, plan, note, check)
