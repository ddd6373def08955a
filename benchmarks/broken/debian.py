"""NVIDIA's own user space, of Debian's non-free packages: libcuda and nvidia-smi, unpacked into a folder and never installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stoker.shell import run

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class NotMade(Exception):
    """An environment cannot be made on this machine; the message says why."""


@dataclass(frozen=True, kw_only=True)
class UserSpace:
    """The files of one driver version."""

    version: str
    """As 550.163.01."""
    libcuda: Path
    smi: Path


def user_space(suite: str, folder: Path) -> UserSpace:
    """Download and unpack the driver's user space of a Debian suite into `folder` (about 4 MB). Raises NotMade."""
    options = _options(suite, folder)
    downloads = folder / "packages"
    downloads.mkdir(parents=True, exist_ok=True)
    for arguments in (["update", "-q"], ["download", "libcuda1", "nvidia-smi"]):
        done = run(["apt-get", *options, *arguments], timeout_s=120, folder=downloads)
        if not done.ok:
            raise NotMade(f"apt-get {arguments[0]} of {suite}'s non-free packages failed: {(done.err or done.out).strip().splitlines()[-1:]}")
    for package in downloads.glob("*.deb"):
        if not run(["dpkg", "-x", str(package), str(folder)], timeout_s=60).ok:
            raise NotMade(f"dpkg cannot unpack {package.name}")
    libcuda = next(folder.glob("usr/lib/*/nvidia/current/libcuda.so.*.*"), None)
    smi = folder / "usr/lib/nvidia/current/nvidia-smi"
    if libcuda is None or not smi.exists():
        raise NotMade(f"the packages of {suite} hold no libcuda or no nvidia-smi")
    return UserSpace(version=libcuda.name.removeprefix("libcuda.so."), libcuda=libcuda, smi=smi)


def _options(suite: str, folder: Path) -> list[str]:
    """Return apt's options for a list of sources of its own, from the server that this machine takes Debian from."""
    known = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], timeout_s=30)
    server = next((line for line in known.out.split() if re.fullmatch(r"https?://\S+/debian/?", line)), None)
    if server is None or not _KEYS.exists():
        raise NotMade("NVIDIA's user space comes from Debian's non-free packages, and this machine's apt knows no Debian")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYS}] {server} {suite} non-free\n")
    settings = {"Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-", "Dir::State": folder / "state", "Dir::Cache": folder / "cache"}
    return [part for name, value in {**settings, "APT::Sandbox::User": "root"}.items() for part in ("-o", f"{name}={value}")]
