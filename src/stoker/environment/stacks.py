"""The stacks in `locks/`: which PyTorch and CUDA each one holds, what it needs, and which of them fits this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import DriverTooOld, SetupError, StokerError, UnknownName, nearest
from stoker.host.driver import Driver, version_numbers
from stoker.host.gpus import Gpu

# The last PyTorch for older drivers: CUDA 11.8 runs from driver 450.80.02 on.
# Source: CUDA Toolkit Release Notes, minor version compatibility table; PyTorch release matrix. Checked 2026-11-20.
_LAST_RESORT = "torch 2.7.1 for CUDA 11.8 (driver 450.80.02 or newer)"
_LAST_RESORT_DRIVER = (450, 80, 2)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One lock file and the facts in its head (lines `# key: value`)."""

    name: str
    """As `cu130`; the file is `locks/cu130.txt`."""
    lock: Path
    torch: str
    torchvision: str
    cuda: str
    driver_min: str
    """The oldest driver that runs this CUDA (minor version compatibility)."""
    compute_min: tuple[int, int]
    """The oldest compute capability for which the wheels hold machine code."""
    machines: tuple[str, ...]
    """As `x86_64`: where its wheels bring CUDA."""
    python_min: tuple[int, int]
    python_max: tuple[int, int]
    download_bytes: int
    disk_bytes: int
    """What the environment takes on the disk."""
    check: tuple[str, ...]
    """Modules that must import when the environment is made."""

    def __str__(self) -> str:
        return f"{self.name} (torch {self.torch}, CUDA {self.cuda})"

    @property
    def needs(self) -> str:
        """What it needs, for people."""
        low = ".".join(map(str, self.compute_min))
        return f"{self.name} needs driver {self.driver_min} or newer and GPUs of compute capability {low} or newer"

    def runs_driver(self, version: str) -> bool:
        """Whether a driver of this version is new enough."""
        return version_numbers(version) >= version_numbers(self.driver_min)

    def runs_gpu(self, gpu: Gpu) -> bool:
        """Whether its wheels hold code for this GPU. One that does not tell its compute capability is taken to fit."""
        return gpu.compute_capability is None or gpu.compute_capability >= self.compute_min


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The stack for this machine, and why."""

    stack: Stack
    why: str


def read_stacks(folder: Path) -> tuple[Stack, ...]:
    """Read the head of every lock that has one, newest CUDA first. Raises SetupError when a head is incomplete or none is there."""
    stacks = [_read_stack(path) for path in sorted(folder.glob("*.txt")) if _head(path).get("stack")]
    if not stacks:
        raise SetupError(f"there is no lock with a stack in {folder}", hint="get the whole source tree again (git checkout locks)")
    return tuple(sorted(stacks, key=lambda stack: version_numbers(stack.cuda), reverse=True))


def choose(stacks: Sequence[Stack], *, driver: Driver, gpus: Sequence[Gpu], machine: str, asked: str | None) -> Choice:
    """Return the newest stack that runs here, or the one that was `asked` for (STOKER_STACK).

    Raises UnknownName (no such stack), DriverTooOld (no stack runs on the driver) and SetupError (no stack holds code for the GPU).
    """
    if asked:
        return Choice(stack=_named(stacks, asked), why="STOKER_STACK asks for it")
    newest = stacks[0]
    if driver.version is None:
        return Choice(stack=newest, why=_without_driver(driver))
    runnable = [stack for stack in stacks if stack.runs_driver(driver.version) and machine in stack.machines]
    if not runnable:
        if not gpus and not driver.nodes:
            return Choice(stack=newest, why=f"NVIDIA driver {driver.version} is loaded, but no GPU can be reached from here: it trains on the CPU")
        raise _driver_too_old(stacks, driver.version, machine)
    fitting = [stack for stack in runnable if all(stack.runs_gpu(gpu) for gpu in gpus)]
    if not fitting:
        return _for_some_gpus(stacks, runnable, driver.version, gpus)
    return Choice(stack=fitting[0], why=_reason(stacks, fitting[0], driver.version, gpus))


def _named(stacks: Sequence[Stack], name: str) -> Stack:
    names = [stack.name for stack in stacks]
    if name in names:
        return stacks[names.index(name)]
    like = nearest(name, names)
    raise UnknownName(
        f"STOKER_STACK={name}: there is no such stack" + (f"; the nearest is {like}" if like else ""),
        hint=f"set STOKER_STACK to {' or '.join(names)}, or unset it to have it chosen",
    )


def _without_driver(driver: Driver) -> str:
    if driver.cards:
        cards = "an NVIDIA GPU is" if driver.cards == 1 else f"{driver.cards} NVIDIA GPUs are"
        return f"{cards} in this machine, but no NVIDIA driver is loaded: it trains on the CPU until one is installed"
    return "no NVIDIA driver here: it trains on the CPU"


def _reason(stacks: Sequence[Stack], stack: Stack, driver: str, gpus: Sequence[Gpu]) -> str:
    found = f"driver {driver}" + (f", {_listed(gpus)}" if gpus else "")
    newer = stacks[: stacks.index(stack)]
    return found + "".join(f"; {other.needs}" for other in newer)


def _for_some_gpus(stacks: Sequence[Stack], runnable: Sequence[Stack], driver: str, gpus: Sequence[Gpu]) -> Choice:
    """Take the newest stack that runs at least one of the GPUs."""
    for stack in runnable:
        fits = [gpu for gpu in gpus if stack.runs_gpu(gpu)]
        if fits:
            left_out = [gpu for gpu in gpus if gpu not in fits]
            return Choice(stack=stack, why=f"driver {driver}, {_listed(fits)}; too old for every stack and left out: {_listed(left_out)}")
    raise SetupError(
        f"no stack in locks/ holds code for {_listed(gpus)}: " + "; ".join(stack.needs for stack in stacks),
        hint=f"`STOKER_STACK={stacks[0].name} CUDA_VISIBLE_DEVICES= ./stoker ...` trains on the CPU. "
        f"The last PyTorch for older GPUs is {_LAST_RESORT}",
    )


def _driver_too_old(stacks: Sequence[Stack], driver: str, machine: str) -> StokerError:
    here = [stack for stack in stacks if machine in stack.machines] or list(stacks)
    runs_old = version_numbers(driver) >= _LAST_RESORT_DRIVER
    old = f"{_LAST_RESORT} would run, in an environment of your own" if runs_old else "no PyTorch from 2.5 on runs"
    return DriverTooOld(
        f"the NVIDIA driver is {driver}, and no stack runs on it here ({machine}): " + "; ".join(stack.needs for stack in here),
        hint=f"update the driver to {here[0].driver_min} or newer. On the driver as it is {old}. "
        f"`STOKER_STACK={here[0].name} ./stoker ...` trains on the CPU",
    )


def _listed(gpus: Sequence[Gpu]) -> str:
    """Name GPUs with their number and compute capability, as `8 x NVIDIA H200 (9.0)`."""
    names: dict[str, int] = {}
    for gpu in gpus:
        capability = ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else "compute capability unknown"
        name = f"{gpu.name or 'GPU'} ({capability})"
        names[name] = names.get(name, 0) + 1
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in names.items())


def _head(path: Path) -> dict[str, str]:
    """Return the `# key: value` lines at the top of a lock."""
    facts: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        key, colon, value = line[1:].partition(":")
        if colon:
            facts[key.strip()] = value.strip()
    return facts


def _read_stack(path: Path) -> Stack:
    facts = _head(path)
    try:
        return Stack(
            name=facts["stack"],
            lock=path,
            torch=facts["torch"],
            torchvision=facts["torchvision"],
            cuda=facts["cuda"],
            driver_min=facts["driver-min"],
            compute_min=_pair(facts["compute-min"]),
            machines=tuple(facts["machines"].split()),
            python_min=_pair(facts["python-min"]),
            python_max=_pair(facts["python-max"]),
            download_bytes=round(float(facts["download-gb"]) * 1e9),
            disk_bytes=round(float(facts["disk-gb"]) * 1e9),
            check=tuple(facts["check"].split()),
        )
    except (KeyError, ValueError) as error:
        raise SetupError(f"the head of {path} is incomplete or wrong: {error}", hint="get the file again (git checkout locks)") from error


def _pair(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)
