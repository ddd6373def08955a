"""Max pool and ReLU by the C kernel: torch's very numbers, forward and backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from stoker import pool
from tests.native import compiled


@pytest.fixture(scope="module", autouse=True)
def kernel(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kernel of this checkout, compiled for the test, in place of the installed one."""
    loaded = pool.load(compiled("pool.c", tmp_path_factory.mktemp("kernel")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "library", lambda: loaded)
        yield


def both(images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Output and gradient by our operation, and by torch's two."""
    found = []
    for operation in (pool.relu_max_pool2, lambda x: F.relu(F.max_pool2d(x, 2))):
        leaf = images.clone(memory_format=torch.preserve_format).requires_grad_()
        out = operation(leaf)
        weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out.dtype)
        (out * weights).sum().backward()
        assert leaf.grad is not None
        found.append((out.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (64, 32, 32, 32), (5, 64, 16, 8), (1, 1, 2, 2), (3, 17, 6, 10)], ids=str)
def test_the_numbers_are_torchs(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    # Few different values: most windows hold ties, and many nothing above 0.
    images = (torch.randint(-6, 7, shape, generator=generator) / 4).to(dtype).contiguous(memory_format=torch.channels_last)
    leaf = images.clone(memory_format=torch.preserve_format).requires_grad_()
    assert type(pool.relu_max_pool2(leaf).grad_fn).__name__ == "_MaxPool2Backward"
    (ours, our_grad), (theirs, their_grad) = both(images)
    assert torch.equal(ours, theirs)
    assert torch.equal(our_grad, their_grad)
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nan_and_infinity_pass_as_in_torch(dtype: torch.dtype) -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.0])
    picks = torch.randint(0, 7, (4, 8, 12, 12), generator=torch.Generator().manual_seed(3))
    (ours, our_grad), (theirs, their_grad) = both(special[picks].to(dtype).contiguous(memory_format=torch.channels_last))
    assert torch.equal(ours.nan_to_num(nan=7.0), theirs.nan_to_num(nan=7.0))
    assert torch.equal(our_grad, their_grad)


@pytest.mark.parametrize(
    "images",
    [torch.randn(2, 3, 4, 4), torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last), torch.randn(2, 3, 4, 4).double()],
    ids=["contiguous", "odd", "float64"],
)
def test_what_the_kernel_does_not_take_goes_to_torch(images: torch.Tensor) -> None:
    (ours, our_grad), (theirs, their_grad) = both(images)
    assert torch.equal(ours, theirs)
    assert torch.equal(our_grad, their_grad)


def test_another_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        pool.load(tmp_path / "missing.so")
