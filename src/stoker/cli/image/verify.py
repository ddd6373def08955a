"""`stoker image verify`: an image's signature checked with cosign."""

from __future__ import annotations

import click

from stoker import console
from stoker.image.signing import Signer
from stoker.image.signing import verify as verify_image


@click.command()
@click.argument("image")
@click.option("--key", metavar="KEY", default=None, help="cosign's public key: a file, or an address of a key store.")
@click.option("--identity", metavar="NAME", default=None, help="Without --key: who must have signed, as an address of mail or of a workflow.")
@click.option("--issuer", metavar="ADDRESS", default=None, help="Without --key: who vouches for that identity.")
@click.option("--log", is_flag=True, help="With --key: the signature must be in the public transparency log, too.")
def verify(image: str, key: str | None, identity: str | None, issuer: str | None, log: bool) -> None:
    """Check the signature of an image with cosign, and that a layout is whole.

    IMAGE is the folder of an OCI layout with its signature beside it, or REGISTRY/NAME@sha256:... Prints the digest that was signed.
    """
    digest = verify_image(image, Signer(key=key, identity=identity, issuer=issuer, log=log))
    console.say("the signature is good:")
    click.echo(digest)
