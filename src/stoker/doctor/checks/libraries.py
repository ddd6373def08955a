"""Whether the CUDA and OpenMP libraries in the process are the ones that came with torch."""

from __future__ import annotations

import re
from pathlib import Path

from stoker.doctor.checks.builds import reinstall
from stoker.doctor.checks.interpreter import last_lines
from stoker.doctor.facts import Facts
from stoker.doctor.facts.python import Library
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

# Packages whose files have the same place and name for each CUDA: the one that was installed last has overwritten the other.
_SAME_PLACE = ("nvidia-cudnn", "nvidia-nccl", "nvidia-cusparselt", "nvidia-nvshmem")
_DRIVER = ("libcuda", "libnvidia-ml")


def foreign_cuda_on_library_path(facts: Facts) -> Outcome:
    """A CUDA library on LD_LIBRARY_PATH takes the place of torch's own.

    torch brings its CUDA libraries and finds most of them by a path that is built in, which wins over LD_LIBRARY_PATH. Three doors stay open: a
    library that torch's packages lack, a torch that was built without that path (conda, from source), and the parts that cuDNN loads itself when it
    is first used (`libcudnn_graph.so.9`, ...), which do follow the variable. Then versions mix: "undefined symbol", "file too short",
    CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH, or an abort. Folders there that nothing is taken from do no harm, and nothing is said. To see it:
    `LD_DEBUG=libs python -c "import torch" 2>&1 | grep -E "calling init.*(cuda|cudnn|cublas)"`.
    """
    python = facts.python
    if python.torch is None or not python.torch.import_tried:
        return Skipped(reason="no torch, or its import was not tried")
    listed = [library for library in python.library_path if library.name not in _DRIVER]
    if not listed:
        return Passed(what="no CUDA library on LD_LIBRARY_PATH")
    for library, why in (_named_in_error(facts, listed), _loaded_from(facts, listed), _would_be_loaded(facts, listed)):
        if library is not None:
            refused = bool(python.torch.cudnn_text)
            failed = refused or python.torch.import_code != 0 or (python.torch.cuda_code or 0) < 0
            folder = str(Path(library.path).parent)
            return Finding(
                severity=Severity.ERROR if failed else Severity.WARNING,
                what=f"{library.path} on LD_LIBRARY_PATH takes the place of torch's own",
                evidence=(
                    f"LD_LIBRARY_PATH={facts.variables.get('LD_LIBRARY_PATH', folder)}",
                    why,
                    *_said(facts),
                    *last_lines(python.torch.cudnn_text),
                ),
                consequence="torch refuses cuDNN: no convolution runs"
                if refused
                else "torch cannot be used"
                if failed
                else "versions of CUDA libraries mix: wrong choices, errors or a crash at first use",
                fix=f"unset LD_LIBRARY_PATH   # torch brings its own; or take {folder} out of it",
            )
    return Passed(what=f"{len(listed)} CUDA libraries on LD_LIBRARY_PATH, and none is taken from there")


def cudnn_foreign(facts: Facts) -> Outcome:
    """The cuDNN in the process is not the one that came with torch, or torch refuses it.

    torch checks at first use that cuDNN is not older than the one that it was built with: "PyTorch was compiled against (9, 1, 0) but found runtime
    version (8, 9, 2)". Another package may have loaded a copy before, or the cuDNN package was replaced alone. To see it: `python -c "import torch;
    print(torch.backends.cudnn.version())"`.
    """
    python = facts.python
    torch = python.torch
    if torch is None or torch.import_code != 0:
        return Skipped(reason="torch cannot be imported")
    if isinstance(foreign_cuda_on_library_path(facts), Finding):
        return Skipped(reason="see foreign-cuda-on-library-path")
    own = {_real(library) for library in python.own_libraries if library.name.startswith("libcudnn")}
    foreign = [one for one in python.loaded if one.name.startswith("libcudnn") and own and _real(one) not in own]
    if not foreign and not torch.cudnn_text:
        return Passed(what=f"cuDNN {torch.cudnn} is torch's own" if own else "torch accepts its cuDNN")
    return Finding(
        severity=Severity.ERROR if torch.cudnn_text else Severity.WARNING,
        what="torch refuses the cuDNN that is loaded" if torch.cudnn_text else "the cuDNN that is loaded is not the one that came with torch",
        evidence=(*last_lines(torch.cudnn_text), *(f"loaded: {library.path}" for library in foreign[:4])),
        consequence="convolutions fail, or run on other code than torch was tested with",
        fix=reinstall(facts) if not foreign else f"env -u LD_PRELOAD -u LD_LIBRARY_PATH python train.py\n{reinstall(facts)}",
    )


def nvidia_packages_mixed(facts: Facts) -> Outcome:
    """CUDA packages for two CUDA versions have written the same files.

    `nvidia-cudnn-cu12` and `nvidia-cudnn-cu13` (and those of NCCL, cuSPARSELt and NVSHMEM) put libraries of the same name into the same folder: the
    one that was installed last wins, and torch may load a build for another CUDA. It happens when torch is upgraded across a CUDA version with
    `--no-deps`, or beside JAX or TensorFlow. To see it: `uv pip list | grep nvidia`.
    """
    torch, packages = facts.python.torch, facts.python.packages
    if torch is None or torch.cuda is None or not packages:
        return Skipped(reason="no torch with CUDA")
    mine = f"cu{torch.cuda.partition('.')[0]}"
    mixed = []
    for base in _SAME_PLACE:
        there = [name for name in packages if re.fullmatch(rf"{base}-cu\d+", name)]
        if f"{base}-{mine}" in there and len(there) > 1:
            mixed += [name for name in there if name != f"{base}-{mine}"]
    if not mixed:
        return Passed(what="no two CUDA packages share their files")
    repaired = " ".join(f"{name.rpartition('-')[0]}-{mine}=={packages[name.rpartition('-')[0] + '-' + mine]}" for name in mixed)
    python = facts.python.executable
    return Finding(
        severity=Severity.WARNING,
        what=f"{mixed[0]} has the same files as torch's own {mixed[0].rpartition('-')[0]}-{mine}",
        evidence=tuple(f"{name} {packages[name]}, beside {name.rpartition('-')[0]}-{mine}" for name in mixed),
        consequence="torch may load a library that was built for another CUDA",
        fix=f"uv pip uninstall --python {python} {' '.join(mixed)}\nuv pip install --python {python} --reinstall {repaired}",
    )


def nvidia_packages_do_not_pair(facts: Facts) -> Outcome:
    """CUDA packages are of other versions than this torch asks for.

    torch's metadata name the exact cuDNN and NCCL that it was built and tested with. Another package, or an upgrade by hand, has replaced them. It
    often works; when convolutions or collectives then misbehave, nobody else has this combination. To see it: `uv pip check`. Source: Requires-Dist
    in torch's metadata.
    """
    torch, packages = facts.python.torch, facts.python.packages
    if torch is None or not torch.pins:
        return Skipped(reason="torch names no exact versions")
    wrong = {name: version for name, version in torch.pins.items() if name.startswith("nvidia-") and packages.get(name, version) != version}
    if not wrong:
        return Passed(what=f"{sum(name in packages for name in torch.pins)} packages have the versions that torch asks for")
    shown = [f"{name}: installed {packages[name]}, torch {torch.version} asks for {version}" for name, version in wrong.items()]
    pinned = " ".join(f"{name}=={version}" for name, version in wrong.items())
    return Finding(
        severity=Severity.WARNING,
        what=f"{len(wrong)} CUDA package{'s have' if len(wrong) > 1 else ' has'} another version than torch {torch.version} asks for",
        evidence=tuple(shown[:6]),
        consequence="an untested combination: mostly it works, at worst results or speed differ",
        fix=f"uv pip install --python {facts.python.executable} {pinned}",
    )


def openmp_twice(facts: Facts) -> Outcome:
    """Two OpenMP runtimes are in one process.

    Each keeps its own threads, so that they fight for the cores, and forked DataLoader workers can hang; two copies of Intel's abort: "OMP: Error
    #15: Initializing libiomp5.so, but found libiomp5.so already initialized". It comes from mixing conda's numpy (MKL) with torch from pip. Setting
    KMP_DUPLICATE_LIB_OK only hides it, and can give wrong results (Intel's own words in the error).
    """
    torch = facts.python.torch
    if torch is None or torch.import_code != 0:
        return Skipped(reason="torch cannot be imported")
    found = {_real(one): one for one in facts.python.loaded if one.name in ("libgomp", "libiomp5", "libomp")}
    intel = [path for path, one in found.items() if one.name in ("libiomp5", "libomp")]
    if not intel or len(found) < 2:
        return Passed(what="one OpenMP runtime")
    return Finding(
        severity=Severity.WARNING,
        what=f"import torch loads {len(found)} OpenMP runtimes",
        evidence=tuple(f"loaded: {path}" for path in sorted(found)),
        consequence="more threads than cores in some operators, workers that hang, at worst an abort (OMP: Error #15)",
        fix="conda create -n NAME python=3.12 && conda run -n NAME pip install torch torchvision numpy   # all from one source",
    )


def _real(library: Library) -> str:
    """Return the path after links, by which the process knows it."""
    return library.real or library.path


def _named_in_error(facts: Facts, listed: list[Library]) -> tuple[Library | None, str]:
    """Return a library that the error of the import names."""
    torch = facts.python.torch
    text = torch.import_text if torch is not None and torch.import_code not in (0, None) else ""
    for library in listed:
        if text and Path(library.path).name in text:
            return library, f"named in the error; its version: {library.version or 'not known'}"
    return None, ""


def _loaded_from(facts: Facts, listed: list[Library]) -> tuple[Library | None, str]:
    """Return a library in the process that came from LD_LIBRARY_PATH though torch brought another one."""
    own = {library.name: library for library in facts.python.own_libraries}
    ours = {_real(library) for library in facts.python.own_libraries}
    there = {_real(library) for library in listed}
    for library in facts.python.loaded:
        place = _real(library)
        if place in there and place not in ours and library.name in own and not _same(library, own[library.name]):
            return library, f"loaded: {library.path}; torch brought {own[library.name].path}"
    return None, ""


def _would_be_loaded(facts: Facts, listed: list[Library]) -> tuple[Library | None, str]:
    """Return a part of cuDNN that cuDNN would load from LD_LIBRARY_PATH at its first use: the first file there of that name."""
    own = {_soname(library): library for library in facts.python.own_libraries if library.name.startswith("libcudnn_")}
    first = {_soname(library): library for library in reversed(listed)}
    for soname, library in first.items():
        mine = own.get(soname)
        if mine and _real(library) != _real(mine) and not _same(library, mine):
            return library, f"cuDNN loads its parts by this variable; torch brought {mine.path} ({_cudnn(facts)})"
    return None, ""


def _same(one: Library, other: Library) -> bool:
    """Return whether two files are the same build: of one size, which for libraries of megabytes is no chance."""
    return one.size_bytes is not None and one.size_bytes == other.size_bytes


def _soname(library: Library) -> str:
    """Return the name by which a library is loaded: libcudnn_graph.so.9 of libcudnn_graph.so.9.1.0."""
    found = re.match(r"(.*\.so)(?:\.(\d+))?", Path(library.path).name)
    return f"{found[1]}.{found[2]}" if found and found[2] else Path(library.path).name


def _cudnn(facts: Facts) -> str:
    own = [f"{name} {version}" for name, version in facts.python.packages.items() if name.startswith("nvidia-cudnn")]
    return own[0] if own else "its own cuDNN"


def _said(facts: Facts) -> tuple[str, ...]:
    torch = facts.python.torch
    return last_lines(torch.import_text or torch.cuda_text)[-3:] if torch is not None else ()


CHECKS: tuple[Check, ...] = (foreign_cuda_on_library_path, nvidia_packages_mixed, nvidia_packages_do_not_pair, cudnn_foreign, openmp_twice)
