"""The part of the report about where a run comes from: commands, configuration, code, data, host and packages."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from stoker.runs.differences import flat
from stoker.runs.fields import listed, number, part
from stoker.runs.markup import Html, join, tag
from stoker.runs.run import Run


def commands(run: Run, record: dict[str, Any]) -> Html:
    """Return the section with the commands that repeat and export the run."""
    folder, command, git = record.get("folder"), listed(record, "command"), part(record, "git")
    lines = [f"cd {shlex.quote(str(folder))}"] if folder else []
    if git.get("commit"):
        lines.append(f"git checkout {git['commit']}" + ("   # and apply the diff below" if git.get("diff") else ""))
    root = run.path.parent.absolute()
    if not folder or root != Path(str(folder)) / "runs":
        lines.append(f"export STOKER_RUNS={shlex.quote(str(root))}")
    repeat = "\n".join([*lines, f"stoker repeat {run.id}"])
    started = shlex.join(str(word) for word in command)
    return tag(
        "section",
        tag("h2", "Repeat and export"),
        tag("h3", "Repeat this run"),
        tag("pre", tag("code", repeat)),
        tag("h3", "Export the model to ONNX"),
        tag("pre", tag("code", f"stoker export {run.id}")),
        join(tag("h3", "It was started with"), tag("pre", tag("code", started))) if started else None,
    )


def configuration(record: dict[str, Any]) -> Html | None:
    """Return the section with the whole configuration."""
    keys = part(record, "configuration")
    if not keys:
        return None
    facts = {**flat(keys), **({"seed": record["seed"]} if "seed" in record else {})}
    items = [tag("li", tag("span", key), tag("span", _value(value))) for key, value in facts.items()]
    return tag("section", tag("h2", "Configuration"), tag("ul", *items, class_="columns"))


def surroundings(record: dict[str, Any]) -> Html:
    """Return the section with code, data, host, packages and diff."""
    stoker, git, data = (part(record, name) for name in ("stoker", "git", "data"))
    facts: dict[str, Any] = {"Stoker": f"{stoker.get('version', '?')}, commit {stoker.get('commit') or 'not known'}"}
    if git:
        state = "state not known" if git.get("dirty") is None else "changed since" if git["dirty"] else "unchanged"
        facts["Your code"] = f"commit {git.get('commit') or 'not known'}, {state}"
        facts["Not in git"] = ", ".join(str(name) for name in listed(git, "untracked")) or None
    else:
        facts["Your code"] = "in no git work tree"
    if data:
        facts["Data"] = data.get("source")
        facts["Images"] = f"{_count(data.get('train_images'))} to train, {_count(data.get('test_images'))} to test"
        facts["Data fingerprint"] = data.get("fingerprint")
    facts |= {"Python": record.get("python"), "Lock": record.get("lock") or "not from a lock", "Image": record.get("image") or "no image"}
    resumed = ", ".join(str(step) for step in listed(record, "resumed_from"))
    facts |= {"Resumed from step": resumed or None, "Ended": moment(record.get("ended")) or None}
    facts |= {f"Host: {_spaced(key)}": _sized(key, value) for key, value in flat(part(record, "host")).items()}
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", _value(value))) for key, value in facts.items() if value is not None]
    table = tag("table", tag("caption", "Code, data and host, as they were at the start"), tag("tbody", *rows), class_="facts wide")
    return tag("section", tag("h2", "Record"), table, _packages(part(record, "packages")), _diff(git))


def _packages(packages: dict[str, Any]) -> Html | None:
    if not packages:
        return None
    items = [tag("li", tag("span", name), tag("span", version)) for name, version in sorted(packages.items())]
    return tag("details", tag("summary", f"{len(packages)} packages"), tag("ul", *items, class_="columns"))


def _diff(git: dict[str, Any]) -> Html | None:
    if not git.get("diff"):
        return None
    cut = "\n[cut here: the diff was longer]" if git.get("diff_cut") else ""
    return tag("details", tag("summary", "Diff of your code against its commit"), tag("pre", tag("code", f"{git['diff']}{cut}")))


def _count(value: Any) -> str:
    found = number(value)
    return "?" if found is None else f"{found:,.0f}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return ", ".join(str(entry) for entry in value) if isinstance(value, list) else str(value)


def _spaced(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ").replace(".", " ")


def _sized(key: str, value: Any) -> Any:
    size_bytes = number(value) if key.endswith("_bytes") else None
    return value if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"


def moment(value: Any) -> str:
    """Return a time of a record as 2026-11-21 08:15, or nothing when it is none."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return ""
