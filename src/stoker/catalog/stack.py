"""What is asked of `resolve`, and its two answers: a stack that fits, or why none does and what would."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

FULL = "full"
MINOR = "minor-version"
FORWARD = "forward"
UNCHECKED = "unchecked"
NOT_NEEDED = "not needed"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the person asked for; None: anything."""

    torch: str | None = None
    """`2.8` (any of them), `2.8.0` or `2.8.0+cu128`."""
    cuda: str | None = None
    """`12.1` or `cu121`; `cpu` for a build without CUDA."""
    python: str | None = None
    """`3.12`, or `3.13t` for the free-threaded build."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU that the stack must run on."""

    name: str | None
    compute_capability: tuple[int, int] | None
    """None: not known; then it rules nothing out, and the answer says so."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """All that an answer depends on, read and checked: give it to `answer`, which gives the same answer again."""

    torch: str | None
    """`2.8` or `2.8.0`."""
    cuda: str | None
    """`12.1` or `cpu`."""
    python: str | None
    driver: str | None
    cards: tuple[Card, ...]
    machine: str
    """`x86_64` or `aarch64`."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Versions that fit together and run here."""

    torch: str
    variant: str
    """As `cu128`, or `cpu`."""
    cuda: str | None
    """As `12.8`; None for the CPU."""
    toolkit: str | None
    """The toolkit that it was built with, as `12.8.1`."""
    cudnn: str | None
    torchvision: str | None
    """The best version that was built for this torch; None: not known."""
    torchaudio: str | None
    pythons: tuple[str, ...]
    """The Python versions that it has wheels for."""
    machine: str
    default_index: bool
    """Whether the default index (PyPI) holds this variant; else it needs PyTorch's own index of the variant's name."""
    driver: str
    """`full`, `minor-version`, `forward`, `unchecked` (no driver was given) or `not needed` (CPU)."""
    driver_says: str
    """The same for people."""
    driver_min: str | None
    """The oldest driver that runs it, on these GPUs."""
    driver_full: str | None
    """The driver from which on nothing is missing."""
    notes: tuple[str, ...]
    """What else one should know, the weightiest first."""
    command: str
    """Installs it into the active environment."""
    evidence: str
    source: str
    checked: datetime.date


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One thing that stands in the way."""

    rule: str
    """`never-built`, `unknown-release`, `python`, `machine`, `driver`, `driver-knows-gpu`, `driver-dropped-gpu`, `code`, `ptx` or `unconfirmed`."""
    text: str
    source: str
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A stack that would fit if something changed."""

    change: str
    """What must change, as `without CUDA 12.1`."""
    stack: Stack
    question: Question
    """The question that it is the answer of."""


@dataclass(frozen=True, kw_only=True)
class NoStack:
    """Nothing fits."""

    reasons: tuple[Reason, ...]
    nearest: tuple[Alternative, ...]
