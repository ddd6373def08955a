"""The default recipe: accuracy on the held-out fifth of scikit-learn's digits, and seconds of training, over three seeds.

Goals: at least 99 % in the mean, under 10 s of training steps. --quick: the same, it takes seconds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile

from claims import benchmark

from stoker.measure import timing


def main() -> None:
    """Train three times and claim."""
    bench = benchmark(__doc__)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(3):
            command = [sys.executable, "-m", "stoker", "train", "digits", f"--set=seed={seed}", "--json"]
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout)["result"])
    accuracies = [100 * result["test_accuracy"] for result in results]
    seconds = timing([result["train_s"] for result in results], [0.0] * len(results))
    bench.measured("training", seconds, accuracies=accuracies)
    bench.claim("digits_accuracy", statistics.mean(accuracies), "%", at_least=99.0)
    bench.claim("digits_training", seconds.median_s, "s", at_most=10.0)
    bench.finish()


if __name__ == "__main__":
    main()
