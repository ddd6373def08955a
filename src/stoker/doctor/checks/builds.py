"""The commands that install or repair a package in the Python that is examined, and the build of torch that would fit here."""

from __future__ import annotations

import shlex

from stoker import catalog
from stoker.doctor.facts import Facts
from stoker.errors import BadValue


def into(facts: Facts) -> str:
    """Return the beginning of a command that installs into the examined Python."""
    return f"uv pip install --python {shlex.quote(facts.python.executable)}"


def install(facts: Facts, packages: str) -> str:
    """Return the command that installs packages."""
    return f"{into(facts)} {packages}"


def reinstall(facts: Facts, *, release: str | None = None) -> str:
    """Return the command that installs the same torch anew, with its dependencies."""
    if facts.python.torch is not None and facts.python.torch.installer == "conda":
        return f"conda install --prefix {shlex.quote(facts.python.prefix or '')} --force-reinstall pytorch"
    version, _, local = (release or facts.python.packages.get("torch") or _version(facts) or "").partition("+")
    local = local or _version(facts).partition("+")[2]
    torch = f"torch=={version}" if version else "torch"
    known = find_release(version)
    default = known is None or not local or known.default_for(facts.system.architecture or "x86_64") == local
    backend = "" if default else f" --torch-backend={local}"
    return f"{into(facts)} --reinstall-package torch {torch}{backend}"


def fitting_build(facts: Facts) -> str | None:
    """Return the command that installs a torch which runs here: the same release if it has such a build, else the newest; None: none is known."""
    stack = fitting_stack(facts)
    return None if stack is None else stack.command.replace("uv pip install", f"{into(facts)} --reinstall", 1)


def fitting_stack(facts: Facts) -> catalog.Stack | None:
    """Return the stack that runs here, with the installed release if possible; None: the catalogue knows none."""
    release = find_release(_version(facts))
    cards = [catalog.Card(name=gpu.name, compute_capability=gpu.compute_capability) for gpu in facts.gpus if not gpu.lost]
    for wished in (release.version if release else None, None):
        try:
            found = catalog.resolve(
                catalog.Wishes(torch=wished),
                driver=facts.driver.version,
                gpus=cards,
                python=facts.python.version,
                machine=facts.system.architecture or "x86_64",
            )
        except BadValue:
            return None
        if isinstance(found, catalog.Stack) and found.cuda is not None and found.driver in ("full", "minor-version"):
            return found
    return None


def find_release(version: str | None) -> catalog.TorchRelease | None:
    """Return what the catalogue knows of a release of torch; None for a build of one's own, a nightly or one that is too new."""
    try:
        return catalog.find_release(version) if version else None
    except BadValue:
        return None


def find_cuda(version: str | None) -> catalog.CudaVersion | None:
    """Return what the catalogue knows of a CUDA; None when it does not know it."""
    try:
        return catalog.find_cuda(version) if version else None
    except BadValue:
        return None


def numbers(version: str | None) -> tuple[int, ...]:
    """Return the numbers of a version; empty when it is none."""
    try:
        return catalog.version_numbers(version) if version else ()
    except BadValue:
        return ()


def _version(facts: Facts) -> str:
    torch = facts.python.torch
    return (torch.version if torch is not None else None) or ""
