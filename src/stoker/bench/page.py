"""The page of a verification: bars and verdicts, in one file that needs neither network nor script."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from stoker.bench.comparison import Change, Comparison
from stoker.bench.readings import Check, Reading, Verification
from stoker.bench.verdicts import appetite
from stoker.runs.durations import spoken
from stoker.runs.markup import Html, join, tag
from stoker.runs.page import whole_page

MARKS = {"ok": "✓ ok", "low": "! low", "wrong": "✗ wrong", "noted": "noted", "skipped": "skipped"}
_SAID = {"ok": "This machine gives what it should.", "low": "Something gives less than it should.", "wrong": "Something is wrong."}
_GROUPS = {
    "feeding.copy": "Copies to the device",
    "feeding.synthetic": "Images that are decoded already, batches of 64 x 3 x 224 x 224",
    "feeding.jpeg": "JPEG files, cropped at random to 224 x 224",
    "compute.bandwidth": "Memory bandwidth",
    "compute.matrix": "Matrix products",
    "compute.pool": "Conv-relu-pool, forward",
    "compute.resnet50": "ResNet-50, training step",
}


def page(found: Verification, compared: Comparison | None = None) -> str:
    """Return the page as HTML."""
    checks = [_check(check, found) for check in found.checks]
    body = join(
        _header(found),
        tag("main", *checks, _compared(compared) if compared else None, _method(found), _surroundings(found)),
        tag("footer", f"Made {_moment(found.made)} by Stoker {found.stoker} in {spoken(found.seconds)}. The page loads nothing from anywhere."),
    )
    return whole_page(f"verify: {found.device.name}", body, style=Path(__file__).with_name("page.css").read_text(encoding="utf-8"))


def shown(reading: Reading) -> str:
    """Return the value with its unit, as for a table; a dash when there is none."""
    if reading.value is None:
        return "–"
    if reading.unit == "error":
        return "exact" if reading.value == 0 else f"{reading.value:.1e}"
    if not reading.unit:
        return "yes"
    return f"{number(reading.value)} {reading.unit}"


def number(value: float) -> str:
    """Return a number with three figures, or whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def detail(reading: Reading) -> str:
    """Return what a reader wants to know beside the value."""
    facts, said = reading.facts, []
    if "images_per_s" in facts:
        said.append(f"{number(float(facts['images_per_s']))} images/s")
    if "batch" in facts and reading.name.startswith("compute."):
        asked = facts.get("asked_batch")
        fewer = f" (of {asked}: to fit the time or memory)" if asked and asked != facts["batch"] else ""
        said.append(f"batch {facts['batch']}{fewer}")
    if reading.why and reading.why not in said:
        said.append(reading.why)
    return "; ".join(said)


def _header(found: Verification) -> Html:
    good = found.exit_code == 0
    overline = tag(
        "p",
        tag("span", found.verdict, class_="status" if good else "status bad"),
        tag("span", _moment(found.made)),
        tag("span", "quick" if found.quick else None),
        class_="overline",
    )
    eats = appetite([*found.readings.values()])
    jpeg = [reading for reading in found.readings.values() if reading.name.startswith("feeding.jpeg") and reading.value]
    best = max(jpeg, key=lambda reading: reading.value or 0.0, default=None)
    memory = f", {found.device.memory_bytes / 2**30:.0f} GiB" if found.device.memory_bytes else ""
    where = (
        f"{found.device.cores} cores{memory}, {found.host}"
        if found.device.kind == "cpu"
        else f"{memory.lstrip(', ')}, {found.device.cores} CPU cores"
    )
    return tag(
        "header",
        overline,
        tag("h1", _SAID.get(found.verdict, "Nothing was measured.")),
        *(tag("p", notice, class_="notice") for notice in found.notices),
        tag(
            "dl",
            _figure("Trains ResNet-50 at", number(eats.images_per_s) if eats else "–", "images a second", "value first"),
            _figure("Feeds from JPEGs", number(best.value) if best and best.value else "–", "images a second"),
            _figure("Numbers", {"ok": "right", "wrong": "wrong"}.get(found.checks[0].verdict, found.checks[0].verdict), "handshake"),
            _figure("Where", found.device.name, where, "value words"),
            class_="headline",
        ),
    )


def _figure(name: str, value: str, below: str, class_: str = "value") -> Html:
    return tag("div", tag("dt", name), tag("dd", value, class_=class_), tag("dd", below, class_="sub") if below else None)


def _check(check: Check, found: Verification) -> Html:
    groups: dict[str, list[Reading]] = {}
    for reading in check.readings:
        groups.setdefault(".".join(reading.name.split(".")[:2]) if check.name != "handshake" else "", []).append(reading)
    eats = appetite([*found.readings.values()])
    parts: list[Html | None] = []
    for group, readings in groups.items():
        parts.append(tag("h3", _GROUPS[group]) if group in _GROUPS else None)
        loaders = group in ("feeding.synthetic", "feeding.jpeg")
        most = max([reading.value or 0.0 for reading in readings] + [eats.images_per_s if eats else 0.0]) if loaders else 0.0
        mark = eats.images_per_s / most if loaders and eats and most else None
        parts.append(tag("ul", *(_row(reading, most, mark) for reading in readings), class_="bars"))
        if mark is not None and eats:
            parts.append(
                tag("p", f"The upright line: the {number(eats.images_per_s)} images/s that the device eats ({eats.title}).", class_="legend")
            )
    return tag(
        "section",
        tag("h2", check.title, tag("span", MARKS[check.verdict], class_=f"verdict {check.verdict}")),
        tag("p", check.sentence, class_="sentence"),
        tag("p", f"What to do: {check.hint}", class_="hint") if check.hint else None,
        *parts,
        class_="check",
    )


def _row(reading: Reading, most: float, mark: float | None) -> Html:
    share = (reading.value or 0.0) / most if most else reading.share
    said = detail(reading)
    bar: Html = tag("span", said, class_="said")
    if share is not None and reading.unit != "error":
        line = tag("b", style=f"left:calc({100 * mark:.1f}% - 1px)") if mark is not None else None
        bar = tag("span", tag("i", style=f"width:{min(100.0, 100 * share):.1f}%"), line, class_=f"bar {reading.verdict}", aria_hidden="true")
    spread = f"{number(reading.low)} to {number(reading.high)}" if reading.low is not None and reading.high is not None and reading.n > 1 else None
    below = tag("span", said, class_="why") if said and share is not None and reading.unit != "error" else None
    return tag(
        "li",
        tag("span", reading.title, class_="title"),
        bar,
        tag("span", shown(reading), tag("span", spread, class_="range") if spread else None, class_="value"),
        tag("span", MARKS[reading.verdict], class_=f"verdict {reading.verdict}"),
        below,
    )


def _compared(found: Comparison) -> Html:
    beyond = found.beyond
    sentence = (
        f"{len(beyond)} of {len(found.changes)} rates changed by more than their spread." if beyond else "No rate changed by more than its spread."
    )
    other = None if found.same_device else tag("p", f"That was another machine: {found.old_device}. Its numbers are no yardstick.", class_="notice")
    versions = [tag("tr", tag("th", name, scope="row"), tag("td", old), tag("td", new)) for name, old, new in found.versions]
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in ("Version", "Then", "Now"))))
    rows = [_changed(change) for change in (*beyond, *(change for change in found.changes if not change.beyond))]
    titles = ("Rate", "Then", "Now", "Ratio", "")
    classes = (None, "number", "number", "number", None)
    changed_head = tag("thead", tag("tr", *(tag("th", title, scope="col", class_=class_) for title, class_ in zip(titles, classes, strict=True))))
    return tag(
        "section",
        tag("h2", f"Since {_moment(found.old_made)}"),
        tag("p", sentence, class_="sentence"),
        other,
        _scrolled("Versions that changed", tag("table", head, tag("tbody", *versions)))
        if versions
        else tag("p", "No version changed.", class_="hint"),
        _scrolled("Rates then and now", tag("table", changed_head, tag("tbody", *rows), class_="wide")) if rows else None,
    )


def _changed(change: Change) -> Html:
    said = (
        f"not comparable: {change.why_not}"
        if change.why_not
        else ("faster" if change.ratio > 1 else "slower")
        if change.beyond
        else "within the spread"
    )
    look = ("verdict low" if change.ratio < 1 else "verdict ok") if change.beyond else "muted"
    values = (f"{number(change.old)} {change.unit}", f"{number(change.new)} {change.unit}", f"{change.ratio:.2f}")
    return tag("tr", tag("td", change.title), *(tag("td", value, class_="number") for value in values), tag("td", said, class_=look))


def _method(found: Verification) -> Html:
    sheet = found.device.sheet
    against = (
        f"Ceilings are held against the data sheet of {found.device.model} ({found.device.sheet_source}), workloads against the ceilings."
        if sheet
        else "Ceilings were measured here, several times over the run; workloads are held against the best, never against another machine's numbers."
    )
    lines = (
        against,
        "A rate is that of the best quarter of its rounds, which ran in turn with those of its group; the small figures below it are the slower "
        "quarter and the best round.",
        "FLOPs are counted by formula: a convolution costs 2 x kernel height x width x channels in for each number it puts out; a training step of "
        "ResNet-50 at 224 x 224 costs 24.3 GFLOP an image. A workload cannot take less than the sum over its layers of the larger of FLOPs / "
        "matrix rate and bytes / bandwidth.",
        "Photos are made on the spot (500 x 375 pixels, about 110 kB) and are read from memory, not from a disk.",
    )
    return tag("section", tag("h2", "How this was measured"), *(tag("p", line, class_="muted") for line in lines))


def _surroundings(found: Verification) -> Html:
    near = found.neighbours
    facts = dict(found.versions) | {"system": found.system, "threads": str(found.device.threads)}
    if near.others_cores is not None:
        facts["other processes"] = f"{near.others_cores:.2f} of {near.machine_cores} cores, mean"
    if near.load is not None:
        facts["load at the start"] = f"{near.load:.2f}"
    if near.stolen_cores is not None:
        facts["taken by the hypervisor"] = f"{near.stolen_cores:.2f} cores, mean"
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in facts.items()]
    return tag("section", tag("h2", "Versions and surroundings"), _scrolled("Versions", tag("table", tag("tbody", *rows))))


def _scrolled(label: str, table: Html) -> Html:
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def _moment(made: str) -> str:
    try:
        return datetime.fromisoformat(made).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return made
