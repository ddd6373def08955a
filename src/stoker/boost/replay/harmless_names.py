"""What may be called where nobody sees it: functions, methods and attributes whose only effect is on what they are given."""

from __future__ import annotations

import builtins
import functools
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

_DRAWS = re.compile(
    r"rand|drop|noise|seed|rng|multinomial|bernoulli|poisson|rrelu|gumbel|fractional|binomial|attention|uniform|exponential|geometric|cauchy|gauss"
    r"|log_normal|shuffle|permut|choice|^sample|variate|gamma|beta$|get_worker_info|^normal_?$|^standard_|^vonmises|^triangular|^laplace|^getstate|^setstate"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BUILTINS = _words(
    """
    abs all any bin bool bytes callable chr complex dict divmod enumerate filter float format frozenset hash hex int isinstance issubclass iter
    len list map max min next oct ord pow range repr reversed round set slice sorted str sum tuple type zip
    """
)
"""`type` with one argument only; `getattr` is treated apart."""

_NUMPY = _words(
    """
    abs absolute all allclose amax amin any append arange argmax argmin argsort argwhere around array array_equal array_split asarray
    ascontiguousarray astype atleast_1d atleast_2d atleast_3d average bincount block broadcast_arrays broadcast_to ceil clip column_stack
    concatenate copy corrcoef count_nonzero cov cross cumprod cumsum delete diag diagonal diff digitize dot dsplit dstack dtype einsum empty
    empty_like expand_dims eye finfo flip fliplr flipud floor full full_like gradient hanning histogram hsplit hstack identity iinfo indices
    inner insert interp isclose isin isscalar kron linspace logical_and logspace matmul max mean median meshgrid min mod moveaxis nanmax nanmean
    nanmin nanstd nonzero ones ones_like outer pad percentile permute_dims prod ptp quantile ravel repeat reshape resize roll rollaxis rot90
    round searchsorted shape sign size sort split squeeze stack std sum swapaxes take tensordot tile trace transpose tri tril triu trim_zeros
    unique unravel_index var vsplit vstack where zeros zeros_like
    """
)
_NUMPY_RANDOM = _words(
    """
    beta binomial choice default_rng exponential gamma geometric get_state gumbel laplace lognormal multinomial multivariate_normal normal
    permutation poisson rand randint randn random random_sample ranf sample seed set_state shuffle standard_normal triangular uniform vonmises
    RandomState
    """
)
_TORCH = _words(
    """
    align_tensors atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors cartesian_prod cdist chain_matmul einsum finfo
    get_default_dtype get_rng_state iinfo initial_seed is_storage is_tensor manual_seed meshgrid norm Size seed set_rng_state split stft
    tensordot unique unique_consecutive unravel_index
    """
)
_TORCH_NOT = re.compile(
    r"^_|^from_file$|^set_|^cudnn|^miopen|^mkldnn|^fbgemm|^init|^resize_as|^batch_norm|^embedding|^instance_norm|^native_batch|^import"
)
_FUNCTIONAL_NOT = frozenset(
    {
        "batch_norm",
        "instance_norm",
        "embedding",
        "embedding_bag",
        "handle_torch_function",
        "has_torch_function",
        "boolean_dispatch",
        "assert_int_or_pair",
    }
)
_PIL = {
    "PIL.Image": _words("alpha_composite blend composite eval fromarray frombuffer frombytes merge new linear_gradient radial_gradient"),
    "PIL.ImageOps": _words(
        """
    autocontrast colorize contain cover crop deform equalize exif_transpose expand fit flip grayscale invert mirror pad posterize scale solarize
    """
    ),
    "PIL.ImageChops": None,
    "PIL.ImageFilter": None,
    "PIL.ImageEnhance": None,
}
_VISION = ("torchvision.transforms.functional", "torchvision.transforms.v2.functional", "torchvision.transforms._functional_tensor")

_STANDARD = str(Path(os.__file__).parent) + os.sep
_MODULES = (
    *("builtins", "math", "random", "numpy", "numpy.random", "numpy.linalg", "numpy.fft"),
    *("torch", "torch.nn.functional", *_PIL, *_VISION),
)

STILL = _words(
    """
    CenterCrop Compose ConvertImageDtype FiveCrop Grayscale Identity Lambda LinearTransformation Normalize PILToTensor Pad Resize TenCrop
    ToDtype ToImage ToPILImage ToPureTensor ToTensor
    """
)
"""torchvision's transforms that draw nothing."""
MODULES = _words(
    """
    AdaptiveAvgPool2d AdaptiveMaxPool2d AvgPool2d CELU ConstantPad2d Conv1d Conv2d Dropout Dropout2d ELU Flatten GELU Hardswish Identity
    LeakyReLU Linear LogSoftmax MaxPool2d Mish PixelShuffle PixelUnshuffle ReLU ReflectionPad2d ReplicationPad2d SELU Sequential SiLU Sigmoid
    Softmax Softplus Tanh Unflatten Upsample ZeroPad2d
    """
)
"""Modules of torch.nn that keep nothing of what they see."""

_TENSOR_NOT = _words(
    """
    apply_ backward cuda cpu_ data_ptr dlpack_device map_ map2_ module_load mtia xpu ipu hpu numpy_T pin_memory record_stream register_hook
    register_post_accumulate_grad_hook reinforce resize_as_sparse_ retain_grad set_ share_memory_ storage storage_type to_mkldnn typed_storage
    untyped_storage
    """
)
_ARRAY_NOT = _words("base ctypes data dump dumps flags setflags tofile")
_IMAGE = _words(
    """
    alpha_composite convert copy crop effect_spread entropy enhance filter getbands getbbox getchannel getcolors getdata getextrema getpalette
    getpixel height histogram info load mode paste point putalpha putdata putpixel quantize reduce resize rotate size split thumbnail tobytes
    transform transpose width
    """
)
_GENERATOR = _words("random integers standard_normal bytes spawn")
_INFO = _words("id num_workers seed")


def _public(kind: Any) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if not name.startswith("_"))


MEMBERS = (
    (_public(torch.Tensor) - _TENSOR_NOT)
    | (_public(np.ndarray) - _ARRAY_NOT)
    | frozenset().union(*map(_public, (int, float, complex, str, bytes, list, dict, set, tuple, slice, torch.Size, torch.dtype)))
    | {name for name in _NUMPY_RANDOM if name.islower()}
    | (_IMAGE | _GENERATOR | _INFO | {"message", "args"})
)
"""Attributes and methods of data: tensors, arrays, PIL images, numbers, texts and containers."""

_CONTAINER = _words(
    """
    append extend insert remove pop popitem clear sort reverse update add discard setdefault difference_update intersection_update
    symmetric_difference_update
    """
)
_ARRAY = _words("fill sort partition put resize itemset setfield byteswap")
_IMAGE_WRITES = _words("paste putalpha putdata putpixel thumbnail alpha_composite load")


def draws(name: str) -> bool:
    """Return whether a function, method or class of this name may take or set random numbers."""
    return bool(_DRAWS.search(name.lower())) and name != "grid_sample"


def writes(method: str, *, tensor: bool) -> bool:
    """Return whether a method of data may change what it is called on; `tensor`: of a tensor or an array, else of a container."""
    if method.endswith("_") and not method.endswith("__"):
        return True
    return method in _IMAGE_WRITES or method in (_ARRAY if tensor else _CONTAINER | _ARRAY)


def writes_first(name: str) -> bool:
    """Return whether a library function of this name changes its arguments."""
    return name.endswith("_") or name.rpartition(".")[2] in ("shuffle", "resize_as")


def library(obj: Any) -> str | None:
    """Return the full name of a library's function or class that may be called, None for anything else."""
    try:
        if isinstance(obj, np.ufunc):
            return f"numpy.{obj.__name__}"
        for module in _MODULES:
            name, known = _names(module).get(id(obj), ("", None))
            if name and known is obj and _genuine(obj, module):
                return f"{module}.{name}"
        if isinstance(obj, type):
            return _class(obj)
        if obj is getattr(torch.utils.data, "get_worker_info", None):
            return "torch.utils.data.get_worker_info"
    except Exception:
        return None
    return "torch.Tensor" if isinstance(obj, type(torch.FloatTensor)) else None


def closed(function: types.FunctionType) -> bool:
    """Return whether a function is a library's inside: what may be called of those libraries is listed, and their sources are not read."""
    top = str(function.__module__).partition(".")[0]
    filename = function.__code__.co_filename
    if top in ("torch", "numpy", "PIL"):
        return _inside(filename, top)
    return top in sys.stdlib_module_names and filename.startswith(_STANDARD) and "-packages" not in filename


def own_class(kind: type, package: str) -> bool:
    """Return whether a class was defined by the package that it says."""
    home = module_of(kind)
    return home.startswith(package) and getattr(sys.modules.get(home), kind.__name__, None) is kind


def module_of(kind: type) -> str:
    """Return the module that a class names as its own; classes of Cython may name none."""
    home = kind.__module__
    return home if isinstance(home, str) else ""


def _class(kind: type) -> str | None:
    if module_of(kind) == "builtins" and issubclass(kind, BaseException) and getattr(builtins, kind.__name__, None) is kind:
        return f"builtins.{kind.__name__}"
    if issubclass(kind, np.generic) and module_of(kind) == "numpy":
        return f"numpy.{kind.__name__}"
    if own_class(kind, "torchvision.transforms") or own_class(kind, "torchvision.tv_tensors"):
        return f"{kind.__module__}.{kind.__name__}"
    return None


def _genuine(obj: Any, module: str) -> bool:
    """Return whether something found under a library's name was not put there by somebody else."""
    inner = getattr(obj, "__func__", obj)  # random's and numpy.random's are bound to their global generators
    code = getattr(inner, "__code__", None)
    if isinstance(inner, types.FunctionType):
        return _inside(inner.__code__.co_filename, module)
    if isinstance(code, types.CodeType):
        return module.startswith("numpy") and code.co_filename.endswith(".pyx")
    return module == "builtins" or not isinstance(obj, types.BuiltinFunctionType) or getattr(obj, "__module__", None) != "builtins"


@functools.cache
def _inside(filename: str, module: str) -> bool:
    file = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    if file is None:
        return False
    home = Path(file).resolve()
    return Path(filename).resolve() == home if home.name != "__init__.py" else home.parent in Path(filename).resolve().parents


def _names(module: str) -> dict[int, tuple[str, Any]]:
    found = sys.modules.get(module)
    return {} if found is None else _table(module, len(vars(found)))


@functools.cache
def _table(module: str, _: int) -> dict[int, tuple[str, Any]]:
    """Return the names of a module's functions that may be called, by identity; made anew when the module has grown."""
    found = vars(sys.modules[module])
    return {id(obj): (name, obj) for name, obj in found.items() if callable(obj) and _allowed(module, name, obj)}


def _allowed(module: str, name: str, obj: Any) -> bool:
    if name.startswith("_"):
        return False
    if module == "builtins":
        return name in BUILTINS
    if module == "numpy":
        return name in _NUMPY
    if module == "numpy.random":
        return name in _NUMPY_RANDOM
    if module == "torch":
        if name in _TORCH or name in ("from_numpy", "tensor", "as_tensor"):
            return True
        return hasattr(torch._C._VariableFunctions, name) and isinstance(obj, types.BuiltinFunctionType) and not _TORCH_NOT.search(name)
    if module == "torch.nn.functional":
        return name not in _FUNCTIONAL_NOT and str(getattr(obj, "__module__", "")).startswith("torch") and not isinstance(obj, type)
    if module in _VISION:
        return isinstance(obj, types.FunctionType) and obj.__module__.startswith("torchvision.transforms") and not name.startswith("register")
    if module in _PIL:
        names = _PIL[module]
        return name in names if names is not None else str(getattr(obj, "__module__", "")) == module
    if module == "random":
        return not isinstance(obj, type) or name == "Random"
    return not isinstance(obj, type)
