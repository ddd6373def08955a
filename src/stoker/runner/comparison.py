"""`stoker boost --measure` and `--verify`: a program plainly and boosted, in turn, and what came of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stoker import console
from stoker.errors import NumbersDiffer, ProgramFailed
from stoker.files import write_text_atomically
from stoker.runner import summary, turns
from stoker.runner.interpreter import installing
from stoker.runner.outcome import PLAIN, Outcome
from stoker.runner.phases import phases
from stoker.runner.records import all_at_limit, read_records
from stoker.runner.turns import Turn
from stoker.runs.strict_json import dumps

_STEPS, _SECONDS = 200, 30.0
"""A window, when nothing else is asked for: whichever is over first."""
_SKIP = {"exact": 10, "close": 60, "fast": 60}
"""Steps of warm-up: the tiers that change arithmetic try each change for some steps first."""
_SEED = "0"
_OBSERVED_S = 8.0


def compare(
    program: Sequence[str], *, tier: str, off: Sequence[str] = (), steps: int | None = None, rounds: int = 2, verify: bool, json_to: str | Path | None
) -> int:
    """Run `program` plainly and boosted in turn (A B B A), say what was measured, and return the exit code, which is 0.

    `steps` after the warm-up are counted; None: 200, or what is done in 30 s. `json_to`: a file for the record, `-` for stdout.
    With `verify` every run begins with the same random states, and the losses are compared: to the bit in tier `exact`.
    Raises ProgramMissing, ProgramFailed when a run ended badly or trained nothing, and NumbersDiffer.
    """
    count = 2 * (rounds + (0 if verify else 1))
    console.say(f"the program is run {count} times and each time writes what it writes (checkpoints, logs); its output is not shown")
    changes = {PLAIN: _environment("record", (), verify), tier: _environment(tier, off, verify)}
    taken: list[Turn] = []
    for number in range(rounds):
        for variant in (PLAIN, tier) if number % 2 == 0 else (tier, PLAIN):
            console.say(f"run {len(taken) + 1} of {count}: {variant}")
            taken.append(_turn(program, variant, changes[variant], tier, steps))
    outcome = Outcome(command=shlex.join(program), tier=tier, off=tuple(off), verified=verify, turns=tuple(taken))
    if not verify and outcome.steps:
        for number, variant in enumerate((PLAIN, tier)):
            console.say(f"run {len(taken) + number + 1} of {count}: {variant}, where its time goes")
            outcome.phases[variant] = phases(program, variant=variant, changes=changes[variant], seconds=_OBSERVED_S, skip=_SKIP[tier])
    _tell(outcome, json_to)
    if verify:
        _insist(outcome)
    return 0


def _environment(boost: str, off: Sequence[str], verify: bool) -> dict[str, str]:
    changes = {"STOKER_BOOST": boost, "STOKER_BOOST_QUIET": "1"}
    if off:
        changes["STOKER_BOOST_OFF"] = ",".join(off)
    return {**changes, "STOKER_BOOST_RECORD_SEED": _SEED} if verify else changes


def _turn(program: Sequence[str], variant: str, changes: dict[str, str], tier: str, steps: int | None) -> Turn:
    limits = {"STOKER_BOOST_RECORD_SKIP": str(_SKIP[tier]), "STOKER_BOOST_RECORD_STEPS": str(steps or _STEPS)}
    if steps is None:
        limits["STOKER_BOOST_RECORD_SECONDS"] = str(_SECONDS)
    with turns.scratch() as name:
        folder = Path(name)
        recording = {**changes, **limits, "STOKER_BOOST_RECORD": str(folder)}
        turn = turns.run(program, variant=variant, changes=recording, enough=lambda: all_at_limit(folder), read=lambda: read_records(folder))
        opened = any(folder.glob("process-*.jsonl"))
    if turn.failed:
        raise ProgramFailed(
            f"the {variant} run ended with exit status {turn.status}; the end of its output:\n\n{turn.output.rstrip()}",
            hint="see that the program runs as it is; when only the boosted run fails, that is a bug of Stoker: please report it",
        )
    if not turn.records:
        why = "no data loader, backward or optimizer of torch was seen" if opened else "no process of it imported torch with Stoker beside it"
        raise ProgramFailed(
            f"there is nothing to compare in the {variant} run: {why}; the end of its output:\n\n{turn.output.rstrip()}",
            hint=f"Stoker must be installed in the environment of the program's Python: {installing('python')}",
        )
    return turn


def _tell(outcome: Outcome, json_to: str | Path | None) -> None:
    value: dict[str, Any] = json.loads(dumps(outcome.as_dict()))
    if json_to is not None and str(json_to) != "-":
        write_text_atomically(Path(json_to), json.dumps(value, indent=1) + "\n", durable=False)
    to = sys.stderr if str(json_to) == "-" else sys.stdout
    print("\n".join(summary.lines(outcome)), file=to, flush=True)
    if str(json_to) == "-":
        console.emit(value)


def _insist(outcome: Outcome) -> None:
    """Raise NumbersDiffer when runs that must be the same are not, or when nothing could be compared."""
    if not outcome.repeatable.losses and not outcome.repeatable.weights:
        raise NumbersDiffer(
            "nothing could be compared: no loss was seen in two plain runs that is the same in both",
            hint=summary.UNREPEATABLE,
        )
    if outcome.tier != "exact":
        return
    worst = outcome.worst
    if worst is not None and worst.difference is not None:
        raise NumbersDiffer(
            f"plain and boosted run part at {worst.difference}; {worst.losses} losses before it are the same",
            hint="this is a bug of Stoker: please report it with the script. --off loader (or allocator, copies) shows which part it is",
        )
