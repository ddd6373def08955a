"""Trainings of many shapes in the tiers close and fast: they end as they would plainly, and what can be tried on them is tried.

Timing decides in a user's run; here every part is kept that gets as far as being timed, so that all of them are on.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import stoker.boost
from stoker.boost import guard, summary
from stoker.boost.models import compilation, compiled
from stoker.boost.models import trial as trials
from stoker.boost.models.trial import Verdict
from stoker.boost.notes import NOTES
from stoker.boost.parts import Tier
from tests.conftest import need

EXACT = ("loader", "allocator", "copies")
# Before any test compiles: a first backward after that would start threads, and PyTorch refuses a backward in what is forked then.
torch.zeros((), requires_grad=True).backward()
STEPS = 150


class Net(nn.Module):
    """Two convolutions with batch norm, dropout and a linear layer, for images 1 x 8 x 8 of four classes."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(128, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(torch.flatten(self.features(images), 1)))


def batch(generator: torch.Generator, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a bright quarter, and which one it is."""
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 2
    return images, labels


def batches(steps: int = STEPS) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        yield batch(generator)


def accuracy(model: Callable[..., Any]) -> float:
    images, labels = batch(torch.Generator().manual_seed(99), 256)
    with torch.no_grad():
        found = model(images)
    return float((found.argmax(1) == labels).float().mean())


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


Result = tuple[list[float], float]
"""The loss of every step, and the accuracy at the end."""


def simple(model: nn.Module, optimizer: torch.optim.Optimizer, call: Callable[..., Any] | None = None) -> list[float]:
    losses = []
    for images, labels in batches():
        optimizer.zero_grad()
        found = (model if call is None else call)(images)
        assert found.dtype == torch.float32
        loss = F.cross_entropy(found, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def optimizer_first() -> Result:
    model: Any = Net()
    return simple(model, torch.optim.Adam(model.parameters(), lr=3e-3)), accuracy(model.eval())


def optimizer_after_first_forward() -> Result:
    model: Any = Net()
    model(next(batches())[0])
    return simple(model, torch.optim.AdamW(model.parameters(), lr=3e-3)), accuracy(model.eval())


def new_optimizer_every_epoch() -> Result:
    model: Any = Net()
    losses = []
    stream = batches()
    for _ in range(6):
        optimizer = sgd(model)
        for _, (images, labels) in zip(range(25), stream, strict=False):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, accuracy(model.eval())


def data_parallel() -> Result:
    model = nn.DataParallel(Net())
    return simple(model, sgd(model)), accuracy(model.eval())


def accumulation() -> Result:
    model: Any = Net()
    losses = []
    optimizer = sgd(model)
    for number, (images, labels) in enumerate(batches(2 * STEPS)):
        loss = F.cross_entropy(model(images), labels) / 2
        loss.backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            losses.append(2 * loss.item())
    return losses, accuracy(model.eval())


def two_forwards_a_step() -> Result:
    """Sharpness-aware minimisation."""
    model: Any = Net()
    losses = []
    optimizer = sgd(model)
    for images, labels in batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        with torch.no_grad():
            moves = [0.02 * parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            torch._foreach_add_(list(model.parameters()), moves)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            torch._foreach_sub_(list(model.parameters()), moves)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, accuracy(model.eval())


def average_of_weights() -> Result:
    model: Any = Net()
    losses = []
    average, optimizer = copy.deepcopy(model), sgd(model)
    for number, (images, labels) in enumerate(batches()):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if number == STEPS // 2:
            average = copy.deepcopy(model)
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.data.mul_(0.9).add_(new.data, alpha=0.1)
        average.features[1].load_state_dict(model.features[1].state_dict())
    return losses, accuracy(average.eval())


def evaluation_in_between() -> Result:
    model: Any = Net()
    losses, seen = [], []
    optimizer = sgd(model)
    for number, (images, labels) in enumerate(batches()):
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if number % 10 == 0:
            seen.append(accuracy(model.eval()))
    return losses, seen[-1]


class Several(Net):
    """Returns a dict with a tuple in it."""

    def forward(self, images: torch.Tensor) -> Any:
        found = super().forward(images)
        return {"out": found, "more": (found * 2, None)}


def dict_of_outputs() -> Result:
    model = Several()

    def call(images: torch.Tensor) -> torch.Tensor:
        found = model(images)
        assert found["more"][0].dtype == torch.float32
        return found["out"]

    losses = simple(model, sgd(model), call)
    model.eval()
    return losses, accuracy(call)


def two_models() -> Result:
    """As in adversarial training: each with its own optimizer, one fed by the other, its input with gradients."""
    maker, judge, losses = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)), Net(), []
    first, second = torch.optim.Adam(maker.parameters(), lr=1e-3), sgd(judge)
    for images, labels in batches():
        second.zero_grad()
        loss = F.cross_entropy(judge(images + 0.1 * maker(images).detach()), labels)
        loss.backward()
        second.step()
        first.zero_grad()
        F.cross_entropy(judge(images + 0.1 * maker(images)), labels).backward()
        first.step()
        losses.append(loss.item())
    return losses, accuracy(judge.eval())


def encoder_and_head() -> Result:
    """One optimizer over two modules that the script calls one after the other."""
    net: Any = Net()
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.05)

    def call(images: torch.Tensor) -> torch.Tensor:
        return net.head(torch.flatten(net.features(images), 1))

    losses = simple(net, optimizer, call)
    net.eval()
    return losses, accuracy(call)


def lbfgs() -> Result:
    model, losses = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), []
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    images, labels = batch(torch.Generator().manual_seed(7), 256)
    for _ in range(40):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses, accuracy(model)


def frozen_backbone() -> Result:
    model: Any = Net()
    for parameter in model.features.parameters():
        parameter.requires_grad_(False)
    return simple(model, torch.optim.SGD(model.head.parameters(), lr=0.05, momentum=0.9)), accuracy(model.eval())


def hooks() -> Result:
    model: Any = Net()
    fired: list[Any] = []
    model.features.register_forward_hook(lambda _module, _inputs, out: fired.append(out.detach().numpy().sum()))
    model.head.register_full_backward_hook(lambda _module, _inputs, out: fired.append(out[0].numpy().sum()))
    losses = simple(model, sgd(model))
    assert len(fired) == 2 * STEPS
    return losses, accuracy(model.eval())


def hook_put_on_later() -> Result:
    model: Any = Net()
    fired: list[Any] = []
    losses = []
    optimizer = sgd(model)
    for number, (images, labels) in enumerate(batches()):
        if number == STEPS - 10:
            model.head.register_forward_hook(lambda _module, _inputs, out: fired.append(out.detach().numpy().sum()))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(fired) == 10
    return losses, accuracy(model.eval())


class Caller(Net):
    """Has a call of its own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


def own_call() -> Result:
    model = Caller()
    return simple(model, sgd(model)), accuracy(model.eval())


def step_in_a_thread() -> Result:
    model: Any = Net()
    losses = []
    optimizer = sgd(model)
    for images, labels in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        thread = threading.Thread(target=optimizer.step)
        thread.start()
        thread.join()
        losses.append(loss.item())
    return losses, accuracy(model.eval())


def own_autocast_and_scaler() -> Result:
    model: Any = Net()
    losses = []
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", enabled=True)
    for images, labels in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(images)
            assert found.dtype == torch.bfloat16
            loss = F.cross_entropy(found, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses, accuracy(model.eval())


def flat_weights() -> Result:
    """Looks at weights and gradients as flat vectors, which channels_last does not allow."""
    model: Any = Net()
    losses = []
    optimizer = sgd(model)
    for number, (images, labels) in enumerate(batches()):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        if number % 40 == 39:
            flat = torch.cat([parameter.grad.view(-1) for parameter in model.parameters() if parameter.grad is not None])
            assert torch.isfinite(flat).all()
            model.features[3].weight.data.view(-1)[0] = 0.125
            assert model.features[3].weight[0, 0, 0, 0] == 0.125
            assert torch.nn.utils.parameters_to_vector(model.parameters()).numel() == flat.numel()
        optimizer.step()
        losses.append(loss.item())
    return losses, accuracy(model.eval())


class Checkpointed(Net):
    """Computes its features again in the backward."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = checkpoint(self.features, images, use_reentrant=False)
        return self.head(self.dropout(torch.flatten(found, 1)))


def checkpoints() -> Result:
    model = Checkpointed()
    return simple(model, sgd(model)), accuracy(model.eval())


def adadelta() -> Result:
    model = Net()
    model.dropout.p = 0.3
    return simple(model, torch.optim.Adadelta(model.parameters(), lr=0.5)), accuracy(model.eval())


def gradient_penalty() -> Result:
    """Goes backward through the gradients of the model's own operations."""
    model = Net()
    optimizer, losses = torch.optim.Adadelta(model.parameters(), lr=0.5), []
    for images, labels in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.requires_grad_()), labels)
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        (loss + gradient.square().sum()).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, accuracy(model.eval())


SCENARIOS: dict[Callable[[], Result], set[str]] = {
    optimizer_first: {"autocast", "layout", "operations", "fused"},
    optimizer_after_first_forward: {"autocast", "layout", "operations", "fused"},
    new_optimizer_every_epoch: {"autocast", "layout", "operations", "fused"},
    data_parallel: {"autocast", "layout", "operations", "fused"},
    accumulation: {"autocast", "layout", "operations", "fused"},
    two_forwards_a_step: {"autocast", "layout", "operations", "fused"},
    average_of_weights: {"autocast", "layout", "operations", "fused"},
    evaluation_in_between: {"autocast", "layout", "operations", "fused"},
    dict_of_outputs: {"autocast", "layout", "operations", "fused"},
    two_models: {"autocast", "layout", "operations", "fused"},
    encoder_and_head: {"autocast", "layout", "operations", "fused"},
    lbfgs: set(),
    frozen_backbone: {"autocast", "layout", "fused"},
    hooks: {"layout", "operations", "fused"},
    hook_put_on_later: {"layout", "operations", "fused"},
    own_call: {"autocast", "layout", "operations", "fused"},
    step_in_a_thread: {"autocast", "layout", "operations", "fused"},
    own_autocast_and_scaler: {"layout", "operations", "fused"},
    flat_weights: {"autocast", "operations", "fused"},
    checkpoints: {"autocast", "layout", "fused"},
    adadelta: {"autocast", "layout", "operations", "fused"},
    gradient_penalty: {"autocast", "layout", "operations", "fused"},
}
"""What is kept to the end on the CPU in tier fast, by training."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    stoker.boost.off()
    torch.set_num_threads(before)


@pytest.fixture
def everything_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(plain: list[float], tried: list[float], *, steps_a_lap: int = 1) -> Verdict:
        return Verdict(keep=True, why="a test keeps it", plain_step_s=1.0, step_s=0.5, steps=len(plain) + len(tried))

    monkeypatch.setattr(trials, "judge", keep)


def outcomes(outcome: str) -> set[str]:
    return {note.part for note in NOTES.kept if note.kind == "model" and note.outcome == outcome}


def trained(scenario: Callable[[], Result], tier: Any) -> Result:
    torch.manual_seed(0)
    if tier == "plain":
        return scenario()
    stoker.boost.on(tier=tier, off=EXACT)
    try:
        return scenario()
    finally:
        stoker.boost.off()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_trainings_survive(scenario: Callable[[], Result], everything_kept: None, capsys: pytest.CaptureFixture[str]) -> None:
    plain, plain_accuracy = trained(scenario, "plain")
    for tier in ("close", "fast"):
        losses, at_end = trained(scenario, tier)
        expected = SCENARIOS[scenario] - ({"autocast"} if tier == "close" else set())
        assert outcomes("kept") == expected, [(note.part, note.outcome, note.why) for note in NOTES.kept]
        assert not outcomes("failed")
        assert len(losses) == len(plain)
        assert abs(sum(losses[-20:]) - sum(plain[-20:])) / 20 < 0.1
        assert abs(at_end - plain_accuracy) < 0.1
        assert losses[0] == pytest.approx(plain[0], rel=1e-3)
    assert "failed" not in capsys.readouterr().err


def train(model: nn.Module, steps: int = 150) -> torch.optim.Optimizer:
    optimizer = sgd(model)
    for images, labels in batches(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return optimizer


def on(tier: Tier = "fast") -> None:
    stoker.boost.on(tier=tier, off=EXACT)


def test_a_saved_model_is_read_without_stoker(everything_kept: None, tmp_path: Path) -> None:
    on()
    model: Any = Net()
    keys, children = list(model.state_dict()), [name for name, _ in model.named_children()]
    optimizer = train(model)
    assert outcomes("kept") == {"autocast", "layout", "operations", "fused"}
    assert type(model) is Net
    assert "forward" not in vars(model)
    assert [name for name, _ in model.named_children()] == children
    assert list(model.state_dict()) == keys
    torch.save(
        {"optimizer": optimizer, "optimizer_state": optimizer.state_dict(), "weights": model.state_dict(), "model": nn.Sequential(*model.features)},
        tmp_path / "all.pt",
    )
    script = (
        "import sys, torch; sys.modules['stoker'] = None; found = torch.load(sys.argv[1], weights_only=False);"
        "print(found['model'](torch.ones(1, 1, 8, 8)).shape, found['optimizer_state']['param_groups'][0]['fused'])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "all.pt")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "None" in done.stdout
    stoker.boost.off()
    fresh = Net()
    fresh.load_state_dict(torch.load(tmp_path / "all.pt", weights_only=False)["weights"])
    images = next(batches())[0]
    torch.testing.assert_close(fresh.eval()(images), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_off_takes_everything_back(everything_kept: None) -> None:
    before = {"call": vars(nn.Module)["__call__"], "hook": vars(nn.Module)["register_forward_hook"], "view": vars(torch.Tensor).get("view")}
    on()
    model: Any = Net()
    optimizer = train(model)
    assert not model.features[3].weight.is_contiguous()
    assert optimizer.param_groups[0]["fused"]
    stoker.boost.off()
    assert {"call": vars(nn.Module)["__call__"], "hook": vars(nn.Module)["register_forward_hook"], "view": vars(torch.Tensor).get("view")} == before
    assert model.features[3].weight.is_contiguous()
    assert not optimizer.param_groups[0]["fused"]
    assert all(state["momentum_buffer"].stride() == parameter.stride() for parameter, state in optimizer.state.items())
    from torch.optim import optimizer as torchs

    assert not torchs._global_optimizer_post_hooks
    assert not torchs._global_optimizer_pre_hooks


def test_exact_installs_nothing() -> None:
    before = vars(nn.Module)["__call__"], vars(torch.Tensor).get("view")
    stoker.boost.on(tier="exact", off=EXACT)
    assert (vars(nn.Module)["__call__"], vars(torch.Tensor).get("view")) == before


def test_evaluation_alone_is_left_alone() -> None:
    on()
    model: Any = Net().eval()
    for images, _ in batches(30):
        with torch.no_grad():
            model(images)
    assert not [note for note in NOTES.kept if note.kind == "model"]


def test_those_who_trace_see_the_model_as_it_is(everything_kept: None) -> None:
    on()
    model: Any = Net()
    train(model)
    model.eval()
    images = next(batches())[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, images)
    assert "bfloat16" not in str(traced.inlined_graph).lower()
    # 15 is bfloat16 in TorchScript's graphs.
    assert "prim::Constant[value=15]" not in str(traced.inlined_graph)
    exported = torch.export.export(model, (images,))
    assert "bfloat16" not in str(exported.graph)
    parameters = {name: parameter.detach() * 2 for name, parameter in model.named_parameters()}
    with torch.no_grad():
        assert torch.func.functional_call(model, parameters, (images,)).shape == (16, 4)
    stacked = {name: torch.stack([value, value]) for name, value in parameters.items()}
    buffers = dict(model.named_buffers())
    together = torch.func.vmap(lambda weights: torch.func.functional_call(model, (weights, buffers), (images,)))(stacked)
    assert together.shape == (2, 16, 4)
    train(model.train(), 5)


def test_a_graph_for_tensorboard(everything_kept: None, tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    on()
    model: Any = Net()
    train(model, 60)
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(model, next(batches())[0])
    train(model, 5)


class Fails(Net):
    """Does what only float32 can, from some step on."""

    calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = super().forward(images)
        type(self).calls += 1
        if type(self).calls > 120 and found.dtype != torch.float32:
            raise RuntimeError("not implemented for BFloat16")
        return found


def test_weights_that_others_see_keep_their_memory(everything_kept: None) -> None:
    for share in (lambda model: model.share_memory(), lambda model: [parameter.data for parameter in model.parameters()]):
        on()
        model: Any = Net()
        kept = share(model)
        train(model)
        assert "layout" in outcomes("declined"), kept
        assert model.features[3].weight.is_contiguous()
        stoker.boost.off()


def test_a_run_that_ends_early_says_so() -> None:
    on("close")
    model: Any = Net()
    train(model, 8)
    notes = [note for note in NOTES.kept if note.part == "layout"]
    assert [(note.outcome, "over before" in note.why) for note in notes] == [("dropped", True)]
    assert notes[0].where.startswith("test_boost_models.py:")


def test_what_is_taken_back_is_no_longer_said_to_be_kept(everything_kept: None) -> None:
    on()
    hook_put_on_later()
    note = next(note for note in NOTES.kept if note.part == "autocast")
    assert (note.outcome, note.why) == (
        "dropped",
        "the script has put a hook on Linear; until then it was kept: bfloat16 autocast inside the model: a test keeps it",
    )
    assert [other.part for other in NOTES.kept].count("autocast") == 1
    assert "autocast" not in (summary.line(NOTES.kept, "fast") or "")


def test_weights_that_are_computed_for_every_call_are_named_as_the_reason(everything_kept: None) -> None:
    on("close")
    model: Any = Net()
    for part in (model.features[0], model.features[3]):
        nn.utils.parametrizations.weight_norm(part)
    model.features[5] = nn.Identity()
    model.dropout = nn.Identity()
    model.head = nn.Linear(512, 4)
    train(model, 20)
    assert {(note.part, note.why) for note in NOTES.kept if note.outcome == "declined" and "CUDA" not in note.why and note.part != "threads"} == {
        ("layout", "the weights of its convolutions are computed anew for every call"),
        ("operations", "max pool and dropout by Stoker's kernels: the model calls no max pool and no dropout that they take"),
    }


def test_what_fails_later_is_done_again_plainly(everything_kept: None) -> None:
    on()
    model = Fails()
    Fails.calls = 0
    losses = simple(model, sgd(model))
    assert len(losses) == STEPS
    assert outcomes("failed") == {"autocast", "layout", "operations"}
    assert model.features[3].weight.is_contiguous()


class Refuses(Exception):
    """The user's own way out of a forward."""


def test_the_users_own_exceptions_are_passed_on(everything_kept: None) -> None:
    on()
    model: Any = Net()
    train(model)
    calls = []

    def refuse(images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        raise Refuses("enough")

    model.forward = refuse
    with pytest.raises(Refuses):
        model(next(batches())[0])
    assert len(calls) == 1


def test_off_gives_the_compiler_its_call_back_and_blames_nobody(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_said", set())
    known: Any = importlib.import_module("torch._dynamo.utils")
    before = known.unpatched_nn_module_call
    on()
    assert known.unpatched_nn_module_call is nn.Module.__call__ is not before
    stoker.boost.off()
    assert known.unpatched_nn_module_call is nn.Module.__call__ is before
    assert "somebody else" not in capsys.readouterr().err


def test_a_rehearsal_is_not_counted_among_the_losses(everything_kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, own = [], torch.autograd.backward
    on()
    monkeypatch.setattr(torch.autograd, "backward", lambda *args, **kwargs: (calls.append(1), own(*args, **kwargs))[1])
    model: Any = Net()
    losses = simple(model, sgd(model))
    assert {"autocast", "layout"} <= outcomes("kept")
    assert len(calls) == len(losses)


def test_a_compiled_model_is_left_alone() -> None:
    model: Any = Net()
    on()
    losses = simple(model, sgd(model), torch.compile(model, backend="eager"))
    assert len(losses) == STEPS
    assert {(note.part, note.why) for note in NOTES.kept if note.kind == "model"} >= {("autocast", "the script compiles the model itself")}


def test_a_user_who_compiles_has_no_graph_breaks() -> None:
    from torch._dynamo.testing import CompileCounter

    counts = []
    for tier in ("plain", "fast"):
        torch._dynamo.reset()
        if tier == "fast":
            on()
        counter = CompileCounter()
        theirs = torch.compile(Net(), backend=counter)
        for images, _ in batches(3):
            theirs(images).sum().backward()
        counts.append((counter.frame_count, counter.op_count))
    assert counts[0] == counts[1]


@pytest.fixture
def compiled_at_once(everything_kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    need(shutil.which("g++") is not None, "a C++ compiler")
    monkeypatch.setattr(compiled, "_EXPECTED_S", {"cpu": 0.0})
    # A compiler that takes seconds alone takes minutes on a machine with much else to do.
    monkeypatch.setattr(compilation, "LIMIT_S", 500)


def waited_for_compilation(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Train until the compilation in the other process has come to an end, and its trial too."""
    losses, ended_s = [], time.monotonic() + 540
    stream = batches(10**9)
    while not {"compile"} & (outcomes("kept") | outcomes("declined") | outcomes("failed")) and time.monotonic() < ended_s:
        images, labels = next(stream)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        time.sleep(0.003)
    return losses


@pytest.mark.slow
def test_a_model_is_compiled_and_evaluates_as_before(compiled_at_once: None) -> None:
    on()
    model: Any = Net()
    losses = waited_for_compilation(model, sgd(model))
    assert "compile" in outcomes("kept"), [(note.part, note.why) for note in NOTES.kept]
    assert sum(losses[-20:]) / 20 < 0.2
    assert vars(model).get("_compiled_call_impl") is None
    assert accuracy(model.eval()) > 0.9
    assert model(next(batches())[0][:3]).shape == (3, 4)
    assert copy.deepcopy(model)(next(batches())[0][:3]).dtype == torch.float32


@pytest.mark.parametrize("harm", ["raises", "crashes", "hangs"])
def test_a_compiler_that_does_harm_is_seen_by_nobody(harm: str, compiled_at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(module: nn.Module, **_: Any) -> Any:
        if harm == "raises":
            raise RuntimeError("the compiler does not like it")
        if harm == "crashes":
            os.abort()
        time.sleep(1000)

    monkeypatch.setattr(compilation, "compiled_call", compiler)
    # Only what hangs has to be given up: on a loaded machine an answer may take more than two seconds.
    monkeypatch.setattr(compilation, "LIMIT_S", 2 if harm == "hangs" else 120)
    on()
    model: Any = Net()
    assert waited_for_compilation(model, sgd(model))
    whys = [note.why for note in NOTES.kept if note.part == "compile"]
    assert len(whys) == 1
    assert ("the compiler does not like it" if harm == "raises" else "in a process of its own") in whys[0]


FIRST_BACKWARD_AFTER_A_FAKE_TENSOR = """
import time, torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from stoker.boost.models.compilation import compilation
with FakeTensorMode():
    torch.ones(3)
model = nn.Linear(3, 3)
model(torch.ones(1, 3)).sum().backward()
tried = compilation(model, (torch.ones(1, 3),), {}, device=torch.device("cpu"), autocast=False, layout=False)
while not tried.over():
    time.sleep(0.01)
print(tried.why)
"""


def test_where_a_forked_process_has_no_backward_that_is_the_reason() -> None:
    need(hasattr(torch._C, "_ensureCUDADeviceGuardSet"), "a PyTorch whose fake tensors make a GPU count as there (2.6 and newer)")
    done = subprocess.run([sys.executable, "-c", FIRST_BACKWARD_AFTER_A_FAKE_TENSOR], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.startswith("autograd has threads since the first backward")


RANKS = """
import json, sys, torch, torch.distributed as dist
from torch import nn
import stoker.boost
from stoker.boost.models import trial
from stoker.boost.models.trial import Verdict
from stoker.boost.notes import NOTES
from stoker.boost.parts import Tier
dist.init_process_group("gloo")
rank = dist.get_rank()
trial.judge = lambda plain, tried, steps_a_lap=1: Verdict(keep=rank == 0, why="rank", plain_step_s=1.0, step_s=0.5, steps=1)
torch.set_num_threads(1)
torch.manual_seed(0)
stoker.boost.on(tier="fast", off=("loader", "allocator", "copies"))
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for step in range(120):
    torch.manual_seed(1000 * step + rank)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.randint(4, (8,))).backward()
    optimizer.step()
with open(f"{sys.argv[1]}/rank{rank}.json", "w") as file:
    json.dump([sorted(n.part for n in NOTES.kept if n.outcome == "kept"), sum(p.double().sum().item() for p in model.parameters())], file)
dist.barrier()  # without it gloo aborts now and then where one rank goes before the other
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_take_the_first_ones_decision(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (kept, total), other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert kept == ["autocast", "fused", "operations"]
    assert [kept, total] == other, "the ranks differ in what they keep, or in their weights"
