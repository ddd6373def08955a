"""What a model gets right on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from stoker.arithmetic import Arithmetic

Predict = Callable[[nn.Module, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss, accuracy and every single prediction, in the order of the data set."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of images whose most likely class is the true one, 0..1."""
    labels_N: torch.Tensor
    predictions_N: torch.Tensor
    confidence_N: torch.Tensor
    """Probability of the predicted class."""

    def confusion(self, classes: int) -> torch.Tensor:
        """Return the counts by true class (rows) and predicted class (columns): int64 (classes, classes)."""
        return torch.bincount(self.labels_N * classes + self.predictions_N, minlength=classes * classes).reshape(classes, classes)


def evaluate(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], arithmetic: Arithmetic, device: torch.device, predict: Predict
) -> Evaluation:
    """Run `model` over `batches` in evaluation mode; leaves it in the mode in which it was. Waits for the device once, at the end."""
    losses, labels, predictions, confidences = [], [], [], []
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), arithmetic.autocast(device):
            for images_NCHW, labels_N in batches:
                logits = predict(model, images_NCHW).float()
                confidence_N, predictions_N = logits.softmax(dim=1).max(dim=1)
                losses.append(F.cross_entropy(logits, labels_N, reduction="sum"))
                # The batch's own memory is used again for the next one.
                labels.append(labels_N.clone())
                predictions.append(predictions_N)
                confidences.append(confidence_N)
    finally:
        model.train(training)
    labels_all, predictions_all = torch.cat(labels).cpu(), torch.cat(predictions).cpu()
    return Evaluation(
        loss=float(torch.stack(losses).double().sum()) / len(labels_all),
        accuracy=float((labels_all == predictions_all).double().mean()),
        labels_N=labels_all,
        predictions_N=predictions_all,
        confidence_N=torch.cat(confidences).float().cpu(),
    )
