"""`stoker stack`: inside an image, which PyTorch stack `python` is, which ones there are, and a change by hand."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stoker import console
from stoker.start.choice import stack_objections
from stoker.start.driver import Seen, look
from stoker.start.image import Image, ImageStack, read_image
from stoker.start.stack import AUTOMATIC, VARIABLE, in_use, use


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def stack(context: click.Context, as_json: bool) -> None:
    """Show the PyTorch stacks of this image and which one is used, or choose another one.

    STOKER_STACK=NAME before a command chooses one for that command, `stoker stack use NAME` one for all that starts from now on.
    """
    if context.invoked_subcommand is None:
        _list(read_image(), as_json)


@stack.command(name="use")
@click.argument("name")
def use_stack(name: str) -> None:
    """Use the stack NAME from now on: for shells, new notebook kernels and SSH logins. `auto`: the one that the start chose."""
    image = read_image()
    use(image, name, Path.home())
    _warn(image, name)
    console.say(f"{'the start of the container chooses the stack again' if name == AUTOMATIC else f'python is now the stack {name}'}")


def _warn(image: Image, name: str) -> None:
    """Say what speaks against a choice that was made all the same."""
    if os.environ.get(VARIABLE) and os.environ[VARIABLE] != name:
        console.warn(f"{VARIABLE}={os.environ[VARIABLE]} is set here and goes before it: `unset {VARIABLE}`")
    seen = look()
    for chosen in (one for one in image.stacks if one.name == name):
        for text in _against(image, chosen, seen)[:1]:
            console.warn(f"it cannot use this machine's GPUs: {text}")


def _list(image: Image, as_json: bool) -> None:
    seen, used = look(), in_use(image, os.environ, Path.home())
    against = {one.name: _against(image, one, seen) for one in image.stacks}
    if as_json:
        console.emit(
            {
                "image": image.name,
                "stack": used.name if used else None,
                "by": used.by if used else None,
                "driver": seen.driver,
                "gpus": [card.name for card in seen.cards],
                "stacks": [
                    {"name": one.name, "torch": one.torch, "cuda": one.cuda, "runs": not against[one.name], "against": list(against[one.name])}
                    for one in image.stacks
                ],
            }
        )
        return
    for one in image.stacks:
        mark = "*" if used and used.name == one.name else " "
        click.echo(f"{mark} {one.says}" + "".join(f"\n    cannot use this machine's GPUs: {text}" for text in against[one.name]))
    console.say(f"* chosen by {used.by}" if used else "none is chosen: this process was not started by stoker-start")


def _against(image: Image, one: ImageStack, seen: Seen) -> tuple[str, ...]:
    return stack_objections(one, seen.driver, seen.cards, image.machine) if seen.cards or seen.unknown else ()
