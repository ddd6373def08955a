"""ONNX exports of every model family, compared with onnxruntime, and exports that must not come to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stoker.errors import BadValue, CheckpointBroken, CheckpointUnfit, DataInvalid, DataMissing, DiskFull, ExportDiffers, MissingExtra, StokerError
from stoker.runs.run import Run
from stoker.train import agreement, graph, models
from stoker.train.export import Exported, export, export_run

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnxscript")

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CLASSES = [f"class {number}" for number in range(10)]


def pixels(count: int = 80, size: int = 32, channels: int = 3) -> np.ndarray:
    """Random images."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def trained_a_little(name: str, size: int, channels: int) -> nn.Module:
    """A model whose running means and biases are not those of a fresh one."""
    torch.manual_seed(0)
    model = models.build(name, classes=10, channels=channels, image_size=size)
    images = torch.randn(32, channels, size, size)
    if hasattr(model, "prepare"):
        model.prepare(images)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.01)
    for _ in range(2):
        nn.functional.cross_entropy(model(images), torch.randint(0, 10, (32,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def exported(tmp_path: Path, model: nn.Module, images: np.ndarray, **settings: object) -> Exported:
    """Export with this file's means and classes."""
    channels = images.shape[3]
    return export(model, path=tmp_path / "m.onnx", classes=CLASSES, mean=MEAN[:channels], std=STD[:channels], pixels_NHWC=images, **settings)  # type: ignore[arg-type]


FAMILIES = [
    ("small", 32, 3),
    ("small1", 32, 3),
    ("digits", 8, 1),
    ("resnet18", 16, 3),
    ("speedrun", 32, 3),
    ("resnet10t", 32, 3),
    ("mobilenetv3_small_050", 32, 3),
]
# What stands before the model is the same for every family: as floats, one of one channel, one with layers of its own, and one of timm's.
KINDS = [(family, "uint8") for family in FAMILIES] + [(family, "float") for family in FAMILIES if family[0] in ("digits", "speedrun", "resnet10t")]


@pytest.mark.parametrize(("name", "size", "channels", "input_kind"), [(*family, kind) for family, kind in KINDS])
def test_every_family_exports_and_agrees(tmp_path: Path, name: str, size: int, channels: int, input_kind: str) -> None:
    if name not in models.FAMILIES:
        pytest.importorskip("timm", reason="needs timm")
    images = pixels(size=size, channels=channels)
    model = trained_a_little(name, size, channels)
    made = exported(tmp_path, model, images, input_kind=input_kind, run_id="a-run")
    assert made.images == 80
    assert made.max_difference < 1e-4
    assert made.equal_predictions == 80
    assert made.path.stat().st_size == made.size_bytes

    # And apart from our own comparison: the file, as somebody else would use it.
    session = onnxruntime.InferenceSession(str(made.path))
    assert [entry.name for entry in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == CLASSES
    assert said["run"] == "a-run"
    unit = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = model.eval()((unit - torch.tensor(MEAN[:channels])[:, None, None]) / torch.tensor(STD[:channels])[:, None, None])
    for count in (1, 3, 80):
        fed = images[:count] if input_kind == "uint8" else unit[:count].numpy()
        assert np.abs(session.run(None, {"images": fed})[0] - expected[:count].numpy()).max() < 1e-4


def test_opset_and_fixed_batch(tmp_path: Path) -> None:
    model = models.build("small1", classes=10, channels=3, image_size=8)
    for opset in (13, 17, 18):
        made = exported(tmp_path, model, pixels(size=8), opset=opset)
        assert made.opset == opset
        assert graph.opset_of(onnx.load(made.path)) == opset
    made = exported(tmp_path, model, pixels(size=8), batch=16)
    assert made.images == 80
    assert [side.dim_value for side in onnx.load(made.path).graph.input[0].type.tensor_type.shape.dim] == [16, 8, 8, 3]
    for wrong in ({"opset": 8}, {"opset": 99}, {"batch": 0}, {"batch": 81}, {"input_kind": "int4"}):
        with pytest.raises(BadValue):
            exported(tmp_path, model, pixels(size=8), **wrong)


@pytest.mark.parametrize("fault", ["weight", "mean", "channel order", "one batch only", "nan"])
def test_a_wrong_graph_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    model = models.build("small1", classes=10, channels=3, image_size=8)
    translate = graph.translate

    def wrong(wrapped: graph.Normalised, **settings: object) -> object:
        if fault == "one batch only":
            return translate(wrapped, **{**settings, "batch": 2})  # type: ignore[arg-type]
        if fault == "mean":
            wrapped.mean.add_(0.01)
        if fault == "channel order":
            wrapped.mean.copy_(wrapped.mean.flip(1))
        with torch.no_grad():
            bias = model.linear.bias  # type: ignore[union-attr]
            before = bias[3].clone()  # type: ignore[index]
            if fault in ("weight", "nan"):
                bias[3] = before + 0.01 if fault == "weight" else float("nan")  # type: ignore[index, operator]
            proto = translate(wrapped, **settings)  # type: ignore[arg-type]
            onnx.checker.check_model(proto)
            proto = onnx.load_from_string(proto.SerializeToString())
            bias[3] = before  # type: ignore[index, operator]
        return proto

    monkeypatch.setattr(graph, "translate", wrong)
    (tmp_path / "m.onnx").write_text("what was there before")
    with pytest.raises(ExportDiffers):
        exported(tmp_path, model, pixels(size=8))
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "what was there before"


def test_verdicts() -> None:
    logits = np.array([[0.0, 1.0], [2.0, 2.00005]], dtype=np.float32)
    assert agreement.judge(logits, logits).verdict() is None
    tie = np.array([[0.0, 1.0], [2.0001, 2.0]], dtype=np.float32)
    found = agreement.judge(logits, tie)
    assert (found.equal_predictions, found.ties, found.verdict()) == (1, 1, None)
    swapped = agreement.judge(np.array([[0.0, 0.0008]]), np.array([[0.0009, 0.0]]))
    assert "another class" in (swapped.verdict() or "")
    assert "differ" in (agreement.judge(logits, logits + 0.002).verdict() or "")
    assert agreement.judge(logits, np.full_like(logits, np.nan)).verdict() is not None
    with pytest.raises(ExportDiffers):
        agreement.judge(logits, logits[:, :1])


def test_a_model_that_cannot_be_exported_says_so(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such thing")

    with pytest.raises(StokerError, match="no such thing"):
        exported(tmp_path, Undecided(), pixels(size=8))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build("small1", classes=10, channels=3, image_size=8)
    exported(tmp_path, model, pixels(size=8))
    before = (tmp_path / "m.onnx").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFull):
        exported(tmp_path, model, pixels(size=8), input_kind="float")
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "PACKAGES", ("onnx", "a_package_that_is_not_there"))
    with pytest.raises(MissingExtra) as refusal:
        exported(tmp_path, nn.Flatten(), pixels(size=8))
    assert refusal.value.hint == "pip install a_package_that_is_not_there"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The record of a training of the digits, with a checkpoint, made by hand."""
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    from stoker.train.checkpoint import Checkpoints
    from stoker.train.recipes import recipe

    chosen = recipe("digits")
    record = {
        "recipe": "digits",
        "configuration": chosen.as_dict() | {"channels": 1},
        "data": {"path": None, "source": "digits", "classes": [str(number) for number in range(10)]},
    }
    made = Run.create(tmp_path / "runs", run_id="made-by-hand", record=record)
    model = trained_a_little(chosen.model, chosen.image_size, 1)
    Checkpoints(made.path / "checkpoints").save({"model": model.state_dict()}, 7)
    made.close()
    return made


def test_a_run_is_exported_on_its_own_test_images(run: Run, tmp_path: Path) -> None:
    made = export_run(run)
    assert made.path == run.path / "model.onnx"
    assert made.images >= 256
    assert made.equal_predictions == made.images
    assert export_run(run, output=tmp_path / "new folder" / "m.onnx", input_kind="float", batch=1).path.exists()


def test_checkpoints_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataMissing):
        export_run(run, checkpoint=tmp_path / "nowhere.pt")
    torch.save({"format": 1, "model": models.build("small", classes=10, channels=1, image_size=8).state_dict()}, tmp_path / "other.pt")
    with pytest.raises(CheckpointUnfit):
        export_run(run, checkpoint=tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointBroken):
        export_run(run, checkpoint=tmp_path / "broken.pt")
    for path in (run.path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointBroken, match="no checkpoint"):
        export_run(run)


def test_the_command(run: Run) -> None:
    from click.testing import CliRunner

    from stoker.cli.export import export as command

    root = str(run.path.parent)
    result = CliRunner().invoke(command, ["last", "--root", root, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed["equal_predictions"] == printed["images"]
    assert "predictions equal" in result.stderr
    with pytest.raises(StokerError, match="--batch some"):
        CliRunner().invoke(command, ["last", "--root", root, "--batch", "some"], catch_exceptions=False)


def test_images_of_the_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid):
        exported(tmp_path, nn.Flatten(), np.zeros((0, 8, 8, 3), dtype=np.uint8))
    model = models.build("small1", classes=10, channels=3, image_size=8)
    (tmp_path / "file").touch()
    with pytest.raises(BadValue, match="cannot be made"):
        exported(tmp_path / "file", model, pixels(size=8))
    with pytest.raises(BadValue, match="folder"):
        export(nn.Flatten(), path=tmp_path, classes=CLASSES, mean=MEAN, std=STD, pixels_NHWC=pixels(size=8))
