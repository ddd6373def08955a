"""The image that is examined, wherever it is: a layout on the disk, or an image of podman or docker."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from stoker import shell
from stoker.errors import EngineFailed, ImageBroken, MissingExtra, ProgramMissing, UsageError
from stoker.image.checks.contents import Contents, Readable, read_contents
from stoker.image.lock import LOCK_FILE, Lock, parse_lock, read_lock
from stoker.image.oci import Layout, read_layout

ENGINES = ("podman", "docker")
_LOCK_INSIDE = "etc/stoker/lock.toml"
_NOTHING_MORE = re.compile(r"(?!)")
_ASK_S = 60.0
_MISSING = "no such image|not known|no such object|unable to find"


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What an image's configuration says: how its containers start."""

    user: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folder: str = ""
    """Where containers start."""
    labels: Mapping[str, str] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    """The commands that made it, as far as they are told."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An image, read."""

    name: str
    """As the person called it."""
    digest: str
    """Of its manifest, or the engine's own number of it."""
    configuration: Configuration
    contents: Contents
    layout: Layout | None
    """None: an image of `engine`."""
    diff_ids: tuple[str, ...]
    """Hash of the tar of each layer, the lowest first; empty: the engine does not say."""
    engine: str | None
    """Which engine has it, or could run it; None: neither is here."""


def read_subject(name: str, engine: str | None, *, only: re.Pattern[str] | None = None) -> Subject:
    """Read an image: a folder with an OCI layout, or the name of one that podman or docker has (`engine`: ask this one only).

    `only`: the lock and the texts of these paths, and no more of its contents. Raises ImageBroken, EngineFailed, ProgramMissing, UsageError.
    """
    if only:
        only = re.compile(f"{re.escape(_LOCK_INSIDE)}|{only.pattern}", only.flags)
    if os.path.isdir(name):
        return _of_layout(Path(name), engine or _first_engine(), only)
    if os.path.isfile(name):
        raise UsageError(f"{name} is a file", hint="give the folder of an OCI layout, as `stoker image build` makes it, or the name of an image")
    return _of_engine(name, engine, only)


def lock_inside(subject: Subject) -> Lock:
    """Return the lock that the image carries. Raises ImageBroken where it carries none, LockBroken for one that cannot be read."""
    text = subject.contents.texts.get(_LOCK_INSIDE)
    if text is None:
        raise ImageBroken(
            f"{subject.name} holds no /{_LOCK_INSIDE}", hint="it was not made by `stoker image build`; give --lock to compare it with one"
        )
    return parse_lock(text.decode("utf-8", errors="replace"), name=f"/{_LOCK_INSIDE} of {subject.name}")


def read_lock_of(name: str) -> Lock:
    """Return a lock: of a file, of the stoker.lock in a project's folder, or the one that an image carries."""
    path = lock_path_of(name)
    return read_lock(path) if path else lock_inside(read_subject(name, None, only=_NOTHING_MORE))


def lock_path_of(name: str) -> Path | None:
    """Return the path of a lock, where `name` means one, whether it is there or not; None: it means an image."""
    path = Path(name)
    # Not the methods of Path: until Python 3.14 a folder that is closed to us makes them raise.
    if os.path.isfile(path / LOCK_FILE):
        return path / LOCK_FILE
    # An image's name is not taken for a lock that is missing, nor the other way round.
    return path if os.path.isfile(path) or path.suffix == ".lock" or not (os.path.isdir(path) or _first_engine()) else None


def read_configuration(image: Mapping[str, Any]) -> Configuration:
    """Return what the configuration of an image says; OCI's own form, podman's and docker's are one in what is read here. Raises ImageBroken."""
    try:
        return _configuration(image)
    except (AttributeError, TypeError, ValueError) as error:
        raise ImageBroken(f"the configuration of the image is not as OCI image spec 1.1 says: {error}", hint="build the image again") from error


def _configuration(image: Mapping[str, Any]) -> Configuration:
    said = image.get("config") or image.get("Config") or {}
    variables = dict(entry.partition("=")[::2] for entry in said.get("Env") or ())
    history = tuple(str(step.get("created_by", "")) for step in image.get("history") or image.get("History") or () if isinstance(step, dict))
    labels = said.get("Labels") or {}
    return Configuration(
        user=str(said.get("User") or ""),
        variables=variables,
        entrypoint=_words(said.get("Entrypoint")),
        command=_words(said.get("Cmd")),
        folder=str(said.get("WorkingDir") or ""),
        labels={str(name): str(value) for name, value in labels.items()},
        history=history,
    )


def _words(said: Any) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else tuple(said or ())


def _of_layout(folder: Path, engine: str | None, only: re.Pattern[str] | None) -> Subject:
    layout = read_layout(folder)
    contents = read_contents(open_layers(layout), only=only)
    return Subject(
        name=str(folder),
        digest=layout.digest,
        configuration=read_configuration(layout.config),
        contents=contents,
        layout=layout,
        diff_ids=tuple(layout.config["rootfs"]["diff_ids"]),
        engine=engine,
    )


def open_layers(layout: Layout) -> Iterator[Readable]:
    """Yield the tar of each layer in turn; one whose hashes are not those of the manifest and the configuration raises ImageBroken."""
    told = layout.config["rootfs"]["diff_ids"]
    for layer, diff_id in zip(layout.manifest["layers"], told, strict=True):
        with _opened(layout.blob(layer["digest"])) as file:
            blob = _Hashed(file)
            tar = _Hashed(unpacked(blob, layer["mediaType"]))
            yield tar
            tar.drain()
            blob.drain()
        if blob.digest != layer["digest"] or tar.digest != diff_id:
            raise ImageBroken(
                f"{layout.folder}: the layer {layer['digest']} has other bytes than its name says",
                hint="the disk or somebody altered it: build again",
            )


def _opened(blob: Path) -> BinaryIO:
    try:
        return open(blob, "rb")
    except OSError as error:
        hint = "was it built again meanwhile? Then check it again; otherwise build it again"
        raise ImageBroken(f"the layer {blob} cannot be read: {error.strerror}", hint=hint) from error


def unpacked(file: Any, media_type: str) -> Any:
    """Return a stream of the tar in a layer. Raises MissingExtra without the package zstandard, ImageBroken for an unknown kind of layer."""
    if media_type.endswith("zstd"):
        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError as error:
            raise MissingExtra("layers are compressed with zstd, and the package zstandard is not installed", hint="install stoker[image]") from error
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    if media_type.endswith("gzip"):
        return gzip.GzipFile(fileobj=file)
    if media_type.endswith("tar"):
        return file
    raise ImageBroken(f"a layer is of the unknown kind {media_type}", hint="Stoker reads tar, gzip and zstd")


class _Hashed:
    """A stream that hashes what is read through it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read as a file does."""
        try:
            piece: bytes = self._stream.read(size)
        except Exception as error:  # gzip, zlib and zstandard each have their own
            raise ImageBroken(f"a layer cannot be unpacked: {error}", hint="build or fetch the image again") from error
        self._sha256.update(piece)
        return piece

    def drain(self) -> None:
        """Read what is left: padding after the end of a tar belongs to its hash."""
        while self.read(1 << 20):
            pass

    @property
    def digest(self) -> str:
        """The hash of what was read."""
        return f"sha256:{self._sha256.hexdigest()}"


def _first_engine() -> str | None:
    return next((engine for engine in ENGINES if shutil.which(engine)), None)


def _of_engine(name: str, wanted: str | None, only: re.Pattern[str] | None) -> Subject:
    engines = [wanted] if wanted else [engine for engine in ENGINES if shutil.which(engine)]
    if not engines or not shutil.which(engines[0]):
        raise ProgramMissing(
            f"{name} is no folder, and there is no {wanted or 'podman or docker'} to ask for it", hint="give the folder of an OCI layout"
        )
    refusals = []
    for engine in engines:
        asked = shell.run([engine, "image", "inspect", name], timeout_s=_ASK_S)
        if asked.ok:
            image = json.loads(asked.out)[0]
            return Subject(
                name=name,
                digest=image["Id"],
                configuration=read_configuration(image),
                contents=_exported(engine, image["Id"], only),
                layout=None,
                diff_ids=tuple((image.get("RootFS") or {}).get("Layers") or ()),
                engine=engine,
            )
        refusals.append(f"{engine}: {(asked.err.strip().splitlines() or ['no answer'])[-1]}")
    raise EngineFailed(
        f"{name} is no folder, and no engine has an image of that name\n" + "\n".join(refusals),
        hint="give the folder of an OCI layout, or load the image first: `stoker image build --load`",
    )


def _exported(engine: str, image: str, only: re.Pattern[str] | None) -> Contents:
    """Return the files of an image through a container that is made, exported and removed, and never started."""
    made = shell.run([engine, "create", "--entrypoint", "/nothing", image], timeout_s=600)
    if not made.ok:
        raise EngineFailed(f"{made.command} failed:\n{made.err.strip()[-1000:]}", hint="does `podman run` (or docker) work here?")
    container = made.out.strip().splitlines()[-1]
    try:
        with tempfile.TemporaryFile() as said:
            export = subprocess.Popen([engine, "export", container], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
            assert export.stdout is not None
            try:
                contents = read_contents([export.stdout], only=only)
                while export.stdout.read(1 << 20):
                    pass
            except ImageBroken:
                if export.poll() in (0, None):
                    raise
                contents = Contents()
            finally:
                export.stdout.close()
                code = export.wait()
            said.seek(0)
            if code != 0:
                raise EngineFailed(f"{engine} export failed:\n{said.read()[-1000:].decode(errors='replace').strip()}", hint="is the disk full?")
            return contents
    finally:
        shell.run([engine, "rm", "--force", container], timeout_s=120)
