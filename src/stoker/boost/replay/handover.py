"""An iteration that has begun under replay, handed over to PyTorch's own workers before its first batch was given."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter


class Continued(_MultiProcessingDataLoaderIter):
    """PyTorch's iterator with workers, with the seed and the indices that replay has drawn already."""

    _given_seed = 0

    def __init__(self, loader: Any, base_seed: int, sent: Iterable[Any], rest: Iterator[Any]) -> None:
        """`sent`: the batches of indices that were drawn; `rest`: the sampler's iterator behind them. Draws nothing that anybody sees."""
        self._given_seed = base_seed
        own = copy.copy(loader)
        # Past DataLoader's own __setattr__, which forbids it on a loader that is in use.
        vars(own)["batch_sampler"] = _Begun(itertools.chain(sent, rest), loader.batch_sampler)
        vars(own)["generator"] = torch.Generator()
        super().__init__(own)
        self._index_sampler = loader._index_sampler

    @property
    def _base_seed(self) -> int:
        return self._given_seed

    @_base_seed.setter
    def _base_seed(self, drawn: int) -> None:
        """What PyTorch draws here comes from a generator that nobody else has."""


class _Begun:
    """A batch sampler whose iteration goes on where it is."""

    def __init__(self, iterator: Iterator[Any], sampler: Any) -> None:
        self._iterator, self._sampler = iterator, sampler

    def __iter__(self) -> Iterator[Any]:
        return self._iterator

    def __len__(self) -> int:
        return len(self._sampler)
