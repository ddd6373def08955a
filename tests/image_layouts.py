"""Tiny images for tests: a healthy one of a lock, which a test then spoils, written as an OCI layout by hand."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from stoker.image.configuration import image_configuration
from stoker.image.lock import Lock, lock_text
from stoker.image.rootfs import command, init


@dataclass
class File:
    """One entry of a layer."""

    content: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    uid: int = 0
    pax: dict[str, str] = field(default_factory=dict)


class TinyImage:
    """An image in memory: layers of files by path, and a configuration."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        self.layers: list[dict[str, File]] = [{}]
        self.config = image_configuration(lock, (), init=init(lock), command=command(lock), labels={}, base={})["config"]
        self.history: list[dict[str, str]] = [{"created_by": "stoker image build: base"}]
        self._fill()

    @property
    def files(self) -> dict[str, File]:
        """The files of the lowest layer."""
        return self.layers[0]

    def add(self, path: str, content: bytes | str = b"", *, layer: int = 0, **more: object) -> None:
        """Add or replace a file."""
        while len(self.layers) <= layer:
            self.layers.append({})
        data = content.encode() if isinstance(content, str) else content
        self.layers[layer][path] = File(content=data, **more)  # type: ignore[arg-type]

    def folder(self, path: str, mode: int = 0o755, uid: int = 0) -> None:
        """Add a folder."""
        self.files[path] = File(mode=mode, kind=tarfile.DIRTYPE, uid=uid)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self.files[path] = File(mode=0o777, kind=tarfile.SYMTYPE, target=target)

    def _fill(self) -> None:
        for path in ("usr", "usr/bin", "usr/lib", "etc", "opt", "opt/stoker"):
            self.folder(path)
        self.link("bin", "usr/bin")
        self.folder("tmp", 0o1777)
        self.folder("home/stoker", uid=1000)
        self.add("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nstoker:x:1000:1000::/home/stoker:/bin/bash\n")
        self.add("etc/stoker/lock.toml", lock_text(self.lock))
        self._fill_debs()
        for stack in self.lock.stacks:
            self.add(f"opt/stoker/{stack.name}/pyvenv.cfg", "home = /usr/bin\n")
            self.add(f"{self.site(stack.name)}/stoker.pth", "/opt/stoker/lib\n")
            for wheel in stack.wheels:
                self.add_wheel(stack.name, wheel.name, wheel.version)

    def _fill_debs(self) -> None:
        paragraphs = []
        for deb in self.lock.base.debs:
            program = f"usr/bin/{deb.name}"
            self.add(program, f"program {deb.name}", mode=0o755)
            digest = hashlib.md5(self.files[program].content).hexdigest()
            # Debian's lists name files as they were before /usr was merged, now and then.
            self.add(f"var/lib/dpkg/info/{deb.name}.md5sums", f"{digest}  bin/{deb.name}\n")
            self.add(f"var/lib/dpkg/info/{deb.name}.list", f"/.\n/bin\n/bin/{deb.name}\n")
            said = f"Package: {deb.name}\nStatus: install ok installed\nArchitecture: {deb.architecture}\nVersion: {deb.version}\n"
            paragraphs.append(said)
        self.add("var/lib/dpkg/status", "\n".join(paragraphs))

    def site(self, stack: str) -> str:
        """Return where the packages of a stack lie."""
        return f"opt/stoker/{stack}/lib/python{self.lock.python}/site-packages"

    def add_wheel(self, stack: str, name: str, version: str, files: dict[str, bytes] | None = None) -> None:
        """Install a wheel: its files, RECORD and METADATA; what an earlier one of this version installed goes."""
        for path in self._installed(stack, f"{name.replace('-', '_')}-{version}.dist-info"):
            self.files.pop(path, None)
        module = name.replace("-", "_")
        files = files or {f"{module}/__init__.py": f"name = {name!r}\n".encode()}
        folder = f"{module}-{version}.dist-info"
        files = {**files, f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText\n".encode()}
        rows = [f"{path},sha256={_record_hash(data)},{len(data)}" for path, data in files.items()]
        for path, data in files.items():
            self.add(f"{self.site(stack)}/{path}", data)
        self.add(f"{self.site(stack)}/{folder}/RECORD", "\n".join([*rows, f"{folder}/RECORD,,"]) + "\n")

    def _installed(self, stack: str, folder: str) -> list[str]:
        record = self.files.get(f"{self.site(stack)}/{folder}/RECORD", File()).content.decode()
        return [f"{self.site(stack)}/{row.partition(',')[0]}" for row in record.splitlines()]

    def tars(self) -> list[bytes]:
        """Return the tar of each layer."""
        return [tar_of(layer) for layer in self.layers]

    def write(self, folder: Path) -> Path:
        """Write it as an OCI layout and return the folder."""
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        tars = self.tars()
        layers = [_blob(blobs, gzip.compress(tar, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip") for tar in tars]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
            "history": self.history,
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _blob(blobs, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        }
        row = _blob(blobs, json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [row]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return folder


def tar_of(files: dict[str, File]) -> bytes:
    """Return a tar of these entries, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, entry in files.items():
            member = tarfile.TarInfo(path)
            member.type, member.mode, member.uid, member.gid = entry.kind, entry.mode, entry.uid, entry.uid
            member.linkname, member.size, member.pax_headers = entry.target, len(entry.content), entry.pax
            tar.addfile(member, io.BytesIO(entry.content))
    return out.getvalue()


def _blob(folder: Path, data: bytes, kind: str) -> dict[str, object]:
    digest = _digest(data)
    (folder / digest.partition(":")[2]).write_bytes(data)
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
