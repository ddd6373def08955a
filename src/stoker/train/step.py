"""One training step, and what is counted of it without waiting for the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from stoker.arithmetic import Arithmetic


class Step:
    """Forward, loss, backward, update. Nothing in it waits for the device."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, arithmetic: Arithmetic, device: torch.device, label_smoothing: float
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.arithmetic = arithmetic
        self.device = device
        self.label_smoothing = label_smoothing

    def __call__(self, images_NCHW: torch.Tensor, labels_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Train on one batch; returns the loss (a scalar) and the logits (N, classes) in float32, both detached."""
        with self.arithmetic.autocast(self.device):
            logits = self.model(images_NCHW)
        # The loss is summed in float32 whatever the precision of the forward pass.
        logits = logits.float()
        loss = F.cross_entropy(logits, labels_N, label_smoothing=self.label_smoothing)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), logits.detach()


class Tally:
    """The losses and hits of an epoch, kept on the device until somebody asks."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, dtype=torch.float32, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0
        self.steps = 0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Count one step."""
        self.losses[self.steps].copy_(loss)
        self.hits += (logits.argmax(dim=1) == labels_N).sum()
        self.images += len(labels_N)
        self.steps += 1

    def first_not_finite(self, since: int = 0) -> int | None:
        """Return the index of the first step of this epoch whose loss is NaN or infinite (waits for the device)."""
        bad = (~torch.isfinite(self.losses[since : self.steps])).nonzero()
        return since + int(bad[0]) if len(bad) else None

    def state(self) -> dict[str, torch.Tensor | int]:
        """Return what a checkpoint keeps (tensors on the CPU)."""
        return {"losses": self.losses.cpu().clone(), "hits": self.hits.cpu().clone(), "images": self.images, "steps": self.steps}

    def restore(self, state: dict[str, torch.Tensor | int]) -> None:
        """Take over what `state` gave."""
        self.losses.copy_(state["losses"])  # type: ignore[arg-type]
        self.hits.copy_(state["hits"])  # type: ignore[arg-type]
        self.images = int(state["images"])
        self.steps = int(state["steps"])
