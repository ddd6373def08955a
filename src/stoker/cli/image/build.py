"""`stoker image build`: the image of stoker.lock as an OCI layout, and on into an engine, a registry or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stoker import console
from stoker.errors import UsageError
from stoker.files import need_target
from stoker.image import build as pipeline
from stoker.image.build import Built, Order
from stoker.image.bundle import open_bundle, write_bundle
from stoker.image.compression import MEDIA_TYPES
from stoker.image.oci import read_layout
from stoker.image.output import ENGINES, load, need_outputs, push
from stoker.image.progress import bytes_text
from stoker.image.specification import SPECIFICATION_FILE, VARIANTS


@click.command()
@click.option("-f", "--file", "specification", type=click.Path(path_type=Path), default=Path(SPECIFICATION_FILE), help="The stoker.toml.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="The layout's folder (default: NAME.oci beside the stoker.toml).")
@click.option("--variants", metavar="A,B", default="", help=f"Build only these of the locked variants: {', '.join(VARIANTS)}.")
@click.option("--compression", type=click.Choice(list(MEDIA_TYPES)), default="zstd", help="Of the layers; gzip for old engines and registries.")
@click.option("--git", is_flag=True, help="Label the image with the commit of stoker.lock and its repository.")
@click.option("--load", "engine", type=click.Choice(ENGINES), default=None, help="Also load it into this engine.")
@click.option("--push", "destination", metavar="REGISTRY/NAME[:TAG]", default=None, help="Also send it to a registry (with skopeo).")
@click.option("--bundle", type=click.Path(path_type=Path), default=None, help="Also write one file with all that an offline machine needs.")
@click.option("--from-bundle", type=click.Path(path_type=Path), default=None, help="Take all from such a file; nothing is fetched.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def build(
    specification: Path,
    output: Path | None,
    variants: str,
    compression: str,
    git: bool,
    engine: str | None,
    destination: str | None,
    bundle: Path | None,
    from_bundle: Path | None,
    as_json: bool,
) -> None:
    """Build the image of stoker.lock, without a daemon; the same lock gives the same bytes everywhere.

    The digest of its manifest goes to stdout. What was made before is taken from the cache; a build that was stopped goes on where it was.
    """
    need_outputs(engine, destination)
    if bundle:
        need_target(bundle)
    if from_bundle:
        if variants or git or bundle or compression != "zstd":
            told = "--from-bundle takes the image as it is: --variants, --compression, --git and --bundle are for building one"
            raise UsageError(told, hint="take it out of the bundle first, then build: its packages are in the cache by then")
        layout = open_bundle(from_bundle, specification.parent, output)
        console.say(f"{layout}: as in {from_bundle}; its specification and lock are in {specification.parent}, its packages in the cache")
        said: dict[str, Any] = {"layout": str(layout)}
    else:
        wanted = tuple(name.strip() for name in variants.split(",") if name.strip())
        order = Order(specification=specification, layout=output, variants=wanted, compression=compression, git=git)  # type: ignore[arg-type]
        built = pipeline.build(order)
        layout = built.layout
        said = {"layout": str(layout), "lock": built.lock.digest, "layers": len(built.layers), "made": built.made, "seconds": round(built.seconds, 1)}
        console.say(_told(built))
    whole = read_layout(layout)
    if bundle:
        write_bundle(bundle, specification=specification, layout=whole)
        console.say(f"bundle: {bundle} ({bytes_text(bundle.stat().st_size)})")
        said["bundle"] = str(bundle)
    if engine:
        said["loaded"] = load(whole, engine)
        console.say(f"loaded into {engine} as {said['loaded']}")
    if destination:
        said["pushed"] = push(whole, destination)
        console.say(f"pushed as {said['pushed']}")
    if as_json:
        console.emit({"digest": whole.digest, **said})
    else:
        click.echo(whole.digest)


def _told(built: Built) -> str:
    size, unpacked = sum(layer.blob.size for layer in built.layers), sum(layer.blob.unpacked_size for layer in built.layers)
    return (
        f"{built.layout}: {len(built.layers)} layers ({built.made} made now), {bytes_text(size)}, unpacked {bytes_text(unpacked)}, "
        f"in {built.seconds:.1f} s"
    )
