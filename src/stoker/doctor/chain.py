"""The way from the card to `torch.cuda.is_available()`, link by link, up to the first one that is broken."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from stoker.doctor.checks import driver, gpus, interpreter, libraries, nodes, sharing, tuning, visible, wheel
from stoker.doctor.checks.grounds import gpu_nodes
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Check, Finding, Passed, Severity, check_id


class State(str, enum.Enum):
    """What became of a link."""

    OK = "ok"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    """It could not be looked at; the chain goes on."""
    NOT_REACHED = "not reached"
    """A link before it is broken."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One thing that must be so before CUDA works."""

    name: str
    """As "driver"."""
    state: State
    seen: str
    """What was seen, or what is wrong."""
    finding: Finding | None = None
    """Why it is broken, with evidence and fix."""
    id: str | None = None
    """The id of that finding."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """All links, in the order in which each needs the one before."""

    question: str
    """What is asked: "torch.cuda.is_available()"."""
    links: tuple[Link, ...]
    """Empty: there is nothing to ask about."""
    answer: str
    """In one sentence."""

    @property
    def broken(self) -> Link | None:
        """Return the first broken link; None when the chain holds as far as it is known."""
        return next((link for link in self.links if link.state is State.BROKEN), None)

    def lines(self) -> tuple[str, ...]:
        """Return the chain for people: a line a link, then the answer, and for a broken one its evidence and fix."""
        wide = max((len(link.name) for link in self.links), default=0)
        shown = [f"{_SIGNS[link.state]:<11}  {link.name:<{wide}}  {link.seen}".rstrip() for link in self.links]
        broken = self.broken
        if broken is None or broken.finding is None:
            return (*shown, "", self.answer) if shown else (self.answer,)
        evidence = [f"  seen: {text}" for text in broken.finding.evidence]
        return (*shown, "", self.answer, *evidence, "", "fix:", *(f"  {line}" for line in broken.finding.fix.splitlines()))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        broken = self.broken
        return asdict(self) | {"broken": broken.name if broken else None}


_SIGNS = {State.OK: "ok", State.BROKEN: "BROKEN", State.UNKNOWN: "unknown", State.NOT_REACHED: "not reached"}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """How one link is judged: the checks whose error breaks it, and what is seen when none does (None: not known)."""

    name: str
    checks: tuple[Check, ...]
    seen: Callable[[Facts], str | None]
    otherwise: Callable[[Facts], str] = lambda facts: "could not be looked at"
    """What is said when nothing is known."""
    always: bool = False
    """Whether it can be broken though torch says that CUDA is available."""


def why_cuda(facts: Facts) -> Chain:
    """Return why `torch.cuda.is_available()` is what it is here: the links from the card to torch, and the first broken one with its fix."""
    question = "torch.cuda.is_available()"
    if nothing := _nothing_to_ask(facts):
        return Chain(question=question, links=(), answer=nothing)
    links: list[Link] = []
    for step in _STEPS:
        broken = any(link.state is State.BROKEN for link in links)
        links.append(Link(name=step.name, state=State.NOT_REACHED, seen="") if broken else _link(step, facts))
    return Chain(question=question, links=tuple(links), answer=_answer(facts, links))


def _nothing_to_ask(facts: Facts) -> str | None:
    """Return why no process here can be meant to use CUDA; None: there is something to ask about."""
    found = facts.driver
    if not (found.cards or found.version or facts.gpus or any(node.readable for node in gpu_nodes(facts))):
        return "There is no NVIDIA GPU in this machine, so torch computes on the processor; nothing is broken."
    if found.version is None and found.card_modules and all(module.startswith("vfio") for module in found.card_modules):
        return "The NVIDIA card is held by vfio-pci, for a virtual machine, so torch here computes on the processor; nothing is broken."
    return None


def _link(step: _Step, facts: Facts) -> Link:
    """Judge one link. Only what keeps CUDA from working breaks it: no warning does, and nothing that does not keep torch from it."""
    torch = facts.python.torch
    works = torch is not None and torch.available is True
    for check in step.checks if step.always or not works else ():
        outcome = check(facts)
        if isinstance(outcome, Finding) and (outcome.severity is Severity.ERROR or check_id(check) in _ENOUGH):
            return Link(name=step.name, state=State.BROKEN, seen=outcome.what, finding=outcome, id=check_id(check))
    seen = step.seen(facts)
    return Link(name=step.name, state=State.UNKNOWN if seen is None else State.OK, seen=seen or step.otherwise(facts))


def _answer(facts: Facts, links: list[Link]) -> str:
    broken = next((link for link in links if link.state is State.BROKEN), None)
    torch = facts.python.torch
    if broken is not None:
        return f"CUDA does not work in torch because of the {broken.name}: {broken.seen}."
    if torch is not None and torch.available:
        return f"CUDA works in torch {torch.version}: no link is broken."
    if facts.python.version is not None and torch is None:
        return f"No link is broken as far as torch, and {_no_torch(facts)}."
    unknown = [link.name for link in links if link.state is State.UNKNOWN]
    return f"No broken link was found; not known: {', '.join(unknown)}." if unknown else "No broken link was found."


def _card(facts: Facts) -> str | None:
    names = ", ".join(facts.driver.card_names) or ", ".join(gpu.name or f"GPU {gpu.index}" for gpu in facts.gpus)
    if names:
        return names
    return f"{facts.driver.cards} NVIDIA card{'s' * (facts.driver.cards > 1)} on the PCI bus" if facts.driver.cards else None


def _driver(facts: Facts) -> str | None:
    shown = f", runs CUDA up to {facts.driver.cuda_shown}" if facts.driver.cuda_shown else ""
    return f"{facts.driver.version} is loaded{shown}" if facts.driver.version else None


def _nodes(facts: Facts) -> str | None:
    nodes = gpu_nodes(facts)
    where = f" in this container ({facts.system.container})" if facts.system.container else ""
    return f"{', '.join(node.path for node in nodes)} can be opened{where}" if nodes and all(node.readable for node in nodes) else None


def _library(facts: Facts) -> str | None:
    found = facts.driver.library_version
    return f"libcuda {found} is the driver's own" if found and found == facts.driver.version else f"libcuda {found}" if found else None


def _answering(facts: Facts) -> str | None:
    return f"{len(facts.gpus)} GPU{'s' * (len(facts.gpus) > 1)} answer{'s' * (len(facts.gpus) == 1)}" if facts.gpus else None


def _python(facts: Facts) -> str | None:
    python, torch = facts.python, facts.python.torch
    return f"Python {python.version_text}, torch {torch.version} can be imported" if torch is not None and torch.import_code == 0 else None


def _no_torch(facts: Facts) -> str:
    python = facts.python
    if python.version is None or python.torch is not None:
        return "could not be looked at"
    return f"there is no torch in {python.executable}; --python names the one that trains"


def _build(facts: Facts) -> str | None:
    torch = facts.python.torch
    return f"built with CUDA {torch.cuda}" if torch is not None and torch.cuda else None


def _floor(facts: Facts) -> str | None:
    outcome = wheel.driver_below_minimum(facts)
    return outcome.what if isinstance(outcome, Passed) else None


def _code(facts: Facts) -> str | None:
    outcome = wheel.gpu_not_in_wheel(facts)
    return outcome.what if isinstance(outcome, Passed) else None


def _visible(facts: Facts) -> str | None:
    chosen = facts.variables.get("CUDA_VISIBLE_DEVICES")
    return "all: CUDA_VISIBLE_DEVICES is not set" if chosen is None else f"CUDA_VISIBLE_DEVICES={chosen}"


def _available(facts: Facts) -> str | None:
    torch = facts.python.torch
    if torch is None or torch.available is None:
        return None
    return f"torch.cuda.is_available() is {torch.available}, {torch.device_count} devices" if torch.available else None


# These break the chain, also where the check itself does not call it an error: GPUs may be hidden on purpose.
_ENOUGH = (
    "nvidia-visible-devices-void",
    "driver-not-in-container",
    "torch-missing",
    "cuda-visible-devices-wrong",
    "mig-chosen-wrong",
    "mig-without-devices",
)

_STEPS = (
    _Step(name="card", checks=(), seen=_card),
    _Step(name="driver", checks=(driver.driver_missing, driver.wsl_driver, driver.smi_hangs), seen=_driver),
    _Step(
        name="way to the GPU",
        checks=(
            nodes.nvidia_visible_devices_void,
            nodes.driver_not_in_container,
            nodes.device_nodes_missing,
            nodes.device_nodes_forbidden,
            nodes.gpus_lost_after_daemon_reload,
            nodes.nvidia_uvm_missing,
        ),
        seen=_nodes,
    ),
    _Step(
        name="driver's library",
        checks=(driver.driver_library_mismatch, driver.driver_library_missing, driver.cuda_stub_taken, driver.cuda_compat_misplaced),
        seen=_library,
    ),
    _Step(
        name="GPU",
        checks=(gpus.gpu_lost, driver.nvml_broken, driver.gpus_not_initialised, driver.fabric_manager_down),
        seen=_answering,
    ),
    _Step(
        name="Python and torch",
        checks=(
            interpreter.python_missing,
            interpreter.torch_missing,
            interpreter.torch_half_deleted,
            libraries.foreign_cuda_on_library_path,
            interpreter.torch_dies_on_import,
            interpreter.torch_import_hangs,
            interpreter.torch_import_fails,
        ),
        seen=_python,
        otherwise=_no_torch,
    ),
    _Step(name="build of torch", checks=(wheel.torch_cpu_only_on_gpu_machine, wheel.torch_rocm_on_nvidia), seen=_build),
    _Step(name="driver for this CUDA", checks=(wheel.driver_below_minimum,), seen=_floor),
    _Step(name="code for this GPU", checks=(wheel.gpu_needs_newer_cuda, wheel.gpu_not_in_wheel), seen=_code, always=True),
    _Step(
        name="visible devices",
        checks=(visible.cuda_visible_devices_wrong, visible.mig_chosen_wrong, tuning.mig_without_devices, sharing.compute_mode_set),
        seen=_visible,
    ),
    _Step(
        name="CUDA in torch",
        checks=(wheel.cuda_hangs, wheel.cuda_initialisation_fails, wheel.cuda_unavailable_unexplained),
        seen=_available,
        always=True,
    ),
)
