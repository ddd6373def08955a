"""Machines that are written down in tests/hosts: each gets the findings that it should, and no others.

A file holds `about` (one sentence), `like` (another machine, of which these facts are changes), `facts`, `findings` (id -> severity, all of them),
`broken_link` (the link of `--why cuda` that breaks, or null) and perhaps `fixes` (id -> words that the fix must hold). Objects are changed key by
key, null takes a key away; a list is given whole, or changed by an object: "3" changes its element number 3 ("3": null takes it away, "3=" replaces
it), "*" changes every element, "+" adds elements at its end.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stoker.doctor import examine, why_cuda
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Finding, Severity
from stoker.doctor.written import facts_from

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
NAMES = sorted(path.stem for path in HOSTS.glob("*.json"))


def written(name: str) -> dict[str, Any]:
    """Return the file of a written-down machine."""
    return dict(json.loads((HOSTS / f"{name}.json").read_text(encoding="utf-8")))


def merged(base: Any, change: Any) -> Any:
    """Apply a change to plain values."""
    if isinstance(base, list) and isinstance(change, dict):
        return merged_list(base, change)
    if not isinstance(change, dict) or not isinstance(base, dict):
        return change
    kept = {key: value for key, value in base.items() if change.get(key, 0) is not None}
    return kept | {key: merged(kept.get(key, {}), value) for key, value in change.items() if value is not None}


def merged_list(base: list[Any], change: dict[str, Any]) -> list[Any]:
    """Apply a change to a list, element by element."""
    wrong = [key for key in change if not (key in ("*", "+") or (re.fullmatch(r"\d+=?", key) and int(key.rstrip("=")) < len(base)))]
    assert not wrong, f"a list of {len(base)} is changed by {wrong}"
    found = [merged(value, change["*"]) for value in base] if "*" in change else list(base)
    for key, value in change.items():
        if key.rstrip("=").isdigit():
            place = int(key.rstrip("="))
            found[place] = value if key.endswith("=") else merged(found[place], value)
    gone = {int(key) for key, value in change.items() if value is None}
    return [value for place, value in enumerate(found) if place not in gone] + change.get("+", [])


def plain_facts_of(name: str) -> dict[str, Any]:
    """Return the facts of a written-down machine: those of the machine that it is `like`, with its own changes."""
    host = written(name)
    return dict(merged(plain_facts_of(host["like"]) if "like" in host else {}, host["facts"]))


def facts_of(name: str) -> Facts:
    """Return the facts of a written-down machine."""
    return facts_from(plain_facts_of(name), where=name)


def test_there_are_enough_of_them() -> None:
    assert len(NAMES) >= 25
    assert sum(not written(name)["findings"] for name in NAMES) >= 10


def test_changes_are_applied_as_the_docstring_says() -> None:
    base = {"a": 1, "b": {"c": 2}, "list": [{"n": 0, "m": 0}, {"n": 1, "m": 0}, {"n": 2, "m": 0}]}
    assert merged(base, {"a": None, "b": {"d": 3}}) == {"b": {"c": 2, "d": 3}, "list": base["list"]}
    assert merged(base, {"list": {"1": {"m": 5}, "2": None, "+": [{"n": 9}]}})["list"] == [{"n": 0, "m": 0}, {"n": 1, "m": 5}, {"n": 9}]
    assert merged(base, {"list": {"*": {"m": 7}, "0=": {"n": 4}}})["list"] == [{"n": 4}, {"n": 1, "m": 7}, {"n": 2, "m": 7}]
    assert merged(base, {"list": []})["list"] == []
    with pytest.raises(AssertionError, match="is changed by"):
        merged(base, {"list": {"3": {"m": 1}}})


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_gets_its_findings_and_no_others(name: str) -> None:
    host = written(name)
    examination = examine(facts_of(name))
    found = {entry.id: finding for entry, finding in examination.findings}
    assert {key: finding.severity.value for key, finding in found.items()} == host["findings"], shown(host, found)
    failed = [entry for entry in examination.judged if "the check itself failed" in getattr(entry.outcome, "reason", "")]
    assert not failed
    for finding in found.values():
        whole(finding)
    for key, words in host.get("fixes", {}).items():
        assert words in found[key].fix


@pytest.mark.parametrize("name", NAMES)
def test_the_chain_breaks_where_it_should_and_nowhere_else(name: str) -> None:
    host = written(name)
    chain = why_cuda(facts_of(name))
    broken = chain.broken
    assert (broken.name if broken else None) == host["broken_link"], "\n".join(chain.lines())
    if broken:
        # What `--why cuda` gives as the reason is a finding of the whole examination, too.
        assert broken.id in host["findings"]
        assert broken.finding is not None
        whole(broken.finding)
    if name.startswith("healthy-") and chain.links and facts_of(name).python.torch is not None:
        assert "no link is broken" in chain.answer


def test_a_healthy_machine_has_no_finding() -> None:
    assert [name for name in NAMES if name.startswith("healthy-") and written(name)["findings"]] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("healthy-")])
def test_what_could_not_be_read_makes_no_finding_of_its_own(name: str) -> None:
    facts = plain_facts_of(name)
    for section in facts.keys() - {"gathered", "unread"}:
        blind = facts_from({key: value for key, value in facts.items() if key != section} | {"unread": {section: "no answer within 25 s"}})
        assert {entry.id: finding.what for entry, finding in examine(blind).findings} == {"facts-unread": f"could not be looked at: {section}"}
        assert why_cuda(blind).broken is None


def whole(finding: Finding) -> None:
    """Assert that a finding says what it must: what is wrong, what was seen, what it costs, what to do."""
    assert isinstance(finding.severity, Severity)
    assert finding.evidence
    for text in (finding.what, finding.consequence, finding.fix):
        assert text.strip()
        assert not re.search(r"\bNone\b", text), text
    for text in finding.evidence:
        assert text.strip()
        assert not re.search(r": None\b|\bNone (W|C|MHz|bytes|of|%)", text), text
    assert "\n" not in finding.what


def shown(host: dict[str, Any], found: dict[str, Finding]) -> str:
    """Return what a failed comparison prints: the machine in a sentence, and what was found."""
    return "\n".join([host["about"], *(f"{key} ({finding.severity.value}): {finding.what}" for key, finding in found.items())])
