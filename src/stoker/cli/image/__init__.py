"""`stoker image`: which subcommands there are; each one's code is imported when it runs."""

from __future__ import annotations

import functools
import signal
import threading
from typing import NoReturn

import click

from stoker.cli.groups import Commands, Entry
from stoker.errors import Terminated

COMMANDS = {
    "init": Entry(module="stoker.cli.image.init", attribute="init", help="Write a stoker.toml that fits this machine."),
    "lock": Entry(module="stoker.cli.image.lock", attribute="lock", help="Decide every file of the image and write stoker.lock."),
    "diff": Entry(module="stoker.cli.image.diff", attribute="diff", help="Say what differs between two locks."),
    "build": Entry(module="stoker.cli.image.build", attribute="build", help="Build the image of stoker.lock."),
    "show": Entry(module="stoker.cli.image.show", attribute="show", help="Show an image's layers, sizes and the drivers it fits."),
    "check": Entry(module="stoker.cli.image.check", attribute="check", help="Compare an image with its lock, and try it."),
    "sbom": Entry(module="stoker.cli.image.sbom", attribute="sbom", help="Write the list of everything in the image (CycloneDX or SPDX)."),
    "scan": Entry(module="stoker.cli.image.scan", attribute="scan", help="Look up known vulnerabilities of everything in the image."),
    "age": Entry(module="stoker.cli.image.age", attribute="age", help="Say whether a rebuild is due."),
    "sign": Entry(module="stoker.cli.image.sign", attribute="sign", help="Sign an image with cosign."),
    "verify": Entry(module="stoker.cli.image.verify", attribute="verify", help="Check an image's signature with cosign."),
    "cache": Entry(module="stoker.cli.image.cache", attribute="cache", help="Show or prune what was fetched and built."),
}


@click.command(cls=Commands, table=COMMANDS)
@click.pass_context
def image(context: click.Context) -> None:
    """Describe an image in stoker.toml, lock it to the last byte, build it without a daemon or root, and prove what is in it.

    `stoker image init`, `stoker image lock`, `stoker image build` is the whole way. docs/images.md tells the rest.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Not where `nohup` or a program of the person's has said otherwise.
            if signal.getsignal(number) is signal.SIG_DFL:
                context.call_on_close(functools.partial(signal.signal, number, signal.signal(number, _terminated)))


def _terminated(number: int, frame: object) -> NoReturn:
    """End as at Ctrl-C: a process that dies at once leaves a half-made base in memory, which is where there is room for it."""
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(f"stopped by {signal.Signals(number).name}", hint="run the same command again: it goes on where it was")
