"""Calls as they stand in PyTorch's own source: a warning knows the line that it comes from, and is shown once for it."""

from __future__ import annotations

import functools
import inspect
from types import CodeType
from typing import Any

from torch.utils.data import dataloader
from torch.utils.data.dataloader import _BaseDataLoaderIter

_BEGIN = "super().__init__(loader)"
_RATIONALITY = "self.check_worker_number_rationality()"


def warn_of_workers(loader: Any) -> None:
    """Have PyTorch warn of too many workers, where it would."""
    exec(_call(_RATIONALITY, "def _get_iterator(", _RATIONALITY), vars(dataloader), {"self": loader})


def begin(iterator: _BaseDataLoaderIter, loader: Any) -> None:
    """Begin `iterator` as the class of PyTorch's that it comes from does: that warns of `pin_memory` where there is no accelerator."""
    own = next(kind for kind in type(iterator).__mro__ if kind.__module__ == dataloader.__name__)
    call = _call(_BEGIN, f"class {own.__name__}(", f"{_BaseDataLoaderIter.__name__}.__init__(self, loader)")
    exec(call, vars(dataloader), {"self": iterator, "loader": loader})


@functools.cache
def _call(line: str, after: str, done: str) -> CodeType:
    """Return code that does `done` and stands where PyTorch has `line` first behind the line that begins with `after`; at line 1 without such."""
    lines = inspect.getsource(dataloader).splitlines()
    first = next((number for number, text in enumerate(lines) if text.strip().startswith(after)), 0)
    number = next((number for number in range(first, len(lines)) if lines[number].strip() == line), 0) + 1
    return compile("\n" * (number - 1) + done, str(dataloader.__file__), "exec")
