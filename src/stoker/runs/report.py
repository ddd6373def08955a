"""The report of a run: one page that needs nothing but itself, neither network nor script."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from stoker.errors import RunBroken
from stoker.files import write_text_atomically
from stoker.runs.charts import Series, compact, line_chart
from stoker.runs.durations import spoken
from stoker.runs.evaluation import Evaluation, read_evaluation
from stoker.runs.fields import listed, number, part
from stoker.runs.markup import Html, join, tag, text
from stoker.runs.mistakes import confusion, wrong_examples
from stoker.runs.page import whole_page
from stoker.runs.provenance import commands, configuration, moment, surroundings
from stoker.runs.run import Run
from stoker.runs.summary import Summary, summarise

_MOST_ROWS = 1000
_ENDINGS = {
    "died": "The process ended without a word (kill -9, power cut, out of memory). What follows is what it had written by then.",
    "failed": "The training failed. What follows is what it had written by then.",
    "interrupted": "The training was interrupted; `stoker train --resume` goes on with it.",
    "terminated": "The training was terminated; `stoker train --resume` goes on with it.",
    "running": "The training was running when this page was made.",
}


def write_report(run: Run) -> Path:
    """Make report.html in the run's folder and return its path. Raises RunBroken for a record that cannot be read, DiskFull."""
    path = run.path / "report.html"
    write_text_atomically(path, page(run), durable=False)
    return path


def page(run: Run) -> str:
    """Return the report as HTML. What a run does not have (epochs, evaluation, host) is said or left out."""
    record, summary = run.record(), summarise(run)
    epochs = run.metrics("epoch")
    sections = (
        _curves(epochs, run.metrics("speed")),
        *_evaluated(run, record),
        _choices(listed(record, "choices")),
        commands(run, record),
        configuration(record),
        surroundings(record),
    )
    body = join(_header(record, summary), tag("main", *(section for section in sections if section)), tag("footer", _colophon(run, record)))
    return whole_page(f"{summary.recipe or run.id}: {_percent(summary.test_accuracy)}", body)


def _header(record: dict[str, Any], summary: Summary) -> Html:
    good = summary.status in ("done", "running")
    overline = tag(
        "p",
        tag("span", summary.status, class_="status" if good else "status bad"),
        tag("span", moment(summary.started)),
        tag("span", summary.id, class_="code"),
        class_="overline",
    )
    ending = _ENDINGS.get(summary.status)
    best, total = summary.best_test_accuracy, summary.total_s
    steps = number(part(record, "result").get("steps"))
    epochs = f"{summary.epochs or 0} of {summary.epochs_planned}" if summary.epochs_planned else str(summary.epochs or 0)
    trained = f"{epochs} epoch{'' if epochs == '1' else 's'}" + (f", {steps:,.0f} steps" if steps else "")
    return tag(
        "header",
        overline,
        tag("h1", summary.recipe or summary.id),
        tag("p", ending, class_="notice") if ending else None,
        tag(
            "dl",
            _figure("Test accuracy", _percent(summary.test_accuracy), f"best {_percent(best)}" if best is not None else "", "value first"),
            _figure("Training time", spoken(summary.train_s), f"{spoken(total)} with everything" if total is not None else ""),
            _figure("Images a second", _thousands(summary.images_per_s), trained),
            _figure("Where", *_place(part(record, "host")), "value words"),
            class_="headline",
        ),
    )


def _figure(name: str, value: str, below: str, class_: str = "value") -> Html:
    return tag("div", tag("dt", name), tag("dd", value, class_=class_), tag("dd", below, class_="sub") if below else None)


def _curves(epochs: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> Html:
    if not epochs and not speeds:
        return tag("section", tag("h2", "Curves"), tag("p", "No epoch was finished, so there is nothing to draw.", class_="muted"))
    loss = (_series(epochs, "train", "train_loss"), _series(epochs, "test", "test_loss"))
    accuracy = (_series(epochs, "train", "train_accuracy"), _series(epochs, "test", "test_accuracy"))
    rate = _series(epochs, "learning rate", "learning_rate")
    charts = [
        line_chart("accuracy", "Accuracy", [entry for entry in accuracy if entry.points], x_label="epoch", show=_short_percent),
        line_chart("loss", "Loss", [entry for entry in loss if entry.points], x_label="epoch", show=compact),
        line_chart("rate", "Learning rate", [rate], x_label="epoch", show=compact, from_zero=True) if rate.points else None,
        _speed_chart(epochs, speeds),
    ]
    return tag("section", tag("h2", "Curves"), tag("div", *charts, class_="charts"), _epoch_table(epochs))


def _series(epochs: list[dict[str, Any]], name: str, key: str) -> Series:
    """Return a line over the epochs that have the key at all: a test every second epoch is no gap, a NaN is one."""
    points = [(at, number(line[key])) for line in epochs if key in line and (at := number(line.get("epoch"))) is not None]
    return Series(name=name, look="train" if name == "train" else "test", points=points)


def _speed_chart(epochs: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> Html | None:
    points: list[tuple[float, float | None]] = []
    offset, last = 0.0, 0.0
    for line in speeds:
        at = number(line.get("elapsed_s"))
        if at is None:
            continue
        if at < last:  # a resumed session counts from 0 again
            offset += last
        last = at
        points.append((offset + at, number(line.get("images_per_s"))))
    if len(points) < 2:
        points, elapsed_s = [], 0.0
        for line in epochs:
            elapsed_s += number(line.get("train_s")) or 0.0
            points.append((elapsed_s, number(line.get("images_per_s"))))
    series = [Series(name="images a second", look="test", points=points)]
    label = "seconds of training"
    return line_chart("speed", "Images a second", series, x_label=label, show=compact, from_zero=True, whole_x=False) if points else None


def _epoch_table(epochs: list[dict[str, Any]]) -> Html | None:
    if not epochs:
        return None
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        "epoch": ("Epoch", _thousands),
        "train_loss": ("Train loss", compact),
        "test_loss": ("Test loss", compact),
        "train_accuracy": ("Train accuracy", _percent),
        "test_accuracy": ("Test accuracy", _percent),
        "learning_rate": ("Learning rate", compact),
        "images_per_s": ("Images/s", _thousands),
        "train_s": ("Train", spoken),
        "eval_s": ("Evaluate", spoken),
    }
    used = {key: shown for key, shown in columns.items() if any(key in line for line in epochs)}
    head = tag("thead", tag("tr", *(tag("th", title, scope="col", class_="number") for title, _ in used.values())))
    rows = [tag("tr", *(_epoch_cell(line, key, show) for key, (_, show) in used.items())) for line in epochs[-_MOST_ROWS:]]
    caption = tag("caption", f"The last {_MOST_ROWS} of {len(epochs)} epochs" if len(epochs) > _MOST_ROWS else "Every epoch in numbers")
    table = _scrolled("Numbers of each epoch", tag("table", caption, head, tag("tbody", *rows)))
    return tag("details", tag("summary", "The numbers behind the curves"), table)


def _epoch_cell(line: dict[str, Any], key: str, show: Callable[[float], str]) -> Html:
    value = number(line.get(key))
    absent = "not finite" if key in line else "–"
    return tag("td", absent if value is None else show(value), class_="number")


def _evaluated(run: Run, record: dict[str, Any]) -> list[Html]:
    try:
        found: Evaluation | None = read_evaluation(run.path / "evaluation.npz")
    except RunBroken as error:
        return [tag("section", tag("h2", "Mistakes"), tag("p", error.message, class_="muted"))]
    if found is None:
        missing = "There is no evaluation.npz in the run folder: the training did not come to its evaluation."
        return [tag("section", tag("h2", "Mistakes"), tag("p", missing, class_="muted"))]
    classes = [str(name) for name in listed(part(record, "data"), "classes")]
    classes += [f"class {index}" for index in range(len(classes), len(found.confusion_CC))]
    return [confusion(found, classes), *([wrong_examples(found, classes)] if found.wrong else [])]


def _choices(choices: list[Any]) -> Html | None:
    rows = [_choice(entry) for entry in choices if isinstance(entry, dict)]
    if not rows:
        return None
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in ("Choice", "Kept", "Measured", "Why"))))
    rule = "A faster way of computing is kept only if a probe in this very run showed it faster. Measured: speed with it over speed without."
    table = tag("table", tag("caption", rule), head, tag("tbody", *rows), class_="choices wide")
    return tag("section", tag("h2", "What was kept and why"), _scrolled("Choices", table))


def _choice(entry: dict[str, Any]) -> Html:
    ratio = number(entry.get("ratio"))
    kept = tag("span", "✓ kept", class_="mark") if entry.get("kept") else tag("span", "left out", class_="muted")
    measured = f"{ratio:.2f} ×" if ratio is not None else "not measured"
    return tag("tr", tag("td", entry.get("name", "")), tag("td", kept), tag("td", measured), tag("td", entry.get("why") or ""))


def _colophon(run: Run, record: dict[str, Any]) -> Html:
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    version = part(record, "stoker").get("version", "")
    return text(f"Made {made} by Stoker {version} from run.json, metrics.jsonl and evaluation.npz of {run.id}. The page loads nothing from anywhere.")


def _scrolled(label: str, table: Html) -> Html:
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def _place(host: dict[str, Any]) -> tuple[str, str]:
    """Return the chip that trained and, below it, the machine."""
    if not host:
        return "not recorded", ""
    gpus = [str(gpu.get("name") or "GPU") for gpu in listed(host, "gpus") if isinstance(gpu, dict)]
    cores = part(host, "limits").get("cores")
    cpu = f"{host.get('cpu') or 'CPU'}" + (f", {cores} cores" if cores else "")
    name = str(host.get("hostname") or "")
    if not gpus:
        return cpu, name
    count = f"{len(gpus)} × " if len(set(gpus)) == 1 and len(gpus) > 1 else ""
    return count + (gpus[0] if len(set(gpus)) == 1 else ", ".join(gpus)), ", ".join(part for part in (cpu, name) if part)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _short_percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _thousands(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
