"""The first check: the device is there, kernels run, and products, convolutions and all-reduce give the right numbers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from stoker.bench import products
from stoker.bench.lock import lock_reading
from stoker.bench.ranks import all_reduce
from stoker.bench.readings import Device, Reading
from stoker.bench.switches import set_tf32
from stoker.host import Host


def handshake(device: torch.device, described: Device, usable: dict[str, str], host: Host, unused: str) -> list[Reading]:
    """Return the readings. `usable`: precisions and why one is left out; `unused`: what is wrong with a GPU that is not used."""
    readings = [seen(described, unused)]
    kernel = tried(products.kernel, "fp32", device, "handshake.kernel", "A kernel runs")
    readings.append(kernel)
    if kernel.failed:
        return readings
    with ThreadPoolExecutor(1) as pool:
        together = pool.submit(all_reduce, device)  # processes of their own: they start while the rest is tried
        readings += [reading for precision, reason in usable.items() if not reason for reading in _products(precision, device)]
        if device.type == "cuda":
            readings.append(cudnn())
        return [*readings, together.result(), lock_reading(host.container)]


def seen(described: Device, unused: str) -> Reading:
    """Return the reading that says which device there is."""
    reading = Reading(name="handshake.seen", title="Device seen")
    if unused:
        return replace(reading, failed=unused)
    facts = {"device": described.name, "catalogue": described.model or "not in it"} if described.kind == "cuda" else {"device": described.name}
    return replace(reading, value=1.0, n=1, facts=facts)


def tried(operation: Callable[..., products.Inputs], precision: str, device: torch.device, name: str, title: str) -> Reading:
    """Return the largest error of an operation on the device, and what rounding allows."""
    allowed = products.tolerance(operation, precision)
    reading = Reading(name=name, title=title, unit="error", ceiling=allowed, ceiling_from="what rounding allows")
    try:
        return replace(reading, value=products.worst_error(operation, precision, device), n=1)
    except RuntimeError as error:  # what torch makes of every failure of a device: no kernel image, illegal address, ...
        lines = str(error).strip().splitlines()
        return replace(reading, failed=(lines[0] if lines else type(error).__name__)[:300])


def _products(precision: str, device: torch.device) -> tuple[Reading, Reading]:
    set_tf32(precision == "tf32")
    try:
        library = "oneDNN" if device.type == "cpu" else "cuDNN" if torch.backends.cudnn.is_available() else "no cuDNN"
        title = f"Convolution and its gradients, {precision} ({library})"
        return (
            tried(products.matrix, precision, device, f"handshake.matrix.{precision}", f"Matrix product, {precision}"),
            tried(products.convolution, precision, device, f"handshake.convolution.{precision}", title),
        )
    finally:
        set_tf32(False)


def cudnn() -> Reading:
    """Return the reading that says whether convolutions have their library."""
    reading = Reading(name="handshake.cudnn", title="cuDNN is loaded")
    try:
        if torch.backends.cudnn.is_available() and torch.backends.cudnn.enabled:
            return replace(reading, value=1.0, n=1, facts={"version": torch.backends.cudnn.version()})
        return replace(reading, failed="PyTorch cannot use cuDNN: convolutions fall back to slow kernels")
    except RuntimeError as error:  # two versions of cuDNN in one process
        return replace(reading, failed=str(error).strip().splitlines()[0][:300])
