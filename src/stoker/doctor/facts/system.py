"""What kind of system this is: its kernel, the container around it, the user, and how old the image is."""

from __future__ import annotations

import datetime
import getpass
import os
import platform
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from stoker.host.container import find_container
from stoker.host.place import filesystem_root, read


@dataclass(frozen=True, kw_only=True)
class System:
    """The system in which this process runs."""

    os: str | None = None
    """As `Debian GNU/Linux 12 (bookworm)`."""
    kernel: str | None = None
    """As `6.1.0-18-amd64`."""
    architecture: str | None = None
    """As `x86_64`."""
    wsl: bool = False
    """Whether it is the Windows Subsystem for Linux."""
    container: str | None = None
    """podman, docker, kubernetes, apptainer or container (some other one); None: the machine itself."""
    virtual: str | None = None
    """The hypervisor below: kvm, vmware, xen, virtualbox, hyperv, amazon, google, wsl or vm (some other one); None: none that shows itself."""
    uid: int | None = None
    user: str | None = None
    """The name of the uid; None: the uid has none, or the system does not tell."""
    user_error: str | None = None
    """Why Python's getpass.getuser() fails for this process, which PyTorch calls to name its cache; None: it answers."""
    uid_outside: int | None = None
    """What this uid is outside of this process's user namespace: 1000 for uid 0 in a rootless container."""
    image_created: str | None = None
    """When the image was made, as 2026-08-01T10:00:00+00:00; None: not in a container, or not known."""
    image_created_from: str | None = None
    """Where that was read: STOKER_IMAGE_CREATED, /etc/stoker/image-created, NVIDIA_PYTORCH_VERSION or /var/lib/dpkg/status."""


# What DMI says of hypervisors, in this order: vendor or product -> name.
_VENDORS = (
    ("Amazon EC2", "amazon"),
    ("Google", "google"),
    ("VMware", "vmware"),
    ("innotek", "virtualbox"),
    ("VirtualBox", "virtualbox"),
    ("Xen", "xen"),
    ("QEMU", "kvm"),
    ("KVM", "kvm"),
    ("Virtual Machine", "hyperv"),
)
# Files whose time of change is older than this were given that time so that an image is the same each time it is built.
_EARLIEST_S = 1_420_070_400  # 2015-01-01


def gather_system(root: Path | None = None) -> System:
    """Read the facts from /etc, /proc and /sys. Raises nothing, takes a few milliseconds."""
    root = root or filesystem_root()
    kernel = read(root / "proc/sys/kernel/osrelease") or platform.release()
    wsl = "microsoft" in kernel.lower()
    container = find_container(root)
    uid = os.getuid() if hasattr(os, "getuid") else None
    user, user_error = _user(uid)
    created, source = _image_created(root) if container else (None, None)
    return System(
        os=_os(root),
        kernel=kernel,
        architecture=platform.machine() or None,
        wsl=wsl,
        container=container.engine if container else None,
        virtual="wsl" if wsl else _virtual(root),
        uid=uid,
        user=user,
        user_error=user_error,
        uid_outside=_uid_outside(root, uid),
        image_created=created,
        image_created_from=source,
    )


def _os(root: Path) -> str:
    for line in (read(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return platform.system()


def _user(uid: int | None) -> tuple[str | None, str | None]:
    """Return the name of the uid, and what getpass.getuser() fails with."""
    try:
        name = pwd.getpwuid(uid).pw_name if uid is not None else None
    except (KeyError, OSError):
        name = None
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError) as error:  # KeyError before Python 3.13, OSError since
        return name, f"{type(error).__name__}: {error}"[:200]
    return name, None


def _uid_outside(root: Path, uid: int | None) -> int | None:
    """Look a uid up in /proc/self/uid_map: lines of first uid inside, first uid outside, count."""
    if uid is None:
        return None
    for line in (read(root / "proc/self/uid_map") or "").splitlines():
        parts = line.split()
        if len(parts) == 3 and all(part.isdecimal() for part in parts):
            inside, outside, count = (int(part) for part in parts)
            if inside <= uid < inside + count:
                return outside + uid - inside
    return None


def _virtual(root: Path) -> str | None:
    told = " ".join(read(root / "sys/class/dmi/id" / name) or "" for name in ("sys_vendor", "product_name", "bios_vendor"))
    flags = next((line for line in (read(root / "proc/cpuinfo") or "").splitlines() if line.startswith("flags")), "")
    if "hypervisor" not in flags.split() and platform.machine() in ("x86_64", "AMD64"):
        return None  # bare-metal instances of clouds have the cloud's name in DMI, too
    known = next((name for word, name in _VENDORS if word in told), None)
    return known or ("vm" if "hypervisor" in flags.split() else None)


def _image_created(root: Path) -> tuple[str | None, str | None]:
    """Return when the image was made and where that stands: our own images say so, NVIDIA's by year and month; else the last package change."""
    for text, source in (
        (os.environ.get("STOKER_IMAGE_CREATED"), "STOKER_IMAGE_CREATED"),
        (read(root / "etc/stoker/image-created"), "/etc/stoker/image-created"),
        (_month(os.environ.get("NVIDIA_PYTORCH_VERSION")), "NVIDIA_PYTORCH_VERSION"),
    ):
        if text and (moment := _moment(text)):
            return moment, source
    for name in ("var/lib/dpkg/status", "usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite", "lib/apk/db/installed"):
        try:
            changed = (root / name).stat().st_mtime
        except OSError:
            continue
        if changed > _EARLIEST_S:
            return datetime.datetime.fromtimestamp(changed, datetime.timezone.utc).isoformat(timespec="seconds"), f"/{name}"
    return None, None


def _month(version: str | None) -> str | None:
    """Return the release 25.06 of NVIDIA's images as a day."""
    found = re.fullmatch(r"(\d\d)\.(\d\d)(-.*)?", version or "")
    return f"20{found[1]}-{found[2]}-01" if found else None


def _moment(text: str) -> str | None:
    """Return a time of ISO 8601 in its full form, with a zone; None: it is none."""
    try:
        moment = datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).isoformat(timespec="seconds")
