"""Max pool and dropout by the C kernels, wherever a model's forward calls them: torch's numbers and random state, gradients of gradients included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from stoker import pool
from stoker.boost.models import dropout, operations, rehearsal
from tests.native import compiled

CPU = torch.device("cpu")
SHAPES = ((8, 16, 6, 6), (5001,), (313, 17))


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both kernels of this checkout; dropout's only where torch draws as it does."""
    folder = tmp_path_factory.mktemp("kernels")
    drops, pools = dropout.load(compiled("dropout.c", folder)), pool.load(compiled("pool.c", folder))
    draws = drops if dropout._same(drops) else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropout, "library", lambda: draws)
        patch.setattr(pool, "library", lambda: pools)
        yield


def dropouts(count: int) -> int:
    """How many dropouts the kernel does: none where this PyTorch draws its masks otherwise on this processor, which changes nothing."""
    return count if dropout.library() is not None else 0


def laid_out(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values


def both(call: Any, values: torch.Tensor, drawn_before: int = 0) -> int:
    """Call with torch's operations and with ours; compare outputs, gradients, memory and random state to the bit. Returns how many were ours."""
    found, taken = [], 0
    for ours in (False, True):
        torch.manual_seed(3)
        torch.empty(drawn_before, dtype=torch.uint8).random_()
        leaf = values.clone(memory_format=torch.preserve_format).requires_grad_()
        if ours:
            with operations.Kernels() as kernels:
                out = call(leaf)
            taken = kernels.taken
        else:
            out = call(leaf)
        weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out.dtype)
        (out * weights).sum().backward()
        found.append((out.detach(), leaf.grad, torch.get_rng_state()))
    (theirs, their_grad, their_state), (mine, my_grad, my_state) = found
    assert torch.equal(mine.nan_to_num(7.0), theirs.nan_to_num(7.0))
    assert torch.equal(my_grad.nan_to_num(7.0), their_grad.nan_to_num(7.0))
    assert mine.stride() == theirs.stride()
    assert torch.equal(my_state, their_state)
    return taken


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("p", [0.5, 0.25, 0.1, 0.9])
def test_the_very_values_that_torch_would_drop(kind: torch.dtype, p: float) -> None:
    for shape in SHAPES:
        values = laid_out(torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(kind))
        for before in (0, 1, 622, 623, 624, 625, 1249):
            assert both(lambda x: F.dropout(x, p), values, before) == dropouts(1)


def test_infinity_and_nan_are_dropped_as_by_torch() -> None:
    values = torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0, 1.0]).repeat(1000)
    assert both(lambda x: F.dropout(x, 0.5), values) == dropouts(1)


def test_a_sequence_of_random_operations_stays_in_step() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(x, 0.3) + torch.randn(7).sum()
        x = nn.Dropout(0.2)(x) * torch.rand(1)
        return torch.dropout(x, 0.6, True)

    assert both(call, torch.ones(5003)) == dropouts(3)


def pools(x: torch.Tensor) -> list[torch.Tensor]:
    return [F.max_pool2d(x, 2), nn.MaxPool2d(2)(x), nn.MaxPool2d((2, 2), stride=[2, 2])(x), torch.max_pool2d(x, [2], ceil_mode=True)]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_max_pool_in_every_spelling(kind: torch.dtype) -> None:
    values = (torch.randint(-6, 7, (3, 17, 8, 10), generator=torch.Generator().manual_seed(2)) / 4).to(kind)
    assert both(lambda x: torch.cat(pools(x)), laid_out(values)) == 4
    assert both(lambda x: torch.cat(pools(x)), values) == 0  # not channels_last


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.max_pool2d(x, 3),
        lambda x: F.max_pool2d(x, 2, stride=1),
        lambda x: F.max_pool2d(x, 2, padding=1),
        lambda x: F.max_pool2d(x, (2, 1)),
        lambda x: F.max_pool2d(x, 2, dilation=2),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.max_pool2d(x[:, :, :5], 2),
        lambda x: F.max_pool2d(x.double(), 2),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.dropout(x * 1, 0.5, inplace=True),
        lambda x: F.dropout(x, 0.0),
        lambda x: F.dropout(x, 1.0),
        lambda x: F.dropout2d(x, 0.5),
        lambda x: F.dropout(x[::2, ::2], 0.5),
        lambda x: F.dropout(x.double(), 0.5),
        lambda x: F.dropout(x[0], 0.5),
    ],
)
def test_everything_else_is_torchs(call: Any) -> None:
    assert both(call, laid_out(torch.randn(8, 16, 8, 8))) == 0


def test_those_who_watch_every_operation_see_torchs() -> None:
    seen = []

    class Watching(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    def watched(x: torch.Tensor) -> torch.Tensor:
        with Watching():
            return F.max_pool2d(x, 2)

    values = laid_out(torch.randn(8, 16, 8, 8))
    with Watching():
        assert both(lambda x: F.max_pool2d(x, 2), values) == 0
    assert both(watched, values) == 1  # seen by the one inside before it comes to ours
    assert seen.count(F.max_pool2d) == 4
    with operations.Kernels() as kernels:
        torch.func.grad(lambda x: F.max_pool2d(x, 2).sum())(values)
        assert kernels.taken == 0


def test_wrong_arguments_raise_what_torch_raises() -> None:
    with operations.Kernels():
        with pytest.raises(ValueError, match="dropout probability"):
            F.dropout(torch.ones(5000), 1.5)
        with pytest.raises(RuntimeError):
            F.max_pool2d(torch.ones(2, 2), 2)


@pytest.mark.parametrize("call", [lambda x: F.max_pool2d(x, 2), lambda x: F.dropout(x, 0.4)], ids=["pool", "dropout"])
def test_a_gradient_of_a_gradient(call: Any) -> None:
    found = []
    for ours in (False, True):
        torch.manual_seed(5)
        leaf = laid_out(torch.randn(4, 32, 8, 8)).requires_grad_()
        with operations.Kernels() if ours else torch.enable_grad():
            out = call(leaf * leaf)
        (gradient,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
        gradient.norm().backward()
        found.append((gradient.detach(), leaf.grad))
    torch.testing.assert_close(found[0], found[1])


def test_twice_backward_with_and_without_the_graph() -> None:
    leaf = laid_out(torch.randn(4, 32, 8, 8)).requires_grad_()
    with operations.Kernels():
        out = F.max_pool2d(leaf, 2).sum()
    out.backward(retain_graph=True)
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


class Net(nn.Module):
    """A pool as a function, dropout as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.dropout, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Dropout(0.4), nn.Linear(32 * 16, 4)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.dropout(F.max_pool2d(F.relu(self.convolution(images)), 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.features(images), 1))


class Checkpointed(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(checkpoint(self.features, images, use_reentrant=False), 1))


def rehearsed(module: nn.Module) -> str | None:
    return rehearsal.rehearse(module, (torch.randn(16, 3, 8, 8),), {}, device=CPU, autocast=True, layout=True, operations=True)


def test_a_copy_of_the_model_tells_whether_there_is_anything_to_take() -> None:
    assert rehearsed(Net()) is None
    assert "no max pool and no dropout" in (rehearsed(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))) or "")


def test_a_checkpoint_that_computes_again_without_them_is_found_out() -> None:
    assert "failed with it" in (rehearsed(Checkpointed()) or "")


def test_another_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        dropout.load(tmp_path / "missing.so")
    with pytest.raises(OSError):
        dropout.load(compiled("pool.c", tmp_path))


def test_a_state_that_is_not_known_draws_nothing(tmp_path: Path) -> None:
    kernel = dropout.load(compiled("dropout.c", tmp_path))
    state = torch.zeros(5056, dtype=torch.uint8)
    values, kept = torch.ones(8), torch.empty(8, dtype=torch.uint8)
    assert kernel.stoker_dropout_forward(state.data_ptr(), values.data_ptr(), kept.data_ptr(), values.data_ptr(), 8, 1, 2.0, False) == 1
    assert values.tolist() == [1.0] * 8
    assert not state.any()
