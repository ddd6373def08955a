"""`stoker image sign`: an image signed with cosign."""

from __future__ import annotations

import click

from stoker import console
from stoker.image.signing import Signer
from stoker.image.signing import sign as sign_image


@click.command()
@click.argument("image")
@click.option("--key", metavar="KEY", default=None, help="cosign's private key: a file, or an address of a key store (default: by identity, OIDC).")
@click.option("--log", is_flag=True, help="With --key: also enter it into the public transparency log.")
def sign(image: str, key: str | None, log: bool) -> None:
    """Sign an image with cosign, which must be installed.

    IMAGE is the folder of an OCI layout (the signature is put beside it) or REGISTRY/NAME@sha256:... as `stoker image build --push` prints it.
    """
    where = sign_image(image, Signer(key=key, log=log))
    console.say("signed:")
    click.echo(where)
