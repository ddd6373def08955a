"""The all-reduce of the handshake: NCCL over all GPUs, gloo over two processes on a CPU, each with a time limit."""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from stoker import shell
from stoker.bench.readings import Reading

LIMIT_S = 60.0
"""For the whole; inside it the library itself gives up a little earlier, with its own words."""
_CPU_RANKS = 2


def all_reduce(device: torch.device) -> Reading:
    """Sum numbers over the ranks and compare with what must come out; what dies, hangs or is wrong is `failed` or an error."""
    backend, world = ("nccl", torch.cuda.device_count()) if device.type == "cuda" else ("gloo", _CPU_RANKS)
    ranks = f"{world} GPU{'s' if world > 1 else ''}" if backend == "nccl" else f"{world} processes"
    reading = Reading(name="handshake.all_reduce", title=f"All-reduce, {backend} over {ranks}")
    available = torch.distributed.is_available() and getattr(torch.distributed, f"is_{backend}_available")()
    if not available:
        return replace(reading, skipped=f"this PyTorch was built without {backend}")
    with tempfile.TemporaryDirectory(prefix="stoker-verify-") as folder:
        store = Path(folder, "store")
        last = [str(store), str(LIMIT_S - 15)]
        commands = [[sys.executable, "-m", "stoker.bench.rank", backend, str(rank), str(world), *last] for rank in range(world)]
        with ThreadPoolExecutor(world) as pool:
            outcomes = list(pool.map(lambda command: shell.run(command, timeout_s=LIMIT_S), commands))
    return judged(replace(reading, unit="error", ceiling=0.0, ceiling_from="whole numbers are added exactly"), outcomes)


def judged(reading: Reading, outcomes: list[shell.Outcome]) -> Reading:
    """Return the reading with what the ranks' processes said."""
    answers = []
    for rank, outcome in enumerate(outcomes):
        try:
            answers.append(json.loads(outcome.out.strip().splitlines()[-1]))
        except (IndexError, ValueError):
            ended = "gave no answer" if outcome.code is None else f"died with signal {-outcome.code}" if outcome.code < 0 else "failed"
            return replace(reading, failed=f"rank {rank} {ended}: {_last_line(outcome.err)}")
    wrong = sum(int(answer["wrong"]) for answer in answers)
    rates = [float(answer["rate"]) for answer in answers if answer.get("rate")]
    facts = {"ranks": len(outcomes)} | ({"bus_GB_s": round(min(rates) / 1e9, 2)} if rates else {})
    return replace(reading, value=float(wrong), n=1, facts=facts)


def _last_line(text: str) -> str:
    """Return the line that names the error, for torch prints what led there around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line.startswith("File ")]
    return ((errors or lines or ["it said nothing"])[-1])[:300]
