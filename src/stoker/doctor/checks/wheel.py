"""Whether torch fits the driver and the GPUs, and whether CUDA starts in it."""

from __future__ import annotations

from stoker import catalog
from stoker.doctor.checks import driver, gpus, interpreter, libraries, sharing, tuning, visible
from stoker.doctor.checks.builds import find_cuda, fitting_build, numbers
from stoker.doctor.checks.grounds import calls, gpu_nodes, model, no_way
from stoker.doctor.checks.interpreter import command, last_lines
from stoker.doctor.facts import Facts
from stoker.doctor.facts.gpus import Gpu
from stoker.doctor.facts.python import Torch, signal_name
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped, check_id

_OLDEST_TORCH = (2, 5)  # pyproject.toml, dependencies


def torch_cpu_only_on_gpu_machine(facts: Facts) -> Outcome:
    """This torch was built without CUDA, on a machine with an NVIDIA GPU.

    Everything runs, on the processor, ten to a hundred times slower, and `torch.cuda.is_available()` says False without a reason. It comes from
    an index for CPUs, from a lock made on a machine without a GPU, from conda-forge when no driver was visible at installation, and on aarch64
    from the package index itself up to torch 2.10. To see it: `python -c "import torch; print(torch.__version__, torch.version.cuda)"` ends in None.
    """
    torch = facts.python.torch
    if torch is None or torch.version is None:
        return Skipped(reason="no torch whose version is known")
    if not gpu_reaches(facts):
        return Skipped(reason="no NVIDIA GPU that a process here can open")
    if torch.cuda is not None or torch.hip is not None:
        return Passed(what=f"torch {torch.version} was built with {'CUDA ' + torch.cuda if torch.cuda else 'ROCm'}")
    return Finding(
        severity=Severity.ERROR,
        what=f"torch {torch.version} was built without CUDA, and there is {_here(facts)}",
        evidence=(f"torch.__version__ {torch.version}, torch.version.cuda None ({torch.location})",),
        consequence="the GPU stands idle: everything is computed on the processor, silently",
        fix=fitting_build(facts) or "stoker resolve   # says which build fits this driver and GPU",
    )


def torch_rocm_on_nvidia(facts: Facts) -> Outcome:
    """This torch was built for AMD GPUs, on a machine with an NVIDIA GPU.

    The ROCm build also calls itself `torch.cuda`, finds no AMD GPU and says `is_available()` False. To see it: `torch.version.hip` is a version. To
    mend it: install the CUDA build.
    """
    torch = facts.python.torch
    if torch is None or torch.version is None:
        return Skipped(reason="no torch whose version is known")
    if torch.hip is None:
        return Passed(what="torch is no ROCm build")
    if not gpu_reaches(facts) or torch.available:
        return Skipped(reason="no NVIDIA GPU, or the AMD GPU works")
    return Finding(
        severity=Severity.ERROR,
        what=f"torch {torch.version} was built for AMD GPUs, and there is {_here(facts)}",
        evidence=(f"torch.version.hip {torch.hip} ({torch.location})",),
        consequence="the NVIDIA GPU is not used",
        fix=fitting_build(facts) or "stoker resolve   # says which build fits this driver and GPU",
    )


def driver_below_minimum(facts: Facts) -> Outcome:
    """The driver is too old for the CUDA that this torch was built with.

    A CUDA runtime runs on every driver of its own major line, and on no older one: CUDA 13 needs driver 580, CUDA 12 needs 525.60.13. Otherwise
    torch says "The NVIDIA driver on your system is too old". Either the driver is updated, or a torch built with an older CUDA is installed; the
    second needs no administrator. NVIDIA's compatibility package lifts the rule on data-centre GPUs only. Source: CUDA Toolkit release notes,
    tables 2 and 3.
    """
    torch, cuda = facts.python.torch, _cuda(facts)
    if torch is None or cuda is None or facts.driver.version is None:
        return Skipped(reason="no driver, or no torch with a CUDA that the catalogue knows")
    if not _older(facts, facts.driver.version, cuda.driver_min):
        return Passed(what=f"driver {facts.driver.version} runs CUDA {cuda.version} (it needs {cuda.driver_min})")
    if torch.available:
        return Skipped(reason="CUDA works nevertheless (forward compatibility)")
    build = fitting_build(facts)
    return Finding(
        severity=Severity.ERROR,
        what=f"driver {facts.driver.version} is too old for torch {torch.version} (CUDA {cuda.version} needs {cuda.driver_min} or newer)",
        evidence=(f"driver {facts.driver.version}; torch.version.cuda {torch.cuda}", *last_lines(torch.available_text or torch.cuda_error or "")[:3]),
        consequence="torch cannot use the GPU",
        fix=(
            f"{build}\n# or, as administrator, a driver {cuda.driver_min} or newer"
            if build
            else f"# as administrator: a driver {cuda.driver_min} or newer"
        ),
    )


def driver_below_full(facts: Facts) -> Outcome:
    """The driver is older than the one that shipped with this torch's CUDA.

    It runs ("minor-version compatibility"), with two gaps: the driver cannot translate PTX of the newer CUDA (error 222, "the provided PTX was
    compiled with an unsupported toolchain"), which matters for GPUs for which the wheel has no machine code and for extensions built here; and
    functions that came with newer drivers are missing. torch.compile is not touched: Triton brings its own assembler. Source: CUDA compatibility
    guide.
    """
    torch, cuda = facts.python.torch, _cuda(facts)
    if torch is None or cuda is None or facts.driver.version is None:
        return Skipped(reason="no driver, or no torch with a CUDA that the catalogue knows")
    if _older(facts, facts.driver.version, cuda.driver_min):
        return Skipped(reason="see driver-below-minimum")
    if not _older(facts, facts.driver.version, cuda.driver_full):
        return Passed(what=f"driver {facts.driver.version} knows all of CUDA {cuda.version}")
    return Finding(
        severity=Severity.NOTE,
        what=f"driver {facts.driver.version} is older than the one of CUDA {cuda.version} ({cuda.driver_full}); it runs, with gaps",
        evidence=(f"driver {facts.driver.version}; torch.version.cuda {torch.cuda}",),
        consequence="no translation of its PTX (error 222 with extensions built here), and functions of newer drivers are missing",
        fix=f"# as administrator, when it suits: a driver {cuda.driver_full} or newer",
    )


def gpu_needs_newer_cuda(facts: Facts) -> Outcome:
    """The GPU is newer than the CUDA that this torch was built with.

    A CUDA compiler builds for GPUs that existed when it came out. A Blackwell GPU needs CUDA 12.8 or newer, that is torch 2.7 with cu128 at the
    earliest; older builds say "no kernel image is available for execution on the device" at the first operation, though `is_available()` is True.
    Source: CUDA release notes; the architectures in each wheel.
    """
    torch = facts.python.torch
    if torch is None or torch.cuda is None or not torch.architectures:
        return Skipped(reason="no torch with CUDA whose architectures are known")
    unfit = [gpu for gpu in _unfit(facts, torch) if _first_cuda(gpu) > numbers(torch.cuda)]
    if not unfit:
        return Passed(what=f"CUDA {torch.cuda} knows the GPUs here") if _capabilities(facts) else Skipped(reason="no GPU whose architecture is known")
    need = max((_first_cuda(gpu) for gpu in unfit), default=())
    return _not_for(facts, torch, unfit, f"torch {torch.version} is older than the GPU: CUDA {'.'.join(map(str, need))} or newer is needed")


def gpu_not_in_wheel(facts: Facts) -> Outcome:
    """This torch holds no machine code for the GPU.

    A wheel holds code for a list of architectures. Code for X.y runs on X.z with z >= y and on no other major number, unless the wheel also holds
    PTX. Old GPUs leave the list (compute capability 7.0 and below with CUDA 13; 5.x and 6.x with cu128 and later), and the first operation says "no
    kernel image is available for execution on the device". To see it: `python -c "import torch; print(torch.cuda.get_arch_list(),
    torch.cuda.get_device_capability())"`. Source: CUDA programming guide, binary compatibility; the architectures are read from the installed
    library.
    """
    torch = facts.python.torch
    if torch is None or torch.cuda is None or not torch.architectures:
        return Skipped(reason="no torch with CUDA whose architectures are known")
    if not _capabilities(facts):
        return Skipped(reason="no GPU whose architecture is known")
    unfit = _unfit(facts, torch)
    if not unfit:
        return Passed(what=f"torch {torch.version} has code for the GPUs here")
    if any(_first_cuda(gpu) > numbers(torch.cuda) for gpu in unfit):
        return Skipped(reason="see gpu-needs-newer-cuda")
    return _not_for(facts, torch, unfit, f"torch {torch.version} has no code for {calls(unfit)}")


def cuda_hangs(facts: Facts) -> Outcome:
    """Asking torch about CUDA hangs or ends the process.

    `import torch` works, and the first look at the GPUs does not come back: a driver that hangs in the kernel, a GPU that has fallen off the bus, a
    fabric manager that has not started (NVSwitch machines), or a library of another version. To see it: `timeout 30 python -c "import torch;
    torch.cuda.init()"; echo $?`, and the kernel's log (`dmesg | grep -i nvrm`).
    """
    torch = facts.python.torch
    if torch is None or torch.import_code != 0:
        return Skipped(reason="torch cannot be imported")
    died = torch.cuda_code is not None and torch.cuda_code < 0
    if not died and not (torch.cuda_code is None and torch.cuda_text):
        return Passed(what="torch answers about CUDA")
    if cause := first_error(facts, (*driver.CHECKS, *gpus.CHECKS)):
        return Skipped(reason=f"see {cause}")
    if isinstance(libraries.foreign_cuda_on_library_path(facts), Finding):
        return Skipped(reason="see foreign-cuda-on-library-path")
    how = f"dies: {signal_name(torch.cuda_code or 0)}" if died else "hangs"
    return Finding(
        severity=Severity.ERROR,
        what=f"torch can be imported, but asking it about CUDA {how}",
        evidence=last_lines(torch.cuda_text),
        consequence="a training does not get to its first step",
        fix=(
            f"timeout 30 env -u LD_LIBRARY_PATH -u LD_PRELOAD {command(facts, 'import torch; torch.cuda.init()')}\n"
            "sudo dmesg | grep -iE 'nvrm|xid' | tail"
        ),
    )


def cuda_initialisation_fails(facts: Facts) -> Outcome:
    """torch finds the driver and CUDA does not start, with an error text.

    The text names CUDA's error: 802 (system not yet initialized: the fabric manager does not run), 803 (driver and library do not match), 804
    (forward compatibility on a GPU that does not support it: a `cuda-compat` library is found first), 100 (no device), 101 (a number in
    CUDA_VISIBLE_DEVICES that does not exist), 999 (unknown: mostly the module nvidia_uvm after a suspend). Source: CUDA driver API, CUresult.
    """
    skipped = _cuda_expected(facts)
    if skipped:
        return skipped
    torch = facts.python.torch
    assert torch is not None
    text = torch.cuda_error or torch.available_text
    if torch.available and torch.cuda_error is None:
        return Passed(what="CUDA starts")
    if not text:
        return Skipped(reason="torch gives no text: see cuda-unavailable-unexplained")
    if cause := _explained(facts):
        return Skipped(reason=f"see {cause}")
    return Finding(
        severity=Severity.ERROR,
        what=f"CUDA does not start in torch {torch.version}",
        evidence=last_lines(text),
        consequence="torch cannot use the GPU",
        fix=_start_fix(text, facts),
    )


def cuda_unavailable_unexplained(facts: Facts) -> Outcome:
    """torch says that there is no CUDA, and everything else looks well.

    The driver is loaded, the device nodes can be opened, the wheel was built with CUDA and fits, and `torch.cuda.is_available()` is still False.
    What remains: a library in LD_LIBRARY_PATH or LD_PRELOAD, a stub of libcuda, variables that hide the GPUs, or a program that sets
    CUDA_VISIBLE_DEVICES itself before importing torch.
    """
    skipped = _cuda_expected(facts)
    if skipped:
        return skipped
    torch = facts.python.torch
    assert torch is not None
    if torch.available is not False:
        return Passed(what="torch.cuda.is_available() is True") if torch.available else Skipped(reason="torch was not asked")
    if torch.cuda_error or torch.available_text:
        return Skipped(reason="torch says why: see cuda-initialisation-fails")
    if cause := _explained(facts):
        return Skipped(reason=f"see {cause}")
    return Finding(
        severity=Severity.ERROR,
        what=f"torch {torch.version} sees no GPU, and nothing here says why",
        evidence=(f"torch.cuda.is_available() False, device_count {torch.device_count}", f"driver {facts.driver.version}, {_here(facts)}"),
        consequence="everything is computed on the processor",
        fix=f"env -u LD_LIBRARY_PATH -u LD_PRELOAD -u CUDA_VISIBLE_DEVICES {command(facts, 'import torch; torch.cuda.init()')}",
    )


def torch_old(facts: Facts) -> Outcome:
    """This torch is older than Stoker supports.

    Stoker is tested with torch 2.5 and newer. The doctor still judges it; training with Stoker's own recipes needs a newer one.
    """
    torch = facts.python.torch
    version = numbers(torch.version) if torch is not None and torch.version else ()
    if torch is None or not version:
        return Skipped(reason="no torch whose version is known")
    if version >= _OLDEST_TORCH:
        return Passed(what=f"torch {torch.version} is not older than 2.5")
    return Finding(
        severity=Severity.NOTE,
        what=f"torch {torch.version} is older than 2.5, the oldest that Stoker supports",
        evidence=(f"torch.__version__ {torch.version} ({torch.location})",),
        consequence="Stoker's recipes cannot run with it; newer releases are also faster",
        fix="stoker resolve   # says which release and build fits this driver and GPU",
    )


def first_error(facts: Facts, checks: tuple[Check, ...]) -> str | None:
    """Return the id of the first of some checks that finds an error."""
    for check in checks:
        outcome = check(facts)
        if isinstance(outcome, Finding) and outcome.severity is Severity.ERROR:
            return check_id(check)
    return None


def gpu_reaches(facts: Facts) -> bool:
    """Return whether a process here can get at an NVIDIA GPU: a driver, and device nodes or a GPU that answers."""
    return no_way(facts) is None and (bool(facts.gpus) or any(node.readable for node in gpu_nodes(facts)))


def _here(facts: Facts) -> str:
    return calls(facts.gpus) if facts.gpus else "an NVIDIA GPU"


def _explained(facts: Facts) -> str | None:
    """Return the id of the check that explains why CUDA is not there."""
    for check in (visible.cuda_visible_devices_wrong, visible.mig_chosen_wrong, tuning.mig_without_devices):
        if isinstance(check(facts), Finding):
            return check_id(check)
    own = (driver_below_minimum, gpu_needs_newer_cuda, gpu_not_in_wheel, torch_cpu_only_on_gpu_machine, torch_rocm_on_nvidia, cuda_hangs)
    return first_error(facts, (*driver.CHECKS, *own, gpus.gpu_lost, sharing.compute_mode_set, libraries.foreign_cuda_on_library_path))


def _cuda_expected(facts: Facts) -> Skipped | None:
    """Skip where torch cannot be expected to find CUDA."""
    torch = facts.python.torch
    if torch is None or torch.import_code != 0 or torch.available is None:
        return Skipped(reason="torch was not asked about CUDA")
    if torch.cuda is None:
        return Skipped(reason="torch was built without CUDA")
    return None if gpu_reaches(facts) else no_way(facts) or Skipped(reason="no NVIDIA GPU that a process here can open")


def _cuda(facts: Facts) -> catalog.CudaVersion | None:
    torch = facts.python.torch
    return find_cuda(torch.cuda) if torch is not None else None


def _older(facts: Facts, driver_version: str, floor: str) -> bool:
    """Return whether a driver is older than a floor. Windows' drivers (WSL) have other numbers after the first: only that is compared."""
    have, want = numbers(driver_version), numbers(floor)
    most = 1 if facts.system.wsl else len(have)
    return bool(have) and have[:most] < want[:most]


def _capability(gpu: Gpu) -> tuple[int, int] | None:
    known = model(gpu)
    return gpu.compute_capability or (known.compute_capability if known else None)


def _capabilities(facts: Facts) -> list[Gpu]:
    return [gpu for gpu in facts.gpus if not gpu.lost and _capability(gpu) is not None]


def _unfit(facts: Facts, torch: Torch) -> list[Gpu]:
    """Return the GPUs for which torch holds neither machine code nor PTX that a driver could translate."""
    return [gpu for gpu in _capabilities(facts) if not _has_code(torch, _capability(gpu) or (0, 0))]


def _has_code(torch: Torch, capability: tuple[int, int]) -> bool:
    binaries = [one[3:] for one in torch.architectures if one.startswith("sm_")]
    if catalog.code_runs(binaries, None, capability).runs:
        return True
    return any(catalog.code_runs([one[8:]], True, capability).runs for one in torch.architectures if one.startswith("compute_"))


def _first_cuda(gpu: Gpu) -> tuple[int, ...]:
    """Return the first CUDA that can build for a GPU; empty when it is not known, which is older than any."""
    capability = _capability(gpu)
    architecture = catalog.find_architecture(capability) if capability else None
    return numbers(architecture.cuda_first) if architecture is not None else ()


def _not_for(facts: Facts, torch: Torch, unfit: list[Gpu], what: str) -> Finding:
    others = len(_capabilities(facts)) > len(unfit)
    shown = [f"GPU {gpu.index}: {gpu.name or 'unnamed'}, compute capability {'.'.join(map(str, _capability(gpu) or ()))}" for gpu in unfit]
    return Finding(
        severity=Severity.WARNING if others else Severity.ERROR,
        what=what,
        evidence=(*shown[:4], f"torch {torch.version} holds code for: {' '.join(torch.architectures)}"),
        consequence="its first operation there fails: no kernel image is available for execution on the device",
        fix=fitting_build(facts) or "stoker resolve   # says which build fits this driver and GPU, or why none does",
    )


def _start_fix(text: str, facts: Facts) -> str:
    """Return what to do about the error with which CUDA does not start."""
    for words, fix in _STARTS.items():
        if words in text:
            return fix
    return f"env -u LD_LIBRARY_PATH -u LD_PRELOAD -u CUDA_VISIBLE_DEVICES {command(facts, 'import torch; torch.cuda.init()')}"


# What CUDA's error says -> what mends it.
_STARTS = {
    "system not yet initialized": "sudo systemctl start nvidia-fabricmanager",
    "Error 802": "sudo systemctl start nvidia-fabricmanager",
    "forward compatibility was attempted": "echo $LD_LIBRARY_PATH   # take the folder of cuda-compat (.../compat) out of it",
    "Error 804": "echo $LD_LIBRARY_PATH   # take the folder of cuda-compat (.../compat) out of it",
    "unsupported display driver": "ldconfig -p | grep libcuda.so   # must be of the driver's own version; after an update of the driver: restart",
    "Error 803": "ldconfig -p | grep libcuda.so   # must be of the driver's own version; after an update of the driver: restart",
    "invalid device ordinal": "echo $CUDA_VISIBLE_DEVICES; nvidia-smi -L   # name only GPUs that are there",
    "no CUDA-capable device": "echo $CUDA_VISIBLE_DEVICES; nvidia-smi -L   # name GPUs that are there",
    "unknown error": "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm",
}

CHECKS: tuple[Check, ...] = (
    *interpreter.CHECKS,
    torch_cpu_only_on_gpu_machine,
    torch_rocm_on_nvidia,
    driver_below_minimum,
    gpu_needs_newer_cuda,
    gpu_not_in_wheel,
    cuda_hangs,
    cuda_initialisation_fails,
    cuda_unavailable_unexplained,
    driver_below_full,
    torch_old,
)
