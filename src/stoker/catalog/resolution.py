"""The search for the newest stack that fits; and when there is none, every reason and what would have to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from stoker.catalog.cuda import cuda_versions, driver_branches, find_branch, find_cuda
from stoker.catalog.fit import Build, called, driver_verdict, forward_possible, last_branch, objections
from stoker.catalog.releases import TorchRelease, torch_releases
from stoker.catalog.stack import FORWARD, FULL, UNCHECKED, Alternative, Card, NoStack, Question, Reason, Stack, Wishes
from stoker.catalog.stacking import build_stack
from stoker.catalog.tables import EVIDENCE
from stoker.catalog.versions import cuda_version, driver_version, python_version, torch_version, version_numbers
from stoker.errors import BadValue

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_MOST_ALTERNATIVES = 5


def resolve(wishes: Wishes, *, driver: str | None, gpus: Sequence[Card], python: tuple[int, int] | None, machine: str) -> Stack | NoStack:
    """Return the newest stack that fits, or why none does.

    `driver` is the version of the NVIDIA driver, None when there is none or it is not known; without driver, GPU and a wish for CUDA
    the answer is for the CPU. `python` holds where the wishes name none. Among the stacks that fit, the newest torch wins, then the
    variant of the default index, then one that nobody doubts, then one whose CUDA the driver runs fully. Builds that nobody has confirmed
    are offered only to a wish. Raises BadValue when a version is malformed or the machine is neither x86_64 nor aarch64.
    """
    return answer(question_of(wishes, driver=driver, gpus=gpus, python=python, machine=machine))


def question_of(wishes: Wishes, *, driver: str | None, gpus: Sequence[Card], python: tuple[int, int] | None, machine: str) -> Question:
    """Return the question, read and checked. Raises BadValue."""
    if machine.lower() not in _MACHINES:
        raise BadValue(f"there is no PyTorch with CUDA for {machine!r}", hint="machines are x86_64 and aarch64, with Linux")
    torch, local = torch_version(wishes.torch) if wishes.torch else (None, None)
    cuda = cuda_version(wishes.cuda) if wishes.cuda else None
    named = cuda_version(local) if local else None
    if cuda and named and cuda != named:
        raise BadValue(f"torch {wishes.torch} is for CUDA {named}, and CUDA {cuda} was asked for, too", hint="leave one of them out")
    plain = f"{python[0]}.{python[1]}" if python else None
    return Question(
        torch=torch,
        cuda=cuda or named,
        python=python_version(wishes.python) if wishes.python else plain,
        driver=driver_version(driver) if driver else None,
        cards=tuple(gpus),
        machine=_MACHINES[machine.lower()],
    )


def answer(question: Question) -> Stack | NoStack:
    """Return the newest stack that fits a question, or why none does and the nearest that do."""
    stack = _search(question)
    return stack if stack else NoStack(reasons=tuple(_reasons(question)), nearest=tuple(_nearest(question)))


def _search(question: Question) -> Stack | None:
    builds = _builds(question)
    judged = [(build, objections(build, question)) for build in builds]
    fitting = [build for build, against in judged if not against]
    asked = question.torch is not None or question.cuda is not None
    for tier in ([build for build in fitting if build.sure(question.cards)], fitting if asked else []):
        if tier:
            best = min(tier, key=lambda build: _rank(build, question))
            return build_stack(best, question, _from_default_index(best, fitting, question))
    return _forward(
        question, [build for build, against in judged if against and build.sure(question.cards) and all(one.rule == "driver" for one in against)]
    )


def _forward(question: Question, builds: Sequence[Build]) -> Stack | None:
    """Return the newest stack that only the driver is too old for, if it was asked for and NVIDIA supports cuda-compat on all the GPUs.

    The driver must be of the CUDA just before: from which branches a package starts is in NVIDIA's guide and not in our tables.
    """
    branch = find_branch(question.driver) if question.driver else None
    if branch is None or not (question.torch or question.cuda) or not forward_possible(question):
        return None
    before = version_numbers(branch.cuda)[0]
    builds = [build for build in builds if build.variant and version_numbers(build.variant.cuda)[0] == before + 1]
    if not builds:
        return None
    return build_stack(min(builds, key=lambda build: _rank(build, question)), question, None)


def _builds(question: Question) -> list[Build]:
    """Return the builds that were asked for, whether or not they run."""
    releases = [release for release in torch_releases() if _is_asked(release, question.torch)]
    if _for_cpu(question):
        return [Build(release=release, variant=None) for release in releases]
    return [Build(release=release, variant=variant) for release in releases for variant in release.variants if question.cuda in (None, variant.cuda)]


def _for_cpu(question: Question) -> bool:
    return question.cuda == "cpu" or (question.cuda is None and question.driver is None and not question.cards)


def _is_asked(release: TorchRelease, torch: str | None) -> bool:
    return torch is None or release.version == torch or release.version.startswith(torch + ".")


def _rank(build: Build, question: Question) -> tuple[tuple[int, ...], bool, bool, bool, tuple[int, ...]]:
    """Order builds, the best first."""
    version = tuple(-number for number in version_numbers(build.release.version))
    if build.variant is None:
        return version, False, False, False, ()
    return (
        version,
        build.name != build.release.default_for(question.machine),
        build.variant.evidence == "secondary",
        driver_verdict(build.variant, question.driver) not in (FULL, UNCHECKED),
        tuple(-number for number in version_numbers(build.variant.cuda)),
    )


def _from_default_index(best: Build, fitting: Sequence[Build], question: Question) -> Build | None:
    """Return the newest build that fits and comes from the default index, when the best one does not."""
    own = [build for build in fitting if build.variant and build.name == build.release.default_for(question.machine)]
    return min(own, key=lambda build: _rank(build, question)) if own and best not in own and best.variant else None


# --- why nothing fits -----------------------------------------------------------------------------------------------


def _reasons(question: Question) -> Iterator[Reason]:
    """Yield every reason: one for each fact, with the builds that it holds for."""
    builds = _builds(question)
    if not builds:
        yield from _never_built(question)
        return
    asked = question.torch is not None or question.cuda is not None
    holds: dict[Reason, list[Build]] = {}
    for build in builds:
        against = objections(build, question)
        if not against and not asked:
            against = [_unconfirmed(build)]
        for reason in against:
            holds.setdefault(reason, []).append(build)
    merged: dict[tuple[str, str], list[Build]] = {}
    surest: dict[tuple[str, str], Reason] = {}
    for reason in sorted(holds, key=lambda reason: EVIDENCE.index(reason.evidence)):
        surest.setdefault((reason.rule, reason.text), reason)
    for reason, stopped in holds.items():
        merged.setdefault((reason.rule, reason.text), []).extend(stopped)
    for fact, stopped in merged.items():
        yield replace(surest[fact], text=f"{_listed(stopped, builds)}: {surest[fact].text}")


def _unconfirmed(build: Build) -> Reason:
    assert build.variant is not None  # the CPU builds are sure
    return Reason(rule="unconfirmed", text="nobody has confirmed this build", source=build.variant.source, evidence="unverified")


def _never_built(question: Question) -> Iterator[Reason]:
    releases = [release for release in torch_releases() if _is_asked(release, question.torch)]
    newest, oldest = torch_releases()[0], torch_releases()[-1]
    if not releases:
        text = f"no PyTorch {question.torch} is known: the table goes from {oldest.version} to {newest.version}"
        yield Reason(rule="unknown-release", text=f"{text} (checked {newest.checked})", source=newest.source, evidence=newest.evidence)
    if question.cuda is None:
        return
    for release in releases if question.torch else ():
        has = ", ".join(variant.cuda for variant in reversed(release.variants))
        text = f"PyTorch {release.version} was never built for CUDA {question.cuda}; it comes for CUDA {has}"
        surest = min(release.variants, key=lambda variant: EVIDENCE.index(variant.evidence))
        yield Reason(rule="never-built", text=text, source=surest.source, evidence=surest.evidence)
    yield _line_of(question.cuda)


def _line_of(cuda: str) -> Reason:
    """Say between which releases PyTorch was built for a CUDA."""
    having = [(release, variant) for release in torch_releases() for variant in release.variants if variant.cuda == cuda]
    if having:
        (last, variant), (first, _) = having[0], having[-1]
        ended = "ended with" if last is not torch_releases()[0] else "goes on in"
        text = f"CUDA {cuda} came with PyTorch {first.version} and {ended} {last.version}"
        return Reason(rule="never-built", text=text, source=variant.source, evidence=variant.evidence)
    known, oldest = cuda_versions()[0], cuda_versions()[-1]
    unknown = f"no CUDA {cuda} is known: the table goes from {oldest.version} to {known.version}, and there never was a 12.7"
    text = f"no PyTorch from 2.0 on was built for CUDA {cuda}" if find_cuda(cuda) else unknown
    return Reason(rule="never-built", text=text, source=known.source, evidence=known.evidence)


def _listed(builds: Sequence[Build], among: Sequence[Build]) -> str:
    """Name builds in few words: `torch 2.11.0 to 2.15.0 (cu130, cu132)`."""
    if len(builds) == len(among) > 1:
        return "every build" if len({build.release.version for build in among}) > 1 else f"every build of torch {among[0].release.version}"
    versions = sorted({build.release.version for build in builds}, key=version_numbers)
    names = sorted({build.name for build in builds})
    shown = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
    return f"torch {shown} ({', '.join(names)})"


# --- what would fit -------------------------------------------------------------------------------------------------


def _nearest(question: Question) -> Iterator[Alternative]:
    """Yield the stacks that fit when one thing changes, else when two do; at last the CPU."""
    found: set[tuple[str, str]] = set()
    single = list(_changes(question))
    double = [(f"{first}, {second}", both) for first, changed in single for second, both in _changes(changed)]
    for changes in (single, double):
        for change, changed in changes:
            stack = _search(changed)
            if stack is None or stack.driver == FORWARD or (stack.torch, stack.variant) in found:
                continue
            found.add((stack.torch, stack.variant))
            yield Alternative(change=change, stack=stack, question=changed)
            if len(found) == _MOST_ALTERNATIVES:
                return
        if found:
            return
    for change, python in (("on the CPU", question.python), ("on the CPU, with another Python", None)):
        cpu = replace(question, torch=None, cuda="cpu", python=python, driver=None, cards=())
        stack = _search(cpu)
        if stack:
            yield Alternative(change=change, stack=stack, question=cpu)
            return


def _changes(question: Question) -> Iterator[tuple[str, Question]]:
    """Yield what could be given up or done, the least first."""
    if question.cuda and (question.torch or not (question.driver or question.cards)):
        yield from ((f"with {name}", replace(question, cuda=cuda)) for name, cuda in _other_cudas(question))
    if question.cuda and (question.driver or question.cards):
        yield f"with another CUDA than {question.cuda}", replace(question, cuda=None)
    if question.torch:
        yield f"with another PyTorch than {question.torch}", replace(question, torch=None)
    if question.driver:
        for change, driver in _drivers(question):
            yield change, replace(question, driver=driver)
    if question.python:
        yield f"with another Python than {question.python}", replace(question, python=None)
    kinds = list(dict.fromkeys(question.cards))
    if len(kinds) > 1:
        for card in kinds:
            yield f"for {called(card)} alone", replace(question, cards=(card,))


def _other_cudas(question: Question) -> Iterator[tuple[str, str]]:
    """Yield the other CUDAs of the newest release that was asked for, or else of the newest of all: its default first."""
    releases = [release for release in torch_releases() if _is_asked(release, question.torch)] or list(torch_releases())
    default = releases[0].default_for(question.machine)
    for variant in sorted(releases[0].variants, key=lambda variant: variant.name != default):
        if variant.cuda != question.cuda:
            yield f"CUDA {variant.cuda}{' (its default)' if variant.name == default else ''} instead of {question.cuda}", variant.cuda


def _drivers(question: Question) -> Iterator[tuple[str, str]]:
    """Yield the driver to install, if another one helps: of a long-term branch if that does, and none that has dropped one of the GPUs."""
    last = last_branch(question.cards)
    branches = {branch.branch: branch for branch in driver_branches()}
    newest: dict[int, str] = {}
    for driver in sorted((driver for cuda in cuda_versions() for driver in cuda.updates), key=version_numbers):
        newest[version_numbers(driver)[0]] = driver
    fit = [number for number in newest if last is None or number <= last]
    for number in sorted(fit, key=lambda number: (number in branches and branches[number].long_term, number), reverse=True):
        if _search(replace(question, driver=newest[number])):
            yield f"with NVIDIA driver {newest[number]} ({_branch_says(number, last)})", newest[number]
            return


def _branch_says(number: int, last: int | None) -> str:
    branch = next((branch for branch in driver_branches() if branch.branch == number), None)
    kept = f", supported until {branch.end_of_life:%Y-%m}" if branch and branch.end_of_life else ""
    return f"branch {number}{kept}{', the last one for this GPU' if number == last else ''}"
