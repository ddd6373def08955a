"""Secrets in an image, and leftovers of its making: what would travel to everybody who has the image."""

from __future__ import annotations

import re

from stoker.image.checks.contents import Contents
from stoker.image.checks.finding import Finding, finding
from stoker.image.checks.ownership import Ownership
from stoker.image.checks.secrets import secret_variables, signs_of
from stoker.image.checks.subject import Configuration

_LEFTOVERS = re.compile(
    r"var/lib/apt/lists/(?!lock$|partial$|auxfiles$).+|var/cache/apt/(archives/.+\.deb|.*pkgcache\.bin)|(root|home/[^/]+)/\.cache/(pip|uv)/.+"
    r"|var/cache/ldconfig/aux-cache|var/log/(?!README$).*[^/]|tmp/.+|var/tmp/.+|etc/machine-id|var/lib/dbus/machine-id"
)


def judge_exposure(contents: Contents, configuration: Configuration, ownership: Ownership) -> list[Finding]:
    """Look for secrets in files, variables and history, and for leftovers."""
    # A test's key in a wheel that is as published is no secret; what the lock vouches for to the bit is left alone.
    files = [f"/{node.path}: {sign}" for node in contents.nodes.values() if not ownership.vouches_for(node) for sign in node.signs]
    buried = [f"/{node.path}, in a layer below: {sign}" for node in contents.buried if not ownership.vouches_for(node) for sign in node.signs]
    variables = [f"variable {name}" for name in secret_variables(configuration.variables)]
    words = {"entry point": configuration.entrypoint, "command": configuration.command, "labels": tuple(configuration.labels.values())}
    said = [f"{place}: {sign}" for place, texts in words.items() for sign in signs_of("", "\n".join(texts).encode(errors="surrogateescape"))]
    history = [
        f"history, step {number}: {sign}" for number, step in enumerate(configuration.history, start=1) for sign in signs_of("", step.encode())
    ]
    left = [f"/{node.path}" for node in contents.nodes.values() if node.kind == "file" and node.size and _LEFTOVERS.fullmatch(node.path)]
    return [
        *finding(
            "secret",
            "secrets lie in the image: whoever has it has them",
            [*files, *buried, *variables, *said, *history],
            "call each of them back where it was issued, take it out, build again; give it to a container at its start, as a file",
        ),
        *finding(
            "leftover", "files of the image's making were left behind: they add bytes, or tell two builds apart", left, "remove them in the build"
        ),
    ]
