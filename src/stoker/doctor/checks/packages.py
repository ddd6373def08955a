"""Whether the packages around torch fit it: copies, torchvision, CUDA libraries, numpy, what torch.compile needs."""

from __future__ import annotations

import re

from stoker.doctor.checks import copies, libraries
from stoker.doctor.checks.builds import find_release, install, into, numbers
from stoker.doctor.checks.interpreter import home_breaks, last_lines
from stoker.doctor.checks.wheel import gpu_reaches
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_NUMPY_2 = (2, 3)  # the first torch built for NumPy 2 on all systems: release notes of torch 2.3


def torchvision_does_not_pair(facts: Facts) -> Outcome:
    """torchvision was built for another torch.

    torchvision holds compiled operators, and each release is built for one release of torch. With another one the library is not loaded: "operator
    torchvision::nms does not exist", "undefined symbol", or torch and torchvision "were compiled with different CUDA major versions". It happens
    when one of the two is upgraded alone. This check loads the operators and runs one. Source: Requires-Dist in torchvision's metadata.
    """
    python = facts.python
    if python.torch is None or python.torch.version is None or python.torchvision is None or python.torchvision.version is None:
        return Skipped(reason="no torch and torchvision whose versions are known")
    if python.torch.import_tried and python.torch.import_code != 0:
        return Skipped(reason="torch itself cannot be imported")
    if isinstance(copies.torch_twice(facts), Finding):
        return Skipped(reason="see torch-twice")
    torch, own = python.torch.version, python.torchvision
    release = find_release(torch)
    pairs = release.torchvision if release else ()
    paired = not pairs or numbers(own.version) in [numbers(pair) for pair in pairs]
    if own.runs is not False and (own.runs or paired):
        return Passed(what=f"torchvision {own.version} works with torch {torch}")
    fails = own.runs is False
    says = f"; torch {release.version} pairs with torchvision {' or '.join(pairs)}" if release and pairs else ""
    return Finding(
        severity=Severity.ERROR if fails else Severity.WARNING,
        what=f"torchvision {own.version} {'does not work' if fails else 'was not built'} with torch {torch}",
        evidence=(f"torch {torch}, torchvision {own.version}{says}", *last_lines(own.error)),
        consequence="import torchvision fails, and with it every training that uses its models or transforms",
        fix=_paired_fix(facts, "torchvision", pairs),
    )


def torchaudio_does_not_pair(facts: Facts) -> Outcome:
    """torchaudio was built for another torch.

    Up to 2.11 each release of torchaudio is built for one release of torch, and importing it with another one fails with "undefined symbol". Image
    training does not need it; remove it when nothing else does. Source: Requires-Dist in torchaudio's metadata.
    """
    torch, own = facts.python.torch, facts.python.packages.get("torchaudio")
    release = find_release(torch.version) if torch is not None else None
    if own is None or release is None or not release.torchaudio:
        return Skipped(reason="no torchaudio, or its pair is not known")
    if numbers(own) in [numbers(pair) for pair in release.torchaudio]:
        return Passed(what=f"torchaudio {own} pairs with torch {release.version}")
    return Finding(
        severity=Severity.WARNING,
        what=f"torchaudio {own} was not built for torch {release.version}",
        evidence=(f"torch {release.version} pairs with torchaudio {' or '.join(release.torchaudio)}",),
        consequence="import torchaudio fails, and what imports it",
        fix=_paired_fix(facts, "torchaudio", release.torchaudio),
    )


def numpy_too_new(facts: Facts) -> Outcome:
    """NumPy 2 is installed beside a torch that was built for NumPy 1.

    torch up to 2.2 was compiled against NumPy 1. It can be imported, with a warning, and every exchange of data fails: "RuntimeError: Numpy is not
    available". To see it: `python -c "import torch; torch.zeros(1).numpy()"`. Source: torch 2.3 release notes.
    """
    torch, own = facts.python.torch, facts.python.packages.get("numpy")
    version = numbers(torch.version) if torch is not None else ()
    if torch is None or not version or own is None:
        return Skipped(reason="no torch and numpy whose versions are known")
    if numbers(own) < (2,) or version >= _NUMPY_2:
        return Passed(what=f"torch {torch.version} works with numpy {own}")
    return Finding(
        severity=Severity.ERROR,
        what=f"numpy {own} is too new for torch {torch.version}",
        evidence=(f"torch {torch.version}, numpy {own}",),
        consequence='tensors cannot be made from arrays, nor arrays from tensors: "Numpy is not available"',
        fix=install(facts, "'numpy<2'"),
    )


def triton_missing(facts: Facts) -> Outcome:
    """Triton is not there, or cannot be imported: torch.compile does not work on the GPU.

    torch.compile writes its GPU kernels in Triton, which comes as a package of its own and is left out by `--no-deps` and by some images that save
    space. To see it: `python -c "import triton"`.
    """
    python = facts.python
    torch = python.torch
    if torch is None or torch.import_code != 0 or torch.cuda is None or not gpu_reaches(facts):
        return Skipped(reason="no working torch with CUDA on a machine with a GPU")
    own = python.packages.get("triton") or python.packages.get("pytorch-triton")
    if own and python.triton_error is None:
        return Passed(what=f"triton {own} is there")
    wanted = torch.pins.get("triton")
    # Older ones need setuptools without saying so in their metadata (triton 3.1.0): there is nothing wrong with triton itself.
    lacking = re.search(r"No module named '(?!triton)([\w-]+)", python.triton_error or "")
    again = f"{into(facts)} --reinstall-package triton triton" + (f"=={wanted}" if wanted else "")
    return Finding(
        severity=Severity.WARNING,
        what=f"triton {own} cannot be imported" + (f": it needs {lacking[1]}" if lacking else "") if own else "triton is not installed",
        evidence=last_lines(python.triton_error or "") or (f"{python.executable}: no package triton",),
        consequence="torch.compile fails on the GPU; what it would gain is lost",
        fix=f"{into(facts)} {lacking[1]}" if own and lacking else again,
    )


def triton_does_not_pair(facts: Facts) -> Outcome:
    """Triton is of another version than this torch asks for.

    torch.compile uses Triton's insides, and each torch names the version that it was written for. Another one mostly ends in an ImportError or an
    AttributeError in the middle of compiling. Some other package has replaced it. Source: Requires-Dist in torch's metadata.
    """
    torch, own = facts.python.torch, facts.python.packages.get("triton")
    wanted = torch.pins.get("triton") if torch is not None else None
    if own is None or wanted is None:
        return Skipped(reason="no triton, or torch names no exact version")
    if own.partition("+")[0] == wanted.partition("+")[0]:
        return Passed(what=f"triton {own} is what torch asks for")
    return Finding(
        severity=Severity.WARNING,
        what=f"triton {own} is installed; torch asks for {wanted}",
        evidence=(f"Requires-Dist: triton=={wanted}", f"installed: triton {own}"),
        consequence="torch.compile may fail on the GPU",
        fix=install(facts, f"triton=={wanted}"),
    )


def compiler_missing(facts: Facts) -> Outcome:
    """There is no compiler for torch.compile.

    On the processor torch.compile writes C++ and calls g++ (or CXX); on a GPU Triton compiles a small C program with gcc or clang (or CC) for each
    kernel. Without one: "Failed to find C compiler" or "No working C++ compiler found". Slim container images have none. To see it: `g++ --version`.
    """
    python = facts.python
    torch = python.torch
    if python.error is not None or torch is None or torch.import_code != 0:
        return Skipped(reason="no torch that can be imported")
    gpu = gpu_reaches(facts) and torch.cuda is not None
    found = python.c_compiler if gpu else python.compiler
    if found is not None:
        return Passed(what=f"torch.compile can call {found}")
    variable = "CC" if gpu else "CXX"
    set_to = facts.variables.get(variable)
    return Finding(
        severity=Severity.WARNING if gpu else Severity.NOTE,
        what=f"there is no {'C' if gpu else 'C++'} compiler",
        evidence=(f"{variable}={set_to}: there is no such program" if set_to else f"{'gcc, clang' if gpu else 'g++, gcc, clang++'}: not on PATH",),
        consequence="torch.compile fails; a training falls back to the slower plain way, or ends",
        fix=f"unset {variable}" if set_to else _system_packages(facts, "g++ python3-dev", "gcc-c++ python3-devel"),
    )


def python_headers_missing(facts: Facts) -> Outcome:
    """Python.h is not there, which torch.compile needs.

    Triton and torch's own compiler build small extension modules, which include Python.h. A system's Python has it in a package of its own. The
    error is "fatal error: Python.h: No such file or directory" in the middle of compiling. To see it: `python -c "import sysconfig;
    print(sysconfig.get_paths()['include'])"`.
    """
    python = facts.python
    if python.version is None or python.torch is None or python.torch.import_code != 0:
        return Skipped(reason="no torch that can be imported")
    if python.headers is not None:
        return Passed(what=f"{python.headers} is there")
    if isinstance(compiler_missing(facts), Finding):
        return Skipped(reason="no compiler either: see compiler-missing")
    gpu = gpu_reaches(facts) and python.torch.cuda is not None
    version = ".".join(map(str, python.version))
    return Finding(
        severity=Severity.WARNING if gpu else Severity.NOTE,
        what=f"Python.h of Python {version} is not there",
        evidence=(f"{python.executable}: no Python.h in its include folder (base: {python.base_prefix})",),
        consequence="torch.compile fails with `fatal error: Python.h: No such file or directory`",
        fix=_system_packages(facts, f"python{version}-dev", "python3-devel"),
    )


def preload_missing(facts: Facts) -> Outcome:
    """LD_PRELOAD names a library that is not there.

    The loader says "object ... from LD_PRELOAD cannot be preloaded: ignored" at the start of every program and goes on without it: the faster memory
    allocator (jemalloc, tcmalloc) that was meant is not used. To see it: `echo $LD_PRELOAD`.
    """
    if "python" in facts.unread:
        return Skipped(reason="the Python could not be looked at")
    missing = facts.python.preload_missing
    if not missing:
        return Passed(what="LD_PRELOAD names nothing that is missing")
    return Finding(
        severity=Severity.WARNING,
        what=f"LD_PRELOAD names {missing[0]}, which is not there",
        evidence=(f"LD_PRELOAD={facts.variables.get('LD_PRELOAD', ' '.join(missing))}", *(f"{path}: no such file" for path in missing)),
        consequence="the library is silently not used, and every program complains about it",
        fix="unset LD_PRELOAD   # or install what it names",
    )


def interrupted_upgrade(facts: Facts) -> Outcome:
    """An upgrade by pip was interrupted and left the old files behind under another name.

    pip renames what it removes (`torch` to `~orch`) until the new version is in place. When it is killed meanwhile these folders stay, with gigabytes
    in them, and pip warns of an "invalid distribution" from then on. Nothing imports them.
    """
    if facts.python.version is None:
        return Skipped(reason="the Python could not be asked")
    left = facts.python.leftovers
    if not left:
        return Passed(what="no left-overs of an interrupted upgrade")
    return Finding(
        severity=Severity.NOTE,
        what=f"{len(left)} folder{'s' * (len(left) > 1)} of an interrupted upgrade {'are' if len(left) > 1 else 'is'} left",
        evidence=left[:6],
        consequence="they take space on the disk, and pip warns at every call",
        fix="\n".join(f"rm -r '{path}'" for path in left[:6]),
    )


def pythonhome_set(facts: Facts) -> Outcome:
    """PYTHONHOME points Python to another installation's library.

    It replaces the standard library of every Python that is started, virtual environments too: "Could not find platform independent libraries" or "No
    module named 'encodings'". Modules of some clusters set it. No training needs it.
    """
    home, python = facts.variables.get("PYTHONHOME"), facts.python
    if home is None:
        return Passed(what="PYTHONHOME is not set")
    if home_breaks(facts):
        return Skipped(reason="no Python starts with it: see python-missing")
    if python.error is None and home.rstrip("/") in (python.prefix, python.base_prefix):
        return Passed(what="PYTHONHOME is the Python's own folder")
    return Finding(
        severity=Severity.WARNING,
        what=f"PYTHONHOME is set to {home}",
        evidence=(f"PYTHONHOME={home}",),
        consequence="every Python takes its standard library from there, and fails where that is of another version",
        fix="unset PYTHONHOME",
    )


def _paired_fix(facts: Facts, name: str, pairs: tuple[str, ...]) -> str:
    torch = facts.python.torch
    version, _, local = (torch.version if torch is not None and torch.version else "").partition("+")
    release = find_release(version)
    default = release is None or not local or release.default_for(facts.system.architecture or "x86_64") == local
    wanted = f"{name}=={pairs[0]}" if pairs else name
    return f"{into(facts)} --reinstall-package {name} 'torch=={version}' '{wanted}'" + ("" if default else f" --torch-backend={local}")


def _system_packages(facts: Facts, debian: str, fedora: str) -> str:
    os_name = (facts.system.os or "").lower()
    if any(word in os_name for word in ("fedora", "red hat", "rocky", "alma", "centos", "amazon")):
        return f"sudo dnf install {fedora}"
    return f"sudo apt-get install {debian}"


CHECKS: tuple[Check, ...] = (
    *copies.CHECKS,
    *libraries.CHECKS,
    torchvision_does_not_pair,
    torchaudio_does_not_pair,
    numpy_too_new,
    triton_missing,
    triton_does_not_pair,
    compiler_missing,
    python_headers_missing,
    pythonhome_set,
    preload_missing,
    interrupted_upgrade,
)
