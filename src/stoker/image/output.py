"""Where a built image goes: into podman or docker, or to a registry.

podman reads a layout as it is, and takes only the layers that it has not yet. docker gets its own archive format on the standard input of
`docker load`, written on the fly with the layers unpacked: Docker 20.10 reads neither OCI layouts nor zstd, newer ones still read this.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from stoker import shell
from stoker.errors import EngineFailed, ImageBroken, MissingExtra, ProgramMissing, UsageError
from stoker.image.oci import Layer, Layout

try:
    import zstandard
except ImportError:  # the extra `image`; layers of gzip need nothing
    zstandard = None  # type: ignore[assignment]

ENGINES = ("podman", "docker")

# An image of 20 GB to a registry behind a slow line.
_HOURS_S = 6 * 3600.0
_CHUNK_BYTES = 1 << 20
_NAME = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_TAG = r":[A-Za-z0-9_][A-Za-z0-9_.-]*"
_IMAGE = re.compile(rf"{_NAME}(?:/{_NAME})*{_TAG}")
_DESTINATION = re.compile(rf"(?P<registry>[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?)/(?P<name>{_NAME}(?:/{_NAME})*)(?P<tag>{_TAG})?")


def need_outputs(engine: str | None, destination: str | None) -> None:
    """Raise what `load` and `push` would raise before they begin: better before an image is built than after it."""
    if engine:
        _need_engine(engine)
    if destination:
        _place_of(destination)
        _need_skopeo()


def load(layout: Layout, engine: str) -> str:
    """Load an image into `podman` or `docker` and return the name that it has there. Raises EngineFailed, ProgramMissing, ImageBroken."""
    name = image_name(layout)
    _need_engine(engine)
    if engine == "podman":
        said = _loaded_by_podman(layout)
        _rename_in_podman(said, f"localhost/{name}")
        return f"localhost/{name}"
    _feed(["docker", "load", "--quiet"], lambda out: write_docker_archive(layout, name, out))
    return name


def push(layout: Layout, destination: str) -> str:
    """Send an image to `REGISTRY/NAME[:TAG]` through skopeo and return `REGISTRY/NAME@DIGEST`; layers that are there are not sent again.

    Raises EngineFailed, ProgramMissing, UsageError.
    """
    place = _place_of(destination)
    _need_skopeo()
    # As docker and podman do: a registry on this machine has no certificate.
    here = ["--dest-tls-verify=false"] if re.fullmatch(r"(localhost|127(\.\d+){3})(:\d+)?", place["registry"]) else []
    repository = f"{place['registry']}/{place['name']}"
    with _without_colon(layout.folder) as folder:
        source = f"oci:{folder}:{image_name(layout)}"
        _run(["skopeo", "copy", "--quiet", "--preserve-digests", *here, source, f"docker://{repository}{place['tag'] or ':latest'}"])
    return f"{repository}@{layout.digest}"


@contextlib.contextmanager
def _without_colon(folder: Path) -> Iterator[Path]:
    """Yield a path of a folder that skopeo understands: what follows a colon is the name of an image for it."""
    if ":" not in str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "layout").symlink_to(folder.absolute())
        yield Path(place) / "layout"


def image_name(layout: Layout) -> str:
    """Return what engines call an image, as `trainer:latest`. Raises ImageBroken."""
    name = layout.annotations.get("org.opencontainers.image.ref.name", "")
    if not _IMAGE.fullmatch(name):
        raise ImageBroken(f"the image in {layout.folder} has no name", hint="name a layout that `stoker image build` wrote")
    return name


def write_docker_archive(layout: Layout, name: str, out: BinaryIO) -> None:
    """Write an image as `docker save` does: configuration, layers unpacked, `manifest.json`. Raises ImageBroken, MissingExtra."""
    config = json.dumps(layout.config, sort_keys=True).encode()
    config_name = f"{layout.manifest['config']['digest'].removeprefix('sha256:')}.json"
    paths = [f"{number:03}-{layer.blob.diff_id.removeprefix('sha256:')[:16]}.tar" for number, layer in enumerate(layout.layers)]
    with tarfile.open(fileobj=out, mode="w|") as archive:
        _add(archive, config_name, len(config), io.BytesIO(config))
        for path, layer in zip(paths, layout.layers, strict=True):
            with unpacked(layer) as content:
                _add(archive, path, layer.blob.unpacked_size, content)
        manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": paths}]).encode()
        _add(archive, "manifest.json", len(manifest), io.BytesIO(manifest))


@contextlib.contextmanager
def unpacked(layer: Layer) -> Iterator[BinaryIO]:
    """Open the tar of a layer for reading from its start to its end. Raises MissingExtra."""
    with open(layer.blob.path, "rb") as file:
        if layer.blob.media_type.endswith("zstd"):
            if zstandard is None:
                raise MissingExtra("zstd layers need the package zstandard", hint='install it with `pip install "stoker[image]"`')
            with zstandard.ZstdDecompressor().stream_reader(file) as content:
                yield cast(BinaryIO, content)
        else:
            yield cast(BinaryIO, _Gunzipped(file))


class _Gunzipped:
    """A gzip stream read piece by piece; the module gzip would also look at what follows it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflater = zlib.decompressobj(31)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end."""
        while not self._inflater.eof:
            waiting = self._inflater.unconsumed_tail or self._file.read(_CHUNK_BYTES)
            if not waiting:
                break
            piece = self._inflater.decompress(waiting, size)
            if piece:
                return piece
        return b""


def _add(archive: tarfile.TarFile, name: str, size: int, content: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    try:
        archive.addfile(member, content)  # type: ignore[arg-type]
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ImageBroken(f"the layer {name} is shorter than its manifest says ({error})", hint="run `stoker image build` again") from error


def _place_of(destination: str) -> re.Match[str]:
    place = _DESTINATION.fullmatch(destination.removeprefix("docker://"))
    if place is None:
        raise UsageError(f"{destination!r} is no place in a registry", hint="write it as registry.example.org/team/trainer:1")
    return place


def _need_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint=f"there are: {', '.join(ENGINES)}")
    _need_program(engine, hint=f"install {engine}, or build without --load and take the layout to where it is")


def _need_skopeo() -> None:
    _need_program("skopeo", hint="install it (Debian, Ubuntu: apt install skopeo), or push from podman or docker after --load")


def _need_program(name: str, *, hint: str) -> None:
    if shutil.which(name) is None:
        raise ProgramMissing(f"{name} is not installed, or not in PATH", hint=hint)


def _loaded_by_podman(layout: Layout) -> str:
    # podman 4 makes a name of the path, and refuses one with capitals. Two that load at once need two names.
    name = f"stoker-load-{os.getpid()}-{os.urandom(4).hex()}"
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(layout.folder.absolute(), Path(folder) / name)
        return _run(["podman", "load", "--quiet", "--input", name], folder=Path(folder))


def _rename_in_podman(said: str, name: str) -> None:
    """Give the loaded image its name: podman 4 takes the folder's, whatever the layout says."""
    loaded = re.search(r"^Loaded image(?:\(s\))?: (\S+)$", said, re.MULTILINE)
    if loaded and loaded[1] != name:
        _run(["podman", "tag", loaded[1], name])
        if not loaded[1].startswith("sha256:"):
            _run(["podman", "untag", loaded[1], loaded[1]])


def _run(arguments: list[str], *, folder: Path | None = None) -> str:
    done = shell.run(arguments, timeout_s=_HOURS_S, folder=folder)
    if not done.ok:
        raise _refused(done.command, done.err or done.out)
    return done.out


def _feed(arguments: list[str], write: Callable[[BinaryIO], None]) -> None:
    """Run a program that reads what `write` writes. `shell.run` gives programs nothing to read, and this is gigabytes."""
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            # When it has refused already, what it said is the cause.
            with contextlib.suppress(BrokenPipeError):
                write(cast(BinaryIO, process.stdin))
                process.stdin.close()
        except BaseException:
            process.kill()
            raise
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stderr.read().decode(errors="replace")
        code = process.wait()
    if code:
        raise _refused(" ".join(arguments), said)


def _refused(command: str, said: str) -> EngineFailed:
    last = "\n".join(said.strip().splitlines()[-5:]) or "it said nothing"
    if re.search(r"permission denied|cannot connect|is the docker daemon running", said, re.IGNORECASE):
        hint = "is its service running, and may this user use it? `podman info` or `docker info` tells"
    elif re.search(r"no space left", said, re.IGNORECASE):
        hint = "free space where it keeps its images, then run it again"
    elif re.search(r"unauthorized|authentication required|denied: ", said, re.IGNORECASE):
        hint = "log in first: `skopeo login REGISTRY`"
    else:
        hint = "run the command by hand to see more"
    return EngineFailed(f"`{command}` failed:\n{last}", hint=hint)
