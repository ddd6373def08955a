"""The draws that several transforms make, number by number as torchvision makes them."""

from __future__ import annotations

import torch

from stoker.boost.replay.stream import Stream


def uniform(stream: Stream, low: float, high: float) -> float:
    """Return `torch.empty(1).uniform_(low, high).item()`: a float32."""
    return torch.empty(1).uniform_(low, high, generator=stream.generator).item()


def place(stream: Stream, spare: int) -> int:
    """Return `torch.randint(0, spare + 1, (1,)).item()`."""
    return int(torch.randint(0, spare + 1, (1,), generator=stream.generator).item())


def area_and_aspect(stream: Stream, area: int, scale: tuple[float, float], log_ratio: tuple[float, float]) -> tuple[float, float]:
    """Return area in pixels and aspect ratio of a random part, as `RandomResizedCrop` and `RandomErasing` draw them."""
    part = area * uniform(stream, *scale)
    return part, torch.exp(torch.empty(1).uniform_(*log_ratio, generator=stream.generator)).item()


def log_ratio(ratio: tuple[float, float]) -> tuple[float, float]:
    """Return the logarithms in float32, as torchvision computes them."""
    logs = torch.log(torch.tensor(ratio))
    return logs[0].item(), logs[1].item()
