"""CDI specifications: what they name, read without a YAML library from the form that nvidia-ctk writes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCALAR = re.compile(r"^(?P<indent>\s*)(?P<dash>- )?(?P<key>[A-Za-z]+):\s*(?P<value>\S.*)?$")
_VERSION = re.compile(r"/lib(?:cuda|nvidia-ml)\.so\.(\d{3,4}(?:\.\d{1,4}){1,2})$")
_MOST_BYTES = 4 * 1024**2


@dataclass(frozen=True, kw_only=True)
class CdiSpecification:
    """One file that tells container engines what a GPU consists of."""

    path: str = ""
    version: str | None = None
    """cdiVersion: "0.5.0"."""
    kind: str | None = None
    """nvidia.com/gpu."""
    devices: tuple[str, ...] = ()
    """Names of its devices: "0", "GPU-...", "1:0", "all"."""
    driver_versions: tuple[str, ...] = ()
    """Driver versions in the names of its libcuda and libnvidia-ml."""
    missing: tuple[str, ...] = ()
    """Files and device nodes it names that are not on this machine (the first ten)."""
    error: str | None = None
    """Why it could not be read."""


def read_cdi(path: Path, root: Path) -> CdiSpecification:
    """Read one specification (YAML or JSON). Raises nothing: what is wrong with it is its `error`."""
    shown = f"/{path.relative_to(root)}"
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode(errors="replace")
    except OSError as error:
        return CdiSpecification(path=shown, error=error.strerror)
    found = _from_json(text) if text.lstrip().startswith("{") else _from_yaml(text)
    if not found["kind"]:
        return CdiSpecification(path=shown, error="no CDI specification: it has no `kind`")
    files = list(dict.fromkeys(found["files"]))
    return CdiSpecification(
        path=shown,
        version=found["version"],
        kind=found["kind"],
        devices=tuple(found["devices"]),
        driver_versions=tuple(sorted({match[1] for file in files if (match := _VERSION.search(file))})),
        missing=tuple(file for file in files if file.startswith("/") and not _exists(root, file))[:10],
    )


def _from_json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = {}
    value = value if isinstance(value, dict) else {}
    devices = [str(device.get("name")) for device in value.get("devices") or () if isinstance(device, dict)]
    return {"version": value.get("cdiVersion"), "kind": value.get("kind"), "devices": devices, "files": _paths(value)}


def _paths(value: Any) -> list[str]:
    """Return every host path in a specification, wherever it stands."""
    if isinstance(value, list):
        return [path for entry in value for path in _paths(entry)]
    if not isinstance(value, dict):
        return []
    # A device node's file on the host is its hostPath, else its path.
    own = value.get("hostPath") or value.get("path")
    return ([own] if isinstance(own, str) else []) + [path for entry in value.values() for path in _paths(entry)]


def _from_yaml(text: str) -> dict[str, Any]:
    """Read the block style that nvidia-ctk, podman's documentation and people write; flow style (`{a: b}`) is not understood."""
    found: dict[str, Any] = {"version": None, "kind": None, "devices": [], "files": []}
    section = ""
    for line in text.splitlines():
        match = _SCALAR.match(line)
        if not match:
            continue
        key, value = match["key"], _plain(match["value"] or "")
        if not match["indent"] and not match["dash"]:
            section = key
            if key in ("cdiVersion", "kind"):
                found["version" if key == "cdiVersion" else "kind"] = value or None
        elif key == "name" and section == "devices" and value:
            found["devices"].append(value)
        elif key in ("hostPath", "path") and value:
            found["files"].append(value)
    return found


def _plain(value: str) -> str:
    quoted = re.match(r"""(["'])(.*?)\1""", value)
    return quoted[2] if quoted else value.partition(" #")[0].strip()


def _exists(root: Path, file: str) -> bool:
    try:
        return (root / file.lstrip("/")).exists()
    except OSError:
        return True  # not allowed to look: say nothing rather than guess
