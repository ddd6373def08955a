"""The engine that suits a data set: whole tensors, whole batches of images, or sample by sample."""

from __future__ import annotations

from stoker.boost.replay.collates import DEFAULT, Collate
from stoker.boost.replay.data import Data
from stoker.boost.replay.engine import Engine
from stoker.boost.replay.fused import fused
from stoker.boost.replay.samples import samples
from stoker.boost.replay.sources import TensorsSource
from stoker.boost.replay.tensors import tensors
from stoker.boost.replay.unfit import Unfit


def engine_for(data: Data, collate: Collate = DEFAULT) -> Engine:
    """Return the fastest engine for `data`. Raises Unfit with the reason of the last one that was tried."""
    if collate.bytes_only:
        return samples(data, collate)
    if any(isinstance(leaf.source, TensorsSource) for leaf in data.leaves):
        return tensors(data)
    try:
        return fused(data)
    except Unfit:
        return samples(data)
