"""The Python that trains, and the torch in it: asked in child processes with time limits, for torch may hang or die on import."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from stoker import shell
from stoker.doctor.facts import probe
from stoker.doctor.facts.interpreter import choose

_PROBE = Path(probe.__file__)
_OURS = f'File "{_PROBE}"'
_HANGS = "Timeout ("  # how faulthandler begins when it ends a process that hangs
_REPORTS = (_HANGS, "Fatal Python error")
_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception): ")
_LINES = 12
_MOST = 2000
_MOST_LIBRARIES = 200


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One copy of a package among several that are installed."""

    name: str = ""
    version: str | None = None
    location: str = ""
    """The folder on sys.path that holds it."""
    installer: str | None = None
    """What put it there: pip, uv, conda; None: it does not say."""
    origin: str = ""
    """Why its folder is on sys.path: "environment", "user site", "PYTHONPATH", "base Python" (a venv with system packages) or "other"."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A shared library of CUDA or of a threading runtime."""

    name: str = ""
    """As `libcudart`."""
    path: str = ""
    real: str = ""
    """The path after links, by which a process knows it."""
    version: str | None = None
    """As the file's name says it, after links: "12.8.90", "13"."""
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Companion:
    """torchvision, which has compiled operators that must fit torch."""

    version: str | None = None
    location: str = ""
    runs: bool | None = None
    """Whether its compiled operators can be loaded and one of them (nms) runs; None: not tried."""
    error: str = ""
    """What was raised meanwhile, or which signal ended the process."""


@dataclass(frozen=True, kw_only=True)
class Torch:
    """The torch that `import torch` finds."""

    version: str | None = None
    """With its local part where it has one: "2.13.0+cu130"."""
    cuda: str | None = None
    """The CUDA it was built with, as "13.0"; None: built without (or not known, when `version` is None too)."""
    hip: str | None = None
    """The ROCm it was built with; None: built without."""
    git: str | None = None
    location: str = ""
    """Its package folder, as `.../site-packages/torch`."""
    installer: str | None = None
    """pip, uv or conda; None: it does not say."""
    architectures: tuple[str, ...] = ()
    """GPU architectures in the wheel: "sm_90" (machine code), "compute_120" (PTX)."""
    missing_files: tuple[str, ...] = ()
    """Files that its RECORD lists and that are not there or have another size, the first 20: "torch/lib/libtorch_cpu.so: missing"."""
    missing_count: int = 0
    """How many there are in all."""
    import_tried: bool = False
    """Whether the import was tried at all."""
    import_code: int | None = None
    """0: it can be imported; 1: it raised; negative: the signal that ended the process; None: no answer within the time limit (or not tried)."""
    import_text: str = ""
    """The last lines of what it said when it could not be imported."""
    import_s: float | None = None
    """Seconds that the import took."""
    available: bool | None = None
    """torch.cuda.is_available()."""
    available_text: str = ""
    """The warnings that is_available() gave."""
    device_count: int | None = None
    """torch.cuda.device_count(), which can be above 0 though nothing works."""
    cuda_error: str | None = None
    """What torch.cuda.init() raised; None: nothing, or not tried. No kernel is run: that would take memory of a GPU on which somebody trains."""
    cuda_code: int | None = None
    """0: CUDA was asked to its end; negative: the signal that ended the process meanwhile; None: no answer within the time limit, or not tried."""
    cuda_text: str = ""
    """The last lines of what the process said when it did not come to its end."""
    cudnn: int | None = None
    """The version of cuDNN that is loaded, as 91900 for 9.19.0."""
    cudnn_text: str = ""
    """What torch says when the loaded cuDNN is not one that it can work with."""
    nccl: str | None = None
    threads: int | None = None
    """Threads that CPU operators use."""
    parallel: str | None = None
    """The lines of parallel_info() that name the runtimes: OpenMP, MKL."""
    pins: dict[str, str] = field(default_factory=dict)
    """What its metadata demands of nvidia packages and triton on this system: name -> "==12.8.90"."""


@dataclass(frozen=True, kw_only=True)
class Python:
    """One Python, and what is installed in it."""

    executable: str = ""
    asked: str | None = None
    """What the person asked for with --python; None: nothing, it was chosen."""
    chosen: str = ""
    """Why this one: "it is the active environment (VIRTUAL_ENV)"."""
    active: bool = False
    """Whether it is an environment that somebody activated."""
    version: tuple[int, int] | None = None
    """As (3, 12); None: it could not be asked."""
    version_text: str | None = None
    """As "3.12.1"."""
    error: str | None = None
    """Why it could not be asked; None: it could."""
    prefix: str | None = None
    base_prefix: str | None = None
    """The Python that a venv was made from; the same as `prefix` when it is no venv."""
    conda: bool = False
    """Whether it is a conda environment."""
    folder: str | None = None
    """The working directory."""
    user_site: str | None = None
    """The person's own site-packages, when it is on sys.path."""
    path: tuple[str, ...] = ()
    """sys.path, without the probe's own folder."""
    packages: dict[str, str] = field(default_factory=dict)
    """Installed distributions, as `import` would find them: name in lower case with dashes -> version."""
    conda_packages: dict[str, str] = field(default_factory=dict)
    """What conda says that it installed, of the packages that matter here: name -> version and build."""
    copies: tuple[Copy, ...] = ()
    """The copies of torch, torchvision, torchaudio, numpy and triton, in the order of sys.path."""
    from_user_site: tuple[str, ...] = ()
    """Packages that matter here and come from the user site: "numpy 1.26.4"."""
    leftovers: tuple[str, ...] = ()
    """Folders in site-packages that pip renamed while it replaced a package, and never removed: "~orch"."""
    shadows: tuple[str, ...] = ()
    """Files of the working directory that hide a module which torch needs: "torch.py"."""
    torch: Torch | None = None
    """None: there is none (when `version` is known)."""
    torchvision: Companion | None = None
    triton_error: str | None = None
    """What `import triton` raised; None: it can be imported, is not there, or was not tried."""
    compiler: str | None = None
    """The C++ compiler that torch.compile would call; None: there is none (when `version` is known)."""
    c_compiler: str | None = None
    """The C compiler that Triton would call; None: there is none (when `version` is known)."""
    headers: str | None = None
    """Where Python.h stands; None: nowhere (when `version` is known)."""
    own_libraries: tuple[Library, ...] = ()
    """Libraries of CUDA that came with torch: in its own folder and in the nvidia packages beside it."""
    loaded: tuple[Library, ...] = ()
    """Libraries of CUDA and OpenMP in the process after the import, from /proc/self/maps."""
    library_path: tuple[Library, ...] = ()
    """Libraries of CUDA in the folders of LD_LIBRARY_PATH."""
    preload_missing: tuple[str, ...] = ()
    """Files named in LD_PRELOAD that are not there."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each probe took."""


def gather_python(python: str | None = None, *, limit_s: float = 20.0) -> Python:
    """Choose the Python that is meant, and ask it. Raises nothing.

    Costs 1.5-3 s where the disk's cache holds torch (two child processes at once: what is installed, and import torch), and at most
    `limit_s` and a few seconds where it hangs. With `python` (a program, a name on PATH or the folder of an environment) that one is examined.
    """
    choice = Python(**vars(choose(python)))
    if choice.error is not None:
        return choice
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(_ask, choice.executable, what, limit) for what, limit in (("installed", min(limit_s, 10.0)), ("torch", limit_s))]
        installed, imported = (one.result() for one in asked)
    found = _installed(choice, installed)
    return replace(
        found,
        library_path=_on_library_path(os.environ.get("LD_LIBRARY_PATH", "")),
        preload_missing=_missing_preloads(os.environ.get("LD_PRELOAD", "")),
        torch=_torch(found.torch, imported),
        torchvision=_companion(found.packages.get("torchvision"), imported),
        triton_error=imported.stage("triton").get("triton_error"),
        loaded=_libraries(imported.stage("loaded").get("loaded")),
        seconds={"installed": installed.seconds, "torch": imported.seconds},
    )


# --- what it answers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What one probe said."""

    stages: tuple[dict[str, Any], ...]
    code: int | None
    """0: it came to its end; otherwise as in `shell.Outcome`; None also when it ended itself after its time limit."""
    text: str
    seconds: float

    def stage(self, name: str) -> dict[str, Any]:
        """Return the last output of a stage; empty when it did not get there."""
        return next((stage for stage in reversed(self.stages) if stage.get("stage") == name), {})


def _ask(executable: str, what: str, limit_s: float) -> _Answer:
    """Run one probe. It ends itself at `limit_s` and says where it hangs; a process that cannot even do that is killed three seconds later."""
    begin = time.monotonic()
    outcome = shell.run([executable, str(_PROBE), what, f"{limit_s:g}"], timeout_s=limit_s + 3)
    stages = []
    for line in outcome.out.splitlines():
        if line.startswith(probe.MARK):
            with contextlib.suppress(ValueError):
                stages.append(json.loads(line[len(probe.MARK) :]))
    late = outcome.code == 1 and _HANGS in outcome.err
    text = _telling(outcome.err if outcome.err.strip() or stages else outcome.out)
    return _Answer(stages=tuple(stages), code=None if late else outcome.code, text=text, seconds=round(time.monotonic() - begin, 2))


def _telling(text: str) -> str:
    """Return the lines of an error output that tell, bounded.

    Python's report of a crash or a hang begins with the innermost place; a traceback ends with the error, and one error may have followed
    from another, whose line is then worth as much.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and "<frozen importlib" not in line and _OURS not in line]
    report = next((number for number, line in enumerate(lines) if line.startswith(_REPORTS)), None)
    if report is not None:
        return "\n".join(lines[max(0, report - 3) : report + _LINES])[:_MOST]
    earlier = [line for line in lines[:-_LINES] if _ERROR.match(line)]
    return "\n".join(earlier[-3:] + lines[-_LINES:])[-_MOST:]


def _installed(choice: Python, answer: _Answer) -> Python:
    said = dict(answer.stage("installed"))
    if not said:
        return replace(choice, error=_no_answer(answer), **_version_of(choice.executable))
    known = {field.name for field in fields(Python)}
    said["version"] = tuple(said["version"])
    said["executable"] = said["executable"] or choice.executable
    said["copies"] = tuple(Copy(**copy) for copy in said["copies"])
    said["own_libraries"] = _libraries(said["own_libraries"])
    said["torch"] = _on_disk(said["torch"])
    return replace(choice, **_tuples({name: value for name, value in said.items() if name in known}))


def _no_answer(answer: _Answer) -> str:
    if answer.code is None:
        return answer.text or "it did not answer in time"
    how = (
        f"it was ended by {signal_name(answer.code)}"
        if answer.code < 0
        else f"it ended with status {answer.code}, and is no Python that can run a script"
    )
    return f"{how}: {answer.text}" if answer.text else how


def signal_name(code: int) -> str:
    """Return `signal 11 (SIGSEGV)` for the negative exit status -11."""
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def _version_of(executable: str) -> dict[str, Any]:
    """Return the version of a Python too old for the probe itself (2.7)."""
    found = re.match(r"(\d+)\.(\d+)\.\d+", shell.run([executable, "-c", "import sys; sys.stdout.write(sys.version)"], timeout_s=3).out)
    return {"version": (int(found[1]), int(found[2])), "version_text": found[0]} if found else {}


def _on_disk(said: dict[str, Any] | None) -> Torch | None:
    return Torch(**_tuples(said)) if said else None


def _tuples(said: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


def _torch(on_disk: Torch | None, answer: _Answer) -> Torch | None:
    """Return what is on the disk, with what the import said: that is the torch which a training gets."""
    if answer.stage("missing") or (on_disk is None and not answer.stage("import")):
        return on_disk
    imported, cuda = answer.stage("import"), answer.stage("cuda")
    found = on_disk or Torch()
    if imported:
        location = str(Path(imported["file"]).parent) if imported.get("file") else found.location
        other = location != found.location and bool(imported.get("file"))
        found = replace(
            Torch(installer=None) if other else found,
            version=imported.get("version"),  # none: a folder named torch without torch in it
            cuda=imported.get("cuda"),
            hip=imported.get("hip"),
            location=location,
            architectures=tuple(imported.get("architectures") or found.architectures),
            import_s=imported.get("import_s"),
            threads=imported.get("threads"),
            parallel=imported.get("parallel"),
        )
    code = 0 if imported else answer.code
    return replace(
        found,
        import_tried=True,
        import_code=code,
        import_text="" if imported else answer.text,
        available=cuda.get("available"),
        available_text=cuda.get("available_text", ""),
        device_count=cuda.get("device_count"),
        cuda_error=cuda.get("cuda_error"),
        nccl=cuda.get("nccl"),
        cuda_code=answer.code if imported else None,
        cuda_text=answer.text if imported and not answer.stage("end") else "",
        cudnn=answer.stage("cudnn").get("cudnn"),
        cudnn_text=answer.stage("cudnn").get("cudnn_text", ""),
    )


def _companion(installed: str | None, answer: _Answer) -> Companion | None:
    said = answer.stage("torchvision")
    if said:
        error = said["error"] or ""
        return Companion(version=said["version"] or installed, location=said["location"], runs=not error, error=error)
    if answer.stage("torchvision begins"):
        return Companion(version=installed, runs=False, error=_no_answer(answer))
    return Companion(version=installed) if installed else None


def _libraries(said: list[dict[str, Any]] | None) -> tuple[Library, ...]:
    return tuple(Library(**one) for one in said or ())


# --- what the loader is told -------------------------------------------------------------------------------------------


def _on_library_path(variable: str) -> tuple[Library, ...]:
    """Return the CUDA libraries in the folders of LD_LIBRARY_PATH, in the order in which the loader would look."""
    found: list[Library] = []
    for folder in dict.fromkeys(part for part in variable.split(":") if part):
        found += [
            Library(**probe.library(os.path.join(folder, name))) for name in probe.names_in(folder) if ".so" in name and probe.LIBRARY.match(name)
        ]
    return tuple(found[:_MOST_LIBRARIES])


def _missing_preloads(variable: str) -> tuple[str, ...]:
    # The loader takes spaces and colons as separators; a bare name is looked up, only a path can be seen to be missing.
    return tuple(part for part in re.split(r"[ :]+", variable) if "/" in part and "$" not in part and not os.path.exists(part))
