"""A tiny image, really built: by root and by an ordinary user, stopped, crowded, without space, without network; always the same bytes."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.errors import DiskFull, LockOutdated
from stoker.image.build import Built, Order, build
from stoker.image.bundle import write_bundle
from stoker.image.check import check
from stoker.image.compression import compressor_name
from stoker.image.debian import fetch_debs, lock_base, python_full, suite_of
from stoker.image.lock import Lock, LockedStack, Wheel, read_lock, write_lock
from stoker.image.oci import read_layout
from stoker.image.output import load, push
from stoker.image.own import own
from stoker.image.root import namespace_refusal
from stoker.image.show import shown
from stoker.image.specification import Mirrors, read_specification
from stoker.image.store import Store
from tests.conftest import need
from tests.image_roots import ORDINARY, SOURCE, may_be_ordinary, ordinary

pytestmark = [pytest.mark.network, pytest.mark.slow]

# The mirrors lead nowhere: whatever is not in the store cannot be had.
SPECIFICATION = '[image]\nname = "team/tiny"\ntorch = "none"\n\n[image.mirrors]\ndebian = "file:///nowhere"\nsecurity = "file:///nowhere"\npypi = "file:///nowhere"\n'
BUILD = """
import sys
from pathlib import Path
from stoker.errors import StokerError
from stoker.image.build import Order, build
from stoker.image.bundle import open_bundle
try:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        print(open_bundle(Path(sys.argv[2]), folder, folder / "from-bundle.oci"))
    print(build(Order(specification=folder / "stoker.toml")).digest)
except StokerError as error:
    print(error.message, error.hint, sep="\\n", file=sys.stderr)
    sys.exit(error.exit_code)
"""


@dataclass(frozen=True)
class Project:
    """A project with a lock whose packages are all in a store, and its image."""

    place: Path
    """Open to everybody: pytest's own folder is not."""
    folder: Path
    lock: Lock
    seed: Path
    """A cache folder with the packages and nothing else."""
    built: Built

    def cache(self, name: str, *, roots: bool = False) -> Path:
        """Return another cache folder with the packages, and with the base's root where that is not what is tested."""
        folder = self.place / name
        (folder / "image").mkdir(parents=True)
        subprocess.run(["cp", "-al", str(self.seed / "image" / "files"), str(folder / "image")], check=True)
        if roots:
            subprocess.run(["cp", "-al", str(self.place / "cache" / "image" / "roots"), str(folder / "image")], check=True)
        return folder

    def copy(self, name: str) -> Path:
        """Return another folder with the same specification and lock."""
        folder = self.place / name
        folder.mkdir()
        for file in ("stoker.toml", "stoker.lock"):
            shutil.copy(self.folder / file, folder)
        return folder

    def process(self, folder: Path, cache: Path) -> subprocess.Popen[str]:
        """Return a build in a process of its own."""
        variables = {**os.environ, "STOKER_CACHE": str(cache), "PYTHONPATH": str(SOURCE)}
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", BUILD, str(folder)], env=variables, stdout=pipe, stderr=pipe, text=True)


def wheel(folder: Path, name: str, *, ballast_bytes: int = 0) -> Wheel:
    """Make a wheel with a module, a program, and as much ballast as makes it a layer of its own."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": f"def main():\n    print('{name} runs')\n".encode(),
        f"{name}/ballast": hashlib.shake_256(name.encode()).digest(ballast_bytes),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n".encode(),
    }
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()},{len(content)}"
        for path, content in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(name=name, version="1.0", file=path.name, sha256=sha256, size=path.stat().st_size, index=None, variants=("cli",))


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The project, built by root."""
    need(os.geteuid() == 0, "root")
    need(namespace_refusal() is None, "namespaces")
    for program in ("mmdebstrap", "apt-get", "dpkg-deb"):
        need(shutil.which(program) is not None, program)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        place = Path(name)
        place.chmod(0o755)
        folder = place / "project"
        folder.mkdir()
        (folder / "stoker.toml").write_text(SPECIFICATION)
        wheels = (wheel(place, "large", ballast_bytes=21 * 2**20), wheel(place, "little"), wheel(place, "small"))
        suite = suite_of("3.13").name
        packages = {"cli": ["python3", "gcc", "libc6-dev", "catatonit", "passwd"]}
        base = lock_base(suite=suite, machine="x86_64", packages=packages, mirrors=Mirrors())
        stack = LockedStack(
            name="plain",
            torch=None,
            torchvision=None,
            cuda=None,
            toolkit=None,
            cudnn=None,
            driver_min=None,
            driver_full=None,
            architectures=(),
            ptx=False,
            wheels=wheels,
        )
        lock = Lock(
            name="team/tiny",
            created=1_760_000_000,
            machine="x86_64",
            specification=read_specification(folder / "stoker.toml").digest,
            python="3.13",
            python_full=python_full(base),
            base=base,
            stacks=(stack,),
            variants=("cli",),
            prune=(),
            own=own(),
            compression=compressor_name(),
        )
        write_lock(folder / "stoker.lock", lock)
        seed = Store(place / "seed" / "image")
        fetch_debs(base.debs, seed, mirrors=Mirrors())
        for one in wheels:
            seed.add_file(place / one.file, sha256=one.sha256, name=one.file)
        half = Project(place, folder, lock, place / "seed", None)  # type: ignore[arg-type]
        patch.setenv("STOKER_CACHE", str(half.cache("cache")))
        yield dataclasses.replace(half, built=build(Order(specification=folder / "stoker.toml")))


@pytest.fixture
def cache(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache that the image was built with."""
    monkeypatch.setenv("STOKER_CACHE", str(project.place / "cache"))
    return project.place / "cache"


def test_the_image_is_whole_and_tells_what_it_is(project: Project, cache: Path) -> None:
    layout = read_layout(project.folder / "tiny.oci")
    assert layout.digest == project.built.digest
    for path in (project.folder / "tiny.oci" / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    found = shown(project.folder / "tiny.oci")
    assert [layer.title for layer in found.layers] == [
        "Debian trixie",
        "large 1.0 (plain)",
        "2 small packages (plain, cli)",
        "stoker 0.1.0",
        "settings",
    ]
    assert (found.name, found.lock, found.variants) == ("team/tiny", project.lock.digest, ("cli",))


def test_the_image_is_as_its_lock_says(project: Project, cache: Path) -> None:
    found = check(str(project.built.layout), lock=project.lock, store=Store(cache / "image"))
    assert found.findings == ()
    assert found.own_compared
    assert found.tried
    assert found.proven == 3


def test_nothing_changed_touches_nothing(project: Project, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "tiny.oci").rglob("*")}
    with project.process(project.folder, cache) as process:
        said, _ = process.communicate()
    assert said.split() == [project.built.digest]
    assert {path: path.stat().st_mtime_ns for path in (project.folder / "tiny.oci").rglob("*")} == before


def test_an_ordinary_user_elsewhere_with_a_bundle_and_no_network_builds_the_same_bytes(project: Project, cache: Path) -> None:
    need(may_be_ordinary(), "a user namespace for an ordinary user")
    need(shutil.which("newuidmap") is not None, "newuidmap")
    packages = project.place / "packages"
    packages.mkdir()
    shutil.copytree(Path(sys.modules["zstandard"].__file__ or "").parent, packages / "zstandard")
    circumstances = {"PYTHONPATH": f"{SOURCE}:{packages}", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
    need(ordinary("import zstandard.backend_c", environment=circumstances).returncode == 0, "a Python for everybody, of the version of the tests'")
    write_bundle(project.place / "tiny.bundle", specification=project.folder / "stoker.toml", layout=read_layout(project.folder / "tiny.oci"))
    (project.place / "tiny.bundle").chmod(0o644)
    folder = project.place / "elsewhere"
    folder.mkdir()
    os.chown(folder, ORDINARY, ORDINARY)
    accounts = {"passwd": Path("/etc/passwd").read_text() + f"tester:x:{ORDINARY}:{ORDINARY}::/tmp:/bin/sh\n", "subids": f"tester:{2**20}:65536\n"}
    for name, content in accounts.items():
        (project.place / name).write_text(content)
    script = "; ".join(
        [
            "set -e; touch /etc/subuid /etc/subgid",
            *(
                f"mount --bind {project.place}/{name} {to}"
                for name, to in (("passwd", "/etc/passwd"), ("subids", "/etc/subuid"), ("subids", "/etc/subgid"))
            ),
            'hostname elsewhere; umask 077; exec taskset -c 0 "$@"',
        ]
    )
    before = ("unshare", "--mount", "--uts", "--net", "sh", "-c", script, "sh")
    circumstances["STOKER_CACHE"] = str(folder / "cache")
    done = ordinary(BUILD, str(folder / "there" / "project"), str(project.place / "tiny.bundle"), environment=circumstances, before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == project.built.digest
    assert read_layout(folder / "there" / "project" / "from-bundle.oci").digest == project.built.digest
    # The layers were made there, not taken from the bundle.
    assert "in the cache" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_stopped_leaves_no_half_image_and_goes_on_later(project: Project, number: signal.Signals) -> None:
    folder, cache = project.copy(f"stopped-{number.name}"), project.cache(f"cache-{number.name}", roots=True)
    for delay_s in (0.7, 2.0):
        process = project.process(folder, cache)
        time.sleep(delay_s)
        process.send_signal(number)
        process.communicate()
        if (folder / "tiny.oci").exists():
            assert read_layout(folder / "tiny.oci").digest == project.built.digest
    with project.process(folder, cache) as process:
        said, errors = process.communicate()
    assert said.split() == [project.built.digest], errors
    assert sorted(os.listdir(folder)) == ["stoker.lock", "stoker.toml", "tiny.oci"]
    assert [path.name for path in (cache / "image" / "scratch").iterdir()] == []


def test_two_builds_at_once_make_one_image_and_the_second_says_that_it_waits(project: Project) -> None:
    folder, cache = project.copy("crowded"), project.cache("cache-crowded", roots=True)
    processes = [project.process(folder, cache) for _ in range(2)]
    answers = [process.communicate() for process in processes]
    assert [said.split() for said, _ in answers] == [[project.built.digest]] * 2, answers
    assert "waiting" in answers[0][1] + answers[1][1]


def test_a_full_disk_is_named_and_a_later_build_goes_on(project: Project) -> None:
    folder, mounted = project.copy("full"), project.place / "small-disk"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600M", "tmpfs", str(mounted)], check=True)
    try:
        subprocess.run(["cp", "-a", str(project.cache("cache-full", roots=True) / "image"), str(mounted)], check=True)
        free = os.statvfs(mounted).f_bavail * os.statvfs(mounted).f_frsize
        (mounted / "ballast").write_bytes(b"\0" * (free - 30_000_000))
        with project.process(folder, mounted) as process:
            _, errors = process.communicate()
        assert process.returncode == DiskFull.exit_code, errors
        assert "no space left" in errors
        assert not (folder / "tiny.oci").exists()
        (mounted / "ballast").unlink()
        with project.process(folder, mounted) as process:
            said, errors = process.communicate()
        assert said.split() == [project.built.digest], errors
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_changed_specification_and_another_stoker_are_noticed(project: Project, cache: Path) -> None:
    folder = project.copy("changed")
    (folder / "stoker.toml").write_text(SPECIFICATION.replace("team/tiny", "team/other"))
    with pytest.raises(LockOutdated, match=r"stoker\.toml has changed"):
        build(Order(specification=folder / "stoker.toml"))
    (folder / "stoker.toml").write_text(SPECIFICATION)
    lock = read_lock(folder / "stoker.lock")
    write_lock(folder / "stoker.lock", dataclasses.replace(lock, own=dataclasses.replace(lock.own, sha256="0" * 64)))
    with pytest.raises(LockOutdated, match="another build of Stoker"):
        build(Order(specification=folder / "stoker.toml"))
    assert not (folder / "tiny.oci").exists()


def test_gzip_is_the_same_image_in_another_wrapping(project: Project, cache: Path) -> None:
    folder = project.copy("gzip")
    built = build(Order(specification=folder / "stoker.toml", compression="gzip"))
    assert [layer.blob.diff_id for layer in built.layers] == [layer.blob.diff_id for layer in project.built.layers]
    assert {layer.blob.media_type for layer in built.layers} == {"application/vnd.oci.image.layer.v1.tar+gzip"}


def test_podman_runs_it(project: Project, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(shutil.which("podman") is not None and shutil.which("runc") is not None, "podman and runc")
    (tmp_path / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000","nproc=8192:8192"]\nlog_driver = "k8s-file"\n[engine]\nruntime = "runc"\n'
    )
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    name = load(read_layout(project.folder / "tiny.oci"), "podman")
    try:
        code = "import large, os, sys; large.main(); print(os.getuid(), sys.prefix, os.getcwd(), flush=True); os.execvp('little', ['little'])"
        done = subprocess.run(["podman", "run", "--rm", "--network", "none", name, "python", "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines() == ["large runs", "1000 /opt/stoker/plain /workspace", "little runs"], done.stderr
        said = subprocess.run(["podman", "inspect", name], capture_output=True, text=True, check=True).stdout
        assert json.loads(said)[0]["Labels"]["dev.stoker.lock"] == project.lock.digest
    finally:
        subprocess.run(["podman", "rmi", "--force", name], capture_output=True)


def test_a_registry_gets_it_with_the_same_digest_and_layers_only_once(project: Project, cache: Path, tmp_path: Path) -> None:
    need(shutil.which("skopeo") is not None, "skopeo")
    need(shutil.which("docker-registry") is not None, "docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "registry.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
    )
    asked = tmp_path / "asked.log"
    command = ["docker-registry", "serve", str(tmp_path / "registry.yml")]
    with asked.open("w") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL) as registry:
        try:
            _wait_for(port)
            layout = read_layout(project.folder / "tiny.oci")
            address = push(layout, f"127.0.0.1:{port}/team/tiny:1")
            assert address == f"127.0.0.1:{port}/team/tiny@{project.built.digest}"
            done = subprocess.run(["skopeo", "inspect", "--tls-verify=false", f"docker://{address}"], capture_output=True, text=True)
            assert json.loads(done.stdout)["Digest"] == project.built.digest, done.stderr
            first = asked.read_text()
            assert "/blobs/uploads/" in first
            push(layout, f"127.0.0.1:{port}/team/tiny:2")
            second = asked.read_text().removeprefix(first)
            assert "PUT /v2/team/tiny/manifests/2" in second
            assert "/blobs/uploads/" not in second
        finally:
            registry.terminate()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the registry does not answer")
