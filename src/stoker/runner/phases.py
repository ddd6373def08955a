"""Where the time of a step goes, plainly and boosted: runs of their own with the observer of `stoker diagnose` in them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker.diagnosis.program import environment
from stoker.diagnosis.recording import progress, read_recordings
from stoker.diagnosis.split import split_of
from stoker.diagnosis.steps import PHASES
from stoker.runner import turns


def phases(program: Sequence[str], *, variant: str, changes: Mapping[str, str], seconds: float, skip: int) -> dict[str, float] | None:
    """Return mean seconds a step of the training thread by phase, of the first rank; None when fewer than two steps were seen.

    Evaluations, checkpoints and the starts of epochs are left out: it is the ordinary step. Raises ProgramMissing.
    """
    with turns.scratch() as name:
        folder = Path(name)
        injected = environment(os.environ, folder, seconds, skip)
        own = {key: value for key, value in injected.items() if os.environ.get(key) != value}

        def enough() -> bool:
            training, ended = progress(folder)
            return 0 < training <= ended

        turns.run(program, variant=variant, changes={**own, **changes}, enough=enough, read=tuple)
        splits = [split for recording in read_recordings(folder) if (split := split_of(recording)) is not None]
    if not splits or splits[0].step_s is None:
        return None
    step_s = splits[0].step_s
    return {phase: step_s * splits[0].shares[phase] for phase in PHASES}
