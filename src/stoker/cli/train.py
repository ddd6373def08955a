"""`stoker train`: run a recipe, or go on with a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("recipe", required=False)
@click.option("--list", "list_", is_flag=True, help="Print the recipes and end.")
@click.option("--show", is_flag=True, help="Print the full configuration and end.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a key of the configuration; may be given often.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="PATH", help="CIFAR batches, a tree of class folders, an archive of one, or an .npz."
)
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), help="Short for --set precision=...")
@click.option("--deterministic", is_flag=True, help="The same bits every time; float32, nothing probed.")
@click.option("--compile", "compile_", is_flag=True, help="Compile the model even where it may not pay.")
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Train on N GPUs of this machine.")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be decoded, and count them.")
@click.option("--name", "run_id", metavar="NAME", help="Name of the run folder (default: made of time and recipe).")
@click.option("--resume", is_flag=False, flag_value="last", metavar="[ID]", help="Go on with a run that was stopped (default: the last one).")
@click.option("--json", "json_", is_flag=True, help="Print the record of the finished run on stdout.")
def train(
    recipe: str | None,
    list_: bool,
    show: bool,
    assignments: tuple[str, ...],
    data: Path | None,
    precision: str | None,
    deterministic: bool,
    compile_: bool,
    gpus: int | None,
    skip_broken: bool,
    run_id: str | None,
    resume: str | None,
    json_: bool,
) -> None:
    """Train RECIPE (default: digits) and leave a run folder with checkpoints, curves and a report.

    \b
    stoker train
    stoker train cifar10.small --data cifar10.tar.xz --set epochs=10
    stoker train folder --data photos/ --set model=resnet50
    stoker train --resume
    """
    from stoker.train.recipes import DEFAULT
    from stoker.train.recipes import recipe as recipe_of

    if list_:
        return _print_list()
    flags = [f"precision={precision}"] * bool(precision) + ["deterministic=yes"] * deterministic + ["compile=yes"] * compile_
    if resume is not None:
        _refuse_changes(recipe, [*assignments, *flags], run_id)
        return _finish(lambda: _resume(resume, data), gpus, json_)
    chosen = recipe_of(recipe or DEFAULT).changed([*assignments, *flags])
    if show:
        return _print_recipe(chosen, json_)

    def request() -> Any:
        from stoker.environment.venv import lock_digest
        from stoker.settings import runs_folder
        from stoker.train.session import Request

        return Request(
            recipe=chosen,
            data=data,
            root=runs_folder(),
            run_id=run_id,
            skip_broken=skip_broken,
            command=["stoker", *sys.argv[1:]],
            lock=lock_digest(),
        )

    _finish(request, gpus, json_)


def _finish(request: Any, gpus: int | None, json_: bool) -> None:
    """Train, here or in one process a GPU, and say what came of it."""
    if gpus and "WORLD_SIZE" not in os.environ:
        _check_gpus(gpus)
        if gpus > 1:
            from stoker.train.workers import start

            sys.exit(start(gpus, sys.argv[1:]))
    from stoker.train.session import train as run_it

    run = run_it(request())
    if os.environ.get("RANK", "0") == "0":
        say_result(run, json_)


def say_result(run: Any, json_: bool) -> None:
    """Print what a finished run came to."""
    from stoker import console

    record = run.record()
    result = record["result"]
    console.say(
        f"test accuracy {100 * result['test_accuracy']:.2f} %   {result['epochs']} epochs, {result['train_s']:.2f} s in training steps, "
        f"{result['warm_s']:.2f} s with evaluation (warm), {result['total_s']:.2f} s in all (cold)   {result['images_per_s']:,.0f} images/s"
    )
    console.say(f"run:    {run.path}\nreport: {run.path / 'report.html'}")
    if json_:
        console.emit(record)


def _resume(name: str, data: Path | None) -> Any:
    from stoker.environment.venv import lock_digest
    from stoker.errors import UsageError
    from stoker.runs.run import Run
    from stoker.settings import runs_folder
    from stoker.train.session import Request

    run = Run.find(runs_folder(), name)
    if run.record().get("status") == "done":
        raise UsageError(f"run {run.id} is finished", hint=f"`stoker repeat {run.id}` trains it again")
    return Request.recorded(run, data=data, resume=run, command=["stoker", *sys.argv[1:]], lock=lock_digest())


def _refuse_changes(recipe: str | None, changes: list[str], run_id: str | None) -> None:
    from stoker.errors import UsageError

    if recipe or changes or run_id:
        given = recipe or (changes[0] if changes else f"--name {run_id}")
        raise UsageError(
            f"--resume goes on with the run's own recipe and configuration; {given} cannot be given with it",
            hint="`stoker train --resume ID`, or start a new run without --resume",
        )


def _check_gpus(count: int) -> None:
    import torch

    from stoker.errors import NoGpu

    if count > torch.cuda.device_count() or not torch.cuda.is_available():
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise NoGpu(
            f"--gpus {count}: PyTorch {torch.__version__} can use {found} GPU{'' if found == 1 else 's'} here",
            hint="`nvidia-smi` shows what the driver sees; without --gpus the training uses what there is",
        )


def _print_list() -> None:
    from stoker.train.recipes import RECIPES

    width = max(map(len, RECIPES))
    for name, function in RECIPES.items():
        click.echo(f"{name:{width}}  {(function.__doc__ or '').strip()}")


def _print_recipe(recipe: Any, json_: bool) -> None:
    from stoker import console
    from stoker.train.recipe import field_notes

    values = recipe.as_dict()
    if json_:
        return console.emit(values)
    notes = field_notes()
    pairs = {key: ",".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value) for key, value in values.items()}
    left, middle = max(map(len, pairs)), max(map(len, pairs.values()))
    for key, value in pairs.items():
        click.echo(f"{key:{left}} = {value:{middle}}  # {notes.get(key, '')}")
    return None
