"""Wheels made for tests, well-formed ones and others; and a root whose Python is the one that runs the tests."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker.image.root import Answer, Root

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class HostRoot(Root):
    """Runs the programs of the host in place of the image's."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        input: bytes = b"",
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> Answer:
        command = [sys.executable if argument == f"/usr/bin/python{PYTHON}" else argument for argument in arguments]
        done = subprocess.run(command, input=input, capture_output=True, timeout=timeout_s)
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr.decode())


HOST_ROOT = HostRoot(folder=Path("/nowhere"), created=0)


def record_hash(content: bytes, algorithm: str = "sha256") -> str:
    """A hash as RECORD writes it."""
    return f"{algorithm}={urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b'=').decode()}"


def wheel_files(name: str = "demo", version: str = "1.0", files: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The members of a wheel but RECORD."""
    info = f"{name}-{version}.dist-info"
    return {
        **({f"{name}/__init__.py": b"ANSWER = 42\n"} if files is None else files),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }


def record(files: Mapping[str, bytes], info: str = "demo-1.0.dist-info") -> bytes:
    """The RECORD of these members."""
    rows = [f'"{name}",{record_hash(content)},{len(content)}' for name, content in files.items()]
    return "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()


def member(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    """A member with a fixed time and this st_mode."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def zipped(members: Sequence[tuple[zipfile.ZipInfo | str, bytes]]) -> bytes:
    """A zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for info, content in members:
            archive.writestr(member(info) if isinstance(info, str) else info, content)
    return out.getvalue()


def wheel_bytes(name: str = "demo", version: str = "1.0", files: Mapping[str, bytes] | None = None, modes: Mapping[str, int] | None = None) -> bytes:
    """A well-formed wheel."""
    held = wheel_files(name, version, files)
    held[f"{name}-{version}.dist-info/RECORD"] = record(held, f"{name}-{version}.dist-info")
    return zipped([(member(path, (modes or {}).get(path, 0o100644)), content) for path, content in held.items()])


def write_wheel(folder: Path, name: str = "demo", version: str = "1.0", files: Mapping[str, bytes] | None = None, **more: Mapping[str, int]) -> Path:
    """Write a well-formed wheel and return its path."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(wheel_bytes(name, version, files, **more))
    return path
