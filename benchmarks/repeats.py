"""How well `stoker verify` repeats itself: whole runs one after the other, and for each rate how far the largest is above the smallest.

Goals: the rates that get a verdict (ok or low) within 10 %; a whole run on a CPU under 90 s (--quick: no goal is known for it). The rates that are
only noted, torch's DataLoader among them, are printed and kept, and nothing is claimed of them: their time goes into fresh memory.
--quick: two runs of `stoker verify --quick`, of which nothing is claimed but that they end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

from claims import benchmark

from stoker.measure import timing


def main() -> None:
    """Verify several times and claim."""
    bench = benchmark(__doc__)
    runs = [verification(bench.quick) for _ in range(2 if bench.quick else 3)]
    bench.measured("a whole run", timing([run["seconds"] for run in runs], [0.0] * len(runs)))
    bench.fact("notices", sorted({notice for run in runs for notice in run["notices"]}))
    rates = [rates_of(run) for run in runs]
    spreads = {name: spread([found[name][0] for found in rates]) for name in rates[0] if all(name in found for found in rates)}
    judged = {name: value for name, value in spreads.items() if rates[0][name][1] in ("ok", "low")}
    for name, value in sorted(spreads.items(), key=lambda entry: -entry[1]):
        print(f"{value:6.1f} %  {name}" + ("" if name in judged else "  (only noted)"))
    bench.facts["spread_percent"] = spreads
    if not bench.quick:
        bench.claim("verify_repeats", max(judged.values()), "%", at_most=10.0)
        bench.claim("verify_time", max(run["seconds"] for run in runs), "s", at_most=90.0)
    bench.finish()


def verification(quick: bool) -> dict[str, Any]:
    """Run `stoker verify` and return its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "stoker", "verify", "--output", folder, "--json", "-", *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode > 1:
        sys.exit(f"`stoker verify` ended with {done.returncode}: its text above says why")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rates_of(run: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return the rates of a run by name, each with its verdict."""
    readings = [reading for check in run["checks"] for reading in check["readings"]]
    return {reading["name"]: (reading["value"], reading["verdict"]) for reading in readings if reading["value"] and "/s" in reading["unit"]}


def spread(values: list[float]) -> float:
    """Return by how many per cent the largest is above the smallest."""
    return 100 * (max(values) / min(values) - 1)


if __name__ == "__main__":
    main()
