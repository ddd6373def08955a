"""What fits what, as tables with source and date: PyTorch releases, CUDA, drivers, GPUs; and the stack that fits a machine."""

from __future__ import annotations

from stoker.catalog.architectures import Architecture, Verdict, architectures, code_runs, find_architecture
from stoker.catalog.cuda import CudaVersion, DriverBranch, cuda_versions, driver_branches, find_branch, find_cuda
from stoker.catalog.gpus import GpuModel, find_gpu, gpu_models, gpu_names
from stoker.catalog.releases import TorchRelease, Variant, find_release, torch_releases
from stoker.catalog.resolution import answer, question_of, resolve
from stoker.catalog.stack import Alternative, Card, NoStack, Question, Reason, Stack, Wishes
from stoker.catalog.toolkit import ToolkitFloor, open_holes, toolkit_floors
from stoker.catalog.versions import version_numbers

__all__ = [
    "Alternative",
    "Architecture",
    "Card",
    "CudaVersion",
    "DriverBranch",
    "GpuModel",
    "NoStack",
    "Question",
    "Reason",
    "Stack",
    "ToolkitFloor",
    "TorchRelease",
    "Variant",
    "Verdict",
    "Wishes",
    "answer",
    "architectures",
    "code_runs",
    "cuda_versions",
    "driver_branches",
    "find_architecture",
    "find_branch",
    "find_cuda",
    "find_gpu",
    "find_release",
    "gpu_models",
    "gpu_names",
    "open_holes",
    "question_of",
    "resolve",
    "toolkit_floors",
    "torch_releases",
    "version_numbers",
]
