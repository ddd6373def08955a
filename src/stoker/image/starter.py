"""The `stoker.toml` that `stoker image init` writes: commented, and fitting this machine or a preset."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stoker.catalog import Card, Wishes, resolve, torch_releases, version_numbers
from stoker.catalog.stack import FORWARD, Stack
from stoker.errors import UnknownName, nearest
from stoker.host import Host
from stoker.image.debian import RELEASES
from stoker.image.placed import quoted
from stoker.image.presets import find_preset, newest_tried
from stoker.image.specification import AUTO, DEFAULT_PYTHON, LATEST, VARIANTS

_WIDTH = 120
_FALLBACK = "image"


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is written for PyTorch."""

    torch: str
    cuda: tuple[str, ...]
    python: str
    why: tuple[str, ...]
    """Lines of comment."""


def starter_text(folder: str, host: Host, *, preset: str | None = None, variants: Sequence[str] = ()) -> str:
    """Return a whole stoker.toml. `folder` is the name of the folder, of which the image's is made; `variants` are those beside cli.

    Raises UnknownName for a preset or a variant that there is not.
    """
    wish = _of_preset(preset) if preset else _of_machine(host)
    cuda = quoted(wish.cuda[0]) if len(wish.cuda) == 1 else f"[{', '.join(quoted(one) for one in wish.cuda)}]"
    pythons = ", ".join(f"{release.python} ({release.name}, Debian {release.number})" for release in RELEASES)
    return _TEMPLATE.format(
        name=quoted(image_name(folder)),
        why="\n".join(line for text in wish.why for line in _comment(text)),
        torch=quoted(wish.torch),
        cuda=cuda,
        python=quoted(wish.python),
        pythons=pythons,
        newest=newest_tried(),
        variants=", ".join(quoted(one) for one in _variants(variants)),
    )


def _variants(named: Sequence[str]) -> tuple[str, ...]:
    """Return the variants in their order, cli among them."""
    for one in named:
        if one not in VARIANTS:
            like = nearest(one, VARIANTS)
            told = f"there is no variant {one!r}" + (f"; the nearest is {like!r}" if like else "")
            raise UnknownName(told, hint=f"there are {', '.join(VARIANTS)}")
    return tuple(one for one in VARIANTS if one in ("cli", *named))


def image_name(folder: str) -> str:
    """Return a name that registries allow, made of any text."""
    # It shall not be as long as a name may be: a registry and a team stand before it.
    return re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")[:60].strip("-") or _FALLBACK


def _of_preset(name: str) -> _Wish:
    preset = find_preset(name)
    return _Wish(torch=preset.torch, cuda=preset.cuda, python=preset.python, why=(f"Preset {preset.name}: {preset.says}.",))


def _of_machine(host: Host) -> _Wish:
    cards = tuple(Card(name=gpu.name, compute_capability=gpu.compute_capability) for gpu in host.gpus)
    if host.driver.version is None:
        why = (
            f"This machine has {'no NVIDIA driver' if host.driver.cards else 'no NVIDIA GPU'}, so that nothing here speaks against the newest one "
            "that Stoker is tested with; name an older one, or the preset universal, where the machines that shall run the image have older drivers.",
        )
        return _Wish(torch=LATEST, cuda=(AUTO,), python=DEFAULT_PYTHON, why=why)
    seen = _seen(host)
    found = next(_fitting(host, cards), None)
    if found is None:
        why = (f"{seen} Nothing that was built for Python {DEFAULT_PYTHON} runs on it (`stoker resolve` says why): this is for other machines.",)
        return _Wish(torch=LATEST, cuda=(AUTO,), python=DEFAULT_PYTHON, why=why)
    fits = f"{seen} torch {found.torch} for CUDA {found.cuda} runs on it: {found.driver_says}."
    if found.torch == newest_tried() and found.default_index:
        return _Wish(torch=LATEST, cuda=(AUTO,), python=DEFAULT_PYTHON, why=(fits,))
    newer = f"Newer builds do not: torch {newest_tried()} of the default index is not for this driver or GPU."
    own = () if found.default_index else (f"It comes from PyTorch's own index {found.variant}.",)
    return _Wish(torch=found.torch, cuda=(str(found.cuda),), python=DEFAULT_PYTHON, why=(fits, newer, *own))


def _fitting(host: Host, cards: tuple[Card, ...]) -> Iterator[Stack]:
    """Yield what runs on this machine: from the default index, newest first; at last the newest from PyTorch's own."""
    wishes = [
        Wishes(torch=release.version, cuda=default.cuda, python=DEFAULT_PYTHON)
        for release in torch_releases()
        if version_numbers(release.version) <= version_numbers(newest_tried())
        and (default := release.variant(release.default_for(host.architecture)))
    ]
    for wish in [*wishes, Wishes(python=DEFAULT_PYTHON)]:
        found = resolve(wish, driver=host.driver.version, gpus=cards, python=None, machine=host.architecture)
        if isinstance(found, Stack) and found.cuda and found.driver != FORWARD:
            yield found


def _seen(host: Host) -> str:
    names = [gpu.name for gpu in host.gpus]
    counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    # A driver says what it likes; a comment is one line and holds no control character.
    return re.sub(r"[^\x20-\x7e]", "?", f"This machine: driver {host.driver.version}, {counted or 'no GPU that can be reached'}.")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False)]


_TEMPLATE = """\
# What the container image of this project shall hold. `stoker image lock` decides every file of it and writes stoker.lock,
# `stoker image build` builds it. What is commented out shows the other things that can be said.

[image]
name = {name}

{why}
# torch: a version (as "{newest}"), "latest" (the newest that Stoker is tested with) or "none" (an image without PyTorch).
torch = {torch}
# cuda: "auto" (the one that the default index has this PyTorch for), a version (as "12.6"), "cpu", or a list for a universal
# image of which the newest that runs is chosen at start. Other CUDAs than PyTorch's default come from its own indexes.
cuda = {cuda}
# A PyTorch for each CUDA instead of torch and cuda:
# torch = {{ "12.6" = "2.7.1", "13.0" = "{newest}" }}

# The base is the Debian release that has this Python: {pythons}.
python = {python}
# Or an OCI image by its digest, with this Python in it (`skopeo copy` fetches one into a folder):
# base = "oci:FOLDER@sha256:..."

# Features. "cli" is always in; `stoker image build --variants cli` builds a part of them.
#   notebook  JupyterLab with TLS and token    ssh  sshd for one user, keys only    dev  git, tmux, vim, rsync, zsh
variants = [{variants}]

# Further packages of the index (PEP 508), or a file with them: requirements.txt or pylock.toml.
# packages = ["einops", "pandas>=2"]
# requirements = "requirements.txt"

# Further Debian packages.
# debs = ["ffmpeg"]

# What to leave out of the wheels: "static" libraries, "tools" of CUDA, "amd" (Triton's other back end), "headers",
# "symbols" for debuggers, "tests" of packages.
# prune = ["static", "tools", "amd", "symbols", "tests"]

# Where to fetch from, if not as pip, uv and apt are set up here. Addresses are not written into the lock.
# [image.mirrors]
# pypi = "https://.../simple"
# debian = "https://.../debian"
# security = "https://.../debian-security"
# torch = "https://.../whl"
"""
