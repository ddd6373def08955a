"""The rule of the side-by-side benchmark: what counts as naming a cause, what only as showing it, and the page that is written from a record."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import causes  # noqa: E402  (benchmarks are scripts, not a package)
from broken.environments import CONTROL, ENVIRONMENTS  # noqa: E402
from broken.verdict import Grade, Rule, deciding, judge  # noqa: E402

from stoker.doctor.checks import CHECKS  # noqa: E402
from stoker.doctor.finding import check_id  # noqa: E402

RULE = Rule(cause=r"driver .{0,40}too old", fact=r"535\.\d+")
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no\n'


@pytest.mark.parametrize(
    ("output", "code", "grade"),
    [
        (f"PyTorch version: 2.13\n{TOO_OLD}", 0, Grade.NAMES),
        ("| Driver Version: 535.261.03  CUDA Version: 12.2 |", 0, Grade.SHOWS),
        ("Is CUDA available: False", 0, Grade.SILENT),
        (f"{TRACEBACK}RuntimeError: {TOO_OLD}", 1, Grade.NAMES),
        (TRACEBACK, 1, Grade.DIES),
        ("half a line", -11, Grade.DIES),
        ("no answer within 120 s", None, Grade.DIES),
        ("env: 'nvidia-smi': No such file or directory", 127, Grade.ABSENT),
        ("", 2, Grade.SILENT),
    ],
)
def test_a_grade_depends_on_what_is_said_before_how_it_ended(output: str, code: int | None, grade: Grade) -> None:
    assert judge(output, code, RULE).grade is grade


def test_a_sentence_that_a_tool_has_folded_is_found_and_given_back_whole() -> None:
    folded = "first line\nwarning: the driver\n     is too\n     old for this\nlast line"
    assert deciding(folded, RULE.cause) == "warning: the driver is too old for this"


def test_the_deciding_words_of_a_long_line_are_not_cut_off() -> None:
    found = deciding("x " * 400 + "the driver is too old" + " y" * 400, RULE.cause)
    assert found is not None
    assert "driver is too old" in found
    assert len(found) < 400


def test_there_are_ten_and_each_has_a_rule_of_its_own() -> None:
    assert len(ENVIRONMENTS) == 10
    assert len({one.name for one in ENVIRONMENTS}) == len({one.rule.cause for one in ENVIRONMENTS}) == 10


def test_the_findings_that_are_expected_exist() -> None:
    known = {check_id(check) for check in CHECKS}
    assert {finding for one in ENVIRONMENTS for finding in one.finding} <= known


@pytest.mark.parametrize("broken", ENVIRONMENTS, ids=lambda one: one.name)
def test_no_rule_is_met_by_a_report_of_a_machine_without_faults(broken: object) -> None:
    """A rule that any output meets would judge nothing. The text is what `collect_env` and `accelerate env` say on a machine without a GPU."""
    healthy = (
        "PyTorch version: 2.13.0+cu130\nIs debug build: False\nCUDA used to build PyTorch: 13.0\nOS: Debian GNU/Linux 12 (bookworm) (x86_64)\n"
        "Is CUDA available: False\nCUDA_MODULE_LOADING set to: N/A\nGPU models and configuration: Could not collect\nThread(s) per core: 1\n"
        "CPU(s): 2\nNUMA node(s): 1\n[pip3] torch==2.13.0\n[pip3] torchvision==0.28.0\n[pip3] nvidia-cudnn-cu13==9.20.0.48\n"
        "- `Accelerate` version: 1.15.0\n- `accelerate` bash location: /env/bin/accelerate\n- PyTorch accelerator: N/A\n"
        "no NVIDIA GPU, /env/bin/python with torch 2.13.0+cu130\nnothing is wrong; 60 checks passed, 40 do not apply here (--all lists them)\n"
    )
    assert judge(healthy, 0, broken.rule).grade is Grade.SILENT  # type: ignore[attr-defined]


def record() -> dict:
    """A record of two environments that were made, one that was not, and the intact one."""
    tools = {tool: {"grade": "silent", "line": "", "code": 0, "seconds": 1.0} for tool in causes.TOOLS}
    named = {**tools, causes.DOCTOR: {"grade": "names", "line": "error: `it`", "code": 2, "seconds": 1.0}}
    made = {"title": "A fault", "where": "somewhere", "made_s": 1.0, "symptom": "it fails", "packages": {"torch": "2.13.0"}, "beside": []}
    return {
        "date": "2026-11-21T10:00:00+00:00",
        "hardware": {"architecture": "x86_64"},
        "versions": {"python": "3.11.7", "stoker": "0.1.0"},
        "facts": {
            "environments": {
                "one": {**made, "tools": named},
                "two": {**made, "title": "Another", "tools": tools, "beside": [("error", "something-else")]},
                "three": {"not_made": "no podman"},
                CONTROL.name: {**made, "tools": tools},
            }
        },
    }


def test_the_page_counts_only_what_was_made() -> None:
    text = causes.page(record())
    assert "**names the cause, of 2** | **0** | **0** | **0** | **1** |" in text
    assert "Not made here: `three`: no podman" in text
    assert "`something-else` (error)" in text
    assert "- `stoker doctor`: **names**: `error: 'it'`" in text


def test_no_path_of_this_machine_reaches_the_page() -> None:
    hidden = {"/tmp/bench-ab_c1/e0": "", "/home/me/stoker": "/stoker"}
    assert (
        causes.scrub("/tmp/bench-ab_c1/e0/env/bin/python /home/me/stoker/src /tmp/bench-ab_c1/drivers", hidden)
        == "/env/bin/python /stoker/src /drivers"
    )


def test_the_committed_page_is_that_of_the_committed_record() -> None:
    results, written = BENCHMARKS / "results/causes.json", BENCHMARKS.parent / "docs/side-by-side.md"
    text = results.read_text()
    assert written.read_text() == causes.page(json.loads(text))
    assert not re.search(r"/tmp/|/root|/home", text + written.read_text())
