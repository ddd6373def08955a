"""What a wheel's file name says, and which one fits an image best."""

from __future__ import annotations

import pytest

from stoker.image.tags import Target, normalised, parsed

TRIXIE = Target(python="3.13.5", machine="x86_64", glibc=(2, 41))
BOOKWORM = Target(python="3.11.2", machine="x86_64", glibc=(2, 36))


def best(target: Target, *tags: str) -> str | None:
    ranks = {tag: name.rank(target) for tag in tags if (name := parsed(f"thing-1.0-{tag}.whl"))}
    fitting = {tag: rank for tag, rank in ranks.items() if rank is not None}
    return max(fitting, key=lambda tag: fitting[tag]) if fitting else None


@pytest.mark.parametrize(
    ("file", "name", "version", "build"),
    [
        ("torch-2.7.1+cu126-cp313-cp313-manylinux_2_28_x86_64.whl", "torch", "2.7.1+cu126", (0, "")),
        ("MarkupSafe-3.0.2-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "markupsafe", "3.0.2", (0, "")),
        ("ruamel.yaml_x-1.0-12abc-py2.py3-none-any.whl", "ruamel-yaml-x", "1.0", (12, "abc")),
    ],
)
def test_a_name_is_taken_apart(file: str, name: str, version: str, build: tuple[int, str]) -> None:
    found = parsed(file)
    assert found
    assert (found.name, found.version, found.build) == (name, version, build)


@pytest.mark.parametrize(
    "file", ["torch-2.7.1.tar.gz", "torch.whl", "torch-1-py3-none.whl", "a/torch-1-py3-none-any.whl", "torch-1-py3-none-any.whl.metadata", ""]
)
def test_what_is_no_wheel(file: str) -> None:
    assert parsed(file) is None


@pytest.mark.parametrize("tag", ["py3-none-any", "py2.py3-none-any", "cp313-cp313-manylinux_2_41_x86_64", "cp313-none-any", "py3-none-linux_x86_64"])
def test_what_fits_trixie(tag: str) -> None:
    assert best(TRIXIE, tag)


@pytest.mark.parametrize(
    "tag",
    [
        "py2-none-any",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp314-cp314-manylinux_2_28_x86_64",
        "cp313-cp313t-manylinux_2_28_x86_64",
        "cp314-abi3-manylinux_2_28_x86_64",
        "cp313-cp313-manylinux_2_42_x86_64",
        "cp313-cp313-manylinux_2_28_aarch64",
        "cp313-cp313-musllinux_1_2_x86_64",
        "cp313-cp313-win_amd64",
        "cp313-cp313-macosx_11_0_arm64",
        "py314-none-any",
        "pp310-pypy310_pp73-manylinux_2_28_x86_64",
        "cp312-none-any",
    ],
)
def test_what_does_not_fit_trixie(tag: str) -> None:
    assert best(TRIXIE, tag) is None


def test_the_glibc_of_the_suite_decides() -> None:
    tags = ("cp311-cp311-manylinux_2_39_x86_64", "cp311-cp311-manylinux_2_36_x86_64", "cp311-cp311-manylinux2014_x86_64")
    assert best(BOOKWORM, *tags) == tags[1]
    assert best(BOOKWORM, tags[0]) is None


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("cp313-cp313-manylinux_2_17_x86_64", "cp39-abi3-manylinux_2_34_x86_64"),
        ("cp312-abi3-manylinux_2_17_x86_64", "cp39-abi3-manylinux_2_17_x86_64"),
        ("cp39-abi3-manylinux_2_17_x86_64", "py3-none-manylinux_2_17_x86_64"),
        ("py3-none-manylinux_2_17_x86_64", "py3-none-any"),
        ("cp313-cp313-manylinux_2_28_x86_64", "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        ("cp313-cp313-manylinux_2_5_x86_64.manylinux1_x86_64", "cp313-cp313-linux_x86_64"),
    ],
)
def test_the_closer_wheel_is_better(better: str, worse: str) -> None:
    assert best(TRIXIE, worse, better) == best(TRIXIE, better, worse) == better


def test_the_newer_build_is_better() -> None:
    assert best(TRIXIE, "2-py3-none-any", "10-py3-none-any") == "10-py3-none-any"


def test_names_are_normalised() -> None:
    assert normalised("Foo__Bar.-baz") == "foo-bar-baz"
