"""torch's tracer, left out of runs that compile nothing: importing it takes as long as importing torch itself."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

_MARK = "__dynamo_disable"
"""The attribute in which torch keeps the form of a function that the tracer leaves alone (torch/_compile.py, 2.2 to 2.13)."""


def spare() -> bool:
    """Let optimizers work without importing torch._dynamo. Returns whether this torch could be brought to it.

    An optimizer's methods import the tracer at their first call, only to tell it not to trace them: 1.5 to 3 s of every start on two
    cores. Where nothing traces the optimizer (only models are compiled here) the bare methods do the same. What they compute is the
    same code. A torch that is built otherwise, or has the tracer already, is left as it is.
    """
    if "torch._dynamo" in sys.modules:
        return False
    methods = [getattr(torch.optim.Optimizer, name, None) for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")]
    kinds = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    if not all(hasattr(method, "__wrapped__") for method in (*methods, *(kind.step for kind in kinds))):
        return False
    for method in methods:
        bare = method.__wrapped__  # type: ignore[union-attr]
        setattr(bare, _MARK, bare)
    for kind in kinds:
        if "step" in vars(kind):
            kind.step = _without_tracer(kind.step)  # type: ignore[method-assign]
    return True


def _without_tracer(step: Any) -> Any:
    """Return an optimizer's `step` without the wrapper that imports the tracer; gradients are off in it, as they are in the original."""
    bare = step.__wrapped__

    @functools.wraps(bare)
    def without_gradients(self: torch.optim.Optimizer, *arguments: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return bare(self, *arguments, **named)

    return without_gradients
