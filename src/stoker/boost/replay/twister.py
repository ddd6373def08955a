"""The Mersenne Twister behind `torch.Generator`, drawn in bulk by numpy's: the same 624 words, and the same state afterwards, to the byte."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from stoker.boost.replay.unfit import Unfit

_WORDS = 624
_STATE = np.dtype(
    [
        ("seed", "=u8"),
        ("left", "=i4"),
        ("seeded", "=i4"),
        ("next", "=u8"),
        ("key", "=u8", (_WORDS,)),
        ("normals", "=f8", (3,)),
        ("has_normal", "=i4"),
        ("padding", "V4"),
        ("float_normal", "=f4"),
        ("has_float_normal", "u1"),
        ("end", "V3"),
    ]
)
"""What `torch.Generator.get_state()` holds: `CPUGeneratorImplState` in aten/src/ATen/CPUGeneratorImpl.cpp."""
_TOLD = np.ones(_STATE.itemsize, bool)
for _name in ("padding", "end"):
    _TOLD[_STATE.fields[_name][1] :][: _STATE.fields[_name][0].itemsize] = False  # type: ignore[index]


class Twister:
    """The engine between `read` and `write`; the caller knows which of the two generators is ahead."""

    def __init__(self) -> None:
        self._bits = np.random.MT19937(0)
        # numpy's own setter takes 30 us, for it loops over the words in Python. This is `struct { uint32_t key[624]; int pos; }`.
        self._memory = _memory(self._bits)
        _check_memory()

    def read(self, generator: torch.Generator) -> None:
        """Stand where `generator` stands. Raises Unfit where its state is not laid out as known."""
        state = fields(generator.get_state())
        # torch counts what is left to the next turn, and is at its end with 1; numpy counts what was drawn.
        left = int(state["left"])
        self._memory[:_WORDS] = state["key"]
        self._memory[_WORDS] = _WORDS if left == 1 else int(state["next"])

    def draw(self, n: int) -> np.ndarray:
        """Return the next `n` words, uint32 [n]."""
        return self._bits.random_raw(n).astype(np.uint32)

    def write(self, generator: torch.Generator) -> None:
        """Have `generator` stand where this stands; its seed and the halves of normal draws that it keeps stay."""
        tensor = generator.get_state()
        state = fields(tensor)
        drawn = int(self._memory[_WORDS])
        if drawn == _WORDS and int(state["left"]) == 1 and np.array_equal(state["key"], self._memory[:_WORDS]):
            return  # nothing was drawn: a generator that was just seeded has `next` 0
        state["key"] = self._memory[:_WORDS]
        state["left"], state["next"] = _WORDS + 1 - drawn, drawn
        generator.set_state(tensor)


def fields(state: torch.Tensor) -> np.ndarray:
    """Return a view of a generator's state (uint8 [5056]) by name, `_STATE` []. Raises Unfit where it is not laid out as known."""
    if state.numel() != _STATE.itemsize:
        raise Unfit(f"a state of PyTorch's random generator has {state.numel()} bytes here, not {_STATE.itemsize}")
    named = state.numpy().view(_STATE).reshape(())
    if int(named["seeded"]) != 1 or not 1 <= int(named["left"]) <= _WORDS:
        raise Unfit("the state of PyTorch's random generator is not laid out as known")
    return named


def same_state(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two generators' states are the same: all bytes but those that hold nothing."""
    return bool(np.array_equal(one.numpy()[_TOLD], other.numpy()[_TOLD]))


def _memory(bits: np.random.MT19937) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint32 * (_WORDS + 1)).from_address(bits.ctypes.state_address))


_checked = False


def _check_memory() -> None:
    """Raise Unfit where numpy's engine does not lie in memory as known. Asked once a process."""
    global _checked
    if _checked:
        return
    bits = np.random.MT19937(5)
    memory = _memory(bits)
    for _ in range(2):
        state = bits.state["state"]
        if not np.array_equal(memory[:_WORDS], state["key"]) or int(memory[_WORDS]) != state["pos"]:
            raise Unfit(f"numpy {np.__version__} keeps its Mersenne Twister in another way than known")
        bits.random_raw(7)
    _checked = True
