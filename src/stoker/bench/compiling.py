"""The child process that compiles: a compiler that hangs, crashes or takes too long costs one reading and no more.

    python -m stoker.bench.compiling '{"device": ..., "out": ..., "tasks": [...]}'

Appends to `out` a line of JSON for each task that it finished: the samples of the eager and of the compiled step, taken in turn.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from stoker import arithmetic
from stoker.bench.rounds import waiter
from stoker.bench.steps import pool_step, resnet_step
from stoker.host import find_limits
from stoker.measure import in_turn

_ROUNDS = 8
_BUDGET_S = 4.0


def _main(order: dict[str, Any]) -> None:
    arithmetic.use_large_allocations()
    arithmetic.limit_threads(find_limits().cores)
    device = torch.device(order["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    for task in order["tasks"]:
        make = {"pool": pool_step, "resnet50": resnet_step}[task["workload"]]
        arguments = (task["batch"], task["precision"], task["layout"], device)
        eager, compiled = make(*arguments), make(*arguments, compiled=True)
        start = time.perf_counter()
        compiled()
        waiter(device)()
        compile_s = time.perf_counter() - start
        timings = in_turn({"eager": eager, "compiled": compiled}, rounds=_ROUNDS, warmup=2, budget_s=_BUDGET_S, synchronise=waiter(device))
        found = {name: timing.samples_s for name, timing in timings.items()}
        with Path(order["out"]).open("a") as file:
            file.write(json.dumps({"workload": task["workload"], "compile_s": compile_s, **found}) + "\n")
        del eager, compiled


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
