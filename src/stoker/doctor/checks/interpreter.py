"""Whether the Python can be asked, and whether its torch can be imported."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

from stoker import catalog
from stoker.doctor.checks.builds import install, reinstall
from stoker.doctor.facts import Facts
from stoker.doctor.facts.python import signal_name
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_OLDEST = (3, 10)  # pyproject.toml, requires-python
_LINES = 6
_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Warning): ")
_HOMELESS = re.compile(r"encodings|PYTHONHOME|platform (in)?dependent libraries|init_fs_encoding|SRE module mismatch")
# By signal: what to look at first.
_FIRST = {
    4: "lscpu | grep -i '^flags'   # in a virtual machine: pass the processor's flags through (-cpu host)",
    9: "dmesg | grep -i 'killed process'   # then: a larger memory limit for this container or job",
}


def python_missing(facts: Facts) -> Outcome:
    """The Python that is to be examined cannot be run.

    The file is not there, is not executable, is no Python, or does not answer. A virtual environment breaks this way when the Python that it was made
    from is removed or updated: its `bin/python` is a link into nowhere. To see it: run `PYTHON --version`. To mend it: name another Python
    (`stoker doctor --python PATH`), or make the environment anew with the packages that it had.
    """
    python = facts.python
    if not python.executable and python.error is None:
        return Skipped(reason="no Python was looked at")
    if python.error is None:
        return Passed(what=f"{python.executable} is Python {python.version_text} ({python.chosen})")
    name = (python.executable or repr(python.asked or ""))[:200]
    home = (f"PYTHONHOME={facts.variables['PYTHONHOME']}",) if home_breaks(facts) else ()
    return Finding(
        severity=Severity.ERROR,
        what=f"the Python {name} cannot be examined" + (": PYTHONHOME takes its standard library from it" if home else ""),
        evidence=(f"{name}: {python.error}", *home, f"why this one: {python.chosen}"),
        consequence="nothing can be trained with it, and nothing can be said about its torch",
        fix="unset PYTHONHOME"
        if home
        else "stoker doctor --python PATH   # the interpreter, or the folder of the environment, that the training uses",
    )


def home_breaks(facts: Facts) -> bool:
    """Tell whether the Python cannot start because PYTHONHOME names another one's library, by what it says then."""
    return "PYTHONHOME" in facts.variables and _HOMELESS.search(facts.python.error or "") is not None


def python_too_old(facts: Facts) -> Outcome:
    """This Python is older than any that today's PyTorch is built for.

    PyTorch drops old Python versions with its own releases, and Stoker needs Python 3.10. A package installer then quietly picks the last torch
    that still had a wheel, or says "no matching distribution found". To see it: `python --version`. To mend it: make an environment with a newer
    Python; `uv venv --python 3.12` fetches one. Source: the wheels of each release on the package index.
    """
    python = facts.python
    if python.version is None:
        return Skipped(reason="the version of the Python is not known")
    shown = python.version_text or ".".join(map(str, python.version))
    if python.version >= _OLDEST:
        return Passed(what=f"Python {shown} is not older than 3.10")
    works = python.torch is not None and python.torch.import_code == 0
    newest = catalog.torch_releases()[0]
    return Finding(
        severity=Severity.NOTE if works else Severity.ERROR,
        what=f"Python {shown} is too old for today's PyTorch",
        evidence=(f"{python.executable}: Python {shown}", f"torch {newest.version} is built for Python {newest.pythons[0]} to {newest.pythons[-1]}"),
        consequence="only releases of torch from years ago can be installed, and Stoker cannot run in it" if works else "torch cannot be installed",
        fix="uv venv --python 3.12 .venv && uv pip install --python .venv torch torchvision",
    )


def python_too_new(facts: Facts) -> Outcome:
    """PyTorch has no wheel for a Python as new as this one.

    A new Python comes out each October, and torch's wheels for it follow months later. Until then an installer says "no matching distribution
    found" or tries to build from source. To mend it: make the environment with an older Python. Source: the wheels of each release on the package
    index.
    """
    python = facts.python
    if python.version is None or python.torch is not None:
        return Skipped(reason="there is a torch, or the version of the Python is not known")
    newest = max(release.python_max for release in catalog.torch_releases())
    if python.version <= newest:
        return Passed(what=f"torch has wheels for Python {python.version[0]}.{python.version[1]}")
    if not (python.asked or python.active):
        return Skipped(reason="nobody said that this Python should train")
    return Finding(
        severity=Severity.ERROR,
        what=f"torch has no wheel for Python {python.version[0]}.{python.version[1]}",
        evidence=(f"{python.executable}: Python {python.version_text}", f"the newest Python with a torch wheel: {newest[0]}.{newest[1]}"),
        consequence="torch cannot be installed in it",
        fix=f"uv venv --python {newest[0]}.{newest[1]} .venv && uv pip install --python .venv torch torchvision",
    )


def torch_missing(facts: Facts) -> Outcome:
    """The environment has no PyTorch.

    `import torch` raises ModuleNotFoundError. Often it is installed in another Python than the one that is active. To see it: `python -c "import
    torch"`; `type -a python pip` shows which ones answer. Nothing is said of a machine's own Python: where training runs in containers or
    environments, it needs no torch.
    """
    python = facts.python
    if python.version is None or python.error is not None:
        return Skipped(reason="the Python could not be asked")
    if python.torch is not None:
        return Passed(what=f"torch {python.torch.version or 'of unknown version'} is in {python.torch.location}")
    if not (python.asked or python.active):
        return Skipped(reason="no torch in this Python, and nobody said that it should train")
    if isinstance(python_too_old(facts), Finding) or isinstance(python_too_new(facts), Finding):
        return Skipped(reason="torch has no wheel for this Python: see python-too-old, python-too-new")
    return Finding(
        severity=Severity.ERROR if python.asked else Severity.WARNING,
        what=f"there is no torch in {python.prefix or python.executable}",
        evidence=(f"{python.executable}: No module named 'torch'", f"why this Python: {python.chosen}"),
        consequence="nothing can be trained with this Python",
        fix=install(facts, "torch torchvision"),
    )


def torch_half_deleted(facts: Facts) -> Outcome:
    """Files of the installed torch are gone or cut short.

    An installation that was interrupted, a full disk, a clean-up by hand or a copy that broke off leaves a torch that the installer believes to be
    whole. Its RECORD lists every file with its size; this check compares the libraries and Python files with it. To see it: `uv pip check` and `pip
    check` do not notice; `python -c "import torch"` names at most the first file. To mend it: install the same version anew.
    """
    python = facts.python
    torch = python.torch
    if torch is None:
        return Skipped(reason="no torch")
    hollow = torch.import_code == 0 and torch.version is None
    if torch.missing_count == 0 and not hollow:
        return Passed(what=f"the files of torch {torch.version} are there")
    what = f"{torch.missing_count} files of torch are gone or damaged" if torch.missing_count > 1 else "a file of torch is gone or damaged"
    fails = torch.import_code != 0 or hollow or any(".so" in one for one in torch.missing_files)
    return Finding(
        severity=Severity.ERROR if fails else Severity.WARNING,
        what=f"{what} ({torch.location})" if torch.missing_count else f"{torch.location} is a folder without torch in it",
        evidence=(*torch.missing_files[:5], *last_lines(torch.import_text)[-1:]),
        consequence="torch cannot be imported" if torch.import_code != 0 else "what needs these files fails in the middle of a training",
        fix=reinstall(facts),
    )


def torch_dies_on_import(facts: Facts) -> Outcome:
    """`import torch` ends the process with a signal.

    SIGILL: the build uses instructions that this processor (or the virtual machine's model of it) does not have. SIGSEGV, SIGABRT: a library of
    another version was loaded in place of torch's own, two threading runtimes are in one process, or the files are damaged. SIGKILL: the memory
    limit of the container or job is below what torch's libraries take. No Python traceback exists in these cases. To see it: `python -X
    faulthandler -c "import torch"; echo $?`.
    """
    torch = facts.python.torch
    if torch is None or not torch.import_tried:
        return Skipped(reason="no torch, or its import was not tried")
    if torch.import_code is None or torch.import_code >= 0:
        return Passed(what="importing torch does not end the process")
    if isinstance(torch_half_deleted(facts), Finding):
        return Skipped(reason="see torch-half-deleted")
    meant = -torch.import_code
    first = _FIRST.get(meant) or f"env -u LD_LIBRARY_PATH -u LD_PRELOAD {command(facts, 'import torch')}"
    processor = facts.processor
    sets = (f"/proc/cpuinfo: {processor.model or 'model not told'}; of the SIMD sets only {', '.join(processor.flags)}",)
    return Finding(
        severity=Severity.ERROR,
        what=f"import torch dies: {signal_name(torch.import_code)}",
        evidence=(
            f"{command(facts, 'import torch')} ended with {signal_name(torch.import_code)}",
            *last_lines(torch.import_text),
            *(sets if meant == signal.SIGILL and processor.flags and "avx2" not in processor.flags else ()),
        ),
        consequence="every training ends before its first line, without a traceback",
        fix=f"{first}\n{reinstall(facts)}",
    )


def torch_import_hangs(facts: Facts) -> Outcome:
    """`import torch` does not come to an end.

    A network disk whose server does not answer, a file lock left behind, or another package's start-up code (a `sitecustomize.py`, a `.pth` file,
    an entry point of `torch.backends`) that waits for something. The evidence shows the place in the code where it stood. To see it: `python -X
    importtime -c "import torch"`.
    """
    torch = facts.python.torch
    if torch is None or not torch.import_tried:
        return Skipped(reason="no torch, or its import was not tried")
    if torch.import_code is not None:
        return Passed(what="importing torch comes to an end")
    return Finding(
        severity=Severity.ERROR,
        what="import torch hangs",
        evidence=last_lines(torch.import_text) or ("no answer within the time limit",),
        consequence="every training hangs before its first line",
        fix=(
            f"{shlex.quote(facts.python.executable)} -X importtime -c 'import torch'   # the last line names the module that hangs\n"
            f"TORCH_DEVICE_BACKEND_AUTOLOAD=0 {command(facts, 'import torch')}   # when that works: another package's start-up code"
        ),
    )


def torch_import_fails(facts: Facts) -> Outcome:
    """`import torch` raises an error.

    The last lines say why. "lib....so: cannot open shared object file": a package that torch depends on was not installed (`--no-deps`, a lock made
    on another system). "undefined symbol" or "version ... not found": a library of another version was loaded. "No module named": a Python package
    is missing. Installing the same version anew with its dependencies repairs all of these unless a variable of the environment is the cause.
    """
    torch = facts.python.torch
    if torch is None or not torch.import_tried:
        return Skipped(reason="no torch, or its import was not tried")
    if torch.import_code is None or torch.import_code <= 0:
        return Passed(what="importing torch raises nothing") if torch.import_code == 0 else Skipped(reason="the import did not raise, it never ended")
    if isinstance(torch_half_deleted(facts), Finding):
        return Skipped(reason="see torch-half-deleted")
    if any(Path(library.path).name in torch.import_text for library in facts.python.library_path):
        return Skipped(reason="a library on LD_LIBRARY_PATH is named in the error: see foreign-cuda-on-library-path")
    return Finding(
        severity=Severity.ERROR,
        what=f"torch {torch.version or ''} cannot be imported".replace("  ", " "),
        evidence=last_lines(torch.import_text) or (f"{command(facts, 'import torch')} ended with status {torch.import_code}",),
        consequence="nothing can be trained with this Python",
        fix=reinstall(facts),
    )


def last_lines(text: str) -> tuple[str, ...]:
    """Return of an error's text what is worth showing: its error lines, or the innermost places of a crash or a hang, else its last lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    if any(line.startswith(("Timeout (", "Fatal Python error")) for line in lines):
        return tuple(lines[:_LINES])
    errors = [number for number, line in enumerate(lines) if _ERROR.match(line)]
    return tuple(lines[number] for number in errors[-3:-1]) + tuple(lines[errors[-1] :][:_LINES]) if errors else tuple(lines[-_LINES:])


def command(facts: Facts, code: str) -> str:
    """Return the command that runs a line of code in the examined Python."""
    return f"{shlex.quote(facts.python.executable)} -c {shlex.quote(code)}"


CHECKS: tuple[Check, ...] = (
    python_missing,
    python_too_old,
    python_too_new,
    torch_missing,
    torch_half_deleted,
    torch_dies_on_import,
    torch_import_hangs,
    torch_import_fails,
)
