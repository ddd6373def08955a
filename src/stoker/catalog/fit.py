"""The rules: what stands between one build of PyTorch and a machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stoker.catalog.architectures import Verdict, code_runs, find_architecture
from stoker.catalog.cuda import find_cuda
from stoker.catalog.gpus import find_gpu
from stoker.catalog.releases import TorchRelease, Variant
from stoker.catalog.stack import FORWARD, FULL, MINOR, UNCHECKED, Card, Question, Reason
from stoker.catalog.versions import dotted, older, version_numbers


@dataclass(frozen=True, kw_only=True)
class Build:
    """One build of one release; `variant` None: the one for the CPU."""

    release: TorchRelease
    variant: Variant | None

    @property
    def name(self) -> str:
        """As `cu128` or `cpu`."""
        return self.variant.name if self.variant else "cpu"

    def sure(self, cards: tuple[Card, ...]) -> bool:
        """Whether somebody has seen this build and, where GPUs depend on it, the list of its architectures."""
        if self.variant is None:
            return True
        return self.variant.evidence != "unverified" and not (cards and self.variant.architectures_evidence == "unverified")


def objections(build: Build, question: Question) -> list[Reason]:
    """Return what keeps a build from running where the question asks; nothing: it runs. Facts that are not known rule nothing out."""
    found = list(_python(build, question))
    if build.variant is None:
        return found
    codes, _ = build.variant.code(question.machine)
    if not codes:
        return [*found, _machine(build.variant, question)]
    if question.driver:
        found += _driver(build.variant, question.driver)
    for card in dict.fromkeys(question.cards):
        found += _code(build.variant, card, question)
        if question.driver:
            found += _driver_and_gpu(card, question.driver)
    return list(dict.fromkeys(found))


def driver_verdict(variant: Variant, driver: str | None) -> str:
    """Return `full`, `minor-version`, `forward` (older than what this CUDA runs on at all) or `unchecked`."""
    cuda = find_cuda(variant.cuda)
    if driver is None or cuda is None:
        return UNCHECKED
    if older(driver, cuda.driver_min):
        return FORWARD
    return MINOR if older(driver, cuda.driver_full) else FULL


def driver_floor(variant: Variant, cards: tuple[Card, ...]) -> str | None:
    """Return the oldest driver that runs a variant on these GPUs; None: not known."""
    cuda = find_cuda(variant.cuda)
    floors = ([cuda.driver_min] if cuda else []) + [floor for card in cards if (floor := gpu_floor(card))]
    return max(floors, key=version_numbers, default=None)


def gpu_floor(card: Card) -> str | None:
    """Return the driver that came with the first CUDA that knows a GPU; None: not known, or older than all CUDA in the table."""
    architecture = find_architecture(card.compute_capability) if card.compute_capability else None
    cuda = find_cuda(architecture.cuda_first) if architecture and architecture.cuda_first else None
    return cuda.driver_full if cuda else None


def last_branch(cards: tuple[Card, ...]) -> int | None:
    """Return the last driver branch that runs all of these GPUs; None: there is none yet."""
    found = [find_architecture(card.compute_capability) for card in cards if card.compute_capability]
    return min((one.driver_last for one in found if one and one.driver_last), default=None)


def forward_possible(question: Question) -> bool:
    """Whether all GPUs are of the products for which NVIDIA supports forward compatibility (cuda-compat)."""
    models = [find_gpu(card.name) if card.name else None for card in question.cards]
    return bool(models) and all(model is not None and model.datacentre for model in models)


def card_runs(variant: Variant, card: Card, machine: str) -> Verdict | None:
    """Say whether a variant holds code for a GPU; None when its compute capability is not known."""
    return code_runs(*variant.code(machine), card.compute_capability) if card.compute_capability else None


def called(card: Card) -> str:
    """Name a GPU for people, as `RTX 5090 (compute capability 12.0)`."""
    capability = f"compute capability {dotted(card.compute_capability)}" if card.compute_capability else "compute capability unknown"
    return f"{card.name} ({capability})" if card.name else f"a GPU of {capability}"


def _python(build: Build, question: Question) -> Iterator[Reason]:
    if question.python and question.python not in build.release.pythons:
        listed = ", ".join(build.release.pythons)
        yield Reason(
            rule="python",
            text=f"there is no wheel for Python {question.python} (there are {listed})",
            source=build.release.source,
            evidence=build.release.evidence,
        )


def _machine(variant: Variant, question: Question) -> Reason:
    return Reason(rule="machine", text=f"no such build for {question.machine} is known", source=variant.source, evidence=variant.evidence)


def _driver(variant: Variant, driver: str) -> Iterator[Reason]:
    cuda = find_cuda(variant.cuda)
    if cuda and older(driver, cuda.driver_min):
        text = f"CUDA {cuda.major} needs driver {cuda.driver_min} or newer, and the driver is {driver}"
        yield Reason(rule="driver", text=text, source=cuda.source, evidence=cuda.evidence)


def _code(variant: Variant, card: Card, question: Question) -> Iterator[Reason]:
    verdict = card_runs(variant, card, question.machine)
    if verdict is None:
        return
    if not verdict.runs:
        text = f"{called(card)} cannot run it: {verdict.why}"
        yield Reason(rule="code", text=text, source=variant.source, evidence=variant.architectures_evidence)
    elif verdict.by == "ptx" and question.driver and driver_verdict(variant, question.driver) != FULL:
        cuda = find_cuda(variant.cuda)
        assert cuda is not None  # a verdict other than UNCHECKED has one
        text = f"{called(card)} would need its PTX translated, and only driver {cuda.driver_full} or newer translates PTX of CUDA {cuda.version}"
        yield Reason(rule="ptx", text=text, source=cuda.source, evidence=cuda.evidence)


def _driver_and_gpu(card: Card, driver: str) -> Iterator[Reason]:
    architecture = find_architecture(card.compute_capability) if card.compute_capability else None
    if architecture is None:
        return
    floor = gpu_floor(card)
    if floor and older(driver, floor):
        text = f"{called(card)} is known to drivers from {floor} on (the one of CUDA {architecture.cuda_first}), and the driver is {driver}"
        yield Reason(rule="driver-knows-gpu", text=text, source=architecture.source, evidence=architecture.evidence)
    if architecture.driver_last and version_numbers(driver)[0] > architecture.driver_last:
        text = f"branch {architecture.driver_last} is the last whose drivers run {called(card)}, and the driver is {driver}"
        yield Reason(rule="driver-dropped-gpu", text=text, source=architecture.source, evidence=architecture.evidence)
