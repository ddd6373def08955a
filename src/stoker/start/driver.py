"""The driver and the GPUs as a container's start sees them: NVML asked directly, since its Python binding lives in a stack that is not chosen yet."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.catalog import Card
from stoker.host import find_driver

PATIENCE_S = 10.0
"""A driver that does not answer for so long (persistence mode off and many GPUs: 2-3 s) is taken as hanging."""

LIBRARIES = (
    "libnvidia-ml.so.1",
    # Where NVIDIA's tools put it when the loader's cache could not be renewed: a read-only image, WSL, older device plugins.
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
)

_TEXT_BYTES = 96
_SAID = {9: "the driver is not loaded", 15: "a GPU is lost", 18: "the library and the kernel module are of different drivers"}
"""Return codes of NVML (nvml.h, nvmlReturn_t) that happen to users."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What this process can see of the driver."""

    driver: str | None = None
    """As `580.95.05`; None: there is none."""
    cards: tuple[Card, ...] = ()
    """The GPUs that programs may use here."""
    hidden: int = 0
    """How many more GPUs CUDA_VISIBLE_DEVICES hides."""
    boards: int = 0
    """NVIDIA cards on the bus, whether or not a driver holds them; counted only where no GPU answered."""
    trouble: str | None = None
    """Why NVML did not tell of all GPUs, where there are some."""

    @property
    def unknown(self) -> bool:
        """Whether there are GPUs of which nothing is known."""
        return self.trouble is not None and not self.cards and not self.hidden


def look(root: Path | None = None, *, patience_s: float = PATIENCE_S) -> Seen:
    """Return the driver and the GPUs. Raises nothing; a driver that hangs or kills the process that asks it is said as `trouble`."""
    told = _in_child(_ask_nvml, patience_s)
    found = [(str(uuid), Card(name=name, compute_capability=_capability(major, minor))) for uuid, name, major, minor in told.get("cards", ())]
    cards = visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
    version, trouble = told.get("driver"), told.get("trouble")
    if version and found:
        return Seen(driver=version, cards=cards, hidden=len(found) - len(cards), trouble=trouble)
    host = find_driver(root)
    # Without a device node there is no GPU that one could use here, whatever NVML says.
    return Seen(driver=version or host.version, boards=host.cards, trouble=trouble if host.nodes and host.version else None)


def visible(found: list[tuple[str, Card]], wanted: str | None) -> tuple[Card, ...]:
    """Return the cards that CUDA_VISIBLE_DEVICES leaves, by UUID or its beginning; numbers count only where all cards are alike.

    CUDA numbers its GPUs by speed unless CUDA_DEVICE_ORDER says otherwise, NVML by their place on the bus: which one is meant by a number
    cannot be told from outside, and so all of them are kept. Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    cards = tuple(card for _, card in found)
    if wanted is None:
        return cards
    names = [name.strip() for name in wanted.split(",")]
    if names[0] in ("", "-1", "NoDevFiles"):
        return ()
    if all(name.isdecimal() for name in names) and len({card.compute_capability for card in cards}) == 1:
        return tuple(cards[int(name)] for name in names if int(name) < len(cards))
    if all(name.startswith("GPU-") for name in names):
        return tuple(card for uuid, card in found if any(uuid.startswith(name) for name in names))
    return cards


def _capability(major: int, minor: int) -> tuple[int, int] | None:
    return (major, minor) if 1 <= major < 100 and 0 <= minor < 10 else None


def _in_child(ask: Callable[[], dict[str, Any]], patience_s: float) -> dict[str, Any]:
    """Ask in a process of its own: a broken driver library ends or hangs whoever calls it, and that must not be the container."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        data = _read(reading, time.monotonic() + patience_s)
    finally:
        os.close(reading)
    if data is None:
        # One that hangs in the kernel does not die: the init collects it when it does.
        os.kill(child, signal.SIGKILL)
        return {"trouble": f"NVML gave no answer within {patience_s:g} s"}
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"trouble": f"NVML died with signal {os.WTERMSIG(status)}"}
    try:
        told = json.loads(data)
    except ValueError:
        return {"trouble": "NVML gave no answer"}
    return told if isinstance(told, dict) else {}


def _read(descriptor: int, until: float) -> bytes | None:
    """Read to the end; None when that does not come in time."""
    data = b""
    while select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(descriptor, 65536)
        if not piece:
            return data
        data += piece
    return None


def _ask_nvml() -> dict[str, Any]:
    nvml = _library()
    if nvml is None:
        return {"trouble": "libnvidia-ml.so.1 is not in this container: it was started without GPUs, or without the capability `utility`"}
    code = nvml.nvmlInit_v2()
    if code:
        return {"trouble": _said(code)}
    told: dict[str, Any] = {"driver": _driver(nvml), "cards": []}
    count = ctypes.c_uint()
    code = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    if code:
        told["trouble"] = _said(code)
    for number in range(count.value):
        card = _card(nvml, number)
        if card:
            told["cards"].append(card)
        else:
            told["trouble"] = "a GPU is lost or gives no answer"
    return told


def _library() -> Any | None:
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _driver(nvml: Any) -> str | None:
    text = _asked(nvml.nvmlSystemGetDriverVersion)
    # What is no version would stop the comparison with the floors.
    return text if text and all(part.isascii() and part.isdecimal() for part in text.split(".")) else None


def _card(nvml: Any, number: int) -> list[Any] | None:
    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle)):
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)):
        return None
    return [_asked(nvml.nvmlDeviceGetUUID, handle) or "", _asked(nvml.nvmlDeviceGetName, handle), major.value, minor.value]


def _asked(function: Any, *arguments: Any) -> str | None:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    if function(*arguments, buffer, ctypes.c_uint(_TEXT_BYTES)):
        return None
    text = buffer.value.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else None


def _said(code: int) -> str:
    return f"NVML says {code}" + (f": {_SAID[code]}" if code in _SAID else "")
