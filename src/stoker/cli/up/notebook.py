"""`stoker up notebook`: JupyterLab in the background, and the one address that opens it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from stoker import console
from stoker.cli.launch_options import How, launch_options
from stoker.cli.up.start import bring_up_as_wanted, show_plan
from stoker.errors import UsageError
from stoker.launch import notebook as room
from stoker.launch import reach
from stoker.launch.notebook import Notebook
from stoker.launch.own_certificate import OwnCertificate, read_own
from stoker.launch.service import Order
from stoker.launch.up import NOTEBOOK, Up
from stoker.launch.wanted import Wanted


@click.command()
@launch_options("notebook")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help=f"On this machine (default: {NOTEBOOK.port}, or the next that is free).")
@click.option("--open", "in_browser", is_flag=True, help="Also open it in the browser.")
@click.option("--cert", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Your TLS certificate, PEM (default: one of its own).")
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="The key of --cert, PEM, without a password.")
def notebook(wanted: Wanted, how: How, in_browser: bool, cert: Path | None, key: Path | None) -> None:
    """Start JupyterLab and print the one address that opens it, once it answers.

    TLS and a token are always on; the address with the token goes to stdout and nowhere else. Everything in the project's folder and in the home
    outlives it.
    """
    begun = time.monotonic()
    own = _own(cert, key)
    order = Order(service=NOTEBOOK, wanted=wanted, complete=lambda request: room.complete(request, own), check=how.check)
    if how.dry_run or how.explain:
        show_plan(order, explain=how.explain)
        return
    up = bring_up_as_wanted(order, how, own_files=own is not None)
    found = room.wait(up, own)
    for line in _told(up, found, time.monotonic() - begun):
        console.say(line)
    if how.as_json:
        console.emit(_facts(up, found))
    else:
        click.echo(found.address)
    if in_browser and not room.open_page(found):
        console.warn("there is no browser here: open the address by hand")


def _own(cert: Path | None, key: Path | None) -> OwnCertificate | None:
    if (cert is None) != (key is None):
        raise UsageError("--cert and --key belong together", hint="give both, or neither: then the notebook makes its own")
    return read_own(cert, key) if cert and key else None


def _told(up: Up, found: Notebook, seconds: float) -> list[str]:
    at = up.port
    lines = [f"{found.name}: JupyterLab {up.place} " + (f"answers after {seconds:.1f} s" if found.started else "runs already")]
    lines.append(f"certificate SHA-256 {found.fingerprint}: a browser that does not know it asks once")
    if not reach.is_loopback(at.address):
        lines.append(f"it listens on {at.text}: {reach.audience(at.address)} can ask it, with the token only")
    elif way := reach.way_here(os.environ):
        lines.append(f"from the machine that you came from: `ssh -NL {at.host}:{reach.in_address(at.address)}:{at.host} {way}`, then this address")
    return lines


def _facts(up: Up, found: Notebook) -> dict[str, object]:
    return {
        "name": found.name,
        "address": found.address,
        "page": found.page,
        "token": found.token,
        "fingerprint": found.fingerprint,
        "listen": up.port.text,
        "engine": up.container.engine,
        "container": up.container.container,
        "project": up.container.project,
        "home": up.container.home,
        "started": found.started,
    }
