"""A machine with one H100, as files that are laid over this machine's: driver, device, libraries, nvidia-smi."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

from broken.debian import NotMade, UserSpace

HERE = Path(__file__).resolve().parent
LIBRARIES = "usr/lib/x86_64-linux-gnu"
_ADDRESS = "0000:18:00.0"

_SMI = """#!/bin/sh
case "$*" in
-L) echo "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000000)"; exit ;;
"") ;;
*) echo "this stand-in for nvidia-smi knows no $*" >&2; exit 2 ;;
esac
cat <<'TEXT'
Sat Nov 21 12:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: {cuda:<8} |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  NVIDIA H100 80GB HBM3          On  |   00000000:18:00.0 Off |                    0 |
| N/A   40C    P0             71W /  700W |     600MiB /  81559MiB |      0%      Default |
|                                         |                        |             Disabled |
+-----------------------------------------+------------------------+----------------------+

+-----------------------------------------------------------------------------------------+
| Processes:                                                                              |
|  GPU   GI   CI        PID   Type   Process name                              GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
|  No running processes found                                                             |
+-----------------------------------------------------------------------------------------+
TEXT
"""


def write_kernel(machine: Path, driver: str) -> None:
    """Write what the kernel shows of a loaded driver and its card: visible in every container of the machine, too."""
    nvidia = machine / "proc/driver/nvidia"
    card = nvidia / "gpus" / _ADDRESS
    card.mkdir(parents=True)
    (nvidia / "version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue Apr  8 12:41:17 UTC 2025\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    (card / "information").write_text(f"Model: \t\t NVIDIA H100 80GB HBM3\nBus Location: \t {_ADDRESS}\nDevice Minor: \t 0\n")
    device = machine / "sys/devices" / _ADDRESS
    device.mkdir(parents=True)
    (device / "driver").symlink_to("/sys/bus/pci/drivers/nvidia")
    for name, text in {"vendor": "0x10de", "device": "0x2330", "class": "0x030200", "numa_node": "-1"}.items():
        (device / name).write_text(text + "\n")
    for name in ("nvidia", "nvidia_uvm", "nvidia_modeset"):
        module = machine / "sys/module" / name
        module.mkdir(parents=True)
        (module / "version").write_text(driver + "\n")
        (module / "initstate").write_text("live\n")


def write_nodes(machine: Path) -> None:
    """Make the device nodes. They can be opened, as the driver's can; behind them is /dev/null. Raises NotMade."""
    folder = machine / "dev"
    folder.mkdir(parents=True)
    try:
        for name in ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"):
            os.mknod(folder / name, stat.S_IFCHR, os.makedev(1, 3))
            os.chmod(folder / name, 0o666)
    except PermissionError as error:
        raise NotMade("only root can make device nodes") from error


def write_libraries(machine: Path, user: UserSpace, *, cuda: int, init: int = 0, real_smi: bool = False) -> None:
    """Write the user space: Debian's libcuda, the fake NVML, and nvidia-smi.

    `cuda`: as 12040 for 12.4. `init`: what NVML's start returns; 18 stands for a kernel module of another version, and libcuda then says the same.
    `real_smi`: NVIDIA's own program instead of the stand-in (it draws no table over a fake NVML, but it says its errors).
    """
    libraries, programs = machine / LIBRARIES, machine / "usr/bin"
    libraries.mkdir(parents=True)
    programs.mkdir(parents=True)
    nvml, libcuda = libraries / f"libnvidia-ml.so.{user.version}", libraries / f"libcuda.so.{user.version}"
    _compile("nvml.c", nvml, "libnvidia-ml.so.1", {"DRIVER": f'"{user.version}"', "CUDA": str(cuda), "INIT": str(init)})
    if init:
        _compile("mismatch.c", libcuda, "libcuda.so.1", {"CUDA": str(cuda)})
    else:
        shutil.copy2(user.libcuda, libcuda)
    for library in (nvml, libcuda):
        stem = library.name.split(".so")[0]
        (libraries / f"{stem}.so.1").symlink_to(library.name)
    smi = programs / "nvidia-smi"
    if real_smi:
        shutil.copy2(user.smi, smi)
    else:
        smi.write_text(_SMI.format(driver=user.version, cuda=f"{cuda // 1000}.{cuda % 1000 // 10}"))
    smi.chmod(0o755)


def _compile(source: str, target: Path, soname: str, defines: dict[str, str]) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NotMade("a C compiler is needed for the fake NVML")
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{soname}", *flags, "-o", str(target), str(HERE / source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotMade(f"{source} does not compile: {done.stderr.strip()[-300:]}")
