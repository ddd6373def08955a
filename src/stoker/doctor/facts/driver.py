"""The NVIDIA driver: kernel module, libraries, device nodes, what nvidia-smi and NVML say, and what the kernel logged."""

from __future__ import annotations

import grp
import os
import platform
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker import shell
from stoker.doctor.facts.kernel_log import read_kernel_log
from stoker.doctor.facts.libcuda import Library, as_loaded, find_libraries
from stoker.doctor.facts.nvml import Answer, read_nvml
from stoker.host.driver import find_cards, kernel_driver_version, pci_devices
from stoker.host.place import filesystem_root, read

__all__ = ["Driver", "Library", "Node", "gather_driver"]

_SMI_LIMIT_S = 4.0
_MOST = 2000
_NODE = re.compile(r"nvidia\d+|nvidiactl|nvidia-uvm|dxg")
_VERSION = re.compile(r"(?:Driver|KMD) Version\s*:\s*(\d{3,4}\.\d{1,4}(?:\.\d{1,3})?)(?![\d.])")
_CUDA = re.compile(r"CUDA(?: UMD)? Version\s*:\s*(\d{1,2}\.\d)")
_PACKAGES = (
    "nvidia-driver*",
    "nvidia-open*",
    "nvidia-kernel*",
    "nvidia-dkms*",
    "nvidia-headless*",
    "cuda-drivers*",
    "linux-modules-nvidia*",
    "libcuda1",
)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A device node of the driver."""

    path: str
    """As /dev/nvidia0, seen from the machine."""
    mode: str | None = None
    """Permissions in octal: "666"."""
    uid: int | None = None
    gid: int | None = None
    group: str | None = None
    """The group's name: "render"."""
    readable: bool = False
    """Whether this process may open it for reading and writing, which CUDA must."""
    error: str | None = None
    """Why it could not be opened: "Permission denied" (mode, group), "Operation not permitted" (a cgroup forbids it)."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What is known about the NVIDIA driver of this machine."""

    version: str | None = None
    """Of the loaded kernel module (under WSL of Windows' driver), as `580.95.05`; None: none is loaded."""
    library_version: str | None = None
    """Of the libcuda.so.1 (else libnvidia-ml.so.1) that the loader takes."""
    libraries: tuple[Library, ...] = ()
    """Every libcuda and libnvidia-ml found, the loader's choice first."""
    libcuda_error: str | None = None
    """Why the loader does not load libcuda.so.1; None: it does, or it was not asked."""
    open_module: bool | None = None
    """Whether the loaded kernel module is the open one."""
    uvm_loaded: bool | None = None
    """Whether the module nvidia_uvm, without which CUDA cannot allocate, is loaded; None: /sys/module cannot be read."""
    cards: int = 0
    """NVIDIA display controllers on the PCI bus, with or without a driver."""
    card_names: tuple[str, ...] = ()
    """Their names of pci.ids, else their PCI numbers: "0000:18:00.0 10de:2335"."""
    card_modules: tuple[str, ...] = ()
    """The kernel module that holds each card: nvidia, nouveau, vfio-pci; "" for none."""
    nodes: tuple[Node, ...] = ()
    """/dev/nvidia0, nvidiactl, nvidia-uvm, nvidia-caps/..., or /dev/dxg."""
    nouveau: bool = False
    """Whether nouveau holds a card."""
    secure_boot: bool | None = None
    module_files: tuple[str, ...] = ()
    """nvidia.ko under /lib/modules of the kernel that runs."""
    module_other_kernels: tuple[str, ...] = ()
    """Kernels, not the one that runs, for which there is an nvidia.ko."""
    modprobe_helper: bool = False
    """Whether nvidia-modprobe is there as set-uid program: it loads nvidia_uvm and makes device nodes when CUDA first asks."""
    nvswitches: int = 0
    """NVSwitch chips on the PCI bus: with them nothing runs before the fabric manager has."""
    fabric_manager: bool | None = None
    """Whether nv-fabricmanager runs; None: other people's processes cannot be seen."""
    packages: tuple[str, ...] = ()
    """Installed packages of the driver, as dpkg or dkms know them: "nvidia-driver-580", "dkms nvidia/580.95.05: added"."""
    smi_found: bool = False
    """Whether there is a program nvidia-smi on PATH."""
    smi_code: int | None = None
    """What it ended with; None: not asked, or, when it was found, no answer within its time limit."""
    smi_text: str = ""
    """What it said: output, or its error."""
    nvml_code: int | None = None
    """What NVML's start returned: 0 all is well, 9 no driver, 12 no library, 18 versions differ, 999 unknown; None: it did not come to an answer."""
    nvml_error: str | None = None
    """What is wrong with NVML in words; None: nothing, or not asked."""
    cuda_shown: str | None = None
    """The newest CUDA that this driver runs, as nvidia-smi shows it: "13.0"."""
    kernel_log: tuple[str, ...] = ()
    """The last lines of the kernel's log that speak of NVRM, Xid or nvidia modules."""
    kernel_log_source: str | None = None
    """Where they were read: /dev/kmsg, /var/log/kern.log, journalctl -k; None: nothing could be read."""


def gather_driver(root: Path | None = None) -> Driver:
    """Look at modules, libraries and nodes, then ask nvidia-smi and NVML side by side. 0.1 s; at most 5 s where the driver hangs. Raises nothing."""
    root = root or filesystem_root()
    cards, libraries, version = find_cards(root), find_libraries(root), kernel_driver_version(root)
    smi = shutil.which("nvidia-smi") or _existing(root / "usr/lib/wsl/lib/nvidia-smi")
    concerned = bool(cards or libraries or version or smi or _names(root / "dev", _NODE))
    with ThreadPoolExecutor(3) as pool:
        asked = pool.submit(shell.run, [smi], timeout_s=_SMI_LIMIT_S) if smi else None
        answer = pool.submit(read_nvml, brief=True) if concerned else None
        log = pool.submit(read_kernel_log, root) if concerned else None
        smi_done, nvml = (asked.result() if asked else None), (answer.result() if answer else Answer())
        lines, source = log.result() if log else ((), None)
    libraries = as_loaded(libraries, nvml.loaded.get("paths") or ())
    smi_text = _said(smi_done)
    version = version or _nvml_version(nvml) or _first(_VERSION, smi_text if smi_done and smi_done.ok else "")
    return Driver(
        version=version,
        library_version=_library_version(libraries),
        libraries=libraries,
        libcuda_error=nvml.loaded.get("libcuda_error"),
        open_module=_open_module(root),
        uvm_loaded=(root / "sys/module/nvidia_uvm").exists() if (root / "sys/module").exists() else None,
        cards=len(cards),
        card_names=_card_names(root, [(card.address, card.device) for card in cards]),
        card_modules=tuple(card.module for card in cards),
        nodes=_nodes(root),  # after nvidia-smi and NVML: both make the nodes when they are asked first
        nouveau=any(card.module == "nouveau" for card in cards),
        secure_boot=_secure_boot(root),
        **(_what_is_installed(root) if cards and not version else {}),
        modprobe_helper=_is_set_uid(root / "usr/bin/nvidia-modprobe"),
        nvswitches=len(pci_devices(root, "0x0680")),
        fabric_manager=_fabric_manager(root),
        smi_found=smi is not None,
        smi_code=smi_done.code if smi_done else None,
        smi_text=smi_text,
        nvml_code=nvml.start.get("code") if isinstance(nvml.start.get("code"), int) else None,
        nvml_error=nvml.error if nvml.binding else None,
        cuda_shown=_nvml_cuda(nvml) or _first(_CUDA, smi_text),
        kernel_log=lines,
        kernel_log_source=source,
    )


def _said(done: shell.Outcome | None) -> str:
    if done is None:
        return ""
    text = "\n".join(part.strip() for part in (done.out, done.err) if part.strip())
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)[:_MOST]


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def _nvml_version(nvml: Answer) -> str | None:
    version = nvml.start.get("driver_version")
    return version if isinstance(version, str) and re.fullmatch(r"\d{3,4}\.\d{1,4}(\.\d{1,3})?", version) else None


def _nvml_cuda(nvml: Answer) -> str | None:
    """Return 13000 as "13.0"."""
    number = nvml.start.get("cuda")
    return f"{number // 1000}.{number % 1000 // 10}" if isinstance(number, int) and 5000 <= number < 100_000 else None


def _library_version(libraries: tuple[Library, ...]) -> str | None:
    """Return the version of libnvidia-ml, else of libcuda: cuda-compat, which is newer than the driver by design, has no libnvidia-ml."""
    first = [library for library in libraries if library.first and library.version]
    ours = [library for library in first if "libnvidia-ml" in library.path] or [library for library in first if "compat" not in library.path]
    return ours[0].version if ours else None


def _open_module(root: Path) -> bool | None:
    text = read(root / "proc/driver/nvidia/version") or ""
    return "Open Kernel Module" in text if "NVRM" in text else None


def _card_names(root: Path, cards: list[tuple[str, str]]) -> tuple[str, ...]:
    """Return each card's name of pci.ids, else its number."""
    if not cards:
        return ()
    known: dict[str, str] = {}
    text = read(root / "usr/share/misc/pci.ids") or read(root / "usr/share/hwdata/pci.ids") or ""
    start = text.find("\n10de  ")
    for line in text[start + 1 :].splitlines()[1:] if start >= 0 else ():
        if line and not line.startswith(("\t", "#")):
            break
        if line.startswith("\t") and not line.startswith("\t\t"):
            number, _, name = line.strip().partition("  ")
            known[number] = name
    return tuple(f"{address} {known.get(device, f'10de:{device}')}" for address, device in cards)


def _names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if pattern.fullmatch(entry.name))
    except OSError:
        return []


def _nodes(root: Path) -> tuple[Node, ...]:
    caps = [f"nvidia-caps/{name}" for name in _names(root / "dev/nvidia-caps", re.compile(r"nvidia-cap\d+"))]
    return tuple(_node(root, name) for name in [*_names(root / "dev", _NODE), *caps])


def _node(root: Path, name: str) -> Node:
    path = root / "dev" / name
    try:
        status = path.stat()
    except OSError as error:
        return Node(path=f"/dev/{name}", error=error.strerror)
    readable, refusal = _openable(path, name)
    return Node(
        path=f"/dev/{name}",
        mode=f"{status.st_mode & 0o777:o}",
        uid=status.st_uid,
        gid=status.st_gid,
        group=_group(status.st_gid),
        readable=readable,
        error=refusal,
    )


def _openable(path: Path, name: str) -> tuple[bool, str | None]:
    """Say whether a node can be opened. Only nvidiactl is really opened: opening a GPU's own node starts the GPU."""
    needs = os.R_OK if name.startswith("nvidia-caps/") else os.R_OK | os.W_OK
    if name != "nvidiactl":
        allowed = os.access(path, needs)
        return allowed, None if allowed else "Permission denied"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return False, error.strerror
    return True, None


def _group(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return None


def _secure_boot(root: Path) -> bool | None:
    """Read the firmware's variable: four bytes of attributes, then 0 or 1 (UEFI specification, 3.3)."""
    try:
        value = (root / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").read_bytes()
    except OSError:
        return None
    return value[4] == 1 if len(value) == 5 else None


def _what_is_installed(root: Path) -> dict[str, Any]:
    """Return what of a driver is on the disk, where none is loaded."""
    release = read(root / "proc/sys/kernel/osrelease") or platform.release()
    modules = {kernel: _module_files(root, kernel) for kernel in _names(root / "lib/modules", re.compile(r"\d.*"))}
    return {
        "module_files": modules.get(release, ()),
        "module_other_kernels": tuple(kernel for kernel, files in modules.items() if files and kernel != release),
        "packages": _packages(root),
    }


def _module_files(root: Path, kernel: str) -> tuple[str, ...]:
    text = read(root / "lib/modules" / kernel / "modules.dep") or ""
    return tuple(found[1] for line in text.splitlines() if (found := re.match(r"(\S*/nvidia(?:-current)?\.ko(?:\.\w+)?):", line)))


def _packages(root: Path) -> tuple[str, ...]:
    info = root / "var/lib/dpkg/info"
    found = {file.name.removesuffix(".list").partition(":")[0] for pattern in _PACKAGES for file in info.glob(f"{pattern}.list")}
    dkms = [f"dkms {folder.parent.name}/{folder.name}" for folder in (root / "var/lib/dkms").glob("nvidia*/[0-9]*") if folder.is_dir()]
    if root == Path("/") and shutil.which("rpm"):
        done = shell.run(["rpm", "-qa", "--qf", "%{NAME}\\n", "kmod-nvidia*", "akmod-nvidia*", "nvidia-driver*", "nvidia-open*"], timeout_s=3)
        found |= set(done.out.split()) if done.ok else set()
    return tuple(sorted(found)[:20] + sorted(dkms)[:5])


def _fabric_manager(root: Path) -> bool | None:
    """Say whether nv-fabricmanager runs; the kernel cuts its name to 15 letters."""
    if read(root / "proc/1/comm") is None:
        return None
    return any(read(file) == "nv-fabricmanage" for file in (root / "proc").glob("[0-9]*/comm"))


def _is_set_uid(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o4000)
    except OSError:
        return False


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None
