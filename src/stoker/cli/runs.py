"""`stoker runs`: what was run, how it went, and in what two runs differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stoker import console, settings
from stoker.runs import Run, all_runs
from stoker.runs.columns import bold, fold, padded, printable, table, terminal_width, width
from stoker.runs.differences import REPEATED_PACKAGES, ROOMS, Difference, differences, flat
from stoker.runs.durations import ago, spoken
from stoker.runs.fields import listed, number
from stoker.runs.summary import Summary, summarise

_ROOT = click.option("--root", type=click.Path(path_type=Path), default=None, help="Folder that holds the runs (default: STOKER_RUNS, else runs).")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group(invoke_without_command=True)
@_ROOT
@_JSON
@click.pass_context
def runs(context: click.Context, root: Path | None, as_json: bool) -> None:
    """List the runs, newest first; or show, compare and report them.

    ID is a run's name, a beginning or end of it that fits one run only, or "last".
    """
    context.obj = root or settings.runs_folder()
    if context.invoked_subcommand:
        return
    found = [summarise(run) for run in all_runs(context.obj)]
    if as_json:
        console.emit([summary.as_dict() for summary in found])
    elif found:
        rows = [_row(summary) for summary in found]
        click.echo("\n".join(table(("run", "status", "recipe", "epochs", "test %", "images/s", "age"), rows, right=(3, 4, 5, 6), folded=0, drop=2)))
    else:
        console.say(f"There are no runs in {context.obj} yet. `stoker train` makes one; `stoker train --list` shows the recipes.")


@runs.command()
@click.argument("name", metavar="ID")
@_ROOT
@_JSON
@click.pass_obj
def show(above: Path, name: str, root: Path | None, as_json: bool) -> None:
    """Show the record of a run."""
    run = Run.find(root or above, name)
    record = run.record()
    if as_json:
        console.emit(record | {"status": run.status(), "path": str(run.path)})
        return
    summary = summarise(run)
    click.echo(f"{bold(printable(run.id))}  {printable(summary.status)}")
    _facts("result", {title: value for title, value in _results(summary).items() if value != "–"})
    for room in ROOMS[1:]:
        _facts(room, _shown(room, record))
    choices = [entry for entry in listed(record, "choices") if isinstance(entry, dict)]
    _facts("choices", {str(entry.get("name")): _choice(entry) for entry in choices})
    report = run.path / "report.html"
    click.echo(f"\nreport: {report}" if report.exists() else f"\nreport: none yet; `stoker runs report {run.id}` makes it")


@runs.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@_ROOT
@_JSON
@click.pass_obj
def compare(above: Path, first: str, second: str, root: Path | None, as_json: bool) -> None:
    """Show the results of two runs side by side, then in what the runs differ."""
    run_a, run_b = Run.find(root or above, first), Run.find(root or above, second)
    found = differences(run_a.record(), run_b.record())
    summary_a, summary_b = summarise(run_a), summarise(run_b)
    if as_json:
        pairs = [{"what": entry.what, "a": entry.a, "b": entry.b} for entry in found]
        console.emit({"a": summary_a.as_dict(), "b": summary_b.as_dict(), "differences": pairs})
        return
    results_a, results_b = _results(summary_a), _results(summary_b)
    click.echo("\n".join(table(("", run_a.id, run_b.id), [(title, results_a[title], results_b[title]) for title in results_a], folded=None)))
    click.echo()
    if not found:
        click.echo("Configuration, code, packages, data and host are the same.")
        return
    click.echo("\n".join(table(("differs in", "A", "B"), [(entry.what, *_sides(entry)) for entry in found], folded=None)))


@runs.command()
@click.argument("name", metavar="ID")
@_ROOT
@click.pass_obj
def report(above: Path, name: str, root: Path | None) -> None:
    """Make the report page of a run again and print its path."""
    from stoker.runs.report import write_report  # needs numpy and Pillow, which the other commands do without

    click.echo(str(write_report(Run.find(root or above, name)).absolute()))


def _row(summary: Summary) -> tuple[str, ...]:
    done = "–" if summary.epochs is None else str(summary.epochs)
    partly = summary.epochs_planned is not None and summary.epochs is not None and summary.epochs < summary.epochs_planned
    return (
        summary.id,
        summary.status,
        summary.recipe or "–",
        f"{done}/{summary.epochs_planned}" if partly else done,
        _known(summary.test_accuracy, lambda known: f"{100 * known:.2f}"),
        _thousands(summary.images_per_s),
        ago(summary.age_s),
    )


def _results(summary: Summary) -> dict[str, str]:
    planned = "" if summary.epochs_planned is None else f" of {summary.epochs_planned}"
    return {
        "status": summary.status,
        "recipe": summary.recipe or "–",
        "test accuracy": _percent(summary.test_accuracy),
        "best test accuracy": _percent(summary.best_test_accuracy),
        "test loss": _loss(summary.test_loss),
        "train accuracy": _percent(summary.train_accuracy),
        "train loss": _loss(summary.train_loss),
        "epochs": "–" if summary.epochs is None else f"{summary.epochs}{planned}",
        "images/s": _thousands(summary.images_per_s),
        "training": spoken(summary.train_s),
        "in all": spoken(summary.total_s),
        "started": summary.started or "–",
    }


def _shown(room: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a room of the record that a person wants to see; `--json` has all."""
    value = record.get(room)
    if room == "packages" and isinstance(value, dict):
        chief = {name: value[name] for name in REPEATED_PACKAGES if name in value}
        return chief | ({"others": f"{len(value) - len(chief)} (--json names them)"} if len(value) > len(chief) else {})
    if room == "git" and isinstance(value, dict):
        lines = len(str(value.get("diff") or "").splitlines())
        return {"commit": value.get("commit"), "diff": f"{lines} lines (--json has them)" if lines else "none", "untracked": value.get("untracked")}
    if room == "data" and isinstance(value, dict):
        names = value.get("classes")
        if not isinstance(names, list):
            return value
        return value | {"classes": f"{len(names)}: {', '.join(map(str, names[:12]))}{', ...' if len(names) > 12 else ''}"}
    if isinstance(value, dict):
        return flat(value)
    return {} if value is None else {"": value}


def _facts(title: str, facts: dict[str, Any]) -> None:
    """Print a block: its title, then a line a fact, long values folded under themselves."""
    facts = {key: value for key, value in facts.items() if value is not None and value != []}
    if not facts:
        return
    if list(facts) == [""]:
        click.echo(f"\n{bold(title)}  {_text(facts[''])}")
        return
    click.echo(f"\n{bold(title)}")
    indent = min(34, max(width(key) for key in facts) + 4)
    for key, value in facts.items():
        first, *more = fold(_text(value), max(20, terminal_width() - indent))
        label = f"  {printable(key)}"
        click.echo(padded(label, indent) + first if width(label) < indent else f"{label}\n{' ' * indent}{first}")
        for line in more:
            click.echo(" " * indent + line)


def _choice(entry: dict[str, Any]) -> str:
    ratio = number(entry.get("ratio"))
    measured = "" if ratio is None else f" ({ratio:.2f} x)"
    return f"{'kept' if entry.get('kept') else 'left out'}{measured}: {entry.get('why') or 'no reason was written'}"


def _sides(entry: Difference) -> tuple[str, str]:
    return _text(entry.a), _text(entry.b)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return printable(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))


def _percent(value: float | None) -> str:
    return _known(value, lambda known: f"{100 * known:.2f} %")


def _loss(value: float | None) -> str:
    return _known(value, lambda known: f"{known:.4f}")


def _thousands(value: float | None) -> str:
    return _known(value, lambda known: f"{known:,.0f}")


def _known(value: float | None, show: Callable[[float], str]) -> str:
    return "–" if value is None else show(value)
