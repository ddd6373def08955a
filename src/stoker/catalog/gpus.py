"""NVIDIA GPUs: what each one is and what it can do at most, found by any of its names."""

from __future__ import annotations

import datetime
import functools
import re
from dataclasses import dataclass, replace

from stoker.catalog.tables import Row, rows
from stoker.errors import BadValue

_NOISE = re.compile(r"\b(nvidia|geforce|tesla|grid|corporation|tensor core|graphics|gpu)\b|\((r|tm)\)|[®™]", re.IGNORECASE)
_SLICE = re.compile(r"\b(laptop|mobile|max-?q|mig|with max-?q design)\b.*|-\d{1,3}[abcq]$", re.IGNORECASE)
# The seam in rtx5090, 1080ti, 4070tisuper.
_JOINED = re.compile(r"(?<=[gr]tx)(?=\d)|(?<=\d)(?=ti|super)|(?<=ti)(?=super)")
_SIZE = re.compile(r" \d{1,3} ?gb\b")


@dataclass(frozen=True, kw_only=True)
class GpuModel:
    """One product. Rates are peaks of the data sheet, dense (without sparsity), at its boost clock. None: not known, or it has none."""

    name: str
    """As the driver calls it, without `NVIDIA`."""
    compute_capability: tuple[int, int]
    memory_bytes: int | None
    """As it is sold; the driver shows up to some per cent less."""
    bandwidth_bytes_s: float | None
    fp32_flops: float | None
    """Outside of tensor cores; operations per second, an addition and a multiplication counted apart."""
    tf32_flops: float | None
    fp16_flops: float | None
    """Tensor cores with fp32 accumulation, as PyTorch uses them: half of what GeForce sheets print for fp16 accumulation."""
    bf16_flops: float | None
    """The same for bfloat16."""
    pcie_generation: int | None
    pcie_width: int | None
    datacentre: bool
    """NVIDIA supports forward compatibility (cuda-compat) on it."""
    nvlink: bool
    mig: bool
    """It can be cut into slices (Multi-Instance GPU)."""
    exact: bool
    """False: the name is of a slice, a laptop or a virtual GPU of this product, whose own rates are not known."""
    note: str | None
    evidence: str
    source: str
    checked: datetime.date


@functools.cache
def gpu_models() -> tuple[GpuModel, ...]:
    """Return all known products, in the order of the table. Raises BadValue when it is broken."""
    return tuple(model for model, _ in _table())


def gpu_names() -> tuple[str, ...]:
    """Return all names of products, for suggestions."""
    return tuple(name for model, aliases in _table() for name in (model.name, *aliases))


@functools.lru_cache(maxsize=256)
def find_gpu(name: str) -> GpuModel | None:
    """Return the product of a name: `RTX 5090`, `NVIDIA GeForce RTX 5090`, `Tesla V100-SXM2-16GB`; None when it is not known.

    A slice (MIG), a laptop or a virtual GPU has the compute capability of its product and unknown rates.
    """
    wanted = _plain(name)
    for key in (wanted, _SIZE.sub("", wanted).strip(), f"rtx {wanted}", f"gtx {wanted}"):
        if key in _by_name():
            return _by_name()[key]
    whole = _plain(_SLICE.sub("", name))
    if whole != wanted and whole:
        model = _by_name().get(whole) or _by_name().get(_SIZE.sub("", whole).strip())
        return _unknown_rates(model, name) if model else None
    return None


@functools.cache
def _table() -> tuple[tuple[GpuModel, tuple[str, ...]], ...]:
    return tuple(_model(row) for row in rows("gpus.toml", "gpu"))


@functools.cache
def _by_name() -> dict[str, GpuModel]:
    found: dict[str, GpuModel] = {}
    for model, aliases in _table():
        for name in (model.name, *aliases):
            if found.setdefault(_plain(name), model) is not model:
                raise BadValue(f"gpus.toml names {name!r} twice: {model.name} and {found[_plain(name)].name}", hint="a name belongs to one product")
    return found


def _plain(name: str) -> str:
    """Return a name in the form in which names are compared: lower case, no brand, single spaces."""
    spaced = _JOINED.sub(" ", _NOISE.sub(" ", name).replace("-", " ").replace("_", " ").lower())
    return " ".join(spaced.split())


def _unknown_rates(model: GpuModel, name: str) -> GpuModel:
    return replace(
        model,
        name=name,
        memory_bytes=None,
        bandwidth_bytes_s=None,
        fp32_flops=None,
        tf32_flops=None,
        fp16_flops=None,
        bf16_flops=None,
        pcie_generation=None,
        pcie_width=None,
        nvlink=False,
        mig=False,
        exact=False,
    )


def _model(row: Row) -> tuple[GpuModel, tuple[str, ...]]:
    aliases = row.texts("names")
    memory = row.maybe_number("memory_gib")
    model = GpuModel(
        name=row.text("name"),
        compute_capability=row.pair("capability"),
        memory_bytes=None if memory is None else round(memory * 2**30),
        bandwidth_bytes_s=_scaled(row.maybe_number("bandwidth_gb_s"), 1e9),
        fp32_flops=_scaled(row.maybe_number("fp32_tflops"), 1e12),
        tf32_flops=_scaled(row.maybe_number("tf32_tflops"), 1e12),
        fp16_flops=_scaled(row.maybe_number("fp16_tflops"), 1e12),
        bf16_flops=_scaled(row.maybe_number("bf16_tflops"), 1e12),
        pcie_generation=row.maybe_whole("pcie_generation"),
        pcie_width=row.maybe_whole("pcie_width"),
        datacentre=row.flag("datacentre"),
        nvlink=row.flag("nvlink"),
        mig=row.flag("mig"),
        exact=True,
        note=row.maybe_text("note"),
        evidence=row.evidence(),
        source=row.text("source"),
        checked=row.date("checked"),
    )
    row.end()
    return model, aliases


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit
