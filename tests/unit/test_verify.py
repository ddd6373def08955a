"""The verdicts of `stoker verify`, on written-down measurements: nothing here is timed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from stoker.bench.ceilings import Ceilings, better
from stoker.bench.comparison import compare
from stoker.bench.page import page
from stoker.bench.readings import Check, Device, Neighbours, Reading, Verification, read_verification, worst
from stoker.bench.verdicts import appetite, cores_needed, doubted, drifts, judge_compute, judge_feeding, judge_handshake
from stoker.errors import ReportBroken

CPU = Device(kind="cpu", index=0, name="A CPU", memory_bytes=2**34, capability=None, cores=2, threads=2, model=None, sheet={}, sheet_source="")
SHEET = {"bandwidth": 3.35e12, "fp32": 67e12, "tf32": 494e12, "bf16": 989e12, "fp16": 989e12, "link": 63e9}
GPU = Device(
    kind="cuda",
    index=0,
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=80 * 2**30,
    capability=(9, 0),
    cores=16,
    threads=16,
    model="H100 SXM",
    sheet=SHEET,
    sheet_source="data sheet, checked 2026-11-20",
)
QUIET = Neighbours(load=0.1, others_cores=0.0, stolen_cores=0.0, machine_cores=2, busiest=(), gpu_processes=(), gpu_busy=None)


def rate(name: str, value: float, unit: str = "TFLOP/s", **more: Any) -> Reading:
    facts = more.pop("facts", {})
    return Reading(name=name, title=name, unit=unit, value=value, low=value * 0.98, high=value * 1.01, n=5, facts=facts, **more)


def ceilings() -> Ceilings:
    return Ceilings(readings=(rate("compute.bandwidth.copy", 2800.0, "GB/s"), rate("compute.matrix.bf16.mm", 700.0)))


def resnet(value: float, images_per_s: float, layout: str = "channels_last", ceiling: float = 200.0) -> Reading:
    facts = {"batch": 64, "precision": "bf16", "layout": layout, "images_per_s": images_per_s}
    return rate(f"compute.resnet50.bf16.{layout}", value, ceiling=ceiling, facts=facts)


def loader(kind: str, key: str, value: float, **facts: Any) -> Reading:
    return rate(f"feeding.{kind}.{key}", value, "images/s", facts={"batch": 64, "workers": 0, **facts})


def verification(checks: tuple[Check, ...] = (), device: Device = GPU, **more: Any) -> Verification:
    plain: dict[str, Any] = {"stoker": "0.1", "made": "2026-11-21T10:00:00+00:00", "seconds": 50.0, "quick": False, "host": "h", "system": "Debian"}
    plain["versions"] = {"torch": "2.13"}
    return Verification(**(plain | more), device=device, neighbours=QUIET, notices=(), checks=checks)


def whole(device: Device = GPU) -> Verification:
    """A verification with every kind of verdict in it."""
    handshake = judge_handshake(
        [
            Reading(name="handshake.seen", title="Device seen", value=1.0),
            Reading(name="handshake.matrix.fp32", title="Matrix product", unit="error", value=1e-7, ceiling=1e-5),
            Reading(name="handshake.versions", title="Versions", skipped="not inside a container"),
        ]
    )
    computed = [*ceilings().readings, resnet(100.0, 2400.0), resnet(20.0, 480.0, "contiguous")]
    fed = [loader("synthetic", "stoker", 9000.0), loader("jpeg", "best workers", 800.0, workers=8), loader("jpeg", "stoker", 900.0, cores=15.8)]
    return verification((handshake, judge_feeding(fed, device, appetite(computed)), judge_compute(computed, device, ceilings())), device)


# --- handshake --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.0, "ok"), (1e-6, "ok"), (1.1e-5, "wrong"), (0.5, "wrong"), (math.nan, "wrong"), (math.inf, "wrong")]
)
def test_an_error_is_held_against_what_rounding_allows(value: float, verdict: str) -> None:
    check = judge_handshake([Reading(name="handshake.matrix.fp32", title="Matrix", unit="error", value=value, ceiling=1e-5)])
    assert check.verdict == verdict
    assert verdict == "ok" or "do not train" in check.hint


def test_one_number_that_an_all_reduce_gets_wrong_is_wrong() -> None:
    check = judge_handshake([Reading(name="handshake.all_reduce", title="All-reduce", unit="error", value=1.0, ceiling=0.0)])
    assert (check.verdict, check.readings[0].why) == ("wrong", "1 numbers are wrong")


def test_a_gpu_that_torch_cannot_use_is_wrong_and_the_hint_walks_the_chain() -> None:
    check = judge_handshake([Reading(name="handshake.seen", title="Device seen", failed="this machine has an NVIDIA GPU and ...")])
    assert check.verdict == "wrong"
    assert "stoker doctor --why cuda" in check.hint


def test_a_missing_cudnn_is_low_and_other_versions_than_the_lock_are_wrong() -> None:
    assert judge_handshake([Reading(name="handshake.cudnn", title="cuDNN", failed="cannot be used")]).verdict == "low"
    assert judge_handshake([Reading(name="handshake.versions", title="Versions", failed="torch is 2.8, locked 2.13")]).verdict == "wrong"


# --- compute ----------------------------------------------------------------------------------------------------------


def test_a_gpu_is_held_against_its_data_sheet() -> None:
    good = judge_compute([rate("compute.bandwidth.copy", 2800.0, "GB/s"), rate("compute.matrix.bf16.mm", 700.0)], GPU, ceilings())
    assert good.verdict == "ok"
    slow = judge_compute([rate("compute.bandwidth.copy", 2800.0, "GB/s"), rate("compute.matrix.bf16.mm", 300.0)], GPU, ceilings())
    assert slow.verdict == "low"
    assert "30% of the data sheet" in slow.sentence


def test_a_gpu_that_the_catalogue_does_not_know_gets_no_verdict_from_a_sheet() -> None:
    unknown = dataclasses.replace(GPU, model=None, sheet={})
    check = judge_compute([rate("compute.matrix.bf16.mm", 1.0)], unknown, ceilings())
    assert check.readings[0].verdict == "noted"
    assert check.readings[0].ceiling is None


def test_only_the_best_layout_of_a_precision_is_judged() -> None:
    check = judge_compute([resnet(100.0, 2400.0), resnet(20.0, 480.0, "contiguous")], GPU, ceilings())
    assert [reading.verdict for reading in check.readings] == ["ok", "noted"]
    assert "5.0 times slower than channels_last" in check.readings[1].why
    low = judge_compute([resnet(30.0, 700.0), resnet(20.0, 480.0, "contiguous")], GPU, ceilings())
    assert low.verdict == "low"


def test_a_cpu_is_its_own_yardstick() -> None:
    found = Ceilings(
        readings=(rate("compute.matrix.fp32.mm", 0.2), rate("compute.matrix.fp32.conv", 0.5), rate("compute.bandwidth.copy", 40.0, "GB/s"))
    )
    check = judge_compute(list(found.readings), CPU, found)
    assert {reading.verdict for reading in check.readings} == {"noted"}
    assert check.readings[0].share == pytest.approx(0.4)
    assert worst([check.verdict]) == "noted"


def test_a_part_that_failed_is_low_and_says_why() -> None:
    check = judge_compute([Reading(name="compute.resnet50.failed", title="ResNet-50", failed="not even a batch of 2 fits")], GPU, ceilings())
    assert check.verdict == "low"
    assert "not even a batch of 2 fits" in check.sentence


def test_drift_of_the_ceilings_is_said_and_the_better_value_kept() -> None:
    first = Ceilings(readings=(rate("compute.matrix.bf16.mm", 700.0), rate("compute.bandwidth.copy", 2800.0, "GB/s")))
    second = Ceilings(readings=(rate("compute.matrix.bf16.mm", 500.0), rate("compute.bandwidth.copy", 2810.0, "GB/s")))
    merged = better(first, second)
    assert [reading.value for reading in merged.readings] == [700.0, 2810.0]
    assert "29%" in drifts(merged)[0]
    assert drifts(better(first, first)) == []


def test_low_on_a_busy_machine_is_doubted_and_wrong_is_not() -> None:
    low = judge_compute([rate("compute.matrix.bf16.mm", 300.0)], GPU, ceilings())
    assert doubted(low).hint.startswith("first run it again on a quiet machine")
    wrong = judge_handshake([Reading(name="handshake.seen", title="Device seen", failed="no")])
    assert doubted(wrong) == wrong


# --- feeding ----------------------------------------------------------------------------------------------------------


def test_a_loader_that_starves_the_gpu_is_low_and_names_the_cores() -> None:
    eats = appetite([resnet(100.0, 2400.0)])
    assert eats is not None
    readings = [loader("jpeg", "best workers", 700.0, workers=16), loader("jpeg", "stoker", 900.0, cores=15.0)]
    check = judge_feeding(readings, GPU, eats)
    assert check.verdict == "low"
    assert check.sentence == "The loader gives 900 images/s, the GPU eats 2,400: it will starve. About 40 cores are needed, there are 16."
    assert [reading.verdict for reading in check.readings] == ["noted", "low"]


def test_a_loader_that_keeps_up_is_ok() -> None:
    check = judge_feeding([loader("jpeg", "stoker", 3000.0, cores=12.0)], GPU, appetite([resnet(100.0, 2400.0)]))
    assert (check.verdict, check.sentence) == ("ok", "The loader gives 3,000 images/s, the GPU eats 2,400: it stays fed.")


def test_on_a_cpu_loader_and_training_share_the_cores() -> None:
    check = judge_feeding([loader("jpeg", "stoker", 1000.0, cores=2.0)], CPU, appetite([resnet(0.5, 20.0)]))
    assert check.verdict == "ok"
    assert "feeding takes 2% of its time" in check.sentence


def test_without_an_appetite_nothing_is_judged() -> None:
    check = judge_feeding([loader("jpeg", "stoker", 1000.0)], GPU, None)
    assert check.verdict == "noted"
    assert "could not be measured" in check.sentence


def test_shared_memory_that_is_too_small_is_low_with_the_flag_that_helps() -> None:
    failed = Reading(
        name="feeding.jpeg.best workers", title="DataLoader", unit="images/s", failed="/dev/shm has 64 MB free; 2 workers can fill 270 MB"
    )
    check = judge_feeding([failed, loader("jpeg", "stoker", 3000.0)], GPU, appetite([resnet(100.0, 2400.0)]))
    assert check.verdict == "low"
    assert "--shm-size" in check.hint
    assert "/dev/shm has 64 MB" in check.sentence


def test_pinned_copies_are_held_against_the_link() -> None:
    slow = rate("feeding.copy.pinned", 6.0, "GB/s", ceiling=63.0)
    assert judge_feeding([slow, loader("jpeg", "stoker", 9000.0)], GPU, appetite([resnet(100.0, 2400.0)])).verdict == "low"
    assert judge_feeding([dataclasses.replace(slow, value=55.0)], GPU, None).verdict == "ok"


def test_cores_needed_takes_worker_processes_for_busy_cores() -> None:
    assert cores_needed(loader("jpeg", "best workers", 800.0, workers=8), 800.0, GPU, 2400.0) == 24
    assert cores_needed(loader("jpeg", "best workers", 800.0, workers=64), 800.0, GPU, 2400.0) == 48  # no more than there are cores


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_exit_code_is_the_worst_verdict() -> None:
    assert whole().exit_code == 1
    check = whole().checks[0]
    assert verification((check,)).exit_code == 0
    assert verification((check, dataclasses.replace(check, verdict="wrong"), dataclasses.replace(check, verdict="low"))).exit_code == 2
    assert verification((dataclasses.replace(check, verdict="skipped"),)).exit_code == 0


def test_json_and_back_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps(whole().as_dict()))
    assert read_verification(path) == whole()


def damaged() -> dict[str, Any]:
    """Ways in which a file can be no verification, each with what its error says."""
    good = whole().as_dict()
    check = good["checks"][0]
    return {
        "no JSON": "{",
        "nested too deeply": "[" * 100_000,
        "no object": [1, 2],
        "something else": {"a": 1},
        "another format": good | {"format": 99},
        "no format": {key: value for key, value in good.items() if key != "format"},
        "a field missing": {key: value for key, value in good.items() if key != "device"},
        "a text for a number": good | {"seconds": "long"},
        "null for a number": good | {"seconds": None},
        "checks are no list": good | {"checks": {"a": 1}},
        "a check is no object": good | {"checks": [1]},
        "a reading is damaged": good | {"checks": [check | {"readings": [{"name": 3}]}]},
        "NaN for a rate": good | {"checks": [check | {"readings": [check["readings"][0] | {"value": math.nan}]}]},
        "device is null": good | {"device": None},
        "an unknown verdict": good | {"checks": [check | {"verdict": "splendid"}]},
    }


@pytest.mark.parametrize("kind", list(damaged()))
def test_a_file_that_is_no_verification_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    content = damaged()[kind]
    path = tmp_path / "old.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ReportBroken) as caught:
        read_verification(path)
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 50


def test_a_file_that_is_not_there_a_folder_and_binary_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "binary"):
        with pytest.raises(ReportBroken):
            read_verification(path)


# --- comparison -------------------------------------------------------------------------------------------------------


def changed(old: Reading, new: Reading, **more: Any) -> Any:
    def around(reading: Reading, **given: Any) -> Verification:
        return verification((Check(name="compute", title="Compute", verdict="ok", sentence="", hint="", readings=(reading,)),), **given)

    return compare(around(old), around(new, **more))


def test_a_rate_beyond_both_spreads_is_a_change_and_one_within_is_none() -> None:
    assert changed(rate("a", 100.0), rate("a", 80.0)).beyond[0].ratio == pytest.approx(0.8)
    assert changed(rate("a", 100.0), rate("a", 98.5)).beyond == ()
    assert changed(rate("a", 100.0), rate("a", 104.0)).beyond == ()  # apart, and too little to say
    wide = dataclasses.replace(rate("a", 80.0), low=60.0, high=99.0)
    assert changed(rate("a", 100.0), wide).beyond == ()


def test_other_work_is_not_compared() -> None:
    found = changed(rate("a", 100.0, facts={"batch": 128}), rate("a", 50.0, facts={"batch": 32}))
    assert found.beyond == ()
    assert found.changes[0].why_not == "batch 128 then, 32 now"


def test_versions_and_another_machine_are_said() -> None:
    found = changed(rate("a", 100.0), rate("a", 100.0), versions={"torch": "2.14", "triton": "3.8"}, host="other")
    assert found.versions == (("torch", "2.13", "2.14"), ("triton", "none", "3.8"))
    assert not found.same_device


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_every_verdict_in_words_and_loads_nothing() -> None:
    html = page(whole(), compare(whole(CPU), whole()))
    for said in ("✓ ok", "! low", "noted", "skipped", "it will starve", "not inside a container", "Its numbers are no yardstick"):
        assert said in html
    assert "<script" not in html
    assert "http" not in html.split("</style>")[1]


def test_names_cannot_break_out_of_the_page() -> None:
    device = dataclasses.replace(GPU, name="<img src=x onerror=alert(1)>{{body}}")
    html = page(verification(whole().checks, device))
    assert "<img" not in html
    assert "&lt;img" in html


def test_the_page_of_a_machine_that_is_wrong_and_of_nothing_measured() -> None:
    wrong = judge_handshake([Reading(name="handshake.seen", title="Device seen", failed="a GPU that cannot be used")])
    assert "Something is wrong." in page(verification((wrong,)))
    skipped = dataclasses.replace(wrong, verdict="skipped", readings=())
    assert "Nothing was measured." in page(verification((skipped,)))
