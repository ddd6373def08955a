"""The page of a diagnosis: one file that loads nothing, in the look of a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from stoker import __version__
from stoker.diagnosis.bars import NAMES, key, share_bar, step_bars
from stoker.diagnosis.fixes import Fix, duration, share
from stoker.diagnosis.observation import Observation, ProcessUse, Split
from stoker.diagnosis.verdict import Diagnosis, chief_split, unit_of
from stoker.runs.charts import Series, compact, line_chart
from stoker.runs.durations import spoken
from stoker.runs.markup import Html, join, tag, text
from stoker.runs.page import whole_page

_MEBIBYTE = 2**20


def page(observation: Observation, diagnosis: Diagnosis) -> str:
    """Return the diagnosis as HTML. What was not seen is said or left out."""
    split = chief_split(observation)
    sections = [
        _fixes(diagnosis.fixes) if split else None,
        _mean(split) if split else None,
        _typical(split) if split and split.typical else None,
        _curves(observation, split),
        _lines(split) if split and split.sites else None,
        _notes(diagnosis.notes),
        _processes(observation.processes),
    ]
    body = join(
        _header(observation, diagnosis, split),
        tag("main", *(section for section in sections if section)),
        tag("footer", _colophon(split)),
    )
    return whole_page(f"diagnosis: {observation.command}", body, style=Path(__file__).with_name("page.css").read_text(encoding="utf-8"))


def _header(observation: Observation, diagnosis: Diagnosis, split: Split | None) -> Html:
    overline = tag(
        "p",
        tag("span", "diagnosis", class_="status" if split else "status bad"),
        tag("span", f"{spoken(observation.seconds)} observed"),
        tag("span", observation.command, class_="code"),
        class_="overline",
    )
    figures = tag("dl", *_figures(observation, split), class_="headline") if split else None
    ended = tag("p", f"The program ended while it was observed: {observation.ended}.", class_="notice") if observation.ended else None
    return tag("header", overline, tag("div", tag("h1", diagnosis.sentence), class_="verdict"), ended, figures)


def _figures(observation: Observation, split: Split) -> list[Html]:
    of = "of a step" if split.steps else f"of {split.samples} samples"
    shown = [_figure("Waiting for data", f"{100 * share(split, 'data'):.0f} %", of, "value first")]
    if split.step_s is not None:
        shown.append(_figure("A step", duration(split.step_s), f"mean of {split.steps:,}; median {duration(split.median_s or 0)}"))
    if split.step_s is not None and split.batch is not None:
        ranks = len(observation.splits)
        below = f"{split.batch} a step" + (f", {ranks} ranks" if ranks > 1 else "")
        shown.append(_figure(unit_of(split).capitalize(), f"{ranks * split.batch / split.step_s:,.0f}", below))
    if observation.gpus:
        busy = sum(gpu.busy for gpu in observation.gpus) / len(observation.gpus)
        shown.append(_figure("GPU busy", f"{100 * busy:.0f} %", observation.gpus[0].name or ""))
    else:
        used = sum(use.cores for use in observation.processes)
        shown.append(_figure("Cores in use", f"{used:.1f}", f"of {observation.cores}"))
    return shown


def _figure(name: str, value: str, below: str, class_: str = "value") -> Html:
    return tag("div", tag("dt", name), tag("dd", value, class_=class_), tag("dd", below, class_="sub"))


def _fixes(fixes: Sequence[Fix]) -> Html:
    if not fixes:
        return tag("section", tag("h2", "What to change"), tag("p", "Nothing that was measured here calls for a change.", class_="muted"))
    return tag("section", tag("h2", "What to change"), tag("ol", *(_fix(fix) for fix in fixes), class_="fixes"))


def _fix(fix: Fix) -> Html:
    gain = "not computed" if fix.gain is None else f"{fix.gain:.2f} ×"
    below = "at most" if fix.bound and fix.gain is not None else "the split cannot tell" if fix.gain is None else "expected"
    rule = f"= {fix.formula}" if fix.gain is not None else fix.formula
    said = [tag("p", fix.what), tag("p", fix.where, class_="code") if fix.where else None, tag("p", rule, class_="sub")]
    said.append(tag("p", f"Note: {fix.caution}.", class_="sub") if fix.caution else None)
    return tag("li", tag("b", gain, tag("small", below)), tag("div", *said))


def _mean(split: Split) -> Html:
    whole = "The mean step" if split.steps else "The training thread"
    bars: list[Html] = [tag("span", "training thread"), share_bar("training thread", split.shares)]
    if split.gpu_shares:
        bars += [tag("span", "GPU stream"), share_bar("GPU stream", split.gpu_shares)]
    head = ["Phase", "Share", *(["Time"] if split.step_s else []), *(["Share of the GPU stream"] if split.gpu_shares else [])]
    rows = [_phase_row(split, phase) for phase in NAMES if split.shares.get(phase, 0) > 0 or (split.gpu_shares or {}).get(phase, 0) > 0]
    table = tag("table", tag("thead", tag("tr", *(_head(name, index > 0) for index, name in enumerate(head)))), tag("tbody", *rows))
    note = tag(
        "p",
        "On the GPU's stream, what falls into data or waiting is time in which it had nothing to do; under Python it may have had some of its work.",
        class_="muted",
    )
    seen = [phase for phase in NAMES if split.shares.get(phase, 0) > 0]
    return tag(
        "section", tag("h2", whole), tag("div", *bars, class_="bars"), key(seen), note if split.gpu_shares else None, _scrolled("Phases", table)
    )


def _phase_row(split: Split, phase: str) -> Html:
    cells = [f"{100 * split.shares.get(phase, 0.0):.1f} %"]
    cells += [duration(split.shares.get(phase, 0.0) * split.step_s)] if split.step_s else []
    cells += [f"{100 * split.gpu_shares.get(phase, 0.0):.1f} %"] if split.gpu_shares else []
    return tag("tr", tag("th", NAMES[phase], scope="row"), *(tag("td", cell, class_="number") for cell in cells))


def _typical(split: Split) -> Html:
    bars = step_bars(split.typical)
    rows = [part for step, bar in zip(split.typical, bars, strict=True) for part in (tag("span", duration(sum(width for _, _, width in step))), bar)]
    said = tag(
        "p", f"{len(bars)} consecutive steps, as long together as {len(bars)} mean ones. One scale; the training thread's view.", class_="muted"
    )
    return tag(
        "section", tag("h2", "Typical steps"), said, tag("div", *rows, class_="bars"), key({phase for step in split.typical for phase, _, _ in step})
    )


def _curves(observation: Observation, split: Split | None) -> Html | None:
    charts = []
    if split and any(split.waits_s):
        points = [(float(index + 1), 1e3 * wait) for index, wait in enumerate(split.waits_s)]
        series = Series(name="waiting for data, ms", look="test", points=points)
        charts.append(line_chart("wait", "Waiting for data, ms a step", [series], x_label="step", show=compact, from_zero=True))
    for gpu in observation.gpus:
        series = Series(name="busy", look="test", points=[(at, 100 * busy) for at, busy in gpu.series])
        charts.append(
            line_chart(f"gpu{gpu.index}", f"GPU {gpu.index} busy, %", [series], x_label="seconds", show=compact, from_zero=True, whole_x=False)
        )
    if split and split.memory and len(split.memory.series) > 1:
        gpu_memory = split.memory.peak_allocated_bytes is not None
        series = Series(name="memory", look="test", points=[(at, size / _MEBIBYTE) for at, size in split.memory.series])
        title = "GPU memory of tensors, MiB" if gpu_memory else "Resident memory, MiB"
        charts.append(line_chart("memory", title, [series], x_label="seconds", show=compact, from_zero=True, whole_x=False))
    return tag("section", tag("h2", "Over time"), tag("div", *charts, class_="charts")) if charts else None


def _lines(split: Split) -> Html:
    head = tag("thead", tag("tr", *(_head(name, index > 1) for index, name in enumerate(("Line", "What", "Share", "Calls a step")))))
    rows = [
        tag(
            "tr",
            tag("td", f"{site.file}:{site.line}" if site.file else "–", class_="code"),
            tag("td", f"{NAMES.get(site.phase, site.phase)}: {site.what}" if site.what else NAMES.get(site.phase, site.phase)),
            tag("td", f"{100 * site.share:.1f} %", class_="number"),
            tag("td", f"{site.per_step:.3g}" if site.per_step else "–", class_="number"),
        )
        for site in split.sites
    ]
    return tag("section", tag("h2", "Lines of code"), _scrolled("Lines of code", tag("table", head, tag("tbody", *rows))))


def _notes(notes: Sequence[str]) -> Html | None:
    return tag("section", tag("h2", "What else was seen"), tag("ul", *(tag("li", note) for note in notes), class_="notes")) if notes else None


def _processes(uses: Sequence[ProcessUse]) -> Html | None:
    if not uses:
        return None
    names = ("Process", "Role", "Cores", "Disk waits", "Read", "Faults/s", "Forced switches/s", "Resident", "Threads")
    head = tag("thead", tag("tr", *(_head(name, index > 1) for index, name in enumerate(names))))
    return tag(
        "section", tag("h2", "Processes"), _scrolled("Processes", tag("table", head, tag("tbody", *(_process(use) for use in uses)), class_="wide"))
    )


def _process(use: ProcessUse) -> Html:
    cells = (
        f"{use.cores:.2f}",
        f"{100 * use.disk:.0f} %",
        _size(use.read_bytes_s, "/s"),
        _count(use.faults_s),
        _count(use.switches_s),
        _size(use.rss_bytes),
        _count(use.threads) + (f" ({use.busy_threads} busy)" if use.busy_threads is not None else ""),
    )
    return tag("tr", tag("td", str(use.pid), title=use.name), tag("td", use.role), *(tag("td", cell, class_="number") for cell in cells))


def _size(value: float | None, per: str = "") -> str:
    return "–" if value is None else f"{value / _MEBIBYTE:,.1f} MiB{per}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _head(name: str, right: bool) -> Html:
    return tag("th", name, scope="col", class_="number" if right else None)


def _scrolled(label: str, table: Html) -> Html:
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def _colophon(split: Split | None) -> Html:
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    cost = ""
    if split is not None and split.source == "observer":
        cost = "" if split.cost is None else f" The observer itself took at least {100 * split.cost:.1f} % of a step (not in the split)."
    elif split is not None:
        cost = " Seen from outside by stack samples; the process was not stopped."
    return text(f"Made {made} by Stoker {__version__}.{cost} The page loads nothing from anywhere.")
