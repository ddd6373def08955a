"""`stoker doctor`: what keeps this machine from training, or from training fast, with the evidence and the fix."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from stoker import console
from stoker.doctor import Examination, Facts, Scope, examine, gather, read_facts, why_cuda, write_facts
from stoker.doctor.checks import CHECKS
from stoker.doctor.examination import Judged
from stoker.doctor.finding import Finding, Passed, Severity, Skipped, check_id
from stoker.doctor.mending import mend, plan
from stoker.errors import UnknownName, UsageError, nearest
from stoker.runs.columns import bold, fold, printable, terminal_width

_LABEL = 13
_COLOURS = {Severity.ERROR: 31, Severity.WARNING: 33, Severity.NOTE: 36}


@click.command()
@click.option("--python", metavar="PATH", default=None, help="Examine this Python (a program or an environment's folder) instead of the one in use.")
@click.option("--data", type=click.Path(path_type=Path), default=None, help="Also look at this data set: its disk is measured, its size compared.")
@click.option("--nodes", metavar="A,B", default="", help="Also compare the clocks of these machines, asked by ssh.")
@click.option("--why", type=click.Choice(["cuda"]), default=None, help="Walk from the card to torch.cuda; stop at the first broken link.")
@click.option("--explain", metavar="ID", default=None, help="Explain a finding at length, without looking at the machine.")
@click.option("--fix", is_flag=True, help="Run the fixes that are safe, after showing them; the others stay yours.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask.")
@click.option("--all", "show_all", is_flag=True, help="Also list what passed and what was skipped, with the reason.")
@click.option("--save", type=click.Path(path_type=Path), default=None, help="Write what was seen to a file, for somebody else to judge.")
@click.option("--from", "source", type=click.Path(path_type=Path), default=None, help="Judge the machine in a file that --save wrote, not this one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def doctor(
    python: str | None,
    data: Path | None,
    nodes: str,
    why: str | None,
    explain: str | None,
    fix: bool,
    yes: bool,
    show_all: bool,
    save: Path | None,
    source: Path | None,
    as_json: bool,
) -> int:
    """Examine this machine and the Python on it.

    The exit status is 0 when nothing is wrong, 1 after a warning, 2 after an error.
    """
    if explain:
        return _explain(explain)
    if source and (python or data or nodes or fix or save):
        told = "--from judges a file: --python, --data, --nodes, --fix and --save are about this machine"
        raise UsageError(told, hint="leave --from out, or the others")
    if yes and not fix:
        raise UsageError("--yes answers the question of --fix, which is not there", hint="add --fix")
    scope = Scope(python=python, data=data, nodes=tuple(node for node in nodes.split(",") if node))
    facts = read_facts(source) if source else gather(scope)
    if save:
        write_facts(facts, save)
        console.say(f"what was seen is in {save}: no passwords, but names of machines, users' paths and packages; read it before you send it")
    if why:
        return _why(facts, as_json)
    examination = examine(facts)
    if fix:
        examination = _fix(examination, scope, yes, as_json)
    if as_json:
        console.emit(examination.as_dict())
    else:
        _show(examination, show_all)
    return examination.status


def _show(examination: Examination, show_all: bool) -> None:
    click.echo(_headline(examination.facts))
    for entry, finding in examination.findings:
        _show_finding(entry, finding)
    if show_all:
        _show_others(examination)
    click.echo()
    click.echo(_summary(examination, show_all))


def _headline(facts: Facts) -> str:
    system, python = facts.system, facts.python
    names = [gpu.name or "GPU" for gpu in facts.gpus]
    gpus = ", ".join(f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)) or _no_gpus(facts)
    driver = f"driver {facts.driver.version}" if facts.driver.version else None
    torch = f"torch {python.torch.version}" if python.torch and python.torch.version else "no torch"
    where = f"inside a container ({system.container})" if system.container else None
    return bold(printable(", ".join(part for part in (system.os, where, driver, gpus, f"{python.executable or 'no Python'} with {torch}") if part)))


def _no_gpus(facts: Facts) -> str:
    cards = facts.driver.cards
    return "no NVIDIA GPU" if not cards else f"{cards} NVIDIA card{'s' if cards > 1 else ''} that cannot be reached"


def _show_finding(entry: Judged, finding: Finding) -> None:
    click.echo()
    click.echo(f"{_severity(finding.severity)} {bold(printable(finding.what))}  [{entry.id}]")
    for number, line in enumerate(finding.evidence):
        _labelled("seen" if number == 0 else "", line)
    _labelled("consequence", finding.consequence)
    for number, line in enumerate(finding.fix.splitlines()):
        _labelled("fix" if number == 0 else "", line, folded=False)
    _labelled("more", f"stoker doctor --explain {entry.id}")


def _labelled(label: str, text: str, *, folded: bool = True) -> None:
    """Print a text under its label. Commands are not folded: they are there to be pasted."""
    for number, line in enumerate(line for part in text.splitlines() for line in _lines(part, folded)):
        click.echo(f"  {label if number == 0 else '':{_LABEL}}{line}".rstrip())


def _lines(text: str, folded: bool) -> list[str]:
    text = printable(text.replace("\t", "    "))
    return fold(text, max(20, terminal_width() - _LABEL - 2)) if folded else [text]


def _severity(severity: Severity) -> str:
    text = f"{severity.value + ':':8}"
    return f"\033[1;{_COLOURS[severity]}m{text}\033[0m" if sys.stdout.isatty() else text


def _show_others(examination: Examination) -> None:
    others = [(entry, entry.outcome) for entry in examination.judged if not isinstance(entry.outcome, Finding)]
    for title, kind in (("passed", Passed), ("skipped", Skipped)):
        click.echo(f"\n{bold(title)}")
        for entry, outcome in others:
            if isinstance(outcome, kind):
                told = outcome.what if isinstance(outcome, Passed) else outcome.reason
                click.echo(f"  {entry.id:32} {printable(told)}")


def _summary(examination: Examination, show_all: bool) -> str:
    found = [finding.severity for _, finding in examination.findings]
    counts = [f"{found.count(kind)} {kind.value}{'s' if found.count(kind) > 1 else ''}" for kind in Severity if kind in found]
    passed = sum(isinstance(entry.outcome, Passed) for entry in examination.judged)
    skipped = len(examination.judged) - passed - len(found)
    told = f"{', '.join(counts) or 'nothing is wrong'}; {passed} checks passed, {skipped} do not apply here" + (
        "" if show_all else " (--all lists them)"
    )
    failed = ", ".join(entry.id for entry in examination.failed)
    return told + (f"; failed themselves, please report it: {failed}" if failed else "")


def _why(facts: Facts, as_json: bool) -> int:
    chain = why_cuda(facts)
    if as_json:
        console.emit(chain.as_dict())
    else:
        for line in chain.lines():
            click.echo(printable(line))
    return 2 if chain.broken else 0


def _explain(name: str) -> int:
    checks = {check_id(check): check for check in CHECKS}
    if name not in checks:
        like = nearest(name, list(checks))
        raise UnknownName(f"there is no finding {name!r}" + (f"; the nearest is {like!r}" if like else ""), hint="docs/findings.md lists all of them")
    title, _, text = (inspect.getdoc(checks[name]) or "").partition("\n")
    click.echo(f"{bold(name)}: {title}\n{text}")
    return 0


def _fix(examination: Examination, scope: Scope, yes: bool, as_json: bool) -> Examination:
    """Show the safe fixes, run them when that is wanted, and examine again."""
    planned = plan(examination)
    if not planned:
        console.say("nothing of what was found has a fix that is safe to run unasked")
        return examination
    console.say("safe to run here:")
    for mending in planned:
        console.say(f"  {mending.command}   # {mending.id}: {mending.what}")
    if not yes and not _agreed():
        return examination
    for mending in planned:
        done = mend(mending)
        console.say(f"{'done' if done.ok else 'failed'}: {mending.command}" + ("" if done.ok else f"\n  {(done.err or done.out).strip()[-500:]}"))
    again = examine(gather(scope))
    left = {entry.id for entry, _ in again.findings}
    for mending in planned:
        console.say(f"{mending.id}: {'still there' if mending.id in left else 'gone'}")
    if not as_json:
        console.say()
    return again


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("--fix asks before it runs anything, and there is nobody to ask", hint="add --yes to run what is listed above")
    return click.confirm("run them?", default=False, err=True)
