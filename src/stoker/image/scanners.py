"""What other scanners wrote, read: the JSON of trivy and of grype."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import ReportBroken
from stoker.files import cause
from stoker.image.oci import LOCK
from stoker.image.vulnerability import Vulnerability, one_line, severity_of

_MOST_BYTES = 1 << 30
_HINT = "make it again: `trivy image --format json --output FILE IMAGE`, or `grype IMAGE --output json > FILE`"
_TRIVY_KINDS = {"python-pkg": "pypi", "pip": "pypi", "uv": "pypi", "poetry": "pypi", "debian": "deb"}
_GRYPE_KINDS = {"python": "pypi", "deb": "deb"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a scanner said."""

    scanner: str
    kinds: frozenset[str]
    """What it looked at: `pypi`, `deb`."""
    vulnerabilities: tuple[Vulnerability, ...]
    made: str
    """When; empty: not told."""
    about: str
    """The image that it looked at, as it calls it."""
    lock: str = ""
    """Digest of the lock of that image, as its label says; empty: not told."""


def read_report(path: Path) -> Report:
    """Read the report of a scanner. Raises ReportBroken for anything else."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ReportBroken(f"{path} is too large to be a report", hint=_HINT)
        said = json.loads(path.read_bytes())
        if isinstance(said, dict) and "SchemaVersion" in said:
            return _trivy(said)
        if isinstance(said, dict) and "matches" in said and "descriptor" in said:
            return _grype(said)
    except (OSError, ValueError, RecursionError) as error:
        raise ReportBroken(f"{path} cannot be read: {cause(error)}", hint=_HINT) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportBroken(f"{path} is not as trivy or grype write it ({type(error).__name__}: {error})", hint=_HINT) from error
    raise ReportBroken(f"{path} is neither trivy's nor grype's JSON", hint=_HINT)


def _trivy(said: dict[str, Any]) -> Report:
    # A part of the image that trivy did not recognise has no row: then nothing is known about it.
    results = said.get("Results") or ()
    kinds = frozenset(_TRIVY_KINDS[row["Type"]] for row in results if row.get("Type") in _TRIVY_KINDS)
    return Report(
        scanner="trivy",
        kinds=kinds,
        vulnerabilities=tuple(_trivy_rows(results)),
        made=one_line(said.get("CreatedAt")),
        about=one_line(said.get("ArtifactName")),
        lock=_lock_of(_inner(said, "Metadata", "ImageConfig", "config", "Labels")),
    )


def _trivy_rows(results: Any) -> Iterator[Vulnerability]:
    for result in results:
        kind = _TRIVY_KINDS.get(result.get("Type"))
        for row in (result.get("Vulnerabilities") or ()) if kind else ():
            yield Vulnerability(
                kind=str(kind),
                package=str(row["PkgName"]),
                version=str(row["InstalledVersion"]),
                id=one_line(row["VulnerabilityID"]),
                aliases=tuple(one_line(alias) for alias in row.get("VendorIDs") or ()),
                fixed=_first(str(row.get("FixedVersion") or "")),
                severity=severity_of(row.get("Severity")),
                summary=one_line(row.get("Title")),
                source="trivy",
            )


def _grype(said: dict[str, Any]) -> Report:
    if not (said["descriptor"].get("db") or {}):
        raise ReportBroken("grype's report does not say what data it looked into", hint=_HINT)
    source = said.get("source") or {}
    target = source.get("target")
    return Report(
        scanner="grype",
        # grype names only what it found: it catalogues both kinds in every image.
        kinds=frozenset(_GRYPE_KINDS.values()),
        vulnerabilities=tuple(_grype_rows(said["matches"])),
        made=one_line(said["descriptor"].get("timestamp")),
        about=one_line(target.get("userInput") if isinstance(target, dict) else target),
        lock=_lock_of(_inner(source, "target", "labels")),
    )


def _grype_rows(matches: Any) -> Iterator[Vulnerability]:
    for match in matches:
        artifact, told = match["artifact"], match["vulnerability"]
        kind = _GRYPE_KINDS.get(artifact["type"])
        if kind is None:
            continue
        fix = told.get("fix") or {}
        yield Vulnerability(
            kind=kind,
            package=str(artifact["name"]),
            version=str(artifact["version"]),
            id=one_line(told["id"]),
            aliases=tuple(one_line(one["id"]) for one in match.get("relatedVulnerabilities") or ()),
            fixed=next((str(version) for version in fix.get("versions") or ()), None),
            severity=severity_of(told.get("severity")),
            summary=one_line(told.get("description")),
            source="grype",
        )


def _inner(said: object, *names: str) -> object:
    for name in names:
        said = said.get(name) if isinstance(said, dict) else None
    return said


def _lock_of(labels: object) -> str:
    return one_line(labels.get(LOCK)) if isinstance(labels, dict) else ""


def _first(versions: str) -> str | None:
    return versions.split(",")[0].strip() or None
