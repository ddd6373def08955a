"""`stoker image sbom`: the list of everything in an image, for programs that keep such lists."""

from __future__ import annotations

from pathlib import Path

import click

from stoker import console
from stoker.files import write_text_atomically
from stoker.image import sbom as bill
from stoker.image.checks.subject import read_lock_of
from stoker.image.lock import LOCK_FILE

_FORMATS = {"cyclonedx": bill.cyclonedx, "spdx": bill.spdx}


@click.command()
@click.argument("image", default=LOCK_FILE)
@click.option("--format", "form", type=click.Choice(list(_FORMATS)), default="cyclonedx", show_default=True, help="CycloneDX 1.6 or SPDX 2.3.")
@click.option("--output", type=click.Path(path_type=Path), default=None, help="Write it to this file (default: stdout).")
def sbom(image: str, form: str, output: Path | None) -> None:
    """Write the list of everything in an image: its Debian packages, wheels and Stoker itself, with versions and hashes, as JSON.

    IMAGE is a stoker.lock (default: the one here), the folder of an OCI layout, or the name of an image that podman or docker has. The same lock
    gives the same bytes.
    """
    text = _FORMATS[form](read_lock_of(image))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text_atomically(output, text)
        console.say(f"written: {output}")
