"""How much is done in how much time: one table a kind of device, for the whole verification and for the quick one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes and time budgets. A budget ends the rounds of a part early, but never before two whole rounds."""

    quick: bool
    rounds: int
    """Rounds of every timing, unless its budget ends it."""
    copy_bytes: int
    """Size of each array of the memory bandwidth."""
    matrix_sizes: tuple[int, ...]
    ceilings_s: float
    """For each of the two times that the ceilings are measured."""
    pool_batch: int
    """Images of the conv-relu-pool forward."""
    pool_s: float
    resnet_batch: int
    resnet_s: float
    precisions: tuple[str, ...]
    """Those that the device may have; what it lacks is skipped with a reason."""
    layouts: tuple[str, ...]
    loader_s: float
    """Seconds of each sample of a loader."""
    loader_rounds: int
    photos: int
    total_s: float
    """What compiling must leave the whole verification below."""
    patience_s: float
    """How long, in all, it may wait for other processes to be quiet before a part is measured."""
    compile_resnet: bool


def plan_for(kind: str, *, quick: bool) -> Plan:
    """Return the plan for `cpu` or `cuda`. Two quiet CPU cores take 25 s quick and 82 s whole; a GPU: not measured."""
    both = ("contiguous", "channels_last")
    if kind == "cuda":
        return Plan(
            quick=quick,
            rounds=5 if quick else 12,
            copy_bytes=2**28 if quick else 2**30,
            matrix_sizes=(4096,) if quick else (4096, 8192),
            ceilings_s=0.6 if quick else 2.0,
            pool_batch=128,
            pool_s=0.8 if quick else 4.0,
            resnet_batch=64,
            resnet_s=1.5 if quick else 10.0,
            precisions=("tf32", "bf16") if quick else ("fp32", "tf32", "bf16"),
            layouts=("channels_last",) if quick else both,
            loader_s=0.25 if quick else 0.5,
            loader_rounds=1 if quick else 3,
            photos=32 if quick else 64,
            total_s=57.0,
            patience_s=0.0 if quick else 5.0,
            compile_resnet=not quick,
        )
    return Plan(
        quick=quick,
        rounds=4 if quick else 10,
        copy_bytes=2**27 if quick else 2**28,
        matrix_sizes=(1024,) if quick else (2048,),
        ceilings_s=1.0 if quick else 3.0,
        pool_batch=16 if quick else 32,
        pool_s=1.5 if quick else 6.0,
        resnet_batch=4 if quick else 8,
        resnet_s=4.0 if quick else 17.0,
        precisions=("fp32", "bf16"),
        layouts=("channels_last",) if quick else both,
        loader_s=0.3 if quick else 0.6,
        loader_rounds=3 if quick else 6,
        photos=32 if quick else 64,
        total_s=85.0,
        patience_s=5.0 if quick else 15.0,
        compile_resnet=False,
    )
