"""`resolve`: known answers, and that every answer keeps the rules, whatever is asked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.catalog import (
    Card,
    NoStack,
    Stack,
    Wishes,
    answer,
    cuda_versions,
    find_cuda,
    find_gpu,
    find_release,
    gpu_models,
    resolve,
    torch_releases,
)
from stoker.catalog.myths import myths_about
from stoker.catalog.resolution import question_of
from stoker.catalog.versions import older
from stoker.errors import BadValue


def card(name: str) -> Card:
    model = find_gpu(name)
    assert model is not None
    return Card(name=name, compute_capability=model.compute_capability)


def asked(
    *gpus: str,
    driver: str | None = None,
    torch: str | None = None,
    cuda: str | None = None,
    python: str | None = None,
    machine: str = "x86_64",
) -> Stack | NoStack:
    return resolve(Wishes(torch=torch, cuda=cuda, python=python), driver=driver, gpus=[card(name) for name in gpus], python=None, machine=machine)


def fits(found: Stack | NoStack) -> Stack:
    assert isinstance(found, Stack), found
    return found


def fails(found: Stack | NoStack) -> NoStack:
    assert isinstance(found, NoStack), found
    assert found.reasons
    assert all(reason.text and reason.source for reason in found.reasons)
    for near in found.nearest:
        assert answer(near.question) == near.stack
    return found


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "driver", "python", "machine", "torch", "variant", "says"),
    [
        ("H200", "595.71.05", "3.12", "x86_64", "2.15.0", "cu132", "full"),
        ("H200", "580.95.05", "3.12", "x86_64", "2.15.0", "cu132", "minor-version"),
        ("H200", "580.95.05", "3.10", "x86_64", "2.14.1", "cu130", "full"),
        ("A100", "570.26", "3.12", "x86_64", "2.14.1", "cu126", "full"),
        ("A100", "525.60.13", "3.12", "x86_64", "2.14.1", "cu126", "minor-version"),
        ("Tesla P100-PCIE-16GB", "580.95.05", "3.12", "x86_64", "2.14.1", "cu126", "full"),
        ("Tesla V100-SXM2-16GB", "580.95.05", "3.12", "x86_64", "2.14.1", "cu126", "full"),
        ("GTX 1080 Ti", "535.54.03", "3.11", "x86_64", "2.14.1", "cu126", "minor-version"),
        ("T4", "450.80.02", "3.10", "x86_64", "2.7.1", "cu118", "minor-version"),
        ("RTX 5090", "570.26", "3.12", "x86_64", "2.11.0", "cu128", "full"),
        ("RTX 5090", "580.65.06", "3.12", "x86_64", "2.15.0", "cu132", "minor-version"),
        ("K80", "470.42.01", "3.10", "x86_64", "2.4.1", "cu118", "minor-version"),
        ("GB10", "580.95.05", "3.12", "aarch64", "2.15.0", "cu132", "minor-version"),
        ("Thor", "580.95.05", "3.12", "aarch64", "2.15.0", "cu132", "minor-version"),
        ("H100", "580.95.05", "3.9", "x86_64", "2.8.0", "cu128", "full"),
        ("H100", "580.95.05", "3.13t", "x86_64", "2.12.0", "cu130", "full"),
        ("H100", "580.95.05", "3.8", "x86_64", "2.4.1", "cu121", "full"),
    ],
)
def test_the_newest_that_runs(gpu: str, driver: str, python: str, machine: str, torch: str, variant: str, says: str) -> None:
    stack = fits(asked(gpu, driver=driver, python=python, machine=machine))
    assert (stack.torch, stack.variant, stack.driver) == (torch, variant, says)


def test_a_volta_stays_with_cuda_12_8_up_to_2_10() -> None:
    stack = fits(asked("Tesla V100-SXM2-16GB", driver="580.95.05", cuda="12.8"))
    assert (stack.torch, stack.variant) == ("2.10.0", "cu128")
    # And the default index alone gives the same release, which the answer without a wish says.
    newest = fits(asked("Tesla V100-SXM2-16GB", driver="580.95.05"))
    assert any("torch 2.10.0 (cu128)" in note for note in newest.notes)
    assert not newest.default_index
    assert newest.command.endswith("--torch-backend=cu126")


def test_never_built_says_what_was_and_when_the_cuda_ended() -> None:
    found = fails(asked(torch="2.8", cuda="12.1"))
    told = " ".join(reason.text for reason in found.reasons)
    assert "never built for CUDA 12.1" in told
    assert "12.6, 12.8, 12.9" in told
    assert "ended with 2.5.1" in told
    near = {(option.stack.torch, option.stack.variant) for option in found.nearest}
    assert {("2.8.0", "cu128"), ("2.5.1", "cu121")} <= near


def test_a_blackwell_with_an_old_driver_is_told_which_to_install() -> None:
    found = fails(asked("RTX 5090", driver="550.54"))
    assert {"driver", "driver-knows-gpu", "code"} == {reason.rule for reason in found.reasons}
    assert any("570.26" in reason.text for reason in found.reasons)
    assert found.nearest[0].change.startswith("with NVIDIA driver 580.95.05")


def test_a_volta_with_a_driver_that_dropped_it_is_told_to_go_back() -> None:
    found = fails(asked("V100", driver="590.48.01"))
    assert "driver-dropped-gpu" in {reason.rule for reason in found.reasons}
    assert all(option.question.driver is not None and option.question.driver.startswith("580") for option in found.nearest)


def test_a_pascal_never_gets_cuda_13() -> None:
    found = fails(asked("P100", driver="580.95.05", cuda="13.0"))
    assert {reason.rule for reason in found.reasons} == {"code"}
    assert (found.nearest[0].stack.torch, found.nearest[0].stack.variant) == ("2.14.1", "cu126")


def test_forward_compatibility_is_for_data_centre_gpus_that_ask_for_it() -> None:
    stack = fits(asked("H100", driver="550.54.14", torch="2.15"))
    assert stack.driver == "forward"
    assert "cuda-compat-13-2" in stack.driver_says
    assert "driver" in {reason.rule for reason in fails(asked("RTX 4090", driver="550.54.14", torch="2.15")).reasons}
    # Without a wish there is something better.
    assert fits(asked("H100", driver="550.54.14")).driver == "minor-version"
    # A card that is not known may be no data-centre product.
    unknown = resolve(Wishes(torch="2.15"), driver="550.54.14", gpus=[Card(name=None, compute_capability=(9, 0))], python=None, machine="x86_64")
    assert isinstance(unknown, NoStack)
    # 450 is of CUDA 11: two majors away.
    fails(asked("T4", driver="450.80.02", torch="2.15"))


def test_jit_of_ptx_needs_the_driver_of_the_cuda() -> None:
    """torch 2.9 for CUDA 13.0 on aarch64 holds PTX of 12.0; a GPU that only PTX serves needs the full floor."""
    future = Card(name=None, compute_capability=(13, 0))
    new = fits(resolve(Wishes(torch="2.14", cuda="13.2"), driver="595.45.04", gpus=[future], python=None, machine="x86_64"))
    assert any("must translate" in note for note in new.notes)
    old = resolve(Wishes(torch="2.14", cuda="13.2"), driver="580.65.06", gpus=[future], python=None, machine="x86_64")
    assert isinstance(old, NoStack)
    assert {reason.rule for reason in old.reasons} == {"ptx"}


def test_a_jetson_of_the_old_line_gets_no_server_wheel() -> None:
    found = fails(asked("Jetson AGX Orin", driver="580.95.05", machine="aarch64"))
    assert found.nearest[-1].stack.variant == "cpu"


def test_two_gpus_that_have_nothing_in_common() -> None:
    found = fails(asked("V100", "RTX 5090", driver="580.95.05", torch="2.14"))
    assert any(option.change.startswith("for ") for option in found.nearest)
    # 2.8 to 2.10 for CUDA 12.8 run both.
    assert fits(asked("V100", "RTX 5090", driver="580.95.05")).variant == "cu128"


def test_without_gpu_and_driver_it_is_the_cpu() -> None:
    stack = fits(asked())
    assert (stack.variant, stack.cuda, stack.driver, stack.driver_min) == ("cpu", None, "not needed", None)
    assert stack.command.endswith("--torch-backend=cpu")
    # A wish for CUDA is a wish for CUDA all the same.
    wished = fits(asked(cuda="12.6"))
    assert (wished.variant, wished.driver, wished.driver_min) == ("cu126", "unchecked", "525.60.13")


def test_doubtful_builds_are_offered_to_a_wish_only() -> None:
    assert fits(asked("RTX 5090", driver="575.57.08")).torch == "2.11.0"
    stack = fits(asked("RTX 5090", driver="575.57.08", torch="2.13"))
    assert stack.variant == "cu129"
    assert any("third parties" in note for note in stack.notes)
    assert any("not seen" in note for note in stack.notes)


def test_the_wheel_that_was_uploaded_again_is_told() -> None:
    assert any("build tag" in note for note in fits(asked(torch="2.10.0", cuda="12.8")).notes)


def test_a_line_that_ended_is_told() -> None:
    assert any("2.7.1 is the last release for CUDA 11.8" in note for note in fits(asked(cuda="cu118")).notes)


def test_a_gpu_that_does_not_tell_its_capability_is_not_ruled_out_but_told() -> None:
    stack = resolve(Wishes(), driver="580.95.05", gpus=[Card(name="Mystery", compute_capability=None)], python=None, machine="x86_64")
    assert isinstance(stack, Stack)
    assert any("could not be checked" in note for note in stack.notes)


def test_a_local_version_is_a_wish_for_its_cuda() -> None:
    assert fits(asked(torch="2.8.0+cu126")).variant == "cu126"
    assert fits(asked(torch="2.8.0+cpu")).variant == "cpu"


@pytest.mark.parametrize(
    "wrong",
    [
        {"torch": "latest"},
        {"torch": "2.8.0+cu126", "cuda": "12.8"},
        {"cuda": "twelve"},
        {"cuda": "12"},
        {"python": "3"},
        {"python": "pypy3.10"},
        {"driver": "new"},
        {"driver": "550.54.14.1.2"},
        {"machine": "riscv64"},
        {"machine": ""},
    ],
)
def test_malformed_questions_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(BadValue):
        asked(**wrong)


def test_unknown_releases_and_cudas_are_answered() -> None:
    assert {reason.rule for reason in fails(asked(torch="1.13")).reasons} == {"unknown-release"}
    assert "no CUDA 12.7 is known" in fails(asked(cuda="12.7")).reasons[0].text
    assert "no PyTorch from 2.0 on was built for CUDA 12.3" in fails(asked(cuda="12.3")).reasons[0].text


def test_myths_are_told_to_who_may_hold_them() -> None:
    def told(wishes: Wishes, driver: str | None = None) -> str:
        return " ".join(myth.says for myth in myths_about(question_of(wishes, driver=driver, gpus=(), python=None, machine="x86_64")))

    assert "2.8 comes for CUDA 11.8" in told(Wishes(torch="2.8.0", cuda="cu118"))
    assert "2.7 is for CUDA 11.8" in told(Wishes(torch="2.7.1"))
    assert "nvidia-smi" in told(Wishes(cuda="12.2"), driver="535.104.05")
    assert "nvidia-smi" not in told(Wishes(cuda="12.6"), driver="535.104.05")
    assert told(Wishes(torch="2.14")) == ""


# --- whatever is asked ------------------------------------------------------------------------------------------------

_DRIVERS = [
    None,
    "418.39",
    "450.80.02",
    "470.42.01",
    "525.60.13",
    "535.104.05",
    "550",
    "550.54",
    "570.26",
    "575.57.08",
    "580.65.06",
    "590.48.01",
    "610.1",
]
_CARDS = [Card(name=model.name, compute_capability=model.compute_capability) for model in gpu_models()] + [
    Card(name=None, compute_capability=None),
    Card(name="GPU of tomorrow", compute_capability=(13, 0)),
    Card(name="Tesla M2090", compute_capability=(2, 0)),
]
_TORCHES = [None, "1.13", "2.8", "2.99", *(release.version for release in torch_releases())]
_CUDAS = [None, "cpu", "10.2", "12.7", *(cuda.version for cuda in cuda_versions())]
_PYTHONS = [None, "2.7", "3.8", "3.9", "3.10", "3.12", "3.13t", "3.14", "3.15", "3.15t"]


def runs_independently(codes: tuple[str, ...], ptx: bool | None, capability: tuple[int, int]) -> bool:
    """The rule once more, in other words: 10 * major + minor, and whole decades."""
    wanted = capability[0] * 10 + capability[1]
    numbers = [int(code) for code in codes]
    if wanted in (53, 62, 72, 87, 110):
        return wanted in numbers or (bool(ptx) and max(numbers) <= wanted)
    return any(number // 10 == wanted // 10 and number <= wanted for number in numbers) or (bool(ptx) and max(numbers) <= wanted)


@settings(max_examples=200, deadline=None)
@given(
    torch=st.sampled_from(_TORCHES),
    cuda=st.sampled_from(_CUDAS),
    python=st.sampled_from(_PYTHONS),
    driver=st.sampled_from(_DRIVERS),
    cards=st.lists(st.sampled_from(_CARDS), max_size=3),
    machine=st.sampled_from(["x86_64", "aarch64"]),
)
def test_every_answer_keeps_the_rules(
    torch: str | None, cuda: str | None, python: str | None, driver: str | None, cards: list[Card], machine: str
) -> None:
    found = resolve(Wishes(torch=torch, cuda=cuda, python=python), driver=driver, gpus=cards, python=None, machine=machine)
    if isinstance(found, NoStack):
        fails(found)
        assert found.nearest, "the CPU is always left"
        return
    release = find_release(found.torch)
    assert release is not None
    assert torch is None or found.torch == torch or found.torch.startswith(torch + ".")
    assert python is None or python in release.pythons
    assert found.torchvision in release.torchvision
    if found.variant == "cpu":
        assert cuda == "cpu" or (cuda is None and driver is None and not cards)
        return
    variant, full = release.variant(found.variant), find_cuda(found.cuda or "")
    assert variant is not None
    assert full is not None
    assert cuda in (None, found.cuda)
    assert machine in variant.machines
    for one in cards:
        if one.compute_capability:
            assert runs_independently(*variant.code(machine), one.compute_capability)
    if driver is not None and found.driver == "forward":
        assert older(driver, full.driver_min)
        assert cards
        assert all(model is not None and model.datacentre for model in (find_gpu(one.name or "") for one in cards))
    elif driver is not None:
        assert not older(driver, full.driver_min)
        assert (found.driver == "full") == (not older(driver, full.driver_full))
        for one in cards:
            if one.compute_capability in ((10, 0), (12, 0)):
                assert not older(driver, "570.26")
            if one.compute_capability and one.compute_capability < (7, 5):
                assert int(driver.split(".")[0]) <= 580


@settings(max_examples=60, deadline=None)
@given(driver=st.sampled_from(_DRIVERS), one=st.sampled_from(_CARDS), python=st.sampled_from(_PYTHONS))
def test_nothing_newer_that_is_sure_would_fit(driver: str | None, one: Card, python: str | None) -> None:
    found = resolve(Wishes(python=python), driver=driver, gpus=[one], python=None, machine="x86_64")
    for release in torch_releases():
        if isinstance(found, Stack) and release.version == found.torch:
            break
        for variant in release.variants:
            again = resolve(Wishes(torch=release.version, cuda=variant.cuda, python=python), driver=driver, gpus=[one], python=None, machine="x86_64")
            if isinstance(again, Stack):
                assert again.driver == "forward" or "unverified" in (variant.evidence, variant.architectures_evidence)
