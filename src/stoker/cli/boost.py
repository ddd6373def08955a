"""`stoker boost`: somebody's training script, unchanged, at full speed."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stoker.errors import UnknownName, UsageError


@click.command()
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
@click.option("--tier", default="exact", show_default=True, metavar="exact|close|fast", help="How much may change, see above.")
@click.option("--off", default="", metavar="PART,...", help="Parts that stay off.")
@click.option("--explain", is_flag=True, help="Tell at the exit what was recognised, applied and declined, and why.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the same, and all that was measured, to a JSON file.")
@click.option("--quiet", is_flag=True, help="No line at the exit.")
@click.option("--measure", is_flag=True, help="Run the program plainly and boosted in turn, and say how much faster it got, and where.")
@click.option("--verify", is_flag=True, help="Compare the losses of both, step by step: bit for bit in exact.")
@click.option("--steps", type=click.IntRange(min=2), help="Steps of each run of --measure and --verify.")
@click.option("--rounds", type=click.IntRange(min=1, max=100), default=2, show_default=True, help="Pairs of runs of --measure.")
@click.option("--json", "json_to", metavar="FILE", help="Write what was measured as JSON to FILE; - is stdout.")
def boost(
    program: tuple[str, ...],
    tier: str,
    off: str,
    explain: bool,
    report: Path | None,
    quiet: bool,
    measure: bool,
    verify: bool,
    steps: int | None,
    rounds: int,
    json_to: str | None,
) -> int:
    """Run a training script, unchanged, at full speed.

    \b
    stoker boost -- python train.py --its arguments
    stoker boost --tier fast --explain -- torchrun --nproc-per-node 2 train.py

    \b
    exact  every number stays the same to the bit
    close  the same mathematics, rounded differently: channels_last, fused optimizers, TF32, ...
    fast   bfloat16 and compilation too; above exact, each thing is kept only if it is measured faster in the run

    The program takes our place: its terminal, signals and exit status are its own. What is not recognised is left as it is, and --explain
    says why. In a script or a job: STOKER_BOOST=exact in the environment, or `import stoker.boost; stoker.boost.on()`.
    """
    parts = _checked(program, tier, off)
    if measure or verify:
        from stoker.boost.parts import TIERS
        from stoker.runner.comparison import compare

        known = next(name for name in TIERS if name == tier)
        return compare(program, tier=known, off=sorted(parts), steps=steps, rounds=rounds, verify=verify, json_to=json_to)
    if steps is not None or json_to is not None:
        raise UsageError("--steps and --json go with --measure or --verify", hint="for one run as it is: --report FILE")
    from stoker.runner.program import become, environment

    become(program, environment(os.environ, tier=tier, off=parts, explain=explain, report=report, quiet=quiet))


def _checked(program: tuple[str, ...], tier: str, off: str) -> frozenset[str]:
    from stoker.boost.parts import PARTS, TIERS, unknown_part, unknown_tier

    if not program:
        raise UsageError("nothing to boost", hint="stoker boost -- python train.py")
    if tier not in TIERS:
        raise UnknownName(unknown_tier(tier), hint=f"--tier {' or '.join(TIERS)}")
    parts = frozenset(name.strip() for name in off.split(",") if name.strip())
    wrong = unknown_part(sorted(parts))
    if wrong:
        raise UnknownName(wrong, hint=f"--off {','.join(list(PARTS)[:2])}")
    return parts
