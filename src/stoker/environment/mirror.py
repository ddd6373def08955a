"""The package mirror that pip is configured for, in uv's words: uv itself does not read pip's configuration."""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

# uv's own ways to name an index: if one is used, pip's is not asked.
_OWN_INDEX = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX")


def mirror_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv use pip's `index-url`, `cert`, `proxy` and `trusted-host`; none that the user set for uv already.

    `extra-index-url` and `find-links` are left alone: uv prefers an extra index to the default one, so that another build of
    the same version there (a CPU-only PyTorch) would stand in the way of the locked one.
    """
    settings = pip_settings(environ)
    found: dict[str, str] = {}
    if "index-url" in settings and not any(environ.get(name) for name in _OWN_INDEX) and not _has_index(_uv_files(environ)):
        found["UV_DEFAULT_INDEX"] = settings["index-url"]
    if "cert" in settings and not environ.get("SSL_CERT_FILE"):
        found["SSL_CERT_FILE"] = settings["cert"]
    if "proxy" in settings and not any(environ.get(name) for name in ("ALL_PROXY", "HTTPS_PROXY", "https_proxy", "all_proxy")):
        found["ALL_PROXY"] = settings["proxy"]
    if "trusted-host" in settings and not environ.get("UV_INSECURE_HOST"):
        found["UV_INSECURE_HOST"] = " ".join(settings["trusted-host"].split())
    return found


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings for `pip install`: files, later ones winning, then the variables PIP_*. A broken file is passed over."""
    settings: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {key.replace("_", "-"): value for key, value in parser.items(section) if value}
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            settings[name[4:].lower().replace("_", "-")] = value
    return settings


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    """Return pip's configuration files in its order (source: pip's documentation, "Configuration"; Linux)."""
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return []
    folders = [Path(folder) for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder]
    files = [*(folder / "pip/pip.conf" for folder in reversed(folders)), Path("/etc/pip.conf")]
    if home := environ.get("HOME"):
        files += [Path(home) / ".pip/pip.conf", Path(environ.get("XDG_CONFIG_HOME") or Path(home) / ".config") / "pip/pip.conf"]
    return [*files, Path(sys.prefix) / "pip.conf", *([Path(own)] if own else [])]


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    """Return uv's configuration files (source: uv's documentation, "Configuration files")."""
    if own := environ.get("UV_CONFIG_FILE"):
        return [Path(own)]
    folders = [Path(folder) for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder]
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else None)
    return [*(folder / "uv/uv.toml" for folder in folders), Path("/etc/uv/uv.toml"), *([Path(home) / "uv/uv.toml"] if home else [])]


def _has_index(files: Iterable[Path]) -> bool:
    """Whether a uv configuration names an index."""
    for path in files:
        try:
            if re.search(r"^\s*(\[\[\s*index\s*\]\]|(pip\.)?index(-url)?\s*=)", path.read_text(), re.MULTILINE):
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False
