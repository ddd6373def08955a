"""The real torch.compile on the real operation: the same bits as eager (on the CPU here; on a GPU it is the same function)."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from stoker.data.gather import CompiledGather, gathered
from stoker.data.normalise import Normalise


@pytest.mark.parametrize("channels_last", [True, False])
def test_compiled_gives_the_bits_of_eager(channels_last):
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler for torch.compile")
    rng = np.random.default_rng(0)
    pixels, index = rng.integers(0, 256, (6, 9, 8, 3), dtype=np.uint8), rng.integers(0, 6, 4)
    drawn = [rng.integers(0, limit, 4, dtype=np.uint8) for limit in (5, 5, 2)]
    table = Normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.1)).table(torch.bfloat16)
    tensors = (torch.from_numpy(pixels), table, torch.from_numpy(index), *(torch.from_numpy(array) for array in drawn))
    compiled = CompiledGather(True)
    made = compiled(*tensors, 2, False, channels_last)
    assert compiled.eager_because is None
    expected = gathered(*tensors, 2, False, channels_last)
    assert torch.equal(made, expected)
    assert made.stride() == expected.stride()
