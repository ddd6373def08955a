"""This process among others: its rank and device, as torchrun says them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of how many processes this is. Alone: rank 0 of 1."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    def share(self, value: Any) -> Any:
        """Return the first rank's `value` on every rank."""
        if self.alone:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of `tensor` over all ranks (in place); alone: itself."""
        if not self.alone:
            dist.all_reduce(tensor)
        return tensor

    def any(self, number: int) -> int:
        """Return the greatest `number` of all ranks: what one of them was asked to do, all do."""
        if self.alone:
            return number
        flag = torch.tensor(number, device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag)

    def leave(self) -> None:
        """End the process group."""
        if not self.alone and dist.is_initialized():
            dist.destroy_process_group()


def under_torchrun() -> bool:
    """Whether torchrun (or what imitates it) started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def join() -> Ranks:
    """Return this process's place; under torchrun joins the others (NCCL on GPUs, else gloo)."""
    cuda = torch.cuda.is_available()
    if not under_torchrun():
        return Ranks(rank=0, world_size=1, device=torch.device("cuda", 0) if cuda else torch.device("cpu"))
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)
