"""`stoker repeat`: train a recorded run again, where code, packages and data are the same."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("run_id", metavar="ID")
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH", help="Where the same data is now.")
@click.option("--anyway", is_flag=True, help="Repeat although code or packages differ; the differences are said and the new record has its own.")
@click.option("--json", "json_", is_flag=True, help="Print the record of the new run on stdout.")
def repeat(run_id: str, data: Path | None, anyway: bool, json_: bool) -> None:
    """Train run ID again and compare the result.

    Refuses when Stoker's code, the commit or uncommitted changes of the folder, the packages that compute, or the data are not those of
    the run, and shows what differs.
    """
    from stoker import console, host
    from stoker.cli.train import say_result
    from stoker.environment.venv import lock_digest
    from stoker.errors import RepeatRefused
    from stoker.runs import differences, surroundings
    from stoker.runs.run import Run
    from stoker.settings import runs_folder

    run = Run.find(runs_folder(), run_id)
    record = run.record()
    here = surroundings.gather(Path.cwd(), sys.argv, lock=lock_digest()) | {"host": host.facts().as_dict()}
    refusals = differences.refusals(record, here)
    for difference in refusals if anyway else differences.mentions(record, here):
        console.say(f"differs: {difference.what}: {difference.a} then, {difference.b} now")
    if refusals and not anyway:
        shown = "\n".join(f"  {one.what}: {one.a} then, {one.b} now" for one in refusals)
        commit = (record.get("git") or {}).get("commit")
        raise RepeatRefused(
            f"run {run.id} cannot be repeated here as it was:\n{shown}",
            hint=(f"`git checkout {commit}` (in {record.get('folder')}) and " if commit else "")
            + "the same environment; or --anyway for a run that differs",
        )
    from stoker.train.session import Request, train

    again = train(Request.recorded(run, data=data, repeats=run.id, command=["stoker", *sys.argv[1:]], lock=lock_digest()))
    say_result(again, json_)
    _say_comparison(record.get("result") or {}, again.record()["result"], run.id)


def _say_comparison(then: dict[str, float], now: dict[str, float], name: str) -> None:
    from stoker import console

    if "test_loss" not in then:
        return console.say(f"run {name} has no result to compare with")
    same = all(then.get(key) == now.get(key) for key in ("train_loss", "test_loss", "test_accuracy"))
    if same:
        return console.say(f"the same as {name}, to the last bit of loss and accuracy")
    return console.say(
        f"{name} had test accuracy {100 * then['test_accuracy']:.2f} %, this one {100 * now['test_accuracy']:.2f} % "
        f"(loss {then['test_loss']:.4f} and {now['test_loss']:.4f}); only --deterministic runs agree to the last bit"
    )
