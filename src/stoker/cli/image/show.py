"""`stoker image show`: an image's layers, their sizes, and the drivers that it fits; or its equivalent as a Containerfile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from stoker import console
from stoker.errors import UsageError
from stoker.image.build import built_layout
from stoker.image.containerfile import containerfile
from stoker.image.lock import LOCK_FILE, read_lock
from stoker.image.progress import bytes_text
from stoker.image.show import Shown, StackShown, shown
from stoker.runs.columns import bold, printable, table


@click.command()
@click.argument("layout", type=click.Path(path_type=Path), required=False)
@click.option("--lock", type=click.Path(path_type=Path), default=Path(LOCK_FILE), help="The lock whose image is meant, where no LAYOUT is named.")
@click.option("--containerfile", "as_containerfile", is_flag=True, help="Print a Containerfile that installs the same packages.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def show(layout: Path | None, lock: Path, as_containerfile: bool, as_json: bool) -> None:
    """Show the layers and sizes of an image, and the drivers that it fits.

    LAYOUT is the folder that `stoker image build` wrote (default: that of the stoker.lock here).
    """
    if as_containerfile:
        if layout or as_json:
            raise UsageError("--containerfile is made from a lock: a layout and --json do not go with it", hint="name the lock with --lock")
        click.echo(containerfile(read_lock(lock)).rstrip("\n"))
        return
    found = shown(layout or built_layout(lock, read_lock(lock)))
    if as_json:
        console.emit({**dataclasses.asdict(found), "size": found.size, "unpacked_size": found.unpacked_size})
    else:
        click.echo("\n".join(_lines(found)))


def _lines(found: Shown) -> list[str]:
    rows = [(printable(layer.title), bytes_text(layer.size), bytes_text(layer.unpacked_size or 0), layer.digest[7:19]) for layer in found.layers]
    rows.append(("all", bytes_text(found.size), bytes_text(found.unpacked_size), ""))
    return [
        f"{bold(printable(found.name))}  {found.digest}",
        f"created   {printable(found.created)} (the moment of its lock, {found.lock or 'which is not known'})",
        f"variants  {printable(' '.join(found.variants))}",
        *(f"{'stacks' if number == 0 else '':<10}{printable(_stack(stack))}" for number, stack in enumerate(found.stacks)),
        *([f"refused   by NVIDIA's runtime unless {printable(found.require)}"] if found.require else []),
        "",
        *table(("layer", "size", "unpacked", "digest"), rows, right=(1, 2), folded=0, drop=3),
    ]


def _stack(stack: StackShown) -> str:
    parts = [f"torch {stack.torch}" if stack.torch else "without PyTorch"]
    if stack.driver_min:
        full = f" (from {stack.driver_full} on nothing is missing)" if stack.driver_full and stack.driver_full != stack.driver_min else ""
        parts.append(f"driver {stack.driver_min} or newer{full}")
    if stack.architectures:
        codes = " ".join(f"sm_{code}" for code in stack.architectures)
        parts.append(f"GPUs {codes}{' and newer (PTX)' if stack.ptx else ''}")
    return f"{stack.name}: {', '.join(parts)}"
