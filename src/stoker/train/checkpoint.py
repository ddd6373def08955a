"""Checkpoints: whole or not there, the last two kept, read back without running code from them."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from stoker.console import warn
from stoker.errors import CheckpointBroken, CheckpointUnfit
from stoker.files import write_atomically

FORMAT = 1
KEPT = 2


class Checkpoints:
    """The folder `checkpoints/` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write `state` as the checkpoint of `step`, then remove all but the last two. Returns its path.

        A crash, a full disk or a kill at any moment leaves the checkpoints that were there. Raises DiskFull and RunFolderUnwritable.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        path = self.folder / f"step-{step:010d}.pt"
        write_atomically(path, lambda file: _write({"format": FORMAT, **state}, file))
        for old in self.paths()[:-KEPT]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
        return path

    def load(self) -> tuple[dict[str, Any], Path] | None:
        """Return the newest checkpoint that can be read (tensors on the CPU) and its path; None when there is none.

        A broken one is passed over with a warning. Raises CheckpointBroken when there are some and none can be read.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return read(path), path
            except CheckpointBroken as error:
                warn(error.message)
        if paths:
            raise CheckpointBroken(f"no checkpoint in {self.folder} can be read", hint="train anew, or copy a checkpoint back from a backup")
        return None

    def _remove_leftovers(self) -> None:
        """Remove what a killed training had begun to write (only one training writes here: the run is locked)."""
        for leftover in self.folder.glob(".step-*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                leftover.unlink()


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    """Write `state`; a disk that refuses is an OSError, where torch makes a RuntimeError about positions of it."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from error


def read(path: Path) -> dict[str, Any]:
    """Return the checkpoint at `path`, tensors on the CPU. Raises CheckpointBroken when it is not whole or not one of ours."""
    hint = "an older checkpoint in the same folder may be whole"
    try:
        # torch does not check the sums that its own file carries.
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
        if torn is not None:
            raise CheckpointBroken(f"{path} is damaged (at {torn})", hint=hint)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointBroken:
        raise
    except Exception as error:
        # Bytes from a disk: zipfile, pickle and torch raise a dozen kinds of errors on bad ones.
        raise CheckpointBroken(f"{path} is not a whole checkpoint ({type(error).__name__}: {error})", hint=hint) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointBroken(f"{path} is not a checkpoint of this version of Stoker", hint="train with the version that wrote it")
    return state


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into `model`. Raises CheckpointUnfit when they are another model's, and says where they differ."""
    own, found = model.state_dict(), state["model"]
    missing = [key for key in own if key not in found]
    foreign = [key for key in found if key not in own]
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(own[key].shape)}" for key in own if key in found and own[key].shape != found[key].shape
    ]
    if missing or foreign or shapes:
        differences = shapes[:1] or [f"lacks {key}" for key in missing[:1]] or [f"has {key}" for key in foreign[:1]]
        count = len(missing) + len(foreign) + len(shapes)
        raise CheckpointUnfit(
            f"{path} holds another model: {count} of {len(own)} tensors differ, first: {differences[0]}",
            hint="`stoker runs show ID` prints the configuration that made it",
        )
    model.load_state_dict(found)
