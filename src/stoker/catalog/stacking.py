"""A build that fits, told whole: what comes with it, what the driver means for it, what to know, and how to install it."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.catalog.cuda import find_branch, find_cuda
from stoker.catalog.fit import Build, called, card_runs, driver_floor, driver_verdict, last_branch
from stoker.catalog.releases import Variant, torch_releases
from stoker.catalog.stack import FORWARD, FULL, MINOR, NOT_NEEDED, Card, Question, Stack
from stoker.catalog.versions import version_numbers

# `pyproject.toml` asks for it.
_STOKER_NEEDS = (2, 5)
# Source: torch/_inductor/exc.py, GPUTooOldForTriton. Checked 2026-11-21 in torch 2.13.
_TRITON_NEEDS = (7, 0)


def build_stack(build: Build, question: Question, own: Build | None) -> Stack:
    """Return the stack of a build. `own`: the newest one that fits and comes from the default index, when this one does not."""
    release, variant = build.release, build.variant
    default = variant is not None and build.name == release.default_for(question.machine)
    cuda = find_cuda(variant.cuda) if variant else None
    verdict = driver_verdict(variant, question.driver) if variant else NOT_NEEDED
    return Stack(
        torch=release.version,
        variant=build.name,
        cuda=variant.cuda if variant else None,
        toolkit=variant.toolkit if variant else None,
        cudnn=variant.cudnn if variant else None,
        torchvision=next(iter(release.torchvision), None),
        torchaudio=next(iter(release.torchaudio), None),
        pythons=release.pythons,
        machine=question.machine,
        default_index=default,
        driver=verdict,
        driver_says=_driver_says(variant, verdict, question),
        driver_min=driver_floor(variant, question.cards) if variant else None,
        driver_full=cuda.driver_full if cuda else None,
        notes=tuple(_notes(build, question, own)),
        command=_command(build, default),
        evidence=variant.evidence if variant else release.evidence,
        source=variant.source if variant else release.source,
        checked=variant.checked if variant else release.checked,
    )


def _driver_says(variant: Variant | None, verdict: str, question: Question) -> str:
    if variant is None:
        return "no driver is needed: it runs on the CPU"
    cuda = find_cuda(variant.cuda)
    if cuda is None:
        return f"which driver CUDA {variant.cuda} needs is not known"
    floor = driver_floor(variant, question.cards)
    if verdict == FULL:
        return f"full: driver {question.driver} is not older than {cuda.driver_full}, which shipped with CUDA {cuda.version}"
    if verdict == MINOR:
        return (
            f"minor-version compatible: driver {question.driver} runs CUDA {cuda.version} (from {cuda.driver_min} on), but is older than "
            f"{cuda.driver_full}, which shipped with it. It does not translate PTX of this CUDA (error 222, unsupported PTX version) and lacks its "
            "newest functions. torch.compile is not touched: Triton brings its own assembler"
        )
    if verdict == FORWARD:
        package = f"cuda-compat-{cuda.version.replace('.', '-')}"
        return (
            f"forward compatible only: driver {question.driver} is older than {cuda.driver_min}. It runs with NVIDIA's package {package} beside "
            "the driver, which NVIDIA supports on data-centre GPUs only, and from some driver branches only (NVIDIA's guide CUDA Compatibility)"
        )
    full = f", from {cuda.driver_full} on with nothing missing" if floor != cuda.driver_full else ""
    return f"not checked, no driver was given: it needs {floor} or newer{full}"


def _notes(build: Build, question: Question, own: Build | None) -> Iterator[str]:
    yield from _doubts(build)
    for card in dict.fromkeys(question.cards):
        yield from _card_notes(build, card, question)
    yield from _line(build)
    if build.variant and build.name != build.release.default_for(question.machine):
        has = build.release.default_for(question.machine)
        newest = f"; from the default index alone, torch {own.release.version} ({own.name}) is the newest that fits" if own else ""
        yield f"the default index has torch {build.release.version} for {has}; {build.name} is on PyTorch's own index of that name{newest}"
    elif build.variant is None:
        yield "the wheel of the default index runs on the CPU, too; the cpu variant is far smaller, as it brings no CUDA"
    if question.driver and build.variant:
        yield from _branch_notes(question)
    if build.release.note:
        yield f"torch {build.release.version}: {build.release.note}"
    if version_numbers(build.release.version) < _STOKER_NEEDS:
        yield f"Stoker itself needs torch {'.'.join(map(str, _STOKER_NEEDS))} or newer"


def _doubts(build: Build) -> Iterator[str]:
    if build.variant is None:
        return
    if build.variant.evidence == "unverified":
        yield f"nobody has confirmed that torch {build.release.version} exists for {build.name}"
    elif build.variant.evidence == "secondary":
        yield f"that torch {build.release.version} exists for {build.name} is known from third parties only ({build.variant.source})"
    if build.variant.architectures_evidence == "unverified":
        yield f"the architectures of {build.name} are taken from its neighbours, not seen"


def _card_notes(build: Build, card: Card, question: Question) -> Iterator[str]:
    if build.variant is None:
        yield f"{called(card)} is not used by a build for the CPU"
        return
    verdict = card_runs(build.variant, card, question.machine)
    if card.compute_capability and card.compute_capability < _TRITON_NEEDS:
        yield f"{called(card)}: torch.compile does not work on it, Triton needs compute capability 7.0"
    if verdict is None:
        yield f"{called(card)}: whether the wheel holds code for it could not be checked"
    elif verdict.by == "ptx":
        yield f"{called(card)}: {verdict.why}, which takes minutes at the first start and needs driver {_full(build.variant)} or newer"


def _full(variant: Variant) -> str:
    cuda = find_cuda(variant.cuda)
    return cuda.driver_full if cuda else f"of CUDA {variant.cuda}"


def _line(build: Build) -> Iterator[str]:
    """Say that the line of this variant has ended: who starts with it cannot follow to newer releases."""
    if build.variant is None:
        return
    last = next(release for release in torch_releases() if release.variant(build.name))
    newest = torch_releases()[0]
    if last is not newest:
        yield f"torch {last.version} is the last release for CUDA {build.variant.cuda} (the newest release is {newest.version})"


def _branch_notes(question: Question) -> Iterator[str]:
    branch = find_branch(question.driver or "")
    last = last_branch(question.cards)
    if branch and branch.end_of_life:
        yield f"end of life of driver branch {branch.branch}: {branch.end_of_life:%Y-%m}"
    if branch:
        yield f"nvidia-smi of this driver shows CUDA {branch.cuda}: the newest that it runs fully, not an installed toolkit"
    if last:
        yield f"driver branch {last} is the last for this GPU: install no newer one"


def _command(build: Build, default: bool) -> str:
    words = ["uv pip install"]
    words.append(f'"torch=={build.release.version}"')
    if build.release.torchvision:
        words.append(f'"torchvision=={build.release.torchvision[0]}"')
    if not default:
        words.append(f"--torch-backend={build.name}")
    return " ".join(words)
