"""Small computations whose right results are known from float64 on the CPU, and how far rounding may carry a device from them.

Inputs are rounded to the precision first, so their rounding is no error. For a sum of K products that are added up in float32, in
whatever order, |error| <= K u |a|.|b| with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), where |a|.|b|
is the sum of the absolute products. So the largest error is given as a part of |a|.|b|, number by number. Faster algorithms for
convolutions (Winograd, FFT) lose up to some bits more: 8 K u is allowed. TF32 rounds both factors to 11 bits: 2 x 2^-11 more. fp16 and bf16 round the
result, and partial sums where a product is split: 4 roundings of 2^-11 and 2^-8 are allowed. A wrong result is off by the order of 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from stoker.bench.ceilings import DTYPES

Inputs = tuple[torch.Tensor, ...]
_ROUNDING = {"fp32": 0.0, "tf32": 2 * 2.0**-11, "fp16": 4 * 2.0**-11, "bf16": 4 * 2.0**-8}
_FLOAT32_UNIT = 2.0**-24
_FASTER_ALGORITHMS = 8
_MATRIX, _BATCH, _CHANNELS, _SIDE = 192, 2, 16, 20
_NUMBERS = 4099
"""Not a multiple of any vector length: the remainder is tried too."""


def kernel(a: torch.Tensor, b: torch.Tensor) -> Inputs:
    """Return a x b + a, number by number."""
    return (a * b + a,)


def matrix(a: torch.Tensor, b: torch.Tensor) -> Inputs:
    """Return the matrix product."""
    return (a @ b,)


def convolution(images_NCHW: torch.Tensor, weights_OCHW: torch.Tensor, gradient_NOHW: torch.Tensor) -> Inputs:
    """Return a 3x3 convolution and its gradients for images and weights, given the gradient of its output."""
    images_NCHW, weights_OCHW = images_NCHW.detach().requires_grad_(), weights_OCHW.detach().requires_grad_()
    out = F.conv2d(images_NCHW, weights_OCHW, padding=1)
    return (out.detach(), *torch.autograd.grad(out, (images_NCHW, weights_OCHW), gradient_NOHW))


def inputs_of(operation: Callable[..., Inputs], precision: str) -> Inputs:
    """Return normal random inputs on the CPU, rounded to the precision; the same ones every time."""
    random = torch.Generator().manual_seed(0)
    shapes: tuple[tuple[int, ...], ...] = ((_NUMBERS,), (_NUMBERS,))
    if operation is matrix:
        shapes = ((_MATRIX, _MATRIX), (_MATRIX, _MATRIX))
    elif operation is convolution:
        images = (_BATCH, _CHANNELS, _SIDE, _SIDE)
        shapes = (images, (_CHANNELS, _CHANNELS, 3, 3), images)
    return tuple(torch.randn(shape, generator=random).to(DTYPES[precision]) for shape in shapes)


def tolerance(operation: Callable[..., Inputs], precision: str) -> float:
    """Return how large the error may be, as a part of the sum of the absolute products."""
    if operation is kernel:
        products = 2
    elif operation is matrix:
        products = _MATRIX
    else:
        products = max(_CHANNELS * 9, _BATCH * _SIDE * _SIDE)  # the weights' gradient sums over batch and places
    return _ROUNDING[precision] + _FASTER_ALGORITHMS * products * _FLOAT32_UNIT


def worst_error(operation: Callable[..., Inputs], precision: str, device: torch.device) -> float:
    """Compute on `device` and return the largest error as a part of the sum of the absolute products; not a number stays so.

    Raises what torch raises when the device cannot compute it.
    """
    inputs = inputs_of(operation, precision)
    exact = operation(*(tensor.double() for tensor in inputs))
    absolute = operation(*(tensor.double().abs() for tensor in inputs))
    found = operation(*(tensor.to(device) for tensor in inputs))
    errors = [((got.cpu().double() - true).abs() / total).max() for got, true, total in zip(found, exact, absolute, strict=True)]
    return float(torch.stack(errors).max())  # max keeps NaN
