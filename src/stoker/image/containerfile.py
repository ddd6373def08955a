"""A Containerfile that installs what a lock holds, for those who want to read or keep one; `stoker image build` does not run it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence

from stoker.image.baselayer import login_shell
from stoker.image.configuration import environment, image_labels
from stoker.image.lock import FILE_TIME, Lock, LockedStack
from stoker.image.rootfs import command, init

_SITE = "/opt/stoker/{stack}/lib/python{python}/site-packages"
_SETTINGS = (
    "import sys; from pathlib import Path; from stoker.image.lock import FILE_TIME, read_lock; from stoker.image.rootfs import rootfs_entries; "
    "from stoker.image.tarball import write_tar; write_tar(rootfs_entries(read_lock(Path('stoker.lock'))), sys.stdout.buffer, mtime=FILE_TIME)"
)
"""What writes the last layer, as a tar."""


def containerfile(lock: Lock) -> str:
    """Return the text of a Containerfile with the packages of this lock; it passes hadolint."""
    return "\n".join([*_head(lock), *_base(lock), *_packages(lock), *_image(lock)]) + "\n"


def _head(lock: Lock) -> list[str]:
    return [
        f"# The packages of {lock.name}, lock {lock.digest}, written by `stoker image show --containerfile`.",
        "# Build it in a folder with Stoker's source tree and this stoker.lock. It installs the same packages as `stoker image build`, checked by",
        "# the same hashes, but not the same bytes: apt and pip write times and caches, and one layer holds a whole stack.",
        "# PIP_INDEX_URL and the like may be given by --build-arg.",
    ]


def _base(lock: Lock) -> list[str]:
    if lock.base.kind == "oci":
        return ["", f"ARG BASE=localhost/base@{lock.base.digest}", "FROM ${BASE} AS base", "", *_user(lock)]
    debs = sorted({f"{deb.name}={deb.version}" for deb in lock.base.debs})
    install = "apt-get install --yes --no-install-recommends --allow-downgrades --allow-change-held-packages"
    return [
        "",
        f"FROM debian:{lock.base.suite}-slim AS base",
        "",
        *_run(
            [
                "apt-get update",
                f"DEBIAN_FRONTEND=noninteractive {install} {' '.join(debs)}",
                "rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*",
                "find / -xdev -type f -perm /6000 -exec chmod a-s {} +",
            ]
        ),
        *_user(lock),
    ]


def _user(lock: Lock) -> list[str]:
    return _run(
        [
            "groupadd --gid 1000 stoker",
            f"useradd --uid 1000 --gid 1000 --create-home --shell {login_shell(lock)} stoker",
            "install --directory --owner stoker --group stoker /workspace",
        ]
    )


def _packages(lock: Lock) -> list[str]:
    """The stage that installs what pip installs; pip itself stays behind in it."""
    lines = [
        "",
        "FROM base AS packages",
        "ARG PIP_INDEX_URL",
        *(f"ARG {_index_variable(name)}" for name in sorted({wheel.index for stack in lock.stacks for wheel in stack.wheels if wheel.index})),
        "WORKDIR /stoker",
        "COPY . .",
        "# pip serves this stage only, whichever version it has.",
        "# hadolint ignore=DL3008",
        *_run(["apt-get update", "apt-get install --yes --no-install-recommends python3-pip", "rm -rf /var/lib/apt/lists/*"]),
    ]
    for stack in lock.stacks:
        lines += _run(_stack(lock, stack))
    own = "python3 -m pip install --no-cache-dir --no-deps --target /opt/stoker/lib ."
    settings = f"PYTHONPATH=/opt/stoker/lib python3 -c {shlex.quote(_SETTINGS)} > settings.tar"
    return [
        *lines,
        *_run([f"SOURCE_DATE_EPOCH={FILE_TIME} {own}", settings, "mkdir /settings", "tar --extract --file settings.tar --directory /settings"]),
    ]


def _stack(lock: Lock, stack: LockedStack) -> Iterator[str]:
    """Yield the commands that make one stack. SOURCE_DATE_EPOCH makes pip's bytecode hold hashes of its sources instead of times (PEP 552)."""
    prefix = f"/opt/stoker/{stack.name}"
    yield f"python{lock.python} -m venv --without-pip {prefix}"
    wheels = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in stack.wheels]
    if wheels:
        yield "printf '%s\\n' " + " ".join(shlex.quote(wheel) for wheel in wheels) + " > requirements.txt"
        indexes = "".join(f' --extra-index-url "${_index_variable(name)}"' for name in sorted({one.index for one in stack.wheels if one.index}))
        install = "install --no-cache-dir --no-deps --only-binary :all: --require-hashes"
        yield f"SOURCE_DATE_EPOCH={FILE_TIME} python3 -m pip --python {prefix}/bin/python {install}{indexes} -r requirements.txt"
    yield f"echo /opt/stoker/lib > {_SITE.format(stack=stack.name, python=lock.python)}/stoker.pth"


def _image(lock: Lock) -> list[str]:
    variables = " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in sorted(environment(lock).items()))
    labels = " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in sorted(image_labels(lock).items()))
    return [
        "",
        "FROM base",
        *(f"COPY --from=packages /opt/stoker/{stack.name} /opt/stoker/{stack.name}" for stack in reversed(lock.stacks)),
        "COPY --from=packages /opt/stoker/lib /opt/stoker/lib",
        "COPY --from=packages /settings /",
        *(["COPY --from=packages --chown=1000:1000 /settings/home/stoker /home/stoker"] if "dev" in lock.variants else []),
        f"ENV {variables}",
        f"LABEL {labels}",
        "WORKDIR /workspace",
        "USER 1000",
        f"ENTRYPOINT {json.dumps(list(init(lock)))}",
        f"CMD {json.dumps(list(command(lock)))}",
    ]


def _run(commands: Sequence[str] | Iterator[str]) -> list[str]:
    """Return one RUN of several commands, long ones folded at their words' ends."""
    return ["RUN " + " \\\n && ".join(_folded(line) for line in commands)]


def _folded(line: str) -> str:
    """Break a line of many packages, one below the other: that is how a change of one is seen in a diff."""
    if line.startswith("printf"):
        return re.sub(r"' '", "' \\\n        '", line)
    if "apt-get install" in line and line.count(" ") > 12:
        return re.sub(r" (?=[a-z0-9][a-z0-9+.-]*=)", " \\\n        ", line)
    return line


def _index_variable(index: str) -> str:
    return f"TORCH_INDEX_{index.upper()}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'
