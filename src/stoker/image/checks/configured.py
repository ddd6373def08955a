"""The configuration: what a container runs, as whom, with what variables, against what the lock gives."""

from __future__ import annotations

from collections.abc import Mapping

from stoker.image.checks.finding import REBUILD, Finding, finding
from stoker.image.checks.subject import Configuration
from stoker.image.configuration import image_configuration
from stoker.image.lock import Lock
from stoker.image.rootfs import command, init


def judge_configuration(lock: Lock, configuration: Configuration) -> list[Finding]:
    """Compare how containers start. Of a lock of this very Stoker: another one may start them otherwise."""
    wanted = image_configuration(lock, (), init=init(lock), command=command(lock), labels={}, base={})["config"]
    told = [
        _other("entry point", wanted["Entrypoint"], list(configuration.entrypoint)),
        _other("command", wanted["Cmd"], list(configuration.command)),
        _other("user", wanted["User"], configuration.user),
        _other("folder", wanted["WorkingDir"], configuration.folder),
        *_variables(dict(row.split("=", 1) for row in wanted["Env"]), configuration.variables, only=lock.base.kind == "debian"),
        *(_other(f"label {name}", value, configuration.labels.get(name)) for name, value in wanted["Labels"].items()),
    ]
    return finding("other-configuration", "containers of this image start otherwise than its lock says", [one for one in told if one], REBUILD)


def _variables(wanted: Mapping[str, str], there: Mapping[str, str], *, only: bool) -> list[str | None]:
    """Names only of those that nobody asked for: a value may be a secret. An OCI base may bring more (`only` is then False)."""
    other = [_other(f"variable {name}", value, there.get(name)) for name, value in wanted.items()]
    return [*other, *(f"variable {name}: not of this lock" for name in sorted(there.keys() - wanted.keys()) if only)]


def _other(what: str, wanted: object, there: object) -> str | None:
    return None if wanted == there else f"{what}: {_shown(there)}, this lock gives {_shown(wanted)}"


def _shown(value: object) -> str:
    text = "nothing" if value in (None, "", []) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
