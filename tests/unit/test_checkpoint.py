"""Checkpoints: the last two, whole or passed over, and never another model's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from stoker.errors import CheckpointBroken, CheckpointUnfit, DiskFull
from stoker.train.checkpoint import Checkpoints, load_weights, read
from tests.conftest import need


def state(value: float) -> dict[str, object]:
    return {"model": {"weight": torch.full((3, 2), float(value))}, "position": {"step": int(value)}}


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load() is None
    for step in (1, 2, 30):
        checkpoints.save(state(step), step)
    assert [path.name for path in checkpoints.paths()] == ["step-0000000002.pt", "step-0000000030.pt"]
    loaded, path = checkpoints.load()  # type: ignore[misc]
    assert path == checkpoints.paths()[-1]
    assert torch.equal(loaded["model"]["weight"], torch.full((3, 2), 30.0))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "garbage", "foreign"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), 1)
    newest = checkpoints.save(state(2), 2)
    data = bytearray(newest.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        at = bytes(data).index(torch.full((6,), 2.0).numpy().tobytes())
        data[at] ^= 1
    elif damage == "empty":
        data = bytearray()
    elif damage == "garbage":
        data = bytearray(b"x" * 1000)
    if damage == "foreign":
        torch.save([1, 2], newest)
    else:
        newest.write_bytes(data)
    loaded, path = checkpoints.load()  # type: ignore[misc]
    assert path.name == "step-0000000001.pt"
    assert loaded["position"] == {"step": 1}
    assert "step-0000000002.pt" in capsys.readouterr().err


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), 1).write_bytes(b"")
    with pytest.raises(CheckpointBroken):
        checkpoints.load()


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("executed",))

    path = tmp_path / "step-0000000001.pt"
    torch.save({"format": 1, "model": Evil()}, path)
    with pytest.raises(CheckpointBroken):
        read(path)


def test_another_models_checkpoint_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    with pytest.raises(CheckpointUnfit, match="bias"):
        load_weights(model, {"model": {"weight": model.weight.detach()}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointUnfit, match=r"\(3, 5\) instead of \(3, 2\)"):
        load_weights(model, {"model": {"weight": torch.zeros(3, 5), "bias": torch.zeros(3)}}, tmp_path / "x.pt")


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(folder)], capture_output=True).returncode == 0
    need(mounted, "the right to mount a small tmpfs (root)")
    try:
        checkpoints = Checkpoints(folder / "checkpoints")
        first = checkpoints.save({"model": torch.zeros(20_000)}, 1)
        with pytest.raises(DiskFull):
            checkpoints.save({"model": torch.zeros(80_000)}, 2)
        assert checkpoints.paths() == [first]
        assert sorted(path.name for path in first.parent.iterdir()) == [first.name]
        loaded, _ = checkpoints.load()  # type: ignore[misc]
        assert len(loaded["model"]) == 20_000
    finally:
        subprocess.run(["umount", str(folder)], check=True)
