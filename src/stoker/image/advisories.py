"""Advisories in the OSV format: asked of a server, or matched from the file that OSV publishes of each ecosystem."""

from __future__ import annotations

import http.client
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.errors import ReportBroken, ScanIncomplete
from stoker.files import cause
from stoker.image.version_order import debian_key, python_key
from stoker.image.vulnerability import Vulnerability, first_fix, one_line, severity_of
from stoker.image.web import Web, masked, why

OSV = "https://api.osv.dev"
"""The public API of OSV; the variable STOKER_OSV names another one of the same kind."""
_AT_ONCE = 500
"""Questions in one request: the API takes 1000."""
_MOST_PAGES = 50
_MOST_RECORD_BYTES = 32 << 20
_MOST_BYTES = 8 << 30
_MOST_RECORDS = 2_000_000
PYPI = "PyPI"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package to look up."""

    kind: str
    """`pypi` or `deb`."""
    name: str
    """As the image calls it."""
    version: str
    """As the image has it."""
    ecosystem: str
    """OSV's name of its world: `PyPI`, `Debian:13`."""
    asked: str
    """The name that advisories use: of a .deb its source package."""
    asked_version: str
    """The version that advisories use."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source of advisories said."""

    vulnerabilities: tuple[Vulnerability, ...]
    ecosystems: frozenset[str]
    """What it knows about: `PyPI`, `Debian:13`."""
    newest: str
    """When its newest advisory was changed, as ISO 8601; empty: not told."""
    unjudged: tuple[str, ...] = field(default=())
    """Packages with an advisory whose versions cannot be compared with theirs."""


# --- a server -------------------------------------------------------------------------------------------------------


def ask_server(packages: Sequence[Package], *, address: str | None = None, environ: Mapping[str, str] = os.environ) -> Found:
    """Ask OSV about these packages. Raises ScanIncomplete when it cannot be asked, or does not answer about every one."""
    address = (address or environ.get("STOKER_OSV") or OSV).rstrip("/")
    web = Web(environ)
    try:
        ids: dict[str, list[Package]] = {}
        for start in range(0, len(packages), _AT_ONCE):
            for identity, package in _asked(web, address, packages[start : start + _AT_ONCE]):
                ids.setdefault(identity, []).append(package)
        found = []
        for identity, concerned in sorted(ids.items()):
            if not re.fullmatch(r"[A-Za-z0-9][\w:.-]{0,200}", identity):
                raise _no_answer(address, "an advisory has a name that cannot be")
            record = _request(web, f"{address}/v1/vulns/{identity}", None)
            if record.get("id") != identity:
                raise _no_answer(address, f"it answered with something else than {identity}")
            for package in concerned:
                told = _told(record, package)
                # The server said that it concerns this version; our own comparison only finds out what mends it.
                found += [told] if told else []
        return Found(
            vulnerabilities=tuple(found),
            ecosystems=frozenset(one.ecosystem for one in packages),
            newest="",
        )
    finally:
        web.close()


def _asked(web: Web, address: str, packages: Sequence[Package]) -> Iterator[tuple[str, Package]]:
    """Yield the name of each advisory with the package that it concerns, page after page."""
    left: list[tuple[Package, str | None]] = [(package, None) for package in packages]
    for _ in range(_MOST_PAGES):
        queries = [
            {"package": {"name": one.asked, "ecosystem": one.ecosystem}, "version": one.asked_version, **({"page_token": page} if page else {})}
            for one, page in left
        ]
        results = _request(web, f"{address}/v1/querybatch", {"queries": queries}).get("results")
        if not isinstance(results, list) or len(results) != len(left):
            raise _no_answer(address, "it did not answer about every package")
        again: list[tuple[Package, str | None]] = []
        for (package, _page), result in zip(left, results, strict=True):
            result = result or {}
            if not isinstance(result, dict) or not isinstance(result.get("vulns", []), list):
                raise _no_answer(address, "its answer is not what OSV's would be")
            for row in result.get("vulns", []):
                yield str(row.get("id")), package
            if result.get("next_page_token"):
                again.append((package, str(result["next_page_token"])))
        if not again:
            return
        left = again
    raise _no_answer(address, "its answer has no end")


def _request(web: Web, address: str, question: dict[str, Any] | None) -> dict[str, Any]:
    body = None if question is None else json.dumps(question).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    try:
        with web.open(address, headers=headers, method="GET" if body is None else "POST", body=body) as reply:
            page = reply.page()
            if reply.status != 200:
                raise _no_answer(address, f"it answered with status {reply.status}")
        answer = json.loads(page)
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(address, why(error)) from error
    except ValueError as error:
        raise _no_answer(address, "its answer is no JSON") from error
    if not isinstance(answer, dict):
        raise _no_answer(address, "its answer is not what OSV's would be")
    return answer


def _no_answer(address: str, problem: str) -> ScanIncomplete:
    return ScanIncomplete(
        f"advisories could not be looked up at {masked(address)}: {problem}",
        hint="behind a proxy set HTTPS_PROXY; STOKER_OSV names another server; without a network give OSV's file of the ecosystem: --osv all.zip",
    )


# --- a file ---------------------------------------------------------------------------------------------------------


def read_file(path: Path, packages: Sequence[Package]) -> Found:
    """Match the packages with OSV's file of an ecosystem (a zip of one JSON an advisory). Raises ReportBroken for another file."""
    wanted: dict[tuple[str, str], list[Package]] = {}
    for package in packages:
        wanted.setdefault((package.ecosystem, _name(package.ecosystem, package.asked)), []).append(package)
    found: list[Vulnerability] = []
    unjudged: list[str] = []
    ecosystems: set[str] = set()
    newest, records = "", 0
    for record in _records(path):
        records += 1
        newest = max(newest, str(record.get("modified", "")))
        ecosystems.update(str(affected["package"]["ecosystem"]) for affected in _affected(record))
        if record.get("withdrawn"):
            continue
        for package in _concerned(record, wanted):
            verdict = _concerns(record, package)
            if verdict is None:
                unjudged.append(f"{package.name} {package.version}: {record.get('id')}")
            elif verdict and (told := _told(record, package)):
                found.append(told)
    if not records:
        raise ReportBroken(f"{path} holds no advisory", hint="give the file all.zip that OSV publishes for PyPI or for Debian")
    return Found(vulnerabilities=tuple(found), ecosystems=frozenset(ecosystems), newest=newest, unjudged=tuple(unjudged))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every advisory. A part that cannot be read makes the whole unfit: the one that matters may be in it."""
    hint = "fetch it again: the file all.zip that OSV publishes for PyPI or for Debian"
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".json")]
            if len(members) > _MOST_RECORDS:
                raise ReportBroken(f"{path} holds {len(members)} advisories, more than there are", hint=hint)
            for member in members:
                with archive.open(member) as file:
                    data = file.read(_MOST_RECORD_BYTES + 1)
                total += len(data)
                if len(data) > _MOST_RECORD_BYTES or total > _MOST_BYTES:
                    raise ReportBroken(f"{path}: {member.filename} is too large to be an advisory", hint=hint)
                record = json.loads(data)
                if not isinstance(record, dict):
                    raise ValueError(f"{member.filename} is no advisory")
                yield record
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError, RuntimeError, NotImplementedError, EOFError) as error:
        raise ReportBroken(f"{path} cannot be read: {cause(error)}", hint=hint) from error


def _affected(record: dict[str, Any]) -> list[dict[str, Any]]:
    found = record.get("affected")
    return [
        one
        for one in (found if isinstance(found, list) else ())
        if isinstance(one, dict) and isinstance(one.get("package"), dict) and "ecosystem" in one["package"] and "name" in one["package"]
    ]


def _concerned(record: dict[str, Any], wanted: Mapping[tuple[str, str], list[Package]]) -> list[Package]:
    found: dict[Package, None] = {}
    for affected in _affected(record):
        ecosystem = str(affected["package"]["ecosystem"])
        found.update(dict.fromkeys(wanted.get((ecosystem, _name(ecosystem, str(affected["package"]["name"]))), ())))
    return list(found)


def _name(ecosystem: str, name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower() if ecosystem == PYPI else name


# --- an advisory ----------------------------------------------------------------------------------------------------


def _own(record: dict[str, Any], package: Package) -> list[dict[str, Any]]:
    return [
        affected
        for affected in _affected(record)
        if affected["package"]["ecosystem"] == package.ecosystem
        and _name(package.ecosystem, str(affected["package"]["name"])) == _name(package.ecosystem, package.asked)
    ]


def _concerns(record: dict[str, Any], package: Package) -> bool | None:
    """Whether an advisory concerns this version (OSV schema, "Evaluation"); None: its versions cannot be compared with it."""
    key = _key(package)
    here = key(package.asked_version)
    verdicts: list[bool | None] = []
    for affected in _own(record, package):
        if here is None:
            verdicts.append(package.asked_version in (affected.get("versions") or ()) or None)
            continue
        verdicts.append(any(key(str(version)) == here for version in affected.get("versions") or ()))
        for one in affected.get("ranges") or ():
            if isinstance(one, dict) and one.get("type") in ("ECOSYSTEM", "SEMVER"):
                verdicts.append(_in_range(one.get("events") or (), here, key))
    return True if True in verdicts else None if None in verdicts else False


def _in_range(events: Sequence[Mapping[str, Any]], here: Any, key: Callable[[str], Any]) -> bool | None:
    points: list[tuple[tuple[Any, ...], str]] = []
    for event in events:
        for kind in ("introduced", "fixed", "last_affected", "limit"):
            if kind in event:
                version = str(event[kind])
                # "0" stands for "before all others", "*" for "after all others".
                if version == "0" and kind == "introduced":
                    points.append(((0,), kind))
                elif version != "*":
                    at = key(version)
                    if at is None:
                        return None
                    points.append(((1, at), kind))
    inside = False
    for at, kind in sorted(points, key=lambda point: point[0]):
        if kind == "introduced" and (1, here) >= at:
            inside = True
        elif (kind in ("fixed", "limit") and (1, here) >= at) or (kind == "last_affected" and (1, here) > at):
            inside = False
    return inside


def _key(package: Package) -> Callable[[str], Any]:
    return python_key if package.kind == "pypi" else debian_key


def _told(record: dict[str, Any], package: Package) -> Vulnerability | None:
    """Return what an advisory says about a package; None for one that was taken back."""
    if record.get("withdrawn"):
        return None
    own = _own(record, package)
    ranges = [one for affected in own for one in affected.get("ranges") or () if isinstance(one, dict) and one.get("type") != "GIT"]
    fixes = [str(event["fixed"]) for one in ranges for event in one.get("events") or () if "fixed" in event]
    said = record.get("database_specific")
    severity = said.get("severity") if isinstance(said, dict) else None
    aliases = [*(record.get("aliases") or ()), *(record.get("upstream") or ())]
    return Vulnerability(
        kind=package.kind,
        package=package.name,
        version=package.version,
        id=one_line(record.get("id")),
        aliases=tuple(sorted(one_line(alias) for alias in aliases)),
        fixed=first_fix(package.kind, package.asked_version, fixes),
        severity=severity_of(severity),
        summary=one_line(record.get("summary") or record.get("details")),
        source="OSV",
    )
