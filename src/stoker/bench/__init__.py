"""What this machine can do: handshake, feeding and compute, each against ceilings that are measured on the spot."""

from __future__ import annotations

from stoker.bench.comparison import Comparison, compare
from stoker.bench.readings import Check, Device, Reading, Verification, read_verification
from stoker.bench.verification import verify

__all__ = ["Check", "Comparison", "Device", "Reading", "Verification", "compare", "read_verification", "verify"]
