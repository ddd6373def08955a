"""The ten broken environments: how each is made, what must be seen to be sure that it is broken, and the rule that judges the tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from broken.debian import UserSpace, user_space
from broken.installed import TORCH, TORCHVISION, add, delete_half, install, install_cpu_torch
from broken.machine import write_kernel, write_libraries, write_nodes
from broken.place import InContainer, OnHost, Place, variables
from broken.verdict import Rule

OLD_SUITE, NEW_SUITE = "bookworm", "trixie"
"""Debian's suites with NVIDIA's driver 535 (CUDA 12.2) and 550 (CUDA 12.4)."""
CUDA_124 = ("torch==2.5.1", "torchvision==0.20.1", "setuptools")
"""Built with CUDA 12.4, which driver 550 runs; its Triton imports setuptools without asking for it."""

_ON_GPU = "import torch; torch.zeros(1).cuda()"


@dataclass(kw_only=True)
class Site:
    """The folder in which one environment is made."""

    folder: Path
    drivers: Drivers

    @property
    def environment(self) -> Path:
        """The virtual environment."""
        return self.folder / "env"

    @property
    def machine(self) -> Path:
        """The files that are laid over this machine's."""
        return self.folder / "machine"

    def on_host(self, *, gpu: bool = False, **more: str) -> Place:
        """Enter it on this machine; `gpu`: with the files of `machine`; `more`: variables."""
        return OnHost(self._made("work"), variables(self.environment, self._made("home"), more), self.machine if gpu else None)

    def in_container(self, *options: str, gpu: bool = False, **more: str) -> Place:
        """Enter it in a container with these options of podman."""
        environ = variables(self.environment, Path("/root"), more)
        return InContainer(self.folder, self._made("work"), environ, machine=self.machine if gpu else None, options=list(options))

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path


@dataclass
class Drivers:
    """NVIDIA's user space, downloaded once."""

    folder: Path

    @cached_property
    def old(self) -> UserSpace:
        """Of driver 535."""
        return user_space(OLD_SUITE, self.folder / "old")

    @cached_property
    def new(self) -> UserSpace:
        """Of driver 550."""
        return user_space(NEW_SUITE, self.folder / "new")


@dataclass(frozen=True, kw_only=True)
class Broken:
    """One broken environment."""

    name: str
    title: str
    """What is wrong, in words."""
    where: str
    """What it is made of, for the page."""
    make: Callable[[Site], Place]
    symptom: tuple[str, str]
    """A line of Python, and a regular expression that its output must match: the proof that it is broken."""
    rule: Rule
    finding: tuple[str, ...]
    """Ids of the doctor's findings that are about this cause; others are reported as beside it."""
    quick: bool = field(default=False)
    """Whether it needs neither root nor podman nor Debian's packages."""


def cpu_only(site: Site) -> Place:
    """Install a PyTorch without CUDA on a machine with a GPU."""
    install_cpu_torch(site.environment)
    _gpu_machine(site, site.drivers.new, cuda=12040)
    return site.on_host(gpu=True)


def other_torchvision(site: Site) -> Place:
    """Put the torchvision of another release beside torch."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    add(site.environment, "--no-deps", "torchvision==0.25.0")
    return site.on_host()


def foreign_cudnn(site: Site) -> Place:
    """Name a folder with an old cuDNN in LD_LIBRARY_PATH."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    old = site.folder / "old-cudnn"
    add(site.environment, "--no-deps", "--target", str(old), "nvidia-cudnn-cu12==9.1.0.70")
    return site.on_host(LD_LIBRARY_PATH=str(old / "nvidia/cudnn/lib"))


def half_torch(site: Site) -> Place:
    """Delete half of torch's files."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    delete_half(site.environment, "torch")
    return site.on_host()


def small_shm(site: Site) -> Place:
    """Start a container as podman and Docker do when nothing is said: with 64 MB of shared memory."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    (site.folder / "work").mkdir(exist_ok=True)
    (site.folder / "work/loader.py").write_text(_LOADER)
    return site.in_container()


def old_driver(site: Site) -> Place:
    """Run a CUDA 13 wheel over driver 535."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    _gpu_machine(site, site.drivers.old, cuda=12020)
    return site.on_host(gpu=True)


def no_gpus_passed(site: Site) -> Place:
    """Start a container without --gpus on a machine that has one."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    write_kernel(site.machine, "580.95.05")
    return site.in_container("--shm-size=8g", gpu=True)


def hidden_gpu(site: Site) -> Place:
    """Set CUDA_VISIBLE_DEVICES to the second GPU of a machine with one."""
    install(site.environment, *CUDA_124)
    _gpu_machine(site, site.drivers.new, cuda=12040)
    return site.on_host(gpu=True, CUDA_VISIBLE_DEVICES="1")


def few_cores(site: Site) -> Place:
    """Give a container one core and its program 32 threads."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    (site.folder / "work").mkdir(exist_ok=True)
    (site.folder / "work/threads.py").write_text(_THREADS)
    return site.in_container("--cpus=1", "--shm-size=8g", OMP_NUM_THREADS="32", MKL_DYNAMIC="FALSE")


def half_updated_driver(site: Site) -> Place:
    """Leave the old kernel module loaded after the user space was updated."""
    install(site.environment, *CUDA_124)
    write_kernel(site.machine, site.drivers.old.version)
    write_nodes(site.machine)
    write_libraries(site.machine, site.drivers.new, cuda=12040, init=18, real_smi=True)
    return site.on_host(gpu=True)


def intact(site: Site) -> Place:
    """Break nothing."""
    install(site.environment, f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
    return site.on_host()


def _gpu_machine(site: Site, user: UserSpace, *, cuda: int) -> None:
    write_kernel(site.machine, user.version)
    write_nodes(site.machine)
    write_libraries(site.machine, user, cuda=cuda)


_LOADER = """
import torch
class Images(torch.utils.data.Dataset):
    def __len__(self): return 256
    def __getitem__(self, k): return torch.zeros(3, 224, 224)
for batch in torch.utils.data.DataLoader(Images(), batch_size=128, num_workers=2): pass
print("the loader lives")
"""

_THREADS = """
import time, torch
from torch import nn
first, second = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2)], [nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
net = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(1152, 10))
images, labels = torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.long)
def seconds(threads):
    torch.set_num_threads(threads)
    for step in range(8):
        if step == 3: began = time.perf_counter()
        nn.functional.cross_entropy(net(images), labels).backward()
    return time.perf_counter() - began
given = torch.get_num_threads()
one, many = seconds(1), seconds(given)
print(f"a training step takes {many / one:.1f} times as long with the {given} threads given as with 1")
"""

CONTROL = Broken(
    name="intact",
    title="Nothing is wrong",
    where=f"torch {TORCH}, torchvision {TORCHVISION}, a machine without a GPU",
    make=intact,
    symptom=("import torch, torchvision; print(torch.zeros(1) + 1, 'works')", "works"),
    rule=Rule(cause=r"(?!)", fact=r"(?!)"),
    finding=(),
    quick=True,
)

ENVIRONMENTS = (
    Broken(
        name="cpu-only-torch",
        title="PyTorch without CUDA on a machine with a GPU",
        where=f"torch {TORCH}+cpu; an H100 with driver 550 (laid over)",
        make=cpu_only,
        symptom=(_ON_GPU, "AssertionError: Torch not compiled with CUDA"),
        rule=Rule(
            cause=r"CPU[- ]only|without CUDA|no CUDA support|not (compiled|built) (with|for) CUDA|(build|wheel|version) (with|for) (the )?CPU",
            fact=r"CUDA used to build PyTorch: None|\d\+cpu\b|torch\.version\.cuda\W{1,6}None",
        ),
        finding=("torch-cpu-only-on-gpu-machine",),
    ),
    Broken(
        name="other-torchvision",
        title="torchvision of another release than torch",
        where=f"torch {TORCH} with torchvision 0.25.0",
        make=other_torchvision,
        symptom=("import torchvision", "nms does not exist|Error"),
        rule=Rule(
            cause=r"torchvision\b.{0,80}\b(does not (pair|match|fit|go|work|belong)|mismatch|(built|made|compiled) for|needs? torch|requires? torch|"
            r"expects? torch|incompatible|pairs with)",
            fact=r"torchvision\W{1,20}0\.25\.0|torchvision::nms does not exist",
        ),
        finding=("torchvision-does-not-pair",),
        quick=True,
    ),
    Broken(
        name="foreign-cudnn",
        title="Another cuDNN on LD_LIBRARY_PATH",
        where=f"torch {TORCH} (cuDNN 9.20) with the libraries of cuDNN 9.1 in front",
        make=foreign_cudnn,
        symptom=("import torch; print(torch.backends.cudnn.version())", "cuDNN version incompatibility"),
        rule=Rule(
            cause=r"LD_LIBRARY_PATH.{0,160}cudnn|cudnn.{0,160}LD_LIBRARY_PATH",
            fact=r"cudnn.{0,60}9[.,] ?1[.,] ?0|cudnn\S*.{0,20}9010\d|LD_LIBRARY_PATH",
        ),
        finding=("cudnn-foreign", "foreign-cuda-on-library-path"),
        quick=True,
    ),
    Broken(
        name="half-torch",
        title="Half of torch's files are gone",
        where=f"torch {TORCH}, the second half of its files deleted, as by an interrupted uninstall",
        make=half_torch,
        symptom=("import torch", "Error"),
        rule=Rule(
            cause=r"\bfiles?\b.{0,60}\b(missing|gone|lost|not there|deleted)\b|\b(missing|lost|deleted)\b.{0,40}\bfiles?\b|"
            r"\bincomplete\b|half[- ](deleted|installed)|damaged|broken (torch|install)|reinstall|corrupt",
            fact=r"cannot open shared object|No module named|ImportError|AttributeError|cannot import name",
        ),
        finding=("torch-half-deleted",),
        quick=True,
    ),
    Broken(
        name="shm-64mb",
        title="64 MB of /dev/shm in a container",
        where=f"torch {TORCH} in a podman container that was started without --shm-size",
        make=small_shm,
        symptom=("import runpy; runpy.run_path('loader.py')", r"No space left|Bus error|shared memory"),
        rule=Rule(
            cause=r"(/dev/shm|shared memory)\b.{0,120}\b(too small|not enough|too little|only|insufficient|runs out|needs?)\b",
            fact=r"\bshm\b.{0,40}\b6[0-9](\.\d+)? ?Mi?B?\b",
        ),
        finding=("shm-too-small",),
    ),
    Broken(
        name="old-driver",
        title="A driver too old for the wheel's CUDA",
        where=f"torch {TORCH} (CUDA 13.0); an H100 with driver 535, CUDA 12.2 (NVIDIA's libcuda, laid over)",
        make=old_driver,
        symptom=(_ON_GPU, "driver on your system is too old"),
        rule=Rule(
            cause=r"driver\b.{0,80}\btoo old|update your (GPU )?driver|needs? (a newer driver|driver \d|at least driver)",
            fact=r"535\.\d+",
        ),
        finding=("driver-below-minimum",),
    ),
    Broken(
        name="no-gpus-passed",
        title="A container started without --gpus on a machine with a GPU",
        where=f"torch {TORCH} in a podman container; the host's kernel has driver 580 and an H100 (laid over)",
        make=no_gpus_passed,
        symptom=(_ON_GPU, "Found no NVIDIA driver"),
        rule=Rule(
            cause=r"--gpus|nvidia\.com/gpu=|container\b.{0,60}\b(started|run|created|given)\b.{0,20}\b(without|no)\b|"
            r"not passed (in)?to (the|this) container",
            fact=r"driver version: Could not collect|no NVIDIA driver|580\.95\.05",
        ),
        finding=("driver-not-in-container",),
    ),
    Broken(
        name="hidden-gpu",
        title="CUDA_VISIBLE_DEVICES names a GPU that is not there",
        where="torch 2.5.1 (CUDA 12.4), CUDA_VISIBLE_DEVICES=1; one H100 with driver 550 (laid over)",
        make=hidden_gpu,
        symptom=(_ON_GPU, "No CUDA GPUs are available|no CUDA-capable device"),
        rule=Rule(
            cause=r"CUDA_VISIBLE_DEVICES\b.{0,120}\b(hides?|exists?|no such|not there|there (is|are) (no|only)|wrong|invalid|incorrect|names|"
            r"out of range|beyond)",
            fact=r"CUDA_VISIBLE_DEVICES",
        ),
        finding=("cuda-visible-devices-wrong",),
    ),
    Broken(
        name="few-cores",
        title="A limit of one core, and OMP_NUM_THREADS=32",
        where=f"torch {TORCH} in a podman container with --cpus=1 (and MKL_DYNAMIC=FALSE, or MKL would keep to the machine's cores)",
        make=few_cores,
        symptom=("import runpy; runpy.run_path('threads.py')", r"takes ([2-9]|\d\d+)\S* times as long with the 32 threads"),
        rule=Rule(
            cause=r"OMP_NUM_THREADS\b.{0,160}\b(quota|cgroup|cores?|CPUs?)\b|\b(quota|cgroup|limit)\b.{0,160}\b(OMP_NUM_THREADS|\d+ threads)|"
            r"\b\d+ threads\b.{0,60}\b(cores?|CPUs?)\b",
            fact=r"OMP_NUM_THREADS|\bquota\b|cgroup",
        ),
        finding=("cpu-quota-below-threads", "omp-threads-wrong"),
    ),
    Broken(
        name="half-updated-driver",
        title="The kernel module is of another version than the driver's libraries",
        where="torch 2.5.1 (CUDA 12.4); kernel module 535, libraries and nvidia-smi 550 (NVIDIA's nvidia-smi, laid over)",
        make=half_updated_driver,
        symptom=(_ON_GPU, "Error 803"),
        rule=Rule(
            cause=r"Driver/library version mismatch|unsupported display driver / cuda driver combination|kernel module\b.{0,120}\blibrar|"
            r"librar(y|ies)\b.{0,120}\b(differs?|mismatch|not match|not fit)",
            fact=r"535\.\d+.{0,200}550\.\d+|550\.\d+.{0,200}535\.\d+",
        ),
        finding=("driver-library-mismatch",),
    ),
)
