"""The part `autocast`: bfloat16 inside the model, float32 outside."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from stoker.boost.models.rehearsal import user_hooks
from stoker.boost.models.ways import Group, Model


class Autocast:
    """Products of matrices and convolutions in bfloat16; parameters, gradients, outputs and loss stay float32."""

    name = "autocast"
    rehearsed = True
    told = "bfloat16 autocast inside the model"

    def fits(self, training: Group) -> str | None:
        """Decline what a script would see, and what has its own precision."""
        for optimizer in training.optimizers():
            if isinstance(optimizer, torch.optim.LBFGS):
                return "LBFGS compares losses within a step, which the rounding of bfloat16 would mislead"
        return next((why for entry in training.entries if (why := _obstacle(entry))), None)

    def on(self, training: Group) -> None:
        """From the next call on."""
        for entry in training.able():
            entry.autocast = True

    def off(self, training: Group) -> None:
        """From the next call on."""
        for entry in training.entries:
            entry.autocast = False

    def joined(self, optimizer: Optimizer) -> None:
        """Nothing: the optimizer sees float32."""


def _obstacle(entry: Model) -> str | None:
    module, root = entry.module, entry.root
    if module is None or root is None:
        return "the model is gone"
    if entry.own_autocast:
        return "the script uses an autocast of its own"
    if entry.device.type not in ("cpu", "cuda"):
        return f"not known on {entry.device.type}"
    if entry.device.type == "cuda" and torch.cuda.get_device_capability(entry.device) < (8, 0):
        return "this GPU has no bfloat16 arithmetic"
    if isinstance(module, nn.DataParallel) and len(module.device_ids or ()) > 1:
        return "DataParallel's threads would fall back to float16"
    other = next((tensor.dtype for tensor in root.parameters() if tensor.dtype != torch.float32), None)
    if other is not None:
        return f"it has {str(other).removeprefix('torch.')} parameters: the script has chosen its precision"
    hooked = user_hooks(root)
    if hooked:
        return f"the hooks on {hooked} would see bfloat16"
    return None
