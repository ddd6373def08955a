"""The doctor's frame: facts as a file, gathering that never hangs, verdicts, the fixes, the command."""

from __future__ import annotations

import inspect
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from stoker import cli
from stoker.doctor import Facts, Finding, Passed, Severity, Skipped, examine, read_facts, write_facts
from stoker.doctor import gathering as gathering_module
from stoker.doctor.checks import CHECKS, GROUPS
from stoker.doctor.checks.reading import facts_unread
from stoker.doctor.examination import title_of
from stoker.doctor.facts import Gpu, System
from stoker.doctor.finding import check_id
from stoker.doctor.mending import mend, plan
from stoker.doctor.written import facts_from
from stoker.errors import ReportBroken


def finding(severity: Severity, safe_fix: tuple[str, ...] | None = None) -> Finding:
    return Finding(severity=severity, what="it is broken", evidence=("seen: broken",), consequence="slow", fix="mend it", safe_fix=safe_fix)


def ends(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


# --- facts as a file ---


def test_facts_survive_a_file(tmp_path: Path) -> None:
    facts = Facts(system=System(os="Debian 12"), gpus=(Gpu(index=0, compute_capability=(9, 0)), Gpu(index=1)), variables={"OMP_NUM_THREADS": "4"})
    write_facts(facts, tmp_path / "host.json")
    assert read_facts(tmp_path / "host.json") == facts


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"sistem": {}}, "nearest is 'system'"),
        ({"system": {"os": 5}}, "facts: system: os should be str"),
        ({"system": []}, "should be an object"),
        ({"gpus": {}}, "should be a list"),
        ({"gpus": [{"index": "0"}]}, "facts: gpus[0]: index should be int"),
        ({"gpus": [{"index": True}]}, "should be int"),
        ({"gpus": [{"index": 0, "compute_capability": [9]}]}, "should be 2 values"),
        ({"variables": {"A": 1}}, "facts: variables: A should be str"),
    ],
)
def test_wrong_facts_are_named(value: dict[str, object], told: str) -> None:
    with pytest.raises(ReportBroken) as caught:
        facts_from(value)
    assert told in caught.value.message


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"format": "stoker-facts-0"}', "\0"])
def test_a_file_that_is_no_facts_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "host.json").write_text(text)
    assert ends(["doctor", "--from", str(tmp_path / "host.json")]) == ReportBroken.exit_code
    assert "hint: `stoker doctor --save" in capsys.readouterr().err


# --- gathering ---


def test_a_section_that_fails_or_hangs_is_named_and_the_others_are_there() -> None:
    def broken() -> None:
        raise OSError("dead")

    begin = time.monotonic()
    found, unread = gathering_module._all_at_once({"a": lambda: 1, "b": broken, "c": lambda: time.sleep(30)}, 0.3)
    assert found == {"a": 1}
    assert unread == {"b": "OSError: dead", "c": "no answer within 0.3 s"}
    assert time.monotonic() - begin < 10


def test_what_could_not_be_read_is_a_finding() -> None:
    assert isinstance(facts_unread(Facts()), Passed)
    outcome = facts_unread(Facts(unread={"storage": "no answer within 25 s"}))
    assert isinstance(outcome, Finding)
    assert outcome.evidence == ("storage: no answer within 25 s",)


# --- verdicts ---


def test_the_worst_comes_first_and_decides_the_status() -> None:
    def noted(facts: Facts) -> Finding:
        return finding(Severity.NOTE)

    def warned(facts: Facts) -> Finding:
        return finding(Severity.WARNING)

    def failed(facts: Facts) -> Finding:
        return finding(Severity.ERROR)

    def fine(facts: Facts) -> Passed:
        return Passed(what="fine")

    assert examine(Facts(), (fine,)).status == 0
    assert examine(Facts(), (noted, fine)).status == 0
    assert examine(Facts(), (noted, warned)).status == 1
    whole = examine(Facts(), (noted, warned, fine, failed))
    assert whole.status == 2
    assert [entry.id for entry, _ in whole.findings] == ["failed", "warned", "noted"]


def test_a_check_that_fails_does_not_take_the_others_with_it() -> None:
    def odd(facts: Facts) -> Passed:
        raise KeyError("x")

    entry = examine(Facts(), (odd,)).judged[0]
    assert isinstance(entry.outcome, Skipped)
    assert entry.outcome.reason.startswith("the check itself failed")


def test_every_check_has_a_name_of_its_own_a_title_and_an_explanation() -> None:
    ids = [check_id(check) for check in CHECKS]
    assert len(set(ids)) == len(ids) >= 45
    for check in CHECKS:
        text = inspect.getdoc(check) or ""
        assert title_of(check).endswith("."), check_id(check)
        assert len(text.split()) >= 25, f"{check_id(check)} explains too little"


def test_no_check_fails_or_finds_anything_where_nothing_is_known() -> None:
    for entry in examine(Facts()).judged:
        assert not isinstance(entry.outcome, Finding), entry
        assert not (isinstance(entry.outcome, Skipped) and "failed" in entry.outcome.reason), entry


def test_every_group_is_in_the_page_of_findings() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/findings.md").read_text()
    for group, checks in GROUPS.items():
        assert f"## {group}" in page
        for check in checks:
            assert f"### {check_id(check)}" in page


# --- fixes ---


def test_only_safe_fixes_are_planned_each_once(tmp_path: Path) -> None:
    command = (sys.executable, "-c", f"open({str(tmp_path / 'mended')!r}, 'w')")

    def one(facts: Facts) -> Finding:
        return finding(Severity.WARNING, safe_fix=command)

    def other(facts: Facts) -> Finding:
        return finding(Severity.ERROR, safe_fix=command)

    def unsafe(facts: Facts) -> Finding:
        return finding(Severity.ERROR)

    planned = plan(examine(Facts(), (one, other, unsafe)))
    assert [entry.id for entry in planned] == ["other"]
    assert mend(planned[0]).ok
    assert (tmp_path / "mended").exists()


# --- the command ---


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A machine about which one thing is known."""
    write_facts(Facts(unread={"storage": "no answer within 25 s"}), tmp_path / "host.json")
    return tmp_path / "host.json"


def test_the_command_tells_evidence_consequence_and_fix(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["doctor", "--from", str(written)]) == 1
    out = capsys.readouterr().out
    for part in (
        "[facts-unread]",
        "seen         storage: no answer within 25 s",
        "consequence",
        "fix",
        "1 warning;",
        "stoker doctor --explain facts-unread",
    ):
        assert part in out


def test_json_has_the_findings_the_others_and_the_facts(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["doctor", "--from", str(written), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in told["findings"]] == ["facts-unread"]
    assert told["findings"][0]["link"] == "docs/findings.md#facts-unread"
    assert set(told["findings"][0]) >= {"id", "severity", "what", "evidence", "consequence", "fix", "link"}
    assert len(told["findings"]) + len(told["others"]) == len(CHECKS)
    assert told["facts"] == json.loads(json.dumps(asdict(read_facts(written))))


def test_a_finding_is_explained_and_an_unknown_one_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["doctor", "--explain", "facts-unread"]) == 0
    assert "could not be looked at" in capsys.readouterr().out
    assert ends(["doctor", "--explain", "fact-unread"]) == 20
    assert "nearest is 'facts-unread'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--from", "x.json", "--fix"], ["--from", "x.json", "--python", "p"], ["--yes"]])
def test_flags_that_do_not_fit_together_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["doctor", *arguments]) == 2
    assert "hint:" in capsys.readouterr().err
