"""The replay kernel: C compiled for the test, numpy and plain loops give the same bits; what is out of range is refused; C runs under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stoker.boost.replay.kernel import Kernel, Numpy, Recipe

SOURCE = Path(__file__).parents[2] / "native" / "replay.c"


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Kernel:
    """The kernel of this checkout, compiled for the test."""
    cc = compiler()
    if cc is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("kernel") / "replay.so"
    subprocess.run([cc, "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(SOURCE)], check=True)
    return Kernel(library)


@pytest.fixture(params=["kernel", "numpy"])
def hands(request) -> Kernel | Numpy:
    return Numpy() if request.param == "numpy" else request.getfixturevalue("built")


def recipe(seed: int, layout: str, channels: int, dtype: type, *, runs: bool, fills: int = 2, out_channels: int | None = None) -> Recipe:
    """Random pixels, tables and maps; `runs`: the columns are margins around a run of neighbours, as crops and flips make them."""
    rng = np.random.default_rng(seed)
    images, height, width, out_height, out_width = 7, 9, 11, 8, 13
    shape = {"NHWC": (images, height, width, channels), "NCHW": (images, channels, height, width), "NHW": (images, height, width)}[layout]
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels = {"NHWC": pixels, "NCHW": pixels.transpose(0, 2, 3, 1) if layout == "NCHW" else pixels, "NHW": pixels[..., None]}[layout]
    columns = rng.integers(-fills, width, (5, out_width))
    if runs:
        columns = np.full((5, out_width), -1 if fills else 0)
        for k, line in enumerate(columns):
            start, length = (1, 0) if k == 4 else (k, 10)
            line[start : start + length] = np.arange(length)[:: 1 if k % 2 else -1]
            line[start + length :] = -fills if fills else 0
    from_C = np.arange(channels) if out_channels is None else rng.integers(0, channels, out_channels)
    table = rng.integers(0, 1 << 62, (len(from_C), 256)).astype(dtype)
    return Recipe(
        pixels_NHWC=pixels,
        rows_RH=rng.integers(-fills, height, (4, out_height)).astype(np.int16),
        columns_SW=columns.astype(np.int16),
        from_C=from_C.astype(np.int32),
        table_CV=table,
        fills_KC=rng.integers(0, 1 << 62, (fills, len(from_C))).astype(dtype),
    )


def plain(made: Recipe, index, row_code, column_code) -> np.ndarray:
    """Pixel by pixel."""
    out = np.empty((len(index), *made.shape), made.table_CV.dtype)
    for b, c, y, x in np.ndindex(*out.shape):
        row = made.rows_RH[0 if row_code is None else row_code[b], y]
        column = made.columns_SW[0 if column_code is None else column_code[b], x]
        if min(row, column) < 0:
            out[b, c, y, x] = made.fills_KC[-1 - int(min(row, column)), c]
        else:
            out[b, c, y, x] = made.table_CV[c, made.pixels_NHWC[index[b], row, column, made.from_C[c]]]
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.int64])
@pytest.mark.parametrize(("layout", "channels"), [("NHWC", 3), ("NCHW", 3), ("NHW", 1), ("NHWC", 1), ("NHWC", 2)])
@pytest.mark.parametrize("runs", [True, False])
def test_same_numbers_as_pixel_by_pixel(hands, layout, channels, dtype, runs):
    made = recipe(3, layout, channels, dtype, runs=runs)
    rng = np.random.default_rng(1)
    index, rows, columns = rng.integers(0, 7, 6), rng.integers(0, 4, 6), np.array([0, 1, 2, 3, 4, 0])
    for codes in ((rows, columns), (None, columns), (rows, None), (None, None)):
        out = np.zeros((6, *made.shape), dtype)
        hands.replay(out, made, index, *codes)
        np.testing.assert_array_equal(out, plain(made, index, *codes))


def test_other_channels_than_the_image_has(hands):
    for layout, channels, out_channels in (("NHW", 1, 3), ("NHWC", 3, 3), ("NHWC", 3, 5), ("NCHW", 3, 1)):
        made = recipe(5, layout, channels, np.float32, runs=True, out_channels=out_channels)
        index, columns = np.array([6, 0, 3]), np.array([4, 3, 2])
        out = np.zeros((3, *made.shape), np.float32)
        hands.replay(out, made, index, None, columns)
        np.testing.assert_array_equal(out, plain(made, index, None, columns))


def test_rows_of_the_output_by_place(hands):
    made = recipe(7, "NHWC", 3, np.float32, runs=True, fills=0)
    index, place = np.array([2, 5]), np.array([3, 1])
    out = np.full((5, *made.shape), -1, np.float32)
    hands.replay(out, made, index, None, None, place)
    np.testing.assert_array_equal(out[place], plain(made, index, None, None))
    assert (out[[0, 2, 4]] == -1).all()


def test_a_batch_of_nothing(hands):
    made = recipe(7, "NHWC", 3, np.float32, runs=True)
    empty = np.zeros(0, np.int64)
    hands.replay(np.zeros((0, *made.shape), np.float32), made, empty, empty, empty)


@pytest.mark.parametrize(
    ("index", "row", "column", "place"), [(7, 0, 0, 0), (-1, 0, 0, 0), (0, 4, 0, 0), (0, -1, 0, 0), (0, 0, 5, 0), (0, 0, 0, 2), (0, 0, 0, -1)]
)
def test_what_is_out_of_range_is_refused_and_nothing_is_written(hands, index, row, column, place):
    made = recipe(1, "NHWC", 3, np.float32, runs=True)
    out = np.zeros((2, *made.shape), np.float32)
    arrays = (np.array([0, wrong]) for wrong in (index, row, column, place))
    with pytest.raises(IndexError):
        hands.replay(out, made, *arrays)
    assert not out.any()


@pytest.mark.parametrize(("axis", "entry"), [("rows_RH", 9), ("rows_RH", -3), ("columns_SW", 11), ("columns_SW", -3)])
def test_maps_that_point_outside_are_refused(hands, axis, entry):
    made = recipe(1, "NHWC", 3, np.float32, runs=True)
    getattr(made, axis)[1, 2] = entry
    with pytest.raises(IndexError):
        hands.replay(np.zeros((1, *made.shape), np.float32), made, *(np.array([k]) for k in (0, 1, 1)))


def test_arrays_of_another_kind_are_refused(hands):
    made = recipe(1, "NHWC", 3, np.float32, runs=True)
    index = np.array([0, 1])
    wrong_rooms = [np.zeros((2, *made.shape), np.float64), np.zeros((3, *made.shape), np.float32), np.zeros((2, 3, 8, 26), np.float32)[..., ::2]]
    for out in wrong_rooms:
        with pytest.raises(ValueError):
            hands.replay(out, made, index, None, None)
    for wrong in (index.astype(np.int32), index[:1], np.array([0, 9, 1, 9])[::2]):
        with pytest.raises(ValueError):
            hands.replay(np.zeros((2, *made.shape), np.float32), made, index, wrong, None)
    others = {"table_CV": made.table_CV.astype(np.complex128), "rows_RH": made.rows_RH.astype(np.int32), "fills_KC": made.fills_KC[:, :2]}
    for name, wrong in others.items():
        arrays = {key: getattr(made, key) for key in ("pixels_NHWC", "rows_RH", "columns_SW", "from_C", "table_CV", "fills_KC")}
        with pytest.raises(ValueError):
            Recipe(**{**arrays, name: wrong})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_lookup_of_one_image(hands, channels, dtype):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 7, channels), dtype=np.uint8)
    table = rng.normal(size=(channels, 256)).astype(dtype)
    out = np.zeros((channels, 5, 7), dtype)
    hands.lookup(out, pixels, table)
    np.testing.assert_array_equal(out, np.stack([table[c][pixels[..., c]] for c in range(channels)]))
    for wrong in (pixels[:, ::-1], pixels[:4]):
        with pytest.raises(ValueError):
            hands.lookup(out, np.ascontiguousarray(wrong) if wrong.shape != pixels.shape else wrong.astype(np.int8), table)


def test_another_library_is_refused(tmp_path, built):
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    with pytest.raises(OSError):
        Kernel(other)


SANITIZED = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from pathlib import Path
from test_boost_kernel import plain, recipe
from stoker.boost.replay.kernel import Kernel
kernel = Kernel(Path(sys.argv[1]))
for k, (layout, channels) in enumerate([("NHWC", 3), ("NCHW", 3), ("NHW", 1), ("NHWC", 2)]):
    for dtype in (np.uint8, np.int16, np.float32, np.int64):
        for runs in (True, False):
            made = recipe(k, layout, channels, dtype, runs=runs)
            # Fresh copies with nothing behind them: what is read past their ends is seen.
            index, rows, columns = np.array([6, 6, 0, 3]), np.array([3, 0, 1, 2]), np.array([4, 3, 2, 1])
            out = np.zeros((4, *made.shape), dtype)
            kernel.replay(out, made, index, rows, columns)
            assert (out == plain(made, index, rows, columns)).all()
            pixels = np.ascontiguousarray(made.pixels_NHWC[6])
            kernel.lookup(np.zeros((channels, 9, 11), dtype), pixels, made.table_CV)
print("clean")
"""


def test_clean_under_sanitizers(tmp_path):
    """A wrong address, an overflow or an undefined shift ends the child."""
    cc = compiler()
    runtime = subprocess.run([cc, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip() if cc else ""
    if "/" not in runtime:
        pytest.skip("no compiler with the address sanitizer")
    library = tmp_path / "replay.so"
    flags = ["-O1", "-g", "-shared", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    subprocess.run([cc, *flags, "-o", str(library), str(SOURCE)], check=True)
    environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SANITIZED, str(library), str(Path(__file__).parent)]
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (child.returncode, child.stdout.strip()) == (0, "clean"), child.stderr[-3000:]
