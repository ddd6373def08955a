"""Crop, flip and normalise: the C kernel at every level, torch and a plain numpy reference give the same bits; C is run under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from stoker.data import kernel
from stoker.data.augment import Augment
from stoker.data.gather import CompiledGather, gathered
from stoker.data.kernel import Kernel, Places
from stoker.data.normalise import Normalise, _rounded_once
from stoker.errors import BadValue

SOURCE = Path(__file__).parents[2] / "native" / "augment.c"
CIFAR = Normalise((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
TIES = Normalise((-256 / 255,) * 3, (256 / 255,) * 3)
"""1 + v / 256: every odd value lies half-way between two bfloat16."""
GREY = Normalise((0.1307,), (0.3081,))


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Kernel:
    """The kernel of this checkout, compiled for the test."""
    cc = compiler()
    if cc is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("kernel") / "augment.so"
    subprocess.run([cc, "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(SOURCE)], check=True)
    return Kernel(library)


def some(n: int, height: int, width: int, channels: int, count: int, padding: int) -> tuple[np.ndarray, np.ndarray, Places]:
    rng = np.random.default_rng(n * 1000 + height * 100 + width * 10 + channels + count + padding)
    byte = np.uint8
    places = Places(
        dy_B=rng.integers(0, 2 * padding + 1, count, dtype=byte),
        dx_B=rng.integers(0, 2 * padding + 1, count, dtype=byte),
        flip_B=rng.integers(0, 2, count, dtype=byte),
    )
    return rng.integers(0, 256, (n, height, width, channels), dtype=byte), rng.integers(0, n, count), places


def reference(pixels, index, places, normalise: Normalise, padding: int, mode: str) -> np.ndarray:
    """The plain way: numpy's pad, slice, mirror, table. Returns float32 [B, C, H, W]."""
    _, height, width, channels = pixels.shape
    batch = []
    for i, k in enumerate(index):
        image = pixels[k]
        if places is not None:
            around = ((padding, padding), (padding, padding), (0, 0))
            image = np.pad(image, around, mode="reflect" if mode == "reflect" else "constant")
            image = image[places.dy_B[i] : places.dy_B[i] + height, places.dx_B[i] : places.dx_B[i] + width]
            image = image[:, ::-1] if places.flip_B[i] else image
        batch.append([normalise.table_CV[c][image[:, :, c]] for c in range(channels)])
    return np.array(batch, dtype=np.float32).reshape(len(index), channels, height, width)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32)


def made(how, pixels, index, places, normalise, **settings) -> torch.Tensor:
    maker = Augment(normalise, with_kernel=how, **settings)
    out = torch.full((len(index), *np.array(pixels.shape)[[3, 1, 2]]), float("nan"), dtype=settings["dtype"])
    out = out.contiguous(memory_format=torch.channels_last) if settings["channels_last"] else out
    maker.into(out, pixels, index, places)
    return out


SHAPES = [
    (7, 32, 32, 3, 9, 4),
    (3, 8, 8, 1, 5, 1),
    (2, 28, 28, 1, 4, 3),
    (4, 5, 37, 3, 6, 4),
    (1, 1, 1, 3, 2, 0),
    (2, 9, 6, 3, 3, 2),
    (2, 3, 17, 1, 3, 2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_way_gives_the_bits_of_the_plain_way(built, shape, mode, dtype, channels_last):
    pixels, index, places = some(*shape)
    padding, normalise = shape[5], CIFAR if shape[3] == 3 else GREY
    for drawn in (places, None):
        expected = torch.from_numpy(reference(pixels, index, drawn, normalise, padding, mode)).to(dtype)
        settings = {"dtype": dtype, "channels_last": channels_last, "padding": padding, "padding_mode": mode}
        for how in (built, "switched off"):
            assert torch.equal(bits(made(how, pixels, index, drawn, normalise, **settings)), bits(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_instruction_set_gives_the_same_bits(built, dtype, channels_last):
    pixels, index, places = some(5, 32, 32, 3, 6, 4)
    expected = torch.from_numpy(reference(pixels, index, places, TIES, 4, "zeros")).to(dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tried = set()
    for level in range(len(kernel.LEVELS)):
        out = torch.empty(expected.shape, dtype=dtype, memory_format=layout)
        try:
            built.fill(
                *(out.data_ptr(), pixels, index, places, TIES),
                **{"padding": 4, "reflect": False, "bfloat16": dtype == torch.bfloat16, "channels_last": channels_last, "level": level},
            )
        except ValueError:
            continue  # this processor, or this build, lacks the level
        tried.add(level)
        assert torch.equal(bits(out), bits(expected)), kernel.LEVELS[level]
    assert {kernel.TABLE, built.level} <= tried


def test_table_is_rounded_once():
    """Against exact fractions: no float32 lies nearer to v * scale + bias."""
    for normalise in (CIFAR, GREY, Normalise((0.0,), (1.0,)), Normalise((1e-5,), (1e-5,)), Normalise((1e5,), (3e-6,)), Normalise((1 / 3,), (7e5,))):
        for c in range(normalise.channels):
            scale, bias = Fraction(float(normalise.scale_C[c])), Fraction(float(normalise.bias_C[c]))
            for v in range(256):
                exact, got = v * scale + bias, normalise.table_CV[c, v]
                away = abs(Fraction(float(got)) - exact)
                for other in (np.nextafter(got, np.float32(np.inf)), np.nextafter(got, np.float32(-np.inf))):
                    there = abs(Fraction(float(other)) - exact)
                    assert away < there or (away == there and got.view(np.int32) % 2 == 0)


def test_bfloat16_table_is_torch_rounding():
    for normalise in (CIFAR, TIES):
        assert torch.equal(bits(normalise.table(torch.bfloat16)), bits(normalise.table(torch.float32).to(torch.bfloat16)))


def test_a_sum_just_above_half_way_is_rounded_up():
    """130 * scale + 1 is 1 + 2**-24 + 2**-54: float64 loses the last part, and float32 would then round to even, down to 1."""
    table = _rounded_once(np.array([16519105 * 2.0**-55], dtype=np.float32), np.array([1], dtype=np.float32))
    assert table[0, 130] == np.float32(1 + 2.0**-23)


def test_numbers_are_those_of_torchvision_within_rounding():
    transforms = pytest.importorskip("torchvision.transforms")
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 256, 1).expand(3, -1, -1).float() / 255
    usual = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))(values).squeeze(-1)
    assert (usual - CIFAR.table(torch.float32)).abs().max() < 5e-7


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((float("nan"),), (1.0,)), ((0.5, 0.5), (1.0, 1.0)), ((0.5,), (1.0, 1.0, 1.0))]
)
def test_impossible_normalisation_is_refused(mean, std):
    with pytest.raises(BadValue):
        Normalise(mean, std)


def test_one_number_stands_for_all_channels():
    assert np.array_equal(Normalise.of((0.5,), (0.2,), 3).table_CV, Normalise((0.5,) * 3, (0.2,) * 3).table_CV)
    with pytest.raises(BadValue):
        Normalise.of((0.5, 0.5, 0.5), (0.2,), 1)


def test_a_kernel_with_other_arithmetic_is_not_used(built, monkeypatch):
    """A processor (or compiler) whose multiply-add rounds twice: the kernel's own table is taken instead."""
    fill = Kernel.fill

    def off_by_a_bit(self, address, *arguments, level=kernel.BEST, **settings):
        fill(self, address, *arguments, level=level, **settings)
        if level != kernel.TABLE:
            torch.frombuffer((kernel.ctypes.c_char * 4).from_address(address), dtype=torch.int32).add_(1)

    monkeypatch.setattr(Kernel, "fill", off_by_a_bit)
    assert Augment(CIFAR, dtype=torch.float32, channels_last=True, with_kernel=built).how == "kernel table"
    pixels, index, places = some(4, 8, 8, 3, 3, 2)
    batch = made(built, pixels, index, places, CIFAR, dtype=torch.float32, channels_last=True, padding=2)
    assert torch.equal(batch, torch.from_numpy(reference(pixels, index, places, CIFAR, 2, "zeros")))


@pytest.mark.parametrize("how", ["kernel", "torch"])
@pytest.mark.parametrize("wrong", [-1, 4, 2**62, -(2**63)])
def test_an_index_out_of_range_is_refused(built, how, wrong):
    pixels, index, places = some(4, 8, 8, 3, 3, 2)
    index[1] = wrong
    with pytest.raises(IndexError):
        made(built if how == "kernel" else "off", pixels, index, places, CIFAR, dtype=torch.float32, channels_last=True, padding=2)


def test_an_offset_out_of_range_is_refused(built):
    pixels, index, places = some(4, 8, 8, 3, 3, 2)
    places.dy_B[2] = 5
    with pytest.raises(ValueError, match="offset"):
        made(built, pixels, index, places, CIFAR, dtype=torch.float32, channels_last=True, padding=2)


def test_arrays_that_do_not_fit_are_refused(built):
    pixels, index, places = some(4, 8, 8, 3, 3, 2)
    maker = Augment(CIFAR, dtype=torch.float32, channels_last=True, padding=2, with_kernel=built)
    good = torch.empty((3, 3, 8, 8), memory_format=torch.channels_last)
    maker.into(good, pixels, index, places)
    for out in (good.contiguous(), good[:2], good.bfloat16(), torch.empty((3, 3, 8, 7)).contiguous(memory_format=torch.channels_last)):
        with pytest.raises(ValueError):
            maker.into(out, pixels, index, places)
    for arrays in ((pixels[:, ::2], index, places), (pixels.astype(np.int16), index, places), (pixels, index.astype(np.int32), places)):
        with pytest.raises(ValueError):
            maker.into(good, *arrays)
    with pytest.raises(ValueError):
        maker.into(good, pixels, index, Places(dy_B=places.dy_B[:2], dx_B=places.dx_B, flip_B=places.flip_B))
    with pytest.raises(ValueError):
        maker.into(torch.empty((3, 1, 8, 8)), pixels[..., :1].copy(), index, places)


def test_impossible_padding_is_refused(built):
    with pytest.raises(BadValue):
        Augment(CIFAR, dtype=torch.float32, channels_last=True, padding=4, padding_mode="wrap")
    pixels, index, places = some(4, 4, 8, 3, 3, 4)
    with pytest.raises(BadValue):
        made(built, pixels, index, places, CIFAR, dtype=torch.float32, channels_last=True, padding=4, padding_mode="reflect")
    with pytest.raises(BadValue):
        Augment(CIFAR, dtype=torch.float16, channels_last=True)


def test_an_empty_batch_is_a_batch(built):
    pixels, index, _ = some(4, 8, 8, 3, 3, 2)
    assert made(built, pixels, index[:0], None, CIFAR, dtype=torch.float32, channels_last=False).shape == (0, 3, 8, 8)


def test_a_library_of_another_kind_is_not_loaded(tmp_path):
    (tmp_path / "broken.so").write_bytes(b"not a library")
    with pytest.raises(OSError):
        Kernel(tmp_path / "broken.so")
    if (cc := compiler()) is not None:
        (tmp_path / "other.c").write_text("int stoker_augment_version(void) { return 99; } int stoker_augment, stoker_augment_level;")
        subprocess.run([cc, "-shared", "-fPIC", "-o", str(tmp_path / "other.so"), str(tmp_path / "other.c")], check=True)
        with pytest.raises(OSError, match="version 99"):
            Kernel(tmp_path / "other.so")


def test_without_a_kernel_the_reason_is_kept():
    assert Augment(CIFAR, dtype=torch.float32, channels_last=True, with_kernel="no compiler").how == "torch: no compiler"
    assert isinstance(kernel.kernel(), (Kernel, str))


def test_what_cannot_be_compiled_runs_eagerly_and_says_why(monkeypatch):
    def broken(function, **settings):
        def call(*arguments):
            raise RuntimeError("no such compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    pixels, index, _ = some(6, 8, 8, 3, 4, 2)
    compiled = CompiledGather(True)
    plain = (torch.from_numpy(pixels), CIFAR.table(torch.float32), torch.from_numpy(index), None, None, None, 0, False, True)
    assert torch.equal(compiled(*plain), gathered(*plain))
    assert compiled.eager_because == "RuntimeError: no such compiler"


HARNESS = r"""
#include "augment.c"
#include <stdio.h>
static unsigned long long state = 88172645463325252ull;
static unsigned next(unsigned below) {
    state ^= state << 13; state ^= state >> 7; state ^= state << 17;
    return (unsigned)(state % below);
}
/* Every array is exactly as large as the contract says: a byte further is an error that the sanitizer reports. */
int main(void) {
    for (int turn = 0; turn < 3000; turn++) {
        int64_t channels = next(2) ? 3 : 1, height = 1 + next(20), width = 1 + next(40), images = 1 + next(3), count = next(4);
        int reflect = next(2), bf16 = next(2), last = next(2);
        int64_t least = height < width ? height : width, padding = next(reflect ? (unsigned)least : 9);
        size_t image = (size_t)(height * width * channels), n = (size_t)count, own = (size_t)images * image;
        uint8_t *pixels = malloc(own), *dy = malloc(n), *dx = malloc(n), *flip = malloc(n);
        int64_t *index = malloc(n * 8);
        float *scale = malloc((size_t)channels * 4), *bias = malloc((size_t)channels * 4), *table = malloc((size_t)channels * 1024);
        uint16_t *table_bf16 = malloc((size_t)channels * 512);
        void *out = malloc(n * image * (bf16 ? 2 : 4));
        for (size_t i = 0; i < own; i++) pixels[i] = (uint8_t)next(256);
        for (size_t i = 0; i < n; i++) {
            index[i] = next((unsigned)images); flip[i] = (uint8_t)next(2);
            dy[i] = (uint8_t)next((unsigned)(2 * padding + 1)); dx[i] = (uint8_t)next((unsigned)(2 * padding + 1));
        }
        for (int64_t c = 0; c < channels; c++) { scale[c] = 0.015625f; bias[c] = -2; }
        for (int64_t i = 0; i < channels * 256; i++) {
            table[i] = (float)(i % 256) * 0.015625f - 2; table_bf16[i] = bf16_of(table[i]);
        }
        int plain = next(4) == 0;
        for (int level = 0; level <= stoker_augment_level(); level++) {
            int code = stoker_augment(pixels, images, height, width, channels, index, count, plain ? 0 : dy, plain ? 0 : dx, plain ? 0 : flip,
                                      plain ? 0 : padding, reflect && !plain, scale, bias, table, table_bf16, out, bf16, last, level);
            if (code != 0 && code != NO_LEVEL) { printf("code %d\n", code); return 1; }
        }
        free(pixels); free(dy); free(dx); free(flip); free(index); free(scale); free(bias); free(table); free(table_bf16); free(out);
    }
    puts("fine");
    return 0;
}
"""


def test_c_stays_within_its_arrays(tmp_path):
    cc = compiler()
    if cc is None:
        pytest.skip("no C compiler")
    (tmp_path / "harness.c").write_text(HARNESS)
    program = tmp_path / "harness"
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{SOURCE.parent}"]
    build = subprocess.run([cc, *flags, "-o", str(program), str(tmp_path / "harness.c")], capture_output=True, text=True)
    if build.returncode and "sanitize" in build.stderr + build.stdout:
        pytest.skip("this compiler has no sanitizers")
    assert build.returncode == 0, build.stderr
    # The leak check needs ptrace, which containers often forbid.
    done = subprocess.run([str(program)], capture_output=True, text=True, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert done.stdout == "fine\n", done.stderr[-3000:]
