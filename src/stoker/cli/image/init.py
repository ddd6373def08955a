"""`stoker image init`: a stoker.toml that fits this machine, written without a question."""

from __future__ import annotations

from pathlib import Path

import click

from stoker.console import say
from stoker.errors import SpecificationBroken
from stoker.files import write_atomically, write_text_atomically
from stoker.host import facts
from stoker.image.placed import NoToml, Unreadable, read_toml
from stoker.image.presets import presets
from stoker.image.specification import SPECIFICATION_FILE
from stoker.image.starter import starter_text


@click.command(epilog="Presets: " + ", ".join(preset.name for preset in presets()) + ".")
@click.option("--preset", metavar="NAME", help="Start from a preset instead of this machine.")
@click.option("--variants", metavar="A,B", default="", help="Beside cli: notebook and ssh (for `stoker up`), dev.")
@click.option("--force", is_flag=True, help="Write over a stoker.toml that is there; it is kept as stoker.toml.old.")
def init(preset: str | None, variants: str, force: bool) -> None:
    """Write a commented stoker.toml that fits this machine into the working directory. It asks nothing.

    An image for other machines than this one starts better from a preset: `universal` holds two CUDAs and chooses at start. A stoker.toml that
    says nothing about an image gets the table [image] at its end.
    """
    path = Path.cwd() / SPECIFICATION_FILE
    text = starter_text(path.parent.name, facts(), preset=preset, variants=[name.strip() for name in variants.split(",") if name.strip()])
    others = _others(path, force)
    write_text_atomically(path, f"{others.rstrip()}\n\n{text}" if others else text)
    say(f"wrote {path}")
    if not variants:
        say("it has what `stoker run` needs; for `stoker up` add notebook or ssh to its variants, or begin with --variants notebook,ssh")
    say("next: look at it, then `stoker image lock`")


def _others(path: Path, force: bool) -> str:
    """Return what is in the file already and stays. Raises SpecificationBroken where it would be lost."""
    try:
        file = read_toml(path)
        if "image" not in file.values:
            return path.read_text(encoding="utf-8")
        what = f"{path} describes an image already and was not touched"
    except FileNotFoundError:
        return ""
    except Unreadable as error:
        raise SpecificationBroken(f"{path} is there and cannot be read: {error}", hint="move it away first") from error
    except NoToml as error:
        what = f"{path} is there already and was not touched; it is no TOML: {error}"
    if not force:
        raise SpecificationBroken(what, hint="edit it; or `stoker image init --force` writes a new one and keeps this one as stoker.toml.old")
    old = path.with_name(path.name + ".old")
    content = path.read_bytes()
    write_atomically(old, lambda file: file.write(content))
    say(f"kept the old one as {old.name}")
    return ""
