"""One rank of the all-reduce that the handshake tries: a process of its own, so that a library that hangs or dies is an answer.

    python -m stoker.bench.rank BACKEND RANK WORLD STORE_FILE LIMIT_S

Prints one line of JSON: {"ok": ..., "wrong": how many numbers are wrong, "rate": bytes/s of the sum of 64 MB or null}.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time

import torch
import torch.distributed as dist

_NUMBERS = 1 << 20
_LARGE_NUMBERS = 1 << 24
_TIMES = 5


def _main(backend: str, rank: int, world: int, store: str, limit_s: float) -> None:
    if backend == "gloo":
        torch.set_num_threads(1)
        # All ranks are on this machine; gloo would otherwise look up the host's name, which fails in a container without network.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        device = torch.device("cpu")
    else:
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    limit = datetime.timedelta(seconds=limit_s)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world, timeout=limit)
    numbers = (torch.arange(_NUMBERS, device=device) % 1024 + rank).float()
    dist.all_reduce(numbers)
    # Whole numbers below 2^24: float32 adds them without rounding, so every one must be exact.
    expected = (torch.arange(_NUMBERS, device=device) % 1024).float() * world + world * (world - 1) / 2
    wrong = int((numbers != expected).sum())
    rate = _rate(device) if backend == "nccl" and world > 1 else None
    dist.destroy_process_group()
    print(json.dumps({"ok": wrong == 0, "wrong": wrong, "rate": rate}), flush=True)


def _rate(device: torch.device) -> float:
    """Return bytes a second that each GPU sends and receives in a large all-reduce (what NCCL's own tests call the bus bandwidth)."""
    numbers = torch.ones(_LARGE_NUMBERS, device=device)
    dist.all_reduce(numbers)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(_TIMES):
        dist.all_reduce(numbers)
    torch.cuda.synchronize(device)
    world = dist.get_world_size()
    return 2 * (world - 1) / world * _TIMES * numbers.nbytes / (time.perf_counter() - start)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
