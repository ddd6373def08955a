"""One image file becomes pixels: the only place that decodes, so that a faster decoder can take its place.

The pixels are those of torchvision's default loader: Pillow, `.convert("RGB")`, EXIF orientation not applied. A file that
cannot be decoded whole is a BrokenImage that names it, never grey pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from stoker.errors import BrokenImage, DataMissing

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels of the whole image."""

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
# Pillow knows more, some of which start other programs (EPS runs Ghostscript): images come from strangers.
_PIXELS_LIMIT = 2**27
_GREY_MODES = ("1", "L", "LA")

# Pillow only warns up to twice its own limit; `_open` refuses above ours.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(file: str | bytes, *, name: str | None = None) -> np.ndarray:
    """Return the image as uint8 H W 3 (RGB). `file` is a path, or a file's bytes, which `name` then names in errors.

    Raises BrokenImage when it cannot be decoded whole, DataMissing when the file cannot be read.
    """
    return decode_marked(file, name=name)[0]


def decode_marked(file: str | bytes, *, name: str | None = None) -> tuple[np.ndarray, bool]:
    """Return what `decode` returns, and whether the file holds grey only (then the three channels are equal)."""
    image, grey = _rgb(file, name)
    return np.asarray(image), grey


def decode_crop(file: str | bytes, out_HWC: np.ndarray, box: Box | Callable[[int, int], Box] | None, flip: bool, *, name: str | None = None) -> None:
    """Write the part `box` of the image, resampled bilinearly to the size of `out_HWC` (uint8 H W 3), into `out_HWC`.

    The bits are those of torchvision's `RandomResizedCrop` on a Pillow image (crop, then resize; `flip` mirrors left to right
    afterwards). `box` may be a function of the image's width and height, since a random crop depends on them and asking for the
    size apart would open the file twice. None takes the whole image. Raises as `decode`; `out_HWC` is then as it was.
    """
    image, _ = _rgb(file, name)
    if box is not None:
        left, top, width, height = box(image.width, image.height) if callable(box) else box
        image = image.crop((round(left), round(top), round(left) + round(width), round(top) + round(height)))
    height_out, width_out = out_HWC.shape[:2]
    if image.size != (width_out, height_out):
        image = image.resize((width_out, height_out), Image.Resampling.BILINEAR)
    pixels_HWC = np.asarray(image)
    np.copyto(out_HWC, pixels_HWC[:, ::-1] if flip else pixels_HWC)


def image_size(file: str | bytes, *, name: str | None = None) -> tuple[int, int]:
    """Return width and height as the file's header gives them. Raises as `decode`."""
    return _open(file, _named(file, name)).size


def _rgb(file: str | bytes, name: str | None) -> tuple[Image.Image, bool]:
    named = _named(file, name)
    image = _open(file, named)
    grey = image.mode in _GREY_MODES
    try:
        image.load()
        return (image if image.mode == "RGB" else image.convert("RGB")), grey
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes of them
        raise _broken(named, str(error) or type(error).__name__) from error


def _open(file: str | bytes, named: str) -> Image.Image:
    content = _read(file) if isinstance(file, str) else file
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise _broken(named, "the file is empty" if not content else "not an image of a known format") from error
    except Exception as error:  # as above
        raise _broken(named, str(error) or type(error).__name__) from error
    if image.width * image.height > _PIXELS_LIMIT:
        raise _broken(named, f"{image.width} x {image.height} pixels are more than any training image has: a decompression bomb?")
    return image


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataMissing(
            f"{path} cannot be read ({error.strerror})", hint="was the file moved while training? Put it back, or make it readable"
        ) from error


def _named(file: str | bytes, name: str | None) -> str:
    return name or (file if isinstance(file, str) else "an image in memory")


def _broken(named: str, reason: str) -> BrokenImage:
    return BrokenImage(f"{named} cannot be decoded: {reason}", hint="replace or delete the file, or leave such files out with `--skip-broken`")
