"""Batches of a TensorDataset: the bits that default_collate stacks, for any type and shape; what is no plain tensor is left alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from stoker.boost.replay.data import recognise_data
from stoker.boost.replay.engine import Room
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.tensors import Rows, Tensors, tensors
from stoker.boost.replay.unfit import Unfit

TYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.int16, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex128),
]


def some(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def made(engine: Tensors, index: list[int], cuts: tuple[int, ...]) -> list[torch.Tensor]:
    room = Room(tensors=[torch.zeros(shape, dtype=dtype) for shape, dtype in engine.shapes(len(index))])
    drawn = engine.draw(Stream.of_process(), np.array(index, np.int64))
    ends = [0, *cuts, len(index)]
    for start, stop in itertools.pairwise(ends):
        engine.fill(drawn, room, start, stop)
    return room.tensors


def compare(dataset, index: list[int], cuts: tuple[int, ...] = (2, 3)) -> None:
    state = torch.get_rng_state()
    wanted = default_collate([dataset[k] for k in index])
    found = made(tensors(recognise_data(dataset)), index, cuts)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(wanted) == len(found)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
        assert ours.flatten().view(torch.uint8).equal(theirs.flatten().view(torch.uint8))


@pytest.mark.parametrize("dtype", TYPES)
def test_any_type(dtype):
    compare(TensorDataset(some(9, 3, 4, 5, dtype=dtype), some(9, dtype=dtype)), [3, 8, 0, 3, 5])


def test_any_shape():
    compare(TensorDataset(some(9), some(9, 1), some(9, 7), some(9, 2, 0), some(9, 1, 3, 1)), [3, 8, 0, 3, 5])
    compare(TensorDataset(some(1, 3)), [0, 0, 0, 0])
    compare(TensorDataset(some(20, 3)[4:9], torch.arange(5)), [0, 4, 1, 2])


def test_parts_of_data_sets():
    one, two = TensorDataset(some(9, 3), torch.arange(9)), TensorDataset(some(5, 3) + 1, torch.arange(5))
    compare(Subset(one, [8, 1, 0, 4]), [3, 0, 1, 3])
    compare(ConcatDataset([one, Subset(two, [4, 2])]), [10, 0, 9, 9, 8, 3])
    compare(ConcatDataset([one, two]), [9, 10, 11, 12])


def test_numbers_are_read_when_they_are_asked_for():
    x = some(4, 3)
    engine = tensors(recognise_data(TensorDataset(x)))
    x[2] = 55
    assert made(engine, [2], ())[0].tolist() == [[55, 55, 55]]
    assert engine.current()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (some(4, 3).requires_grad_(), "gradient"),
        (some(4, 3, 5).permute(0, 2, 1), "contiguous"),
        (some(8, 3)[::2], "contiguous"),
        (some(1, 3).expand(4, 3), "contiguous"),
        (some(4, 3).to_sparse(), "rows"),
        (torch.empty(4, 3, device="meta"), "meta"),
        (torch.complex(some(4, 3), some(4, 3)).conj(), "contiguous"),
    ],
)
def test_what_is_left_alone(tensor, reason):
    with pytest.raises(Unfit, match=reason):
        tensors(recognise_data(TensorDataset(tensor)))
    with pytest.raises(Unfit):
        tensors(recognise_data(ConcatDataset([TensorDataset(some(4, 3)), TensorDataset(some(4, 2))])))


def test_a_class_of_its_own_is_left_alone():
    with pytest.raises(Unfit, match="Parameter"):
        Rows.from_tensor(torch.nn.Parameter(some(4, 3), requires_grad=False))


def test_an_index_outside_raises():
    engine = tensors(recognise_data(TensorDataset(some(4, 3))))
    for wrong in (4, -1):
        with pytest.raises(IndexError):
            made(engine, [0, wrong], ())


def test_a_replaced_tensor_is_noticed():
    for change in (
        lambda d: setattr(d, "tensors", (some(4, 3),)),
        lambda d: d.tensors[0].resize_(2, 3),
        lambda d: d.tensors[0].set_(some(4, 3)),
        lambda d: d.tensors[0].requires_grad_(),
    ):
        dataset = TensorDataset(some(4, 3))
        engine = tensors(recognise_data(dataset))
        assert engine.current()
        change(dataset)
        assert not engine.current()
