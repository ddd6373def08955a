"""`stoker image sbom`: the list of everything in an image, for programs that keep such lists."""

from __future__ import annotations

from pathlib import Path

import click

from stoker import console
from stoker.files import need_target, write_text_atomically
from stoker.image import sbom as bill
from stoker.image.component import components
from stoker.image.described import Described, describe

_FORMATS = {"cyclonedx": bill.cyclonedx, "spdx": bill.spdx}
_MOST_NAMES = 5


@click.command()
@click.argument("image", required=False)
@click.option("--format", "form", type=click.Choice(list(_FORMATS)), default="cyclonedx", show_default=True, help="CycloneDX 1.6 or SPDX 2.3.")
@click.option("--output", type=click.Path(path_type=Path), default=None, help="Write it to this file (default: stdout).")
def sbom(image: str | None, form: str, output: Path | None) -> None:
    """Write the list of everything in an image: its Debian packages, wheels and Stoker itself, with versions, hashes and licences, as JSON.

    IMAGE is the folder of an OCI layout, the name of an image that podman or docker has, or a stoker.lock (default: the layout of the stoker.lock
    here, else that lock). A lock knows no licences: they are read from the image. The same image, and the same lock, give the same bytes.
    """
    if output is not None:
        need_target(output)
    found = describe(image)
    text = _FORMATS[form](found.lock, found.licences)
    console.say(_told(found))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text_atomically(output, text)
        console.say(f"written: {output}")


def _told(found: Described) -> str:
    """Say what is known of the licences, and what is not."""
    if found.licences is None:
        return "no licences: a lock knows none. `stoker image build`, then `stoker image sbom` reads them from the image"
    whole = components(found.lock)
    by_text = sum(1 for one in found.licences.values() if one.texts)
    parts = [
        f"{len(found.licences) - by_text} of {len(whole)} packages name them by SPDX identifiers alone",
        f"{by_text} also in words of their own (with the text)",
    ]
    silent = sorted({one.name for one in whole if one.identity not in found.licences})
    if silent:
        more = f" and {len(silent) - _MOST_NAMES} more" if len(silent) > _MOST_NAMES else ""
        parts.append(f"these say none: {', '.join(silent[:_MOST_NAMES])}{more}")
    return f"licences{f' as told in {found.layout}' if found.layout else ''}: {', '.join(parts)}"
