"""The small parts of training: tally, evaluation, shortage of memory, the tracer left out, arithmetic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stoker.arithmetic import Arithmetic, apply
from stoker.errors import DeviceMismatch, OutOfMemory
from stoker.train import shortage
from stoker.train.evaluation import evaluate
from stoker.train.loop import not_finite, same_device
from stoker.train.prediction import predict
from stoker.train.step import Step, Tally


def test_the_tally_counts_and_finds_the_first_nan() -> None:
    tally = Tally(4, torch.device("cpu"))
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    for loss in (0.5, float("nan"), float("inf")):
        tally.add(torch.tensor(loss), logits, torch.tensor([0, 0]))
    assert (int(tally.hits), tally.images, tally.steps) == (3, 6, 3)
    assert tally.first_not_finite() == 1
    assert tally.first_not_finite(since=2) == 2
    again = Tally(4, torch.device("cpu"))
    again.restore(tally.state())
    assert again.first_not_finite() == 1
    assert again.images == 6


def test_evaluation_gives_loss_accuracy_and_confusion_and_leaves_the_mode() -> None:
    model = torch.nn.Identity()
    model.train()
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
    labels = torch.tensor([0, 1, 2, 2])
    found = evaluate(model, [(logits[:3], labels[:3]), (logits[3:], labels[3:])], Arithmetic(), torch.device("cpu"), predict)
    assert model.training
    assert found.accuracy == 0.75
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
    assert found.confusion(3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_arithmetic_trains_to_nearly_the_same_numbers(precision: str, channels_last: bool) -> None:
    def trained(arithmetic: Arithmetic) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
        apply(arithmetic, model, torch.device("cpu"))
        step = Step(model, torch.optim.SGD(model.parameters(), lr=0.05), arithmetic, torch.device("cpu"), 0.1)
        images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        for _ in range(5):
            loss, _ = step(images.to(dtype=arithmetic.dtype, memory_format=arithmetic.memory_format), torch.arange(16) % 4)
        return loss

    plain = trained(Arithmetic())
    assert trained(Arithmetic(precision=precision, channels_last=channels_last)) == pytest.approx(float(plain), rel=0.03)


def test_a_shortage_of_memory_names_the_batch_that_fits() -> None:
    tried = []

    def step(size: int) -> None:
        tried.append(size)
        if size > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(OutOfMemory, match="a step of 128 images") as caught, shortage.explained(128, step, torch.device("cpu")):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB")
    assert tried == [64, 32, 16]
    assert "batch_size=16" in caught.value.hint


def test_another_error_is_no_shortage() -> None:
    with pytest.raises(RuntimeError, match="shape"), shortage.explained(8, lambda size: None, torch.device("cpu")):
        raise RuntimeError("shape mismatch")


def test_the_hosts_shortage_is_recognised() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**50)
    assert shortage.is_shortage(caught.value)


def test_images_on_another_device_than_the_model_are_refused() -> None:
    with pytest.raises(DeviceMismatch, match="the model is on cpu and the images are on meta") as caught:
        same_device(torch.nn.Linear(2, 2), torch.zeros(1, 2, device="meta"))
    assert "images.to('cpu')" in caught.value.hint


def test_a_model_that_is_lost_is_named_by_its_tensor() -> None:
    model = torch.nn.BatchNorm2d(2)
    assert not_finite(model) == set()
    assert model.running_var is not None
    model.running_var[1] = float("inf")
    assert not_finite(model) == {"running_var"}


TRAIN_A_LITTLE = """
import sys, torch
if {spare}:
    from stoker.train import dynamo
    assert dynamo.spare(), "this torch is built otherwise: look at stoker/train/dynamo.py"
torch.manual_seed(0)
model = torch.nn.Linear(6, 4)
for kind, more in ((torch.optim.SGD, dict(momentum=0.9, nesterov=True)), (torch.optim.Adam, {{}}), (torch.optim.AdamW, dict(fused=True))):
    optimizer = kind(model.parameters(), lr=0.01, **more)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
print(model.weight.detach().numpy().tobytes().hex())
print("torch._dynamo" in sys.modules)
"""


def test_optimizers_without_the_tracer_give_the_same_bits() -> None:
    source = str(Path(__file__).resolve().parents[2] / "src")

    def lines(spare: bool) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", TRAIN_A_LITTLE.format(spare=spare)], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
        )
        return done.stdout.split()

    spared, plain = lines(True), lines(False)
    assert spared[0] == plain[0]
    assert spared[1] == "False"
