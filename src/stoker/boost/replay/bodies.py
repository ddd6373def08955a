"""The functions of data sets, and of timm, that were read: by the shape of their source, whatever Python parses it."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

_SILENT = {"annotation", "returns", "ctx", "kind", "type_comment", "type_params", "decorator_list"}
"""Parts of a syntax tree that do not change what a function does, or that only some versions of Python have."""


BODIES: dict[str, tuple[str, ...]] = {
    "MNIST.__getitem__": ("31bb4a9ac79c2b80", "a5042efc7ead2f76"),
    "MNIST.__len__": ("b9556b155b52c588",),
    "QMNIST.__getitem__": ("7089d2d068539cc0", "1121556193443514"),
    "QMNIST.__len__": ("b9556b155b52c588",),
    "CIFAR10.__getitem__": ("54530b062c356b4c",),
    "CIFAR10.__len__": ("b9556b155b52c588",),
    "SVHN.__getitem__": ("6c69c9890da40b05",),
    "SVHN.__len__": ("b9556b155b52c588",),
    "STL10.__getitem__": ("aa0aaecd11e12ceb",),
    "STL10.__len__": ("1315a063c82e29ff",),
    "DatasetFolder.__getitem__": ("1a24d88f43d170e2",),
    "DatasetFolder.__len__": ("7f54c7682dcd8638",),
    "FakeData.__getitem__": ("25ca66cf95f4fde6",),
    "FakeData.__len__": ("3ba09b884efe7d32",),
    "TensorDataset.__getitem__": ("0dde1f2204354e99",),
    "TensorDataset.__len__": ("8c1943f8cc7eb670",),
    "Subset.__getitem__": ("c152bb45f2f1feda",),
    "Subset.__getitems__": ("fc97fe8412e8e199",),
    "Subset.__len__": ("952d7aa37f39d4ad",),
    "ConcatDataset.__getitem__": ("6a57106b6d9395ab",),
    "ConcatDataset.__len__": ("2b5bdf6e3b669636",),
    "default_loader": ("47be5690858e4455",),
    "pil_loader": ("ca92819dbe337f8b",),
}
"""By function: the fingerprints of the versions that were read and that `sources` repeats.

Read in every torchvision from 0.20 to 0.28 and every torch from 2.5.0 to 2.15.0, on 2026-11-21. Those of MNIST have two: from torchvision 0.23 on
they make the same image by `_Image_fromarray`. Annotations, which differ between releases, do not count here.
"""


TIMM: dict[str, tuple[str, ...]] = {
    "ImageDataset.__getitem__": ("8aee8fa44daf916e", "fe682f1c2844ace4", "d64daf95b0de6b87", "2d44a2785318b0cf"),
    "ImageDataset.__len__": ("bc486d83c3d69fdd",),
    "ReaderImageFolder.__getitem__": ("9e8aa1d337613c44",),
    "ReaderImageFolder.__len__": ("7f54c7682dcd8638",),
    "fast_collate": ("f1ed3959b7019603", "92e1ec307ab81e76", "ce9c3364c70fba83"),
    "RandomResizedCropAndInterpolation.__call__": ("578d17e0d665082f",),
    "RandomResizedCropAndInterpolation.get_params": ("2b5f25f3618fff7b",),
    "MaybePILToTensor.__call__": ("f50b03872b5a9ade",),
    "MaybeToTensor.__call__": ("1df80d1e48f0c6a3",),
    "ToNumpy.__call__": ("784a6bfcc1dadef9",),
    "ResizeKeepRatio.__call__": ("947ba10b7486d823",),
    "ResizeKeepRatio.get_params": ("f05cc69d09c81a05",),
    "CenterCropOrPad.forward": ("a8ec05a0c393d2d2",),
    "center_crop_or_pad": ("069fc6f4a686b72d",),
    "_setup_size": ("91d9f6a177b39044",),
    "RandomCropOrPad.forward": ("fbc7e59df4d9ec50",),
    "RandomCropOrPad.get_params": ("b71bcae18e76df17",),
    "crop_or_pad": ("444309a439f0b0f6",),
    "RandomErasing.__call__": ("5ab400322f5aa76e",),
    "RandomErasing._erase": ("ff20220dc783d43f",),
    "_get_pixels": ("8372a305a643e856",),
    "_interpolation": ("acfcaeac52f2668b",),
    "_check_args_tf": ("6691f3cc4f3949ae",),
    "shear_x": ("582bf9562b34ef03",),
    "shear_y": ("198fb6a9a96dde9a",),
    "translate_x_rel": ("024f9ea82bb3be25",),
    "translate_y_rel": ("6ae7f225e09c4ae4",),
    "translate_x_abs": ("143a5d314a4b77cf",),
    "translate_y_abs": ("76304faa54886a95",),
    "rotate": ("f870961aaa0d8a9b",),
    "auto_contrast": ("a5d8347fb787bc91",),
    "invert": ("cf7b0e01f701e8cc",),
    "equalize": ("0ccd6b94a70fa42b",),
    "solarize": ("cb206762d7739e88",),
    "solarize_add": ("9b768435b31310ff",),
    "posterize": ("052eea49fa16e04e",),
    "contrast": ("ea90d6211a7805b4",),
    "color": ("91c64c6e33b14b9c",),
    "brightness": ("dbe88e6adb339258",),
    "sharpness": ("27c4a3f06dde37af",),
    "gaussian_blur": ("a459be183afa4112",),
    "gaussian_blur_rand": ("0af7a89826a9ef55",),
    "desaturate": ("fb6e579c4c5f8ee3",),
    "_randomly_negate": ("2aa72ef7896d2f7b",),
    "_rotate_level_to_arg": ("250f6bee41974f03",),
    "_enhance_level_to_arg": ("74bc2fbb1367f884",),
    "_enhance_increasing_level_to_arg": ("a7e6e107338ed009",),
    "_minmax_level_to_arg": ("6c3285a9110e3de0",),
    "_shear_level_to_arg": ("ac29a45bc1151637",),
    "_translate_abs_level_to_arg": ("fcd453c2b07920a8",),
    "_translate_rel_level_to_arg": ("92a6877f4dfe93a0",),
    "_posterize_level_to_arg": ("32abdf71ec960cc7",),
    "_posterize_increasing_level_to_arg": ("fc9754a6420c860d",),
    "_posterize_original_level_to_arg": ("56f025298270c261",),
    "_solarize_level_to_arg": ("60a1c07330df656b",),
    "_solarize_increasing_level_to_arg": ("5f0baf5ccfd08800",),
    "_solarize_add_level_to_arg": ("68801db5d119dd1c",),
    "AugmentOp.__call__": ("9da280240a94c010",),
    "AutoAugment.__call__": ("0c7ed86f408ecf0b",),
    "RandAugment.__call__": ("e13a634f26882733",),
}
"""The same of timm, which `sources`, `collates` and `steps.timm` repeat. Read in 0.9.16 and in every release from 1.0.3 to 1.0.31, on 2026-11-22:
versions of a function differ in what they do when a file cannot be read, and in what fast_collate makes of labels that are no whole numbers.
"""


def fingerprint(function: Callable[..., Any]) -> str:
    """Return 16 hexadecimal digits that say what the source of `function` does, without comments, docstring, annotations and layout.

    Of a wrapper it is the wrapper's own. Raises AttributeError, OSError or TypeError when there is no source, SyntaxError or ValueError when it
    cannot be parsed.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function.__code__))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise ValueError(f"{function!r} is not written as a function")
    if ast.get_docstring(tree, clean=False) is not None:
        tree.body = tree.body[1:]
    return hashlib.sha256(_written(tree).encode()).hexdigest()[:16]


def _written(part: Any) -> str:
    if isinstance(part, list):
        return f"[{','.join(map(_written, part))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = [(name, value) for name, value in ast.iter_fields(part) if name not in _SILENT and value is not None and value != []]
    return f"{type(part).__name__}({','.join(f'{name}={_written(value)}' for name, value in fields)})"
