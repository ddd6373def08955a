"""`stoker image build` with the real PyTorch: against `podman build`, when little or nothing changed, and the same bytes wherever it is built.

Each part works in a temporary folder (TMPDIR; 40 GB for all of them) with a store of its own, and removes it. What is fetched is fetched from the
index that pip and uv are configured for, by both sides. Goals: a cold build in under half of the time of `podman build` and `podman push` with
zstd; nothing changed in 3 s, a small package more in 10 s; root and an ordinary user, with another umask, locale and number of cores, make the same
manifest; an image is at most 120 MB larger than its wheels, and 10 % smaller when pruned, and still trains and compiles.
The interactive shell of `dev` is there in 0.2 s.
--only A,B: these parts alone, of cold, repeat, same, size, upgrade, shell, presets. --quick: without the comparison with podman.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causes import option
from claims import REPOSITORY, Benchmark, benchmark

from stoker.environment.mirror import pip_settings
from stoker.image.difference import difference
from stoker.image.lock import Lock, read_lock
from stoker.image.presets import presets
from stoker.measure import timing

MB = 1e6
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ORDINARY = 4242
"""A user id without an account."""
SMALL_PACKAGE = "tabulate"
PRUNE = ("static", "tools", "amd", "headers", "symbols", "tests")
# What a pruned image must still do: train, and compile a model with the image's own C compiler.
WORKS = """
import torch
model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 4))
compiled, images, labels = torch.compile(model), torch.randn(8, 1, 8, 8), torch.randint(4, (8,))
torch.nn.functional.cross_entropy(compiled(images), labels).backward()
assert torch.allclose(compiled(images), model(images), atol=1e-5)
print("works")
"""
# Inside of an image: seconds and CPU-seconds of an interactive shell that ends at once.
OPENS = """
import os, subprocess, time
for _ in range(22):
    begin_s, begin = time.perf_counter(), os.times()
    subprocess.run(["zsh", "-i", "-c", "exit"], check=True)
    end = os.times()
    print(time.perf_counter() - begin_s, end.children_user + end.children_system - begin.children_user - begin.children_system)
"""


@dataclass(kw_only=True)
class Project:
    """A folder with a stoker.toml, and the store that its builds use."""

    folder: Path
    store: Path
    before: tuple[str, ...] = ()
    """In front of every command: another user, fewer cores."""
    variables: dict[str, str] = field(default_factory=dict)

    def write(self, **said: Any) -> None:
        """Write the stoker.toml; what mirrors the person has configured is in the environment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name} = {json.dumps(value)}" for name, value in said.items()]
        (self.folder / "stoker.toml").write_text("\n".join(["[image]", f'name = "{self.folder.name}"', *lines, ""]))

    def lock(self) -> Lock:
        """Decide the versions."""
        self.run("lock")
        return read_lock(self.folder / "stoker.lock")

    def build(self, *options: str) -> Built:
        """Build the image as the command line does it, in a process of its own."""
        begin_s, begin_cpu_s = time.perf_counter(), os.times()
        answer = json.loads(self.run("build", "--json", *options))
        wall_s, end_cpu_s = time.perf_counter() - begin_s, os.times()
        cpu_s = end_cpu_s.children_user + end_cpu_s.children_system - begin_cpu_s.children_user - begin_cpu_s.children_system
        return Built(
            digest=answer["digest"], layout=self.folder / answer["layout"], made=answer["made"], layers=answer["layers"], wall_s=wall_s, cpu_s=cpu_s
        )

    def run(self, *arguments: str) -> str:
        """Run `stoker image ...` here; its talk goes to the terminal."""
        python = [sys.executable] if not self.before else ["/usr/bin/python3"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "STOKER_CACHE": str(self.store), **self.variables}
        command = [*self.before, *python, "-m", "stoker", "image", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"`stoker image {' '.join(arguments)}` ended with status {done.returncode}")
        return done.stdout


@dataclass(frozen=True, kw_only=True)
class Built:
    """What one build gave and took."""

    digest: str
    layout: Path
    made: int
    layers: int
    wall_s: float
    cpu_s: float

    @property
    def blobs(self) -> dict[str, int]:
        """Sizes of the layers in bytes, by digest."""
        index = json.loads((self.layout / "index.json").read_text())
        manifest = json.loads((self.layout / "blobs/sha256" / index["manifests"][0]["digest"].partition(":")[2]).read_text())
        return {layer["digest"]: layer["size"] for layer in manifest["layers"]}

    @property
    def size_bytes(self) -> int:
        """Of all layers, compressed."""
        return sum(self.blobs.values())


def main() -> None:
    """Measure the parts that were asked for, and claim."""
    only = option("--only")
    bench = benchmark(__doc__)
    unknown = set(only.split(",")) - set(PARTS) if only else set()
    if unknown:
        raise SystemExit(f"error: there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name, part in PARTS.items():
        if only is None or name in only.split(","):
            with place() as folder:
                part(bench, folder)
    bench.finish()


@contextmanager
def place() -> Iterator[Path]:
    """Make a folder that everybody may enter, and remove all of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bench-image-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cold(bench: Benchmark, folder: Path) -> None:
    """`latest` with notebook and ssh, from nothing: here, and by podman from the equivalent Containerfile."""
    project = Project(folder=folder / "latest", store=folder / "store")
    project.write(torch="latest", variants=["cli", "notebook", "ssh"])
    begin_s = time.perf_counter()
    project.lock()
    bench.fact("lock_s", round(time.perf_counter() - begin_s, 2))
    built = project.build()
    bench.measured("cold", timing([built.wall_s], [built.cpu_s]), layers=built.layers, size_mb=built.size_bytes / MB)
    if bench.quick:
        bench.fact("podman", "left out by --quick")
        return
    shutil.rmtree(built.layout)
    shutil.rmtree(project.store)
    build_s, push_s, size_bytes = by_podman(project, folder)
    bench.fact("podman_build_s", round(build_s, 1))
    bench.fact("podman_push_zstd_s", round(push_s, 1))
    bench.fact("podman_size_mb", round(size_bytes / MB))
    bench.claim("cold_build_of_podmans_time", built.wall_s / (build_s + push_s), "x", at_most=0.5)


def by_podman(project: Project, folder: Path) -> tuple[float, float, int]:
    """Return the seconds of `podman build` and of `podman push` of the equivalent Containerfile, and the size of the layers."""
    need_programs("podman", "mmdebstrap")
    context = folder / "context"
    for name in ("src", "native"):
        shutil.copytree(REPOSITORY / name, context / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(REPOSITORY / name, context)
    shutil.copy(project.folder / "stoker.lock", context)
    (context / "Containerfile").write_text(project.run("show", "--containerfile"))
    suite = read_lock(project.folder / "stoker.lock").base.suite
    # Debian's slim image is a root like this one; it is no part of the time, as it would not be where a registry is near.
    run(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", str(suite), str(folder / "root.tar")])
    base, made = f"localhost/debian:{suite}-slim", "localhost/bench-image:latest"
    # A store of its own: the stages of a build stay behind in it.
    podman = ["podman", "--root", str(folder / "podman"), "--runroot", str(folder / "podman-run")]
    run([*podman, "import", "--quiet", "--change", f"ENV=PATH={PATH}", str(folder / "root.tar"), base])
    begin_s = time.perf_counter()
    run([*podman, "build", "--quiet", "--network", "host", "--pull=never", *of_the_host(), "--tag", made, str(context)])
    build_s = time.perf_counter() - begin_s
    begin_s = time.perf_counter()
    run([*podman, "push", "--quiet", "--compression-format", "zstd", made, f"oci:{folder}/pushed"])
    push_s = time.perf_counter() - begin_s
    return build_s, push_s, sum(path.stat().st_size for path in (folder / "pushed/blobs/sha256").iterdir())


def of_the_host() -> list[str]:
    """Return options that give a build this machine's certificates and the index that pip is configured for."""
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    options = ["--volume", f"{certificates}:{certificates}:ro"] if Path(certificates).exists() else []
    return [*options, *(["--build-arg", f"PIP_INDEX_URL={index}"] if (index := configured_index()) else [])]


def configured_index() -> str | None:
    """Return the package index that pip or uv is configured for; None: the usual one. A folder of this machine is not there inside of a build."""
    settings = pip_settings(os.environ)
    told = [os.environ.get("UV_DEFAULT_INDEX", ""), settings.get("index-url", ""), *settings.get("extra-index-url", "").split()]
    return next((index for index in told if index.startswith(("http://", "https://"))), None)


def repeat(bench: Benchmark, folder: Path) -> None:
    """Nothing changed, and one small package more."""
    project = Project(folder=folder / "latest", store=folder / "store")
    project.write(torch="latest", variants=["cli", "notebook", "ssh"])
    project.lock()
    project.build()
    again = [project.build() for _ in range(2 if bench.quick else 5)]
    unchanged = timing([one.wall_s for one in again], [one.cpu_s for one in again])
    bench.measured("unchanged", unchanged, made=again[0].made)
    bench.claim("nothing_changed", unchanged.median_s, "s", at_most=3)
    project.write(torch="latest", variants=["cli", "notebook", "ssh"], packages=[SMALL_PACKAGE])
    project.lock()
    more = project.build()
    bench.measured("one_more_package", timing([more.wall_s], [more.cpu_s]), made=more.made)
    bench.claim("one_small_package", more.wall_s, "s", at_most=10)


def same(bench: Benchmark, folder: Path) -> None:
    """One lock, twice with no layer in the store: as whoever this is, and as an ordinary user under other circumstances; fetched once."""
    first = Project(folder=folder / "one" / "image", store=folder / "one" / "store")
    first.write(torch="latest", variants=["cli", "notebook", "ssh"])
    first.lock()
    mine = first.build()
    other = folder / "two"
    other.mkdir()
    second = Project(folder=other / "image", store=other / "store", before=other_circumstances(other), variables=other_variables(other))
    shutil.copytree(first.folder, second.folder, ignore=shutil.ignore_patterns("*.oci"))
    shutil.rmtree(mine.layout)
    # Every file is hashed again when it is read.
    (second.store / "image").mkdir(parents=True)
    shutil.move(first.store / "image" / "files", second.store / "image" / "files")
    shutil.rmtree(first.store)
    if os.geteuid() == 0:
        for path in (other, *other.rglob("*")):
            os.chown(path, ORDINARY, ORDINARY)
    theirs = second.build()
    bench.fact("digests", [mine.digest, theirs.digest])
    bench.claim("manifests_of_one_lock", len({mine.digest, theirs.digest}), "digests", at_most=1)


def other_circumstances(folder: Path) -> tuple[str, ...]:
    """Return what runs a command on one core, with a narrow umask, and where this is root as somebody else, with an account for as long."""
    alone = ("taskset", "--cpu-list", "0", "sh", "-c", 'umask 077; exec "$@"', "sh")
    if os.geteuid() != 0:
        return alone
    accounts = Path("/etc/passwd").read_text() + f"bencher:x:{ORDINARY}:{ORDINARY}::{folder}:/bin/sh\n"
    for name, text in (("passwd", accounts), ("subids", "bencher:200000:65536\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    binds = [("passwd", "/etc/passwd"), ("subids", "/etc/subuid"), ("subids", "/etc/subgid")]
    script = "; ".join(["set -e", "touch /etc/subuid /etc/subgid", *(f"mount --bind {folder}/{name} {file}" for name, file in binds), 'exec "$@"'])
    user = ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups")
    return ("unshare", "--mount", "sh", "-c", script, "sh", *user, *alone)


def other_variables(folder: Path) -> dict[str, str]:
    """Return variables of another person in another country; that Python finds the packages that Stoker itself needs."""
    packages = [str(Path(module.__file__ or "").resolve().parents[1]) for name in ("click", "rich", "zstandard") for module in [__import__(name)]]
    paths = os.pathsep.join(dict.fromkeys([str(REPOSITORY / "src"), *packages]))
    # Somebody else does not have this person's settings of pip.
    indexes = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in pip_settings(os.environ).items() if name.endswith("index-url")}
    return {**indexes, "HOME": str(folder), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Chatham"}


def size(bench: Benchmark, folder: Path) -> None:
    """The image beside its wheels, and pruned: smaller, and still at work."""
    whole = Project(folder=folder / "whole", store=folder / "store")
    whole.write(torch="latest")
    lock, built = whole.lock(), whole.build()
    wheels_bytes = sum(wheel.size for stack in lock.stacks for wheel in stack.wheels)
    bench.fact("size_mb", {"wheels": round(wheels_bytes / MB), "image": round(built.size_bytes / MB)})
    bench.claim("overhead_beside_the_wheels", (built.size_bytes - wheels_bytes) / MB, "MB", at_most=120)
    pruned = Project(folder=folder / "pruned", store=folder / "store")
    pruned.write(torch="latest", prune=list(PRUNE))
    pruned.lock()
    small = pruned.build("--load", "podman") if shutil.which("podman") else pruned.build()
    bench.fact("pruned_mb", round(small.size_bytes / MB))
    bench.claim("pruned_away", 100 * (1 - small.size_bytes / built.size_bytes), "%", at_least=10)
    if shutil.which("podman"):
        try:
            said = run(["podman", "run", "--rm", "localhost/pruned:latest", "python", "-c", WORKS])
        finally:
            run(["podman", "rmi", "--force", "localhost/pruned:latest"])
        bench.claim("pruned_trains_and_compiles", said.split().count("works"), "images", at_least=1)


def upgrade(bench: Benchmark, folder: Path) -> None:
    """From PyTorch 2.7.1 to 2.8.0: what of the new image is there already."""
    locks, builds = [], []
    for version, cuda in (("2.7.1", "12.6"), ("2.8.0", "12.8")):
        project = Project(folder=folder / version / "trainer", store=folder / "store")
        project.write(torch=version, cuda=cuda)
        locks.append(project.lock())
        builds.append(project.build())
    old, new = (built.blobs for built in builds)
    shared = sum(size for digest, size in new.items() if digest in old)
    bench.fact("upgrade", difference(*locks).lines()[-1])
    bench.fact("upgrade_reused_percent", round(100 * shared / sum(new.values()), 1))


def shell(bench: Benchmark, folder: Path) -> None:
    """The shell of the variant `dev`, with suggestions and colours, in a container."""
    need_programs("podman")
    project = Project(folder=folder / "shell", store=folder / "store")
    project.write(torch="none", variants=["cli", "dev"])
    project.lock()
    project.build("--load", "podman")
    try:
        said = run(["podman", "run", "--rm", "localhost/shell:latest", "python", "-c", OPENS])
    finally:
        run(["podman", "rmi", "--force", "localhost/shell:latest"])
    # The first one reads the shell from the disk.
    samples = [tuple(map(float, line.split())) for line in said.splitlines()[1:]]
    opened = timing([wall_s for wall_s, _ in samples], [cpu_s for _, cpu_s in samples])
    bench.measured("shell", opened)
    bench.claim("shell_opens", opened.median_s, "s", at_most=0.2)


def every_preset(bench: Benchmark, folder: Path) -> None:
    """Build each preset and start it."""
    started = 0
    names = [preset.name for preset in presets()]
    for name in names:
        project = Project(folder=folder / name / "image", store=folder / name / "store")
        project.folder.mkdir(parents=True)
        project.run("init", "--preset", name)
        lock = project.lock()
        built = project.build()
        bench.measured(
            f"preset {name}", timing([built.wall_s], [built.cpu_s]), made=built.made, stacks=len(lock.stacks), size_mb=built.size_bytes / MB
        )
        project.run("check", str(built.layout), "--time-limit", "600")
        started += 1
        shutil.rmtree(folder / name)
    bench.claim("presets_built_and_checked", started, "presets", at_least=len(names))


def need_programs(*names: str) -> None:
    """End where a program is missing: half a comparison is none."""
    if missing := [name for name in names if shutil.which(name) is None]:
        raise SystemExit(f"error: {', '.join(missing)} not installed; --quick does without")


def run(command: Sequence[str]) -> str:
    """Run a command, its complaints on the terminal, and return what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"`{' '.join(command[:3])} ...` ended with status {done.returncode}")
    return done.stdout


PARTS: dict[str, Callable[[Benchmark, Path], None]] = {
    "cold": cold,
    "repeat": repeat,
    "same": same,
    "size": size,
    "upgrade": upgrade,
    "shell": shell,
    "presets": every_preset,
}


if __name__ == "__main__":
    main()
