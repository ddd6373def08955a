"""Under DistributedDataParallel all ranks take the first one's decision: their clocks differ, and their steps must not."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed

_PATIENCE = timedelta(seconds=20)


def world() -> int:
    """Return how many ranks train together; 1 when nobody has set up a process group."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 1
    return torch.distributed.get_world_size()


def decided(key: str, keep: bool) -> bool:
    """Return the first rank's decision, told through the process group's own store; our own without other ranks.

    Raises what the store raises when the first rank says nothing for 20 seconds.
    """
    if world() == 1:
        return keep
    store = torch.distributed.distributed_c10d._get_default_store()
    name = f"stoker/boost/{key}"
    if torch.distributed.get_rank() == 0:
        store.set(name, "keep" if keep else "drop")
        return keep
    store.wait([name], _PATIENCE)
    return bool(store.get(name) == b"keep")
