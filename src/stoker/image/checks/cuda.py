"""A second CUDA: libraries that torch never loads, or loads by mistake; and parts of the driver, which belong to the host."""

from __future__ import annotations

import re

from stoker.image.checks.contents import Contents
from stoker.image.checks.finding import Finding, finding
from stoker.image.checks.ownership import PREFIX, Ownership
from stoker.image.lock import Lock

_LIBRARY = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn|cufft|curand|cusolver|cusparse|cusparseLt|nccl|nvrtc|nvJitLink|nvshmem_host|cufile)"
    r"(?:[-.][0-9a-f]{8})?\.so(?:\.[0-9]+)*"
)
# What NVIDIA's container runtime mounts from the host. A copy in the image stands in its way, and fits one driver only.
_DRIVER = re.compile(r"lib(cuda|nvidia-ml|nvidia-ptxjitcompiler|nvcuvid|nvidia-encode|cudadebugger|nvidia-nvvm)\.so(\.[0-9.]+)?")
# CUDA's own stand-ins to link against, which are never loaded.
_STUBS = re.compile(r".*/stubs/[^/]+")


def judge_cuda(lock: Lock, contents: Contents, ownership: Ownership) -> list[Finding]:
    """Look for CUDA outside of the stacks, for two of them in one stack, and for parts of the driver."""
    libraries = [node.path for node in contents.nodes.values() if node.kind == "file" and _LIBRARY.fullmatch(node.path.rpartition("/")[2])]
    outside = [f"/{path}" for path in libraries if path not in ownership.wheels]
    driver = [
        f"/{node.path}"
        for node in contents.nodes.values()
        if node.kind == "file" and node.size and _DRIVER.fullmatch(node.path.rpartition("/")[2]) and not _STUBS.fullmatch(node.path)
    ]
    return [
        *finding(
            "second-cuda",
            "CUDA libraries lie in the image that no wheel of the lock brought: torch does not use them, or by mistake",
            outside,
            "leave the packages out that bring them (their names are beside the files: `dpkg -S FILE`); torch's wheels bring their own",
        ),
        *_twice(lock, libraries, ownership),
        *finding(
            "driver-inside",
            "parts of the NVIDIA driver lie in the image; they must come from the host",
            driver,
            "leave out the Debian packages that bring them (libcuda1, libnvidia-ml1, nvidia-*)",
        ),
    ]


def _twice(lock: Lock, libraries: list[str], ownership: Ownership) -> list[Finding]:
    """One stack with the libraries of two CUDAs. Copies that a wheel keeps for itself (`torchvision.libs`) are not loaded by torch and stay out."""
    found = []
    for stack in lock.stacks:
        start = re.compile(rf"{re.escape(PREFIX)}/{re.escape(stack.name)}/lib/[^/]+/site-packages/nvidia/.*")
        places: dict[str, list[str]] = {}
        for path in libraries:
            name = _LIBRARY.fullmatch(path.rpartition("/")[2])
            if name and path in ownership.wheels and start.fullmatch(path):
                places.setdefault(name[1], []).append(path)
        twice = [f"/{path} ({ownership.wheels[path].owner})" for paths in places.values() if len(paths) > 1 for path in paths]
        found += finding(
            "second-cuda",
            f"the stack {stack.name} holds the libraries of two CUDAs",
            twice,
            "one of the packages in stoker.toml was made for another CUDA than this torch: take its build for the same one",
        )
    return found
