"""How long somebody waits: from `stoker up notebook` to a JupyterLab that answers, and what `stoker run` costs over the engine alone.

With podman, and with docker where its daemon answers. The image is one without PyTorch, made for this benchmark from what pip and apt are configured
for, and removed; `--image NAME` takes one that the engines have. A start ends when a request with the token, over TLS verified by the certificate, is
answered; it counts the first start of a home, which makes token, certificate and keys, and the later ones apart. The bare call is the command that
`stoker run --dry-run` prints, with --rm, run in turn with `stoker run` itself. Goals: an answer in 5 s, and at most 0.3 s over the bare call.
--quick: fewer starts.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from causes import option
from claims import REPOSITORY, Benchmark, benchmark

from stoker.measure import Timing, timing

NAME = "bench-launch"
SPECIFICATION = f'[image]\nname = "{NAME}"\ntorch = "none"\nvariants = ["cli", "notebook"]\n'
ANSWERS = {"podman": ["podman", "--version"], "docker": ["docker", "version"]}


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who types: a project, a home, an engine."""

    folder: Path
    engine: str
    image: str

    def stoker(self, *words: str) -> str:
        """Run `stoker ...` in the project and return its stdout."""
        own = {"PYTHONPATH": str(REPOSITORY / "src"), "STOKER_HOME": str(self.folder / "home"), "STOKER_ENGINE": self.engine}
        command = [sys.executable, "-m", "stoker", *words]
        where, environment = self.folder / "project", {**os.environ, **own}
        # As installed, Python keeps its bytecode: without it, each start would compile a hundred files first.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"`stoker {shlex.join(words)}` ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def main() -> None:
    """Measure each engine, and claim for the slowest."""
    image = option("--image")
    bench = benchmark(__doc__)
    engines = [name for name, words in ANSWERS.items() if shutil.which(name) and subprocess.run(words, capture_output=True).returncode == 0]
    if not engines:
        raise SystemExit("this benchmark needs podman, or docker with a daemon that answers")
    bench.fact("engines", engines)
    answers, overheads = [], []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        for engine in engines:
            with loaded(folder, engine, image) as found:
                person = Person(folder=folder / engine, engine=engine, image=found)
                (person.folder / "project").mkdir(parents=True)
                if os.geteuid() == 0:  # who starts as root runs as the owner of the project
                    os.chown(person.folder / "project", 1000, 1000)
                answers.append(notebooks(bench, person))
                overheads.append(runs(bench, person))
    bench.claim("notebook_answers", max(answers), "s", at_most=5.0)
    bench.claim("run_overhead", max(overheads), "s", at_most=0.3)
    bench.finish()


@contextmanager
def loaded(folder: Path, engine: str, image: str | None) -> Iterator[str]:
    """Return the name of an image that the engine has: the one that was named, or one made now and removed afterwards."""
    if image is not None:
        yield image if engine == "podman" else image.removeprefix("localhost/")
        return
    (folder / "stoker.toml").write_text(SPECIFICATION)
    for words in (["lock"], ["build", "--load", engine]):
        command = [sys.executable, "-m", "stoker", "image", *words]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}, check=True, stdout=subprocess.DEVNULL)
    name = f"localhost/{NAME}:latest" if engine == "podman" else f"{NAME}:latest"
    try:
        yield name
    finally:
        subprocess.run([engine, "rmi", "--force", name], capture_output=True)


def notebooks(bench: Benchmark, person: Person) -> float:
    """Start notebooks with a home that is new and with one that is not, and return the slower median in seconds."""
    first: list[tuple[float, float]] = []
    later: list[tuple[float, float]] = []
    for turn in range(4 if bench.quick else 11):
        shutil.rmtree(person.folder / "home", ignore_errors=True)
        for samples in (first, later):
            taken = timed(lambda: answered(person))
            person.stoker("rm", "--force", NAME)
            if turn:  # the first ones read the image's files from the disk
                samples.append(taken)
    found = [timing(*map(list, zip(*samples, strict=True))) for samples in (first, later)]
    bench.measured(f"{person.engine}: notebook, first start", found[0])
    bench.measured(f"{person.engine}: notebook, later", found[1])
    return max(one.median_s for one in found)


def answered(person: Person) -> None:
    """Start a notebook and ask it something that only the token opens."""
    said = person.stoker("up", "notebook", "--image", person.image, "--name", NAME)
    found = re.search(r"https://\S+", said)
    if found is None:
        raise SystemExit(f"`stoker up notebook` printed no address: {said}")
    parts = urllib.parse.urlsplit(found[0])
    token = urllib.parse.parse_qs(parts.query)["token"][0]
    asked = urllib.request.Request(f"https://{parts.netloc}/api/kernelspecs", headers={"Authorization": f"token {token}"})
    text = (person.folder / "home/.stoker/notebook/tls.pem").read_text()
    context = ssl.create_default_context(cadata=text[text.index("-----BEGIN CERTIFICATE-----") :])
    open_directly = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)).open
    with open_directly(asked, timeout=10) as answer:
        assert "python3" in json.loads(answer.read())["kernelspecs"]


def runs(bench: Benchmark, person: Person) -> float:
    """Run `true` by Stoker and by the engine alone, in turn, and return the difference of the medians in seconds."""
    words = ["run", "--image", person.image, "--name", NAME]
    printed = shlex.split(person.stoker(*words, "--dry-run", "--", "true").replace("\\\n", " "))
    # Before it stands what makes the home.
    place = next(k for k, word in enumerate(printed) if word == "run" and Path(printed[k - 1]).name == person.engine)
    bare = [printed[place - 1], "run", "--rm", *printed[place + 1 :]]
    calls: dict[str, Callable[[], object]] = {
        "stoker": lambda: person.stoker(*words, "--", "true"),
        "bare": lambda: subprocess.run(bare, cwd=person.folder / "project", check=True, capture_output=True, stdin=subprocess.DEVNULL),
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(5 if bench.quick else 21):
        for name in sorted(calls, reverse=turn % 2 == 1):
            taken = timed(calls[name])
            if turn:
                samples[name].append(taken)
    found: dict[str, Timing] = {name: timing(*map(list, zip(*pairs, strict=True))) for name, pairs in samples.items()}
    bench.measured(f"{person.engine}: stoker run -- true", found["stoker"])
    bench.measured(f"{person.engine}: the bare call", found["bare"])
    return found["stoker"].median_s - found["bare"].median_s


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a call took, and the CPU-seconds of the programs that it waited for."""
    begin_s, before = time.perf_counter(), os.times()
    call()
    wall_s, after = time.perf_counter() - begin_s, os.times()
    return wall_s, after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
