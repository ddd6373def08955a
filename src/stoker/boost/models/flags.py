"""The parts `tf32`, `cudnn` and `threads`: settings of the whole process, as torch's own functions set them."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.optim import Optimizer

from stoker.boost.models.ways import Group
from stoker.host.limits import find_limits

_THREADS_AT_IMPORT = torch.get_num_threads()
_CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")


class Tf32:
    """Products of float32 matrices with 10 bits of mantissa on tensor cores."""

    name = "tf32"
    rehearsed = False
    told = "TF32 for products of matrices"

    def fits(self, training: Group) -> str | None:
        """Decline where there is no TF32, or the script has asked for it itself."""
        why = _no_cuda(training)
        if why:
            return why
        if torch.cuda.get_device_capability() < (8, 0):
            return "this GPU has no TF32"
        if torch.get_float32_matmul_precision() != "highest":
            return "the script has set the precision of matrix products"
        return None

    def on(self, training: Group) -> None:
        """For the process."""
        torch.set_float32_matmul_precision("high")

    def off(self, training: Group) -> None:
        """Torch's default again."""
        if torch.get_float32_matmul_precision() == "high":
            torch.set_float32_matmul_precision("highest")

    def joined(self, optimizer: Optimizer) -> None:
        """Nothing."""


class CudnnBenchmark:
    """cuDNN times its kernels for every new shape and takes the fastest."""

    name = "cudnn"
    rehearsed = False
    told = "cudnn.benchmark"

    def fits(self, training: Group) -> str | None:
        """Decline without convolutions on a GPU, and where the script has chosen."""
        why = _no_cuda(training)
        if why:
            return why
        convolutions = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d
        if not any(isinstance(part, convolutions) for entry in training.entries if entry.root for part in entry.root.modules()):
            return "there is no convolution"
        if torch.backends.cudnn.benchmark:
            return "the script has switched it on"
        if torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled():
            return "the script asks for deterministic kernels"
        return None

    def on(self, training: Group) -> None:
        """For the process."""
        torch.backends.cudnn.benchmark = True

    def off(self, training: Group) -> None:
        """Torch's default again."""
        torch.backends.cudnn.benchmark = False

    def joined(self, optimizer: Optimizer) -> None:
        """Nothing."""


class Threads:
    """Another number of threads within an operation on the CPU."""

    name = "threads"
    rehearsed = False

    def __init__(self, count: int) -> None:
        self._count = count
        self._before = torch.get_num_threads()
        self.told = f"{count} instead of {self._before} threads within operations"

    def fits(self, training: Group) -> str | None:
        """Decline where the work is on a GPU, or the number was chosen by somebody."""
        if any(entry.device.type != "cpu" for entry in training.entries):
            return "the model is not on the CPU"
        chosen = next((name for name in _CHOSEN_BY if os.environ.get(name)), None)
        if chosen:
            return f"{chosen} is set"
        if self._before != _THREADS_AT_IMPORT:
            return "the script has set the number of threads"
        return None

    def on(self, training: Group) -> None:
        """For the process."""
        torch.set_num_threads(self._count)

    def off(self, training: Group) -> None:
        """As it was."""
        torch.set_num_threads(self._before)

    def joined(self, optimizer: Optimizer) -> None:
        """Nothing."""


def other_thread_counts() -> list[int]:
    """Return the numbers of threads that are worth a try, fewer than now: the cores that are ours, half, and one."""
    now = torch.get_num_threads()
    counts = (find_limits().cores, now // 2, 1)
    return [count for count in dict.fromkeys(counts) if 1 <= count < now][:3]


def _no_cuda(training: Group) -> str | None:
    return "the model is not on a CUDA device" if any(entry.device.type != "cuda" for entry in training.entries) else None
