"""How a step is computed: precision, memory layout, compilation, threads, allocation. Shared by all that trains."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stoker.settings import cache_folder


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """One way to compute the same step. The plain one is eager float32 in the contiguous layout."""

    precision: str = "fp32"
    """fp32, or bf16: autocast of the forward pass; weights, gradients and the loss stay float32."""
    channels_last: bool = False
    """Images and convolution weights in NHWC memory order."""
    fused: bool = False
    """One kernel for the whole optimizer step."""
    compiled: bool = False
    """The model compiled in place."""
    tf32: bool = False
    """Matrix products of float32 with a 10-bit mantissa (CUDA only)."""
    threads: int = 0
    """Threads of one operation on the CPU; 0: as they are."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return dataclasses.asdict(self)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def dtype(self) -> torch.dtype:
        """The type in which images are best fed: autocast would make bfloat16 of them anyway."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the forward pass runs."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()


def use_large_allocations() -> bool:
    """Let glibc keep freed memory instead of returning it to the system at each step. Returns whether it did.

    A tensor above 128 KiB is otherwise mapped afresh, page by page, each time it is made: on a 2-core CPU this doubled the step
    of a small CNN (13.3 against 7.2 ms; benchmarks/small_cnn.py). No other C library has mallopt: there nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_threshold, 1 << 30)) and bool(mallopt(trim_threshold, (1 << 31) - 1))


def limit_threads(cores: int) -> None:
    """Let torch use no more threads than this process has cores: it counts the host's, not those of the cgroup quota."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)


def keep_compiled_code() -> None:
    """Keep what torch.compile made between runs (torch's own default is a folder under /tmp, gone after a restart)."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_folder() / "triton"))


def only_deterministic() -> None:
    """Allow only algorithms that give the same bits every time; torch raises where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # What torch.use_deterministic_algorithms(True) does, without its import of the whole compiler (1.5 s).
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(True)
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    # oneDNN and cuDNN must not choose lower precision behind our back.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def apply(arithmetic: Arithmetic, model: nn.Module, device: torch.device) -> None:
    """Set layout and precision of `model` in place; compiles it when asked to (at its next call)."""
    model.to(memory_format=arithmetic.memory_format)  # type: ignore[call-overload]
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = arithmetic.tf32
        torch.backends.cudnn.allow_tf32 = arithmetic.tf32
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if arithmetic.threads:
        torch.set_num_threads(min(arithmetic.threads, torch.get_num_threads()))
    if arithmetic.compiled:
        model.compile()
