"""Which PyTorch builds an image gets: decided from the catalogue, the impossible refused with what does exist, before anything is fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from stoker.catalog import NoStack, TorchRelease, Variant, Wishes, find_cuda, find_release, resolve, torch_releases, version_numbers
from stoker.catalog.stack import Stack
from stoker.errors import NoStackFits, PackageGone
from stoker.image.lock import PLAIN, LockedStack
from stoker.image.presets import newest_tried
from stoker.image.specification import AUTO, LATEST, NO_TORCH, Specification

CPU = "cpu"
# `pyproject.toml` asks for it, and Stoker is in every image.
_STOKER_NEEDS = (2, 5)
# What the catalogue calls unverified nobody has seen: it can be asked for by its version, `latest` does not choose it.
_UNSEEN = "unverified"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A stack that was decided; which files it is made of, uv says."""

    stack: LockedStack
    """Without wheels."""
    index: str | None
    """PyTorch's own index that it comes from, as `cu126`; None: the default index."""
    why: str
    """One line for the person."""


def choose_stacks(
    specification: Specification, *, machine: str, reachable: Callable[[str], bool], held: Mapping[str, str] | None = None
) -> tuple[Choice, ...]:
    """Return the stacks of an image, the newest CUDA first.

    `reachable` says whether PyTorch's own index of a name can be asked from here; `held` names the PyTorch of stacks that `latest` shall not move.
    Raises NoStackFits (never built, or not for this Python or machine), PackageGone (only on PyTorch's own index, which does not answer), BadValue
    (the machine is neither x86_64 nor aarch64).
    """
    if specification.torch == NO_TORCH:
        return (_without_torch(),)
    search = _Search(specification=specification, machine=machine, reachable=reachable, held=held or {})
    pinned = dict(specification.torch_for)
    found = [search.choice(cuda, pinned.get(cuda, specification.torch)) for cuda in specification.cuda]
    return tuple(sorted(found, key=_age))


def _age(choice: Choice) -> tuple[bool, tuple[int, ...]]:
    """Order choices: the newest CUDA first, the CPU last."""
    cuda = choice.stack.cuda
    return cuda is None, tuple(-number for number in version_numbers(cuda)) if cuda else ()


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What every choice depends on."""

    specification: Specification
    machine: str
    reachable: Callable[[str], bool]
    held: Mapping[str, str]

    def choice(self, cuda: str, wish: str) -> Choice:
        """Return the stack for one CUDA (`12.6`, `cpu` or `auto`) and one PyTorch (`2.8.0` or `latest`)."""
        if wish != LATEST:
            return self._named(cuda, wish)
        kept = self.held.get(_stack_name(cuda)) if cuda != AUTO else self._kept_default()
        if kept:
            with contextlib.suppress(NoStackFits, PackageGone):
                return self._named(cuda, kept, because="as in the lock so far")
        return self._newest_default() if cuda == AUTO else self._newest(cuda)

    def _named(self, cuda: str, torch: str, because: str = "as asked for") -> Choice:
        release = find_release(torch)
        if cuda == AUTO and release is not None:
            default = release.variant(release.default_for(self.machine))
            cuda, because = default.cuda if default else CPU, f"{because}, for the CUDA that the default index has it for"
        stack = self._fitting(torch, None if cuda == AUTO else cuda)
        if not _is_default(stack, self.machine):
            self._must_reach(stack)
            because = f"{because}, from PyTorch's own index {stack.variant}"
        return _choice(stack, because)

    def _kept_default(self) -> str | None:
        """Return the PyTorch of the lock so far, where that was a default build, too."""
        for name, torch in self.held.items():
            release = find_release(torch)
            if release and release.default_for(self.machine) == name:
                return torch
        return None

    def _newest_default(self) -> Choice:
        release = find_release(newest_tried())
        assert release is not None, "presets.toml names a release that is not in the catalogue"
        default = release.variant(release.default_for(self.machine))
        stack = self._fitting(release.version, default.cuda if default else CPU)
        return _choice(stack, "the newest that Stoker is tested with, for the CUDA that the default index has it for")

    def _newest(self, cuda: str) -> Choice:
        """Return the newest release for a CUDA: from the default index if that is as new, else from PyTorch's own where it answers."""
        builds = list(self._builds(cuda))
        tried = [build for build in builds if version_numbers(build[0].version) <= version_numbers(newest_tried())]
        # The newest that was tried, then ever older ones; at last those that were not, the oldest first.
        ranked = [*tried, *(build for build in reversed(builds) if build not in tried)]
        stack = self._fitting(ranked[0][0].version if ranked else None, cuda)
        if _is_default(stack, self.machine):
            return _choice(stack, f"the newest for {stack.variant} that Stoker is tested with")
        if self.reachable(stack.variant):
            return _choice(stack, f"the newest of PyTorch's own index {stack.variant}, which answers from here")
        for release, variant in ranked:
            if release.default_for(self.machine) == variant:
                return _choice(
                    self._fitting(release.version, cuda),
                    f"as the default index has it for {variant}: torch {stack.torch} for {variant} is on PyTorch's own index only, which cannot be "
                    "reached from here",
                )
        raise self._gone(stack)

    def _builds(self, cuda: str) -> Iterator[tuple[TorchRelease, str]]:
        """Yield the releases that were built for a CUDA and this image, newest first, with the variant's name."""
        for release in torch_releases():
            if self.specification.python not in release.pythons or version_numbers(release.version) < _STOKER_NEEDS:
                continue
            if cuda == CPU:
                yield release, CPU
            variant = release.variant(cuda)
            if variant and variant.evidence != _UNSEEN and self.machine in variant.machines:
                yield release, variant.name

    def _fitting(self, torch: str | None, cuda: str | None) -> Stack:
        """Return the build that was asked for. Raises NoStackFits with what does exist."""
        if torch and version_numbers(torch) < _STOKER_NEEDS:
            needed = ".".join(map(str, _STOKER_NEEDS))
            raise NoStackFits(f"torch {torch} is older than {needed}, which Stoker needs, and Stoker is in every image", hint="name a newer one")
        wishes = Wishes(torch=torch, cuda=cuda, python=self.specification.python)
        found = resolve(wishes, driver=None, gpus=(), python=None, machine=self.machine)
        if isinstance(found, NoStack):
            what = " ".join(["torch", *([torch] if torch else []), *([f"for {_called(cuda)}"] if cuda else [])])
            raise _refusal(f"{what} with Python {self.specification.python}", found)
        return found

    def _must_reach(self, stack: Stack) -> None:
        if not self.reachable(stack.variant):
            raise self._gone(stack)

    def _gone(self, stack: Stack) -> PackageGone:
        release = find_release(stack.torch)
        has = release.default_for(self.machine) if release else None
        return PackageGone(
            f"torch {stack.torch} for {stack.variant} is on PyTorch's own index only, which cannot be reached from here"
            + (f"; the default index has it for {has}" if has else ""),
            hint="name a mirror of it as `torch` in [image.mirrors]" + (f", or leave `cuda` out to take {has}" if has else ""),
        )


def _is_default(stack: Stack, machine: str) -> bool:
    """Whether the default index holds this build; for the CPU it does on aarch64 up to 2.10."""
    release = find_release(stack.torch)
    return release is not None and release.default_for(machine) == stack.variant


def _called(cuda: str | None) -> str:
    return "the CPU" if cuda in (None, CPU) else f"CUDA {cuda}"


def _stack_name(cuda: str) -> str:
    return cuda if cuda == CPU else "cu" + cuda.replace(".", "")


def _refusal(what: str, found: NoStack) -> NoStackFits:
    reasons = "; ".join(reason.text for reason in found.reasons)
    exist = ", ".join(f"torch {other.stack.torch} for {_called(other.stack.cuda)}" for other in found.nearest)
    return NoStackFits(
        f"there is no {what}: {reasons}", hint=f"there is {exist}; change torch, cuda or python in stoker.toml" if exist else "change torch"
    )


def _choice(stack: Stack, because: str) -> Choice:
    release = find_release(stack.torch)
    variant: Variant | None = release.variant(stack.variant) if release else None
    codes, ptx = variant.code(stack.machine) if variant else ((), None)
    floor = find_cuda(stack.cuda) if stack.cuda else None
    locked = LockedStack(
        name=stack.variant,
        torch=stack.torch,
        torchvision=stack.torchvision,
        cuda=stack.cuda,
        toolkit=stack.toolkit,
        cudnn=stack.cudnn,
        driver_min=floor.driver_min if floor else None,
        driver_full=floor.driver_full if floor else None,
        architectures=codes,
        ptx=bool(ptx),
        wheels=(),
    )
    index = None if _is_default(stack, stack.machine) else stack.variant
    return Choice(stack=locked, index=index, why=f"{locked.name}: torch {locked.torch}, {because}")


def _without_torch() -> Choice:
    stack = LockedStack(
        name=PLAIN,
        torch=None,
        torchvision=None,
        cuda=None,
        toolkit=None,
        cudnn=None,
        driver_min=None,
        driver_full=None,
        architectures=(),
        ptx=False,
        wheels=(),
    )
    return Choice(stack=stack, index=None, why=f"{PLAIN}: no PyTorch, as asked for")
