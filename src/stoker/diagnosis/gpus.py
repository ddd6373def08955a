"""GPU use as NVML tells it, 20 times a second; nothing where there is no driver, and never an exception."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stoker.diagnosis.observation import GpuUse

_MOST_SAMPLES = 24_000
_LOW = 1 / 3


@dataclass(kw_only=True)
class GpuWatch:
    """Samples all GPUs that NVML shows."""

    nvml: Any = None
    """Stands for the module pynvml."""
    names: dict[int, str | None] = field(default_factory=dict)
    uuids: dict[int, str] = field(default_factory=dict)
    samples: deque[tuple[float, int, float, int | None]] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    """Seconds since 1970, GPU, share busy, memory used."""
    _handles: dict[int, Any] = field(default_factory=dict)

    @property
    def there(self) -> bool:
        """Whether there is any GPU to sample."""
        return bool(self._handles)

    def open(self) -> None:
        """Find the GPUs."""
        with contextlib.suppress(Exception):
            self.nvml = self.nvml or importlib.import_module("pynvml")
            self.nvml.nvmlInit()
            for index in range(int(self.nvml.nvmlDeviceGetCount())):
                with contextlib.suppress(Exception):  # a lost GPU is left out
                    handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
                    self.names[index] = _text(self.nvml.nvmlDeviceGetName(handle))
                    self.uuids[index] = (_text(self.nvml.nvmlDeviceGetUUID(handle)) or "").removeprefix("GPU-")
                    self._handles[index] = handle

    def look(self) -> None:
        """Take a sample of each."""
        for index, handle in self._handles.items():
            with contextlib.suppress(Exception):
                busy = float(self.nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
                used: int | None = None
                with contextlib.suppress(Exception):
                    used = int(self.nvml.nvmlDeviceGetMemoryInfo(handle).used)
                if 0 <= busy <= 1:
                    self.samples.append((time.time(), index, busy, used))

    def uses(self, uuids: Sequence[str], since_s: float = 0.0, until_s: float = float("inf")) -> tuple[GpuUse, ...]:
        """Return the use between two moments of the GPUs with these uuids; of all that were ever busy when none of these is known."""
        known = {index for index, uuid in self.uuids.items() if uuid and any(uuid == other.removeprefix("GPU-") for other in uuids)}
        busy = {index for _, index, share, _ in self.samples if share > 0}
        found = []
        for index in sorted(known or busy):
            chosen = [(at, share, used) for at, number, share, used in self.samples if number == index and since_s <= at <= until_s]
            if len(chosen) >= 2:
                found.append(_use(index, self.names.get(index), chosen))
        return tuple(found)

    def close(self) -> None:
        """Let NVML go."""
        with contextlib.suppress(Exception):
            self.nvml.nvmlShutdown()


def _use(index: int, name: str | None, chosen: list[tuple[float, float, int | None]]) -> GpuUse:
    shares = [share for _, share, _ in chosen]
    return GpuUse(
        index=index,
        name=name,
        busy=sum(shares) / len(shares),
        low=sum(share < _LOW for share in shares) / len(shares),
        memory_used_bytes=max((used for _, _, used in chosen if used is not None), default=None),
        series=tuple((at - chosen[0][0], share) for at, share, _ in chosen),
    )


def _text(value: Any) -> str | None:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text if isinstance(text, str) else None
