"""`stoker export`: the model of a run as an ONNX file, compared with it before it is written."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_id", metavar="ID")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="The file to write (default: model.onnx in the run folder).")
@click.option("--opset", type=int, metavar="N", help="Version of ONNX's operators (default: the one that this torch prefers).")
@click.option(
    "--input", "input_kind", type=click.Choice(["uint8", "float"]), default="uint8", help="uint8 N H W C (default), or float N C H W from 0 to 1."
)
@click.option("--batch", default="dynamic", metavar="dynamic|N", help="Any number of images at once (default), or always N.")
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="FILE", help="A checkpoint other than the run's last.")
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH", help="Where the run's data is now, if it moved.")
@click.option("--root", type=click.Path(path_type=Path), metavar="PATH", help="The folder that holds the runs.")
@click.option("--json", "json_", is_flag=True, help="Print what was made as JSON on stdout.")
def export(
    run_id: str,
    output: Path | None,
    opset: int | None,
    input_kind: str,
    batch: str,
    checkpoint: Path | None,
    data: Path | None,
    root: Path | None,
    json_: bool,
) -> None:
    """Write the model of run ID (or `last`) as ONNX, with the normalisation inside.

    The file is compared with the model on up to 512 of the run's test images through onnxruntime; when a logit differs by more than
    0.001, or a prediction differs, no file is left.

    \b
    stoker export last
    stoker export last --input float --batch 1 --opset 17 --output model.onnx
    """
    import dataclasses

    from stoker import console
    from stoker.errors import UsageError
    from stoker.runs.run import Run
    from stoker.settings import runs_folder

    if batch != "dynamic" and not (batch.isascii() and batch.isdigit() and int(batch) > 0):
        raise UsageError(f"--batch {batch} is neither `dynamic` nor a number from 1 on", hint="leave it out for any number of images at once")
    run = Run.find(root or runs_folder(), run_id)
    from stoker.train.export import export_run

    made = export_run(
        run,
        output=output,
        input_kind=input_kind,
        batch=None if batch == "dynamic" else int(batch),
        opset=opset,
        checkpoint=checkpoint,
        data=data,
    )
    console.say(
        f"{made.path}   opset {made.opset}, {made.input_kind} input, {made.size_bytes / 1e6:.1f} MB\n"
        f"compared with the model on {made.images} test images: largest difference {made.max_difference:.1e}, "
        f"{made.equal_predictions} of {made.images} predictions equal"
    )
    if json_:
        console.emit(dataclasses.asdict(made))
