"""Written-down machines for the tests of the doctor's PyTorch checks: a healthy one with an H200, and changes to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.doctor.facts import Driver, Facts, Gpu, Python, System
from stoker.doctor.facts.driver import Node
from stoker.doctor.facts.python import Companion, Copy, Torch

SITE = "/env/lib/python3.12/site-packages"


def h200(number: int = 0) -> Gpu:
    """An NVIDIA H200."""
    return Gpu(index=number, name="NVIDIA H200", compute_capability=(9, 0), memory_bytes=150_754_820_096)


def gpu(name: str, capability: tuple[int, int], number: int = 0) -> Gpu:
    """Some other GPU."""
    return Gpu(index=number, name=name, compute_capability=capability)


def healthy() -> Facts:
    """A machine with an H200, its driver and a torch that fits: nothing is to be found here."""
    torch = Torch(
        version="2.13.0+cu130",
        cuda="13.0",
        location=f"{SITE}/torch",
        installer="uv",
        architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
        import_tried=True,
        import_code=0,
        available=True,
        device_count=1,
        cuda_code=0,
        cudnn=92000,
        pins={"nvidia-cudnn-cu13": "9.20.0.48", "triton": "3.7.1"},
    )
    python = Python(
        executable="/env/bin/python",
        chosen="it is the active environment (VIRTUAL_ENV)",
        active=True,
        version=(3, 12),
        version_text="3.12.1",
        prefix="/env",
        base_prefix="/usr",
        folder="/home/someone/work",
        packages={"torch": "2.13.0", "torchvision": "0.28.0", "triton": "3.7.1", "nvidia-cudnn-cu13": "9.20.0.48", "numpy": "2.4.6"},
        copies=(Copy(name="torch", version="2.13.0", location=SITE, installer="uv", origin="environment"),),
        torch=torch,
        torchvision=Companion(version="0.28.0+cu130", location=f"{SITE}/torchvision", runs=True),
        compiler="/usr/bin/g++",
        c_compiler="/usr/bin/gcc",
        headers="/usr/include/python3.12/Python.h",
    )
    nodes = tuple(Node(path=path, mode="666", readable=True) for path in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"))
    driver = Driver(
        version="580.95.05",
        library_version="580.95.05",
        uvm_loaded=True,
        cards=1,
        card_names=("NVIDIA H200",),
        card_modules=("nvidia",),
        nodes=nodes,
        smi_found=True,
        smi_code=0,
        nvml_code=0,
        cuda_shown="13.0",
    )
    return Facts(system=System(os="Debian GNU/Linux 12 (bookworm)", architecture="x86_64"), driver=driver, gpus=(h200(),), python=python)


def laptop() -> Facts:
    """A machine without an NVIDIA GPU, with the same torch."""
    facts = with_torch(healthy(), available=False, device_count=0, cuda_error="RuntimeError: Found no NVIDIA driver on your system.")
    return replace(facts, driver=Driver(), gpus=())


def with_torch(facts: Facts, **changes: Any) -> Facts:
    """The machine with another torch."""
    assert facts.python.torch is not None
    return with_python(facts, torch=replace(facts.python.torch, **changes))


def with_python(facts: Facts, **changes: Any) -> Facts:
    """The machine with another Python."""
    return replace(facts, python=replace(facts.python, **changes))


def with_driver(facts: Facts, **changes: Any) -> Facts:
    """The machine with another driver."""
    return replace(facts, driver=replace(facts.driver, **changes))
