"""`stoker image scan`: what is found, what could not be looked up, and what other scanners said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stoker.cli.image.scan import scan as command
from stoker.errors import BuildFailed, ReportBroken, ScanIncomplete, VulnerabilitiesFound
from stoker.image import scan as module
from stoker.image.advisories import Found
from stoker.image.lock import Base, write_lock
from stoker.image.scan import debian_packages, pending_fixes, python_packages, scan
from stoker.image.scanners import read_report
from stoker.image.specification import Mirrors
from stoker.image.vulnerability import Vulnerability, first_fix, merged, severity_of
from tests.image_locks import deb, hashed, lock, stack, universal, wheel
from tests.unit.test_image_advisories import export, record

HELD = lock(stack("cpu", wheel("jinja2", "3.1.3"), wheel("torch", "2.13.0+cpu", index="cpu"), torch="2.13.0"), debs=(deb("openssl", "3.5.1-1"),))


def vulnerability(**more: Any) -> Vulnerability:
    """A vulnerability of jinja2."""
    fields = {"kind": "pypi", "package": "jinja2", "version": "3.1.3", "id": "GHSA-a", "aliases": (), "fixed": "3.1.4", "severity": "unknown"}
    return Vulnerability(**{**fields, "summary": "", "source": "OSV", **more})


@pytest.fixture
def quiet(monkeypatch):
    """A world in which everything can be looked up and nothing is known."""
    monkeypatch.setattr(module, "ask_server", lambda packages: Found(vulnerabilities=(), ecosystems=frozenset({"PyPI"}), newest=""))
    monkeypatch.setattr(module, "lock_base", lambda **_: HELD.base)
    return monkeypatch


def no_network(*_args: Any, **_more: Any) -> Any:
    """A world without network."""
    raise ScanIncomplete("no network", hint="")


def test_nothing_is_found_only_when_all_was_looked_up(quiet):
    found = scan(HELD)
    assert (found.vulnerabilities, found.gaps, found.as_dict()["complete"]) == ((), (), True)
    assert found.looked_up == ("2 Python packages: OSV's server", "1 Debian packages: pending fixes in Debian's archives")


def test_what_could_not_be_looked_up_is_a_gap(quiet):
    quiet.setattr(module, "ask_server", no_network)
    found = scan(HELD)
    assert [(gap.kind, gap.reason) for gap in found.gaps] == [("pypi", "no network")]
    assert found.as_dict()["complete"] is False

    def refused(**_: Any) -> Any:
        raise BuildFailed("apt said no", hint="")

    quiet.setattr(module, "lock_base", refused)
    assert [gap.kind for gap in scan(HELD).gaps] == ["pypi", "deb"]


def test_an_oci_base_is_a_gap(quiet):
    held = dataclasses.replace(HELD, base=Base(kind="oci", suite=None, digest=f"sha256:{hashed('b')}", debs=()))
    assert [gap.kind for gap in scan(held).gaps] == ["deb"]


def test_pending_fixes_of_debian(quiet):
    newer = (deb("openssl", "3.5.1-1+deb13u1", archive="security"), deb("other", "9"))
    quiet.setattr(module, "lock_base", lambda **asked: dataclasses.replace(HELD.base, debs=newer))
    (found,) = scan(HELD).vulnerabilities
    assert (found.package, found.version, found.fixed, found.summary) == ("openssl", "3.5.1-1", "3.5.1-1+deb13u1", "a security fix is pending")
    older = (deb("openssl", "3.5.0-9"),)
    quiet.setattr(module, "lock_base", lambda **asked: dataclasses.replace(HELD.base, debs=older))
    assert scan(HELD).vulnerabilities == ()


def test_a_package_that_debian_no_longer_tells_about_is_a_gap(quiet):
    quiet.setattr(module, "lock_base", lambda **asked: dataclasses.replace(HELD.base, debs=()))
    with pytest.raises(ScanIncomplete):
        pending_fixes(HELD, Mirrors())
    assert [gap.kind for gap in scan(HELD).gaps] == ["deb"]


def test_files_of_osv_cover_their_ecosystem_only(quiet, tmp_path):
    quiet.setattr(module, "ask_server", no_network)
    quiet.setattr(module, "lock_base", no_network)
    pypi = export(tmp_path / "pypi.zip", record("GHSA-a", "jinja2", {"introduced": "0"}, {"fixed": "3.1.4"}))
    found = scan(HELD, osv=[pypi])
    assert [one.id for one in found.vulnerabilities] == ["GHSA-a"]
    assert [gap.kind for gap in found.gaps] == ["deb"]
    debian = export(
        tmp_path / "debian.zip",
        record("DSA-1", "openssl", {"introduced": "0"}, {"fixed": "3.5.1-1+deb13u1"}, ecosystem="Debian:13"),
        record("DEBIAN-CVE-2", "openssl", {"introduced": "0"}, ecosystem="Debian:13"),
    )
    found = scan(HELD, osv=[pypi, debian])
    assert {one.id for one in found.vulnerabilities} == {"GHSA-a", "DSA-1"}
    assert [one.id for one in found.unmended] == ["DEBIAN-CVE-2"]
    assert found.gaps == ()
    assert "newest advisory of 2026-11-01" in found.looked_up[0]
    assert [gap.kind for gap in scan(HELD, osv=[debian]).gaps] == ["pypi"]


def test_a_file_of_another_debian_says_nothing_about_this_one(quiet, tmp_path):
    old = export(tmp_path / "bookworm.zip", record("DSA-1", "openssl", {"introduced": "0"}, ecosystem="Debian:12"))
    asked = scan(HELD, osv=[old], kinds=["deb"])
    assert asked.looked_up == ("1 Debian packages: pending fixes in Debian's archives",)


def test_what_was_judged_is_left_out(quiet, tmp_path):
    path = export(tmp_path / "all.zip", record("GHSA-a", "jinja2", {"introduced": "0"}, aliases=["CVE-2024-1"]))
    assert len(scan(HELD, osv=[path]).vulnerabilities) == 1
    for name in ("GHSA-a", "CVE-2024-1"):
        assert scan(HELD, osv=[path], ignored=[name]).vulnerabilities == ()


def test_how_packages_are_asked_for():
    assert {(one.name, one.version, one.asked_version) for one in python_packages(universal())} == {
        ("numpy", "2.4.6", "2.4.6"),
        ("torch", "2.13.0", "2.13.0"),
        ("torch", "2.13.0+cu126", "2.13.0"),
    }
    rebuilt = lock(debs=(deb("libssl3t64", "3.5.1-1+b2", source="openssl"),))
    (one,) = debian_packages(rebuilt)
    assert (one.name, one.asked, one.asked_version, one.ecosystem) == ("libssl3t64", "openssl", "3.5.1-1", "Debian:13")


# --- other scanners -------------------------------------------------------------------------------------------------

TRIVY = {
    "SchemaVersion": 2,
    "CreatedAt": "2026-11-20T10:00:00Z",
    "ArtifactName": "trainer:latest",
    "Results": [
        {
            "Class": "os-pkgs",
            "Type": "debian",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2026-1",
                    "PkgName": "openssl",
                    "InstalledVersion": "3.5.1-1",
                    "FixedVersion": "3.5.1-1+deb13u1",
                    "Severity": "HIGH",
                },
                {"VulnerabilityID": "CVE-2026-2", "PkgName": "openssl", "InstalledVersion": "3.5.1-1", "Severity": "LOW"},
            ],
        },
        {
            "Class": "lang-pkgs",
            "Type": "python-pkg",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2026-3",
                    "PkgName": "Jinja2",
                    "InstalledVersion": "3.1.3",
                    "FixedVersion": "3.1.4, 2.11.4",
                    "Severity": "MEDIUM",
                    "Title": "a title",
                }
            ],
        },
    ],
}
GRYPE = {
    "matches": [
        {
            "vulnerability": {"id": "GHSA-a", "severity": "Medium", "fix": {"versions": ["3.1.4"], "state": "fixed"}, "description": "text"},
            "relatedVulnerabilities": [{"id": "CVE-2026-3"}],
            "artifact": {"name": "jinja2", "version": "3.1.3", "type": "python"},
        },
        {
            "vulnerability": {"id": "CVE-2026-2", "severity": "Negligible", "fix": {"versions": [], "state": "wont-fix"}},
            "artifact": {"name": "openssl", "version": "3.5.1-1", "type": "deb"},
        },
        {"vulnerability": {"id": "CVE-9"}, "artifact": {"name": "go", "version": "1", "type": "go-module"}},
    ],
    "source": {"type": "image", "target": {"userInput": "trainer:latest"}},
    "descriptor": {"name": "grype", "version": "0.90", "db": {"built": "2026-11-20"}, "timestamp": "2026-11-20T10:00:00Z"},
}


def written(path: Path, said: Any) -> Path:
    """A report on the disk."""
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    return path


@pytest.mark.parametrize("said", [TRIVY, GRYPE], ids=["trivy", "grype"])
def test_a_report_stands_in_for_what_it_covers(said, quiet, tmp_path):
    quiet.setattr(module, "ask_server", no_network)
    quiet.setattr(module, "lock_base", no_network)
    found = scan(HELD, reports=[written(tmp_path / "report.json", said)])
    assert found.gaps == ()
    assert any(one.package.lower() == "jinja2" and one.fixed == "3.1.4" for one in found.vulnerabilities)
    assert [one.id for one in found.unmended] == ["CVE-2026-2"]


def test_a_report_that_covers_one_kind_leaves_the_other_to_be_looked_up(quiet, tmp_path):
    quiet.setattr(module, "ask_server", no_network)
    half = {**TRIVY, "Results": TRIVY["Results"][:1]}
    found = scan(HELD, reports=[written(tmp_path / "report.json", half)])
    assert [gap.kind for gap in found.gaps] == ["pypi"]


def test_a_report_about_nothing_covers_nothing(quiet, tmp_path):
    quiet.setattr(module, "ask_server", no_network)
    quiet.setattr(module, "lock_base", no_network)
    found = scan(HELD, reports=[written(tmp_path / "report.json", {"SchemaVersion": 2, "ArtifactName": "x"})])
    assert [gap.kind for gap in found.gaps] == ["pypi", "deb"]


def test_a_report_about_another_image_is_refused(quiet, tmp_path):
    other = lock(stack("cpu", wheel("numpy", "2.4.6")), debs=(deb("bash", "5"),))
    with pytest.raises(ReportBroken, match=r"another image \(trainer:latest\)"):
        scan(other, reports=[written(tmp_path / "report.json", TRIVY)])


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no json",
        "[]",
        {},
        {"SchemaVersion": 2, "Results": [1]},
        {"matches": [], "descriptor": {}},
        {"matches": [{}], "descriptor": {"db": {"a": 1}}},
    ],
)
def test_what_is_no_report_is_refused(said, tmp_path):
    with pytest.raises(ReportBroken):
        read_report(written(tmp_path / "report.json", said))


@pytest.mark.parametrize("digest", [HELD.digest, "sha256:" + "0" * 64])
@pytest.mark.parametrize(
    "labelled",
    [
        lambda labels: {"SchemaVersion": 2, "Results": [{"Type": "debian"}], "Metadata": {"ImageConfig": {"config": {"Labels": labels}}}},
        lambda labels: {"matches": [], "descriptor": {"db": {"built": "now"}}, "source": {"target": {"labels": labels}}},
    ],
)
def test_a_report_without_findings_is_known_by_its_images_label(labelled, digest, quiet, tmp_path):
    report = written(tmp_path / "report.json", labelled({"dev.stoker.lock": digest}))
    if digest == HELD.digest:
        assert scan(HELD, reports=[report]).vulnerabilities == ()
    else:
        with pytest.raises(ReportBroken, match="another image"):
            scan(HELD, reports=[report])


# --- putting together -----------------------------------------------------------------------------------------------


def test_one_vulnerability_with_several_names_is_told_once():
    found = merged(
        [
            vulnerability(id="PYSEC-1", aliases=("CVE-1",), fixed=None),
            vulnerability(id="GHSA-a", aliases=("CVE-1",), severity="high", summary="text"),
            vulnerability(id="CVE-1", source="trivy", fixed="3.1.5"),
            vulnerability(id="GHSA-b"),
            vulnerability(package="other", id="CVE-1"),
        ]
    )
    assert [(one.package, one.id, one.fixed, one.severity) for one in found] == [
        ("jinja2", "CVE-1", "3.1.4", "high"),
        ("jinja2", "GHSA-b", "3.1.4", "unknown"),
        ("other", "CVE-1", "3.1.4", "unknown"),
    ]
    assert found[0].aliases == ("GHSA-a", "PYSEC-1")
    assert found[0].source == "OSV, trivy"


def test_two_that_a_third_name_joins_become_one():
    found = merged([vulnerability(id="A"), vulnerability(id="B"), vulnerability(id="C", aliases=("A", "B"))])
    assert len(found) == 1


def test_the_first_fix_is_the_lowest_that_is_newer():
    assert first_fix("pypi", "2.2.0", ["1.26.19", "2.2.2", "3.0"]) == "2.2.2"
    assert first_fix("pypi", "2.2.0", ["2.2.0", "garbage"]) is None
    assert first_fix("deb", "1:1.0-1", ["9", "1:1.0-1+deb13u1"]) == "1:1.0-1+deb13u1"


@pytest.mark.parametrize(
    ("word", "severity"), [("MODERATE", "medium"), ("Critical", "critical"), ("negligible", "low"), (None, "unknown"), (7, "unknown")]
)
def test_severities(word, severity):
    assert severity_of(word) == severity


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def lock_file(tmp_path):
    write_lock(tmp_path / "stoker.lock", HELD)
    return str(tmp_path / "stoker.lock")


def test_the_command_ends_with_0_when_nothing_was_found(quiet, lock_file):
    done = CliRunner().invoke(command, [lock_file])
    assert (done.exit_code, done.exception) == (0, None)
    assert "nothing found" in done.stdout


def test_the_command_ends_with_69_when_something_was_found(quiet, lock_file, tmp_path):
    path = export(tmp_path / "all.zip", record("GHSA-a", "jinja2", {"introduced": "0"}, {"fixed": "3.1.4"}))
    done = CliRunner().invoke(command, [lock_file, "--osv", str(path)])
    assert isinstance(done.exception, VulnerabilitiesFound)
    assert done.exception.exit_code == 69
    assert "GHSA-a" in done.stdout
    assert "nothing found" not in done.stdout
    done = CliRunner().invoke(command, [lock_file, "--osv", str(path), "--json"])
    assert json.loads(done.stdout)["vulnerabilities"][0]["fixed"] == "3.1.4"
    assert CliRunner().invoke(command, [lock_file, "--osv", str(path), "--ignore", "GHSA-a"]).exit_code == 0


def test_the_command_ends_with_68_when_something_could_not_be_looked_up(quiet, lock_file):
    quiet.setattr(module, "ask_server", no_network)
    done = CliRunner().invoke(command, [lock_file])
    assert isinstance(done.exception, ScanIncomplete)
    assert done.exception.exit_code == 68
    assert "nothing found" not in done.stdout
    assert "NOT looked up" in done.stdout
    assert CliRunner().invoke(command, [lock_file, "--only", "debian"]).exit_code == 0
