"""Which stack a container takes, on written-down drivers and GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stoker.catalog import Card
from stoker.errors import ImageBroken, StackUnfit, UnknownName, UsageError
from stoker.start.choice import Choice, Wanted, choose, no_card
from stoker.start.driver import Seen, visible
from stoker.start.image import Image, ImageStack, read_image
from stoker.start.stack import in_use, remembered, use, wanted_stack

NEW = ImageStack(name="cu130", torch="2.13.0", cuda="13.0")
OLD = ImageStack(name="cu126", torch="2.13.0", cuda="12.6")
CPU = ImageStack(name="cpu", torch="2.13.0", cuda=None)
PLAIN = ImageStack(name="plain", torch=None, cuda=None)

V100 = Card(name="Tesla V100-SXM2-16GB", compute_capability=(7, 0))
H100 = Card(name="NVIDIA H100 80GB HBM3", compute_capability=(9, 0))
K80 = Card(name="Tesla K80", compute_capability=(3, 7))


def image(*stacks: ImageStack) -> Image:
    return Image(name="lab", machine="x86_64", variants=("cli",), stacks=stacks or (NEW, OLD))


@pytest.mark.parametrize(
    ("seen", "name", "why"),
    [
        (Seen(driver="580.95.05", cards=(H100,)), "cu130", "driver 580.95.05, NVIDIA H100"),
        (Seen(driver="550.54.14", cards=(H100,)), "cu126", "not cu130: CUDA 13 needs driver 580"),
        (Seen(driver="525.60.13", cards=(H100, H100)), "cu126", "2 x NVIDIA H100"),
        (Seen(driver="580.95.05", cards=(V100,)), "cu126", "Tesla V100"),
        (Seen(), "cu130", "on the CPU: there is no NVIDIA driver or GPU here"),
        (Seen(boards=2), "cu130", "2 NVIDIA cards here, but no driver is loaded"),
        (Seen(driver="470.57.02"), "cu130", "no GPU is given to what runs here"),
        (Seen(driver="580.95.05", hidden=1), "cu130", "CUDA_VISIBLE_DEVICES hides every GPU"),
        # Nothing is known of the GPUs: the driver alone decides.
        (Seen(driver="550.54.14", trouble="NVML says 999"), "cu126", "GPUs that could not be asked"),
        (Seen(driver="580.95.05", cards=(Card(name=None, compute_capability=None),)), "cu130", "compute capability unknown"),
    ],
)
def test_the_newest_stack_that_runs(seen: Seen, name: str, why: str) -> None:
    choice = choose(image(), seen)
    assert choice.stack.name == name
    assert why in choice.why
    assert "\n" not in choice.why


def test_none_runs_says_what_would() -> None:
    with pytest.raises(StackUnfit) as caught:
        choose(image(), Seen(driver="515.43.04", cards=(H100,)))
    for text in ("driver 515.43.04", "cu130", "cu126", "525.60.13"):
        assert text in caught.value.message
    assert "driver 525.60.13 or newer on the host runs cu126" in caught.value.hint
    assert "STOKER_STACK=cu130" in caught.value.hint


def test_a_gpu_that_no_driver_helps_is_told_which_image_would() -> None:
    with pytest.raises(StackUnfit) as caught:
        choose(image(NEW), Seen(driver="550.54.14", cards=(V100,)))
    assert "driver 5" not in caught.value.hint.partition(";")[0] or "or newer" not in caught.value.hint
    assert "build an image with torch" in caught.value.hint


def test_a_gpu_older_than_all_that_is_built() -> None:
    with pytest.raises(StackUnfit) as caught:
        choose(image(), Seen(driver="470.256.02", cards=(K80,)))
    assert "Tesla K80 (compute capability 3.7)" in caught.value.message


def test_cards_of_two_ages_take_the_stack_of_both() -> None:
    choice = choose(image(), Seen(driver="580.95.05", cards=(V100, H100)))
    assert (choice.stack.name, choice.warnings) == ("cu126", ())


def test_cards_that_no_stack_has_in_common_are_warned_about() -> None:
    choice = choose(image(NEW), Seen(driver="580.95.05", cards=(V100, H100)))
    assert choice.stack is NEW
    assert ["V100" in text for text in choice.warnings] == [True]


def test_the_stack_for_the_cpu_is_the_last_resort() -> None:
    choice = choose(image(NEW, CPU), Seen(driver="470.57.02", cards=(H100,)))
    assert choice.stack is CPU
    assert "on the CPU, although there is NVIDIA H100" in choice.why
    assert "not cu130" in choice.why


def test_without_pytorch_nothing_speaks_against_a_stack() -> None:
    choice = choose(image(PLAIN), Seen(driver="470.57.02", cards=(K80,)))
    assert (choice.stack, choice.why) == (PLAIN, "nothing in it needs a GPU")


def test_by_hand_goes_before_what_fits_and_is_warned_about() -> None:
    choice = choose(image(), Seen(driver="550.54.14", cards=(H100,)), Wanted(name="cu130", by="STOKER_STACK"))
    assert choice.stack is NEW
    assert "STOKER_STACK" in choice.why
    assert ["580" in text for text in choice.warnings] == [True]
    fine = choose(image(), Seen(driver="580.95.05", cards=(H100,)), Wanted(name="cu126", by="STOKER_STACK"))
    assert (fine.stack, fine.warnings) == (OLD, ())
    assert choose(image(), Seen(), Wanted(name="cu126", by="x")).warnings == ()


def test_by_hand_a_name_that_is_not_there() -> None:
    with pytest.raises(UnknownName, match=r"'cu136'.*; the nearest is 'cu1"):
        choose(image(), Seen(), Wanted(name="cu136", by="STOKER_STACK"))


def test_trouble_with_one_gpu_is_a_warning() -> None:
    choice: Choice = choose(image(), Seen(driver="580.95.05", cards=(H100,), trouble="a GPU is lost or gives no answer"))
    assert choice.stack is NEW
    assert choice.warnings == ("the GPUs could not be asked in full: a GPU is lost or gives no answer",)


@pytest.mark.parametrize(
    ("seen", "stacks", "wanted", "why"),
    [
        (Seen(), (NEW,), None, "there is no NVIDIA driver or GPU here"),
        (Seen(), (PLAIN,), None, "there is no NVIDIA driver or GPU here"),
        (Seen(boards=1), (NEW,), None, "1 NVIDIA card here, but no driver is loaded"),
        (Seen(driver="580.95.05"), (NEW,), None, "no GPU is given to what runs here"),
        (Seen(driver="580.95.05", hidden=2), (NEW,), None, "CUDA_VISIBLE_DEVICES hides every GPU"),
        (Seen(driver="580.95.05", trouble="NVML says 999"), (NEW,), None, "the GPUs could not be asked: NVML says 999"),
        (Seen(driver="550.54.14", cards=(H100,)), (NEW, OLD), "cu130", "CUDA 13 needs driver 580"),
        (Seen(driver="580.95.05", cards=(V100, V100)), (NEW, OLD), "cu130", "Tesla V100"),
        (
            Seen(driver="470.57.02", cards=(H100,)),
            (NEW, CPU),
            None,
            "is cpu (torch 2.13.0, CPU): on the CPU, although there is NVIDIA H100",
        ),
    ],
)
def test_why_programs_can_use_no_gpu(seen: Seen, stacks: tuple[ImageStack, ...], wanted: str | None, why: str) -> None:
    found = choose(image(*stacks), seen, Wanted(name=wanted, by="STOKER_STACK") if wanted else None).without_gpu
    assert found is not None
    assert why in found
    assert "\n" not in found
    assert not found.endswith(".")


@pytest.mark.parametrize(
    ("seen", "stacks"),
    [
        (Seen(driver="580.95.05", cards=(H100,)), (NEW,)),
        (Seen(driver="580.95.05", cards=(V100, H100)), (NEW,)),
        (Seen(driver="580.95.05", cards=(H100,), trouble="a GPU is lost or gives no answer"), (NEW,)),
        # What is beside PyTorch in an image may well use a GPU.
        (Seen(driver="470.57.02", cards=(K80,)), (PLAIN,)),
    ],
)
def test_one_gpu_that_programs_can_use_is_enough(seen: Seen, stacks: tuple[ImageStack, ...]) -> None:
    assert choose(image(*stacks), seen).without_gpu is None
    assert no_card(seen) is None


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (None, (V100, H100)),
        ("", ()),
        ("-1", ()),
        ("GPU-2", (H100,)),
        ("GPU-1,GPU-2", (V100, H100)),
        # CUDA's numbers are not NVML's.
        ("0", (V100, H100)),
        ("MIG-77", (V100, H100)),
    ],
)
def test_what_cuda_visible_devices_leaves(wanted: str | None, left: tuple[Card, ...]) -> None:
    assert visible([("GPU-1", V100), ("GPU-2", H100)], wanted) == left


def test_numbers_count_where_all_gpus_are_alike() -> None:
    assert visible([("GPU-1", H100), ("GPU-2", H100), ("GPU-3", H100)], "0,2,7") == (H100, H100)


# --- what the image says --------------------------------------------------------------------------------------------


def written(root: Path, text: str) -> Path:
    (root / "etc/stoker").mkdir(parents=True)
    (root / "etc/stoker/image.json").write_text(text)
    return root


TOLD = {"name": "lab", "machine": "x86_64", "variants": ["cli"], "stacks": [{"name": "cu130", "torch": "2.13.0", "cuda": "13.0", "ptx": True}]}


def test_an_image_is_read(tmp_path: Path) -> None:
    found = read_image(written(tmp_path, json.dumps(TOLD)))
    assert found == Image(name="lab", machine="x86_64", variants=("cli",), stacks=(NEW,))
    assert found.stacks[0].says == "cu130 (torch 2.13.0, CUDA 13.0)"
    assert (CPU.says, PLAIN.says) == ("cpu (torch 2.13.0, CPU)", "plain (no PyTorch)")


def test_outside_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not inside an image of Stoker"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "\x00",
        json.dumps(TOLD | {"stacks": []}),
        json.dumps(TOLD | {"stacks": [{"name": 3}]}),
        json.dumps(TOLD | {"name": ""}),
    ],
)
def test_a_broken_file_of_the_image(text: str, tmp_path: Path) -> None:
    with pytest.raises(ImageBroken, match=r"etc/stoker/image\.json"):
        read_image(written(tmp_path, text))


# --- by hand --------------------------------------------------------------------------------------------------------


def test_use_is_remembered_and_forgotten(tmp_path: Path) -> None:
    here = image()
    use(here, "cu126", tmp_path)
    assert wanted_stack(here, {}, tmp_path) == Wanted(name="cu126", by="`stoker stack use`")
    assert wanted_stack(here, {"STOKER_STACK": "cu130"}, tmp_path) == Wanted(name="cu130", by="STOKER_STACK")
    assert in_use(here, {"STOKER_STACK_CHOSEN": "cu130"}, tmp_path) == Wanted(name="cu126", by="`stoker stack use`")
    use(here, "auto", tmp_path)
    use(here, "auto", tmp_path)
    assert wanted_stack(here, {}, tmp_path) is None
    assert in_use(here, {"STOKER_STACK_CHOSEN": "cu130"}, tmp_path) == Wanted(name="cu130", by="the start of the container")
    assert in_use(here, {}, tmp_path) is None


def test_use_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no stack 'cu12'"):
        use(image(), "cu12", tmp_path)
    assert not remembered(tmp_path).exists()


@pytest.mark.parametrize("kept", [b"", b"cu999\n", b"../../bin\n", b"\xff\xfe"])
def test_what_another_image_left_in_the_home_counts_for_nothing(kept: bytes, tmp_path: Path) -> None:
    remembered(tmp_path).parent.mkdir()
    remembered(tmp_path).write_bytes(kept)
    assert wanted_stack(image(), {}, tmp_path) is None
