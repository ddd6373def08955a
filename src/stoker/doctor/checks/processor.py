"""Checks of the processor: threads against quotas, pinning, power, NUMA and who else is busy."""

from __future__ import annotations

import re
import signal

from stoker.doctor.checks.amounts import has_gpu, on_host, set_threads, usable_cores
from stoker.doctor.facts import Facts, Gpu
from stoker.doctor.facts.cores import cores_of
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

# Frequency drivers on which "powersave" means the lowest frequency. On intel_pstate and amd-pstate-epp it is the ordinary dynamic governor.
_FIXED_BY_POWERSAVE = frozenset({"acpi-cpufreq", "intel_cpufreq", "amd-pstate", "cppc_cpufreq", "cpufreq-dt", "pcc-cpufreq"})
_LAUNCHERS = ("LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def cpu_quota_below_threads(facts: Facts) -> Outcome:
    """PyTorch starts more threads than the cgroup or the affinity mask lets run.

    A CPU quota (`docker run --cpus=4`, a Kubernetes limit) does not change the number of cores that a program sees: on a machine with 64 cores
    PyTorch starts up to 64 threads, which use up the quota of 4 in the first sixteenth of each period of 100 ms, and then all of them stand still.
    An affinity mask is respected, unless OMP_NUM_THREADS asks for more. See `cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.stat` (nr_throttled) and
    `python -c "import torch; print(torch.get_num_threads())"`. Setting the threads to the quota repairs it. Loader workers count, too: they share
    the quota. Sources: kernel documentation, cgroup-v2 and sched-bwc; threads measured with torch 2.13.
    """
    cores = usable_cores(facts)
    torch = facts.python.torch
    threads = (torch.threads if torch else None) or set_threads(facts) or facts.processor.cores_usable
    if cores is None or threads is None:
        return Skipped(reason="the number of cores or threads is not known")
    if threads < 2 or threads < 2 * cores:
        return Passed(what=f"{threads} threads for {cores:g} cores")
    wanted = max(1, int(cores))
    processor = facts.processor
    told = f"OMP_NUM_THREADS={facts.variables['OMP_NUM_THREADS']}" if "OMP_NUM_THREADS" in facts.variables else "OMP_NUM_THREADS is not set"
    seen = f"torch.get_num_threads(): {threads}" if torch and torch.threads else f"{processor.cores_usable} cores in the affinity mask"
    throttled = f"cpu.stat: nr_throttled {processor.throttled_periods} of nr_periods {processor.periods}" if processor.throttled_periods else None
    quota = processor.quota_text or f"affinity mask: cores {processor.affinity}"
    return Finding(
        severity=Severity.WARNING,
        what=f"PyTorch starts {threads} threads where {cores:g} core{'s' if cores != 1 else ''} may run",
        evidence=tuple(text for text in (quota, f"{seen}; {told}", throttled) if text),
        consequence="threads wait for each other and for the next scheduling period: work on the CPU is slower than with fewer threads, and uneven",
        fix=f"export OMP_NUM_THREADS={wanted} MKL_NUM_THREADS={wanted}",
    )


def omp_threads_wrong(facts: Facts) -> Outcome:
    """OMP_NUM_THREADS or MKL_NUM_THREADS is not what it should be.

    What is no positive number is ignored by libgomp with a message at every start; MKL takes it for 1, silently, so that PyTorch computes with one
    thread (seen with torch 2.13). OMP_NUM_THREADS=1 is right for loader workers and for several processes on one machine (torchrun sets it), and on a
    GPU it hardly matters; on a machine without a GPU it leaves all cores but one idle. See `env | grep NUM_THREADS`.
    """
    given = {name: facts.variables[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in facts.variables}
    if not given:
        return Skipped(reason="neither OMP_NUM_THREADS nor MKL_NUM_THREADS is set")
    for name, value in given.items():
        if not _is_count(name, value):
            return _no_count(name, value)
    cores = usable_cores(facts) or 1
    alone = not any(name in facts.variables for name in _LAUNCHERS)
    if set_threads(facts) == 1 and given.get("MKL_NUM_THREADS", "1") == "1" and cores >= 4 and alone and not has_gpu(facts):
        return Finding(
            severity=Severity.NOTE,
            what=f"OMP_NUM_THREADS=1 leaves {int(cores) - 1} of {int(cores)} cores idle, and there is no GPU",
            evidence=("environment: OMP_NUM_THREADS=1", f"{cores:g} cores may be used"),
            consequence="forward and backward passes compute on one core",
            fix="unset OMP_NUM_THREADS MKL_NUM_THREADS",
        )
    return Passed(what=", ".join(f"{name}={value}" for name, value in given.items()))


def _is_count(name: str, value: str) -> bool:
    """Tell whether libgomp takes the value (a list of levels is allowed) or MKL does (0 means: as many as there are)."""
    pattern = r"\s*0*[1-9]\d*\s*(,\s*0*[1-9]\d*\s*)*" if name == "OMP_NUM_THREADS" else r"\s*\d+\s*"
    return re.fullmatch(pattern, value) is not None


def _no_count(name: str, value: str) -> Finding:
    empty = not value.strip()
    ignored = "libgomp says so at every start and uses as many threads as there are cores"
    return Finding(
        severity=Severity.NOTE if empty else Severity.WARNING,
        what=f"{name} is {'empty' if empty else 'no positive number'}",
        evidence=(f"environment: {name}={value}",),
        consequence=ignored if name == "OMP_NUM_THREADS" else "MKL takes it for 1: PyTorch computes with one thread",
        fix=f"unset {name}",
    )


def threads_pinned(facts: Facts) -> Outcome:
    """OpenMP pins the main thread to one core, and the loader's workers inherit that.

    With OMP_PROC_BIND or GOMP_CPU_AFFINITY set, libgomp binds the main thread to the first core as soon as torch is imported. Processes that it
    forks, and those are the DataLoader's workers, inherit the mask: all of them share that one core, whatever num_workers says. See
    `python -c "import os, torch; print(os.sched_getaffinity(0))"`. Sources: pytorch issue 99625; measured with torch 2.13 and its own libgomp.
    """
    bound = {name: facts.variables[name] for name in ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY") if facts.variables.get(name)}
    if bound.get("OMP_PROC_BIND", "").lower() in ("false", "disabled"):
        bound = {}  # libgomp: GOMP_CPU_AFFINITY gives way to it
    if not bound:
        return Passed(what="OpenMP does not pin threads")
    cores = facts.processor.cores_usable
    if cores is not None and cores < 2:
        return Skipped(reason="there is only one core")
    return Finding(
        severity=Severity.WARNING,
        what=f"{' and '.join(bound)} make all loader workers share one core",
        evidence=tuple(f"environment: {name}={value}" for name, value in bound.items()),
        consequence="after `import torch` the process and every worker that it forks may run on one core only: workers do not help",
        fix=f"unset {' '.join(bound)}",
    )


def cpu_governor_saves_power(facts: Facts) -> Outcome:
    """The processor is kept at its lowest frequency to save power.

    On the frequency drivers acpi-cpufreq, intel_cpufreq and amd-pstate the governor "powersave" means: always the lowest frequency, whatever the
    load. Decoding and copying then run at a third to a half of the speed that was paid for. On intel_pstate and amd-pstate-epp the same word names
    the ordinary dynamic governor, which is fine. See `cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_{driver,governor}`. Source: kernel
    documentation, admin-guide/pm/cpufreq and intel_pstate.
    """
    processor = facts.processor
    if not processor.governors:
        return Skipped(reason="the frequency is not ours to set (virtual machine, or no cpufreq)")
    slow = processor.governors.get("powersave", 0)
    if not slow or processor.frequency_driver not in _FIXED_BY_POWERSAVE:
        return Passed(what=f"governor {', '.join(processor.governors)} ({processor.frequency_driver})")
    return Finding(
        severity=Severity.WARNING,
        what=f"the governor powersave keeps {slow} cores at their lowest frequency",
        evidence=(
            f"scaling_governor: powersave on {slow} of {sum(processor.governors.values())} cores",
            f"scaling_driver: {processor.frequency_driver}",
        ),
        consequence="everything on the CPU, loading and launching kernels above all, is slower",
        fix=on_host(facts, "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"),
    )


def simd_missing(facts: Facts) -> Outcome:
    """The processor has no AVX2, or a virtual machine hides it.

    PyTorch, oneDNN, Pillow-SIMD and our own decoder have fast code for AVX2 (2013 and later) and fall back to SSE without it. All servers of the last
    ten years have it; where it is missing, the virtual machine usually shows an old CPU model to its guest. See `grep -o avx2 /proc/cpuinfo | head
    -1` and `python -c "import torch; print(torch.backends.cpu.get_cpu_capability())"`.
    """
    processor = facts.processor
    if facts.system.architecture not in ("x86_64", "AMD64"):
        return Skipped(reason=f"AVX2 is a matter of x86_64, this is {facts.system.architecture or 'not known'}")
    if not processor.flags:
        return Skipped(reason="the processor's instruction sets are not known")
    if facts.python.torch is not None and facts.python.torch.import_code == -signal.SIGILL:
        return Skipped(reason="torch dies of it: see torch-dies-on-import")
    if "avx2" in processor.flags:
        return Passed(what=f"AVX2{' and AVX-512' if 'avx512f' in processor.flags else ''}")
    hidden = processor.hypervisor or facts.system.virtual is not None
    return Finding(
        severity=Severity.WARNING,
        what="the processor has no AVX2" + (", or the virtual machine hides it" if hidden else ""),
        evidence=(f"/proc/cpuinfo: {processor.model or 'model not told'}; of the SIMD sets only {', '.join(processor.flags)}",),
        consequence="decoding, augmentation and all arithmetic on the CPU take the slow path",
        fix="give the virtual machine the host's CPU model: `-cpu host` (QEMU), `<cpu mode='host-passthrough'/>` (libvirt), type `host` (Proxmox)"
        if hidden
        else "no setting can repair it: use a machine with a newer processor",
    )


def numa_gpu_far(facts: Facts) -> Outcome:
    """The process may only run on cores that are far from its GPU.

    On a machine with several NUMA nodes each GPU hangs on one of them. A process whose affinity mask (taskset, numactl, a cpuset of Slurm or
    Kubernetes) leaves out that node sends every batch over the link between the sockets. See `nvidia-smi topo -m` (CPU Affinity, NUMA Affinity) and
    `taskset -pc $$`.
    """
    processor = facts.processor
    if (processor.numa_nodes or 0) < 2:
        return Skipped(reason="there is one NUMA node")
    ours = cores_of(processor.affinity)
    used = [gpu for gpu in _visible(facts) if gpu.numa_node is not None and gpu.numa_node >= 0]
    near = {gpu.index: cores_of(processor.numa_cpus.get(str(gpu.numa_node))) for gpu in used}
    if not ours or not used or not all(near.values()):
        return Skipped(reason="the NUMA nodes of the GPUs are not known")
    if any(ours & cores for cores in near.values()):
        return Passed(what="the affinity mask has cores near a GPU in use")
    gpu = used[0]
    cores = processor.numa_cpus[str(gpu.numa_node)]
    return Finding(
        severity=Severity.WARNING,
        what=f"the process runs on cores {processor.affinity}, none of which is near its GPU{'s' if len(used) > 1 else ''}",
        evidence=(
            f"affinity mask: {processor.affinity}",
            *(f"GPU {one.index}: NUMA node {one.numa_node}, cores {_near(facts, one)}" for one in used),
        ),
        consequence="copies to the GPU cross the link between the sockets: slower, and slower still when others use it",
        fix=f"numactl --cpunodebind={gpu.numa_node} --membind={gpu.numa_node} -- python train.py   # or: taskset -c {cores} python train.py",
    )


def _near(facts: Facts, gpu: Gpu) -> str:
    return facts.processor.numa_cpus.get(str(gpu.numa_node), "?")


def _visible(facts: Facts) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves; none when it cannot be told which those are."""
    wanted = facts.variables.get("CUDA_VISIBLE_DEVICES")
    gpus = tuple(gpu for gpu in facts.gpus if not gpu.lost)
    if wanted is None:
        return gpus
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    # CUDA numbers by speed, not by bus, unless told otherwise; with one model only, both orders are the same.
    same_order = facts.variables.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in gpus}) == 1
    return tuple(gpu for gpu in gpus if (same_order and str(gpu.index) in parts) or (gpu.uuid and any(gpu.uuid.startswith(part) for part in parts)))


def load_from_others(facts: Facts) -> Outcome:
    """Other programs keep the processor busy.

    The load is the mean number of tasks that want to run or wait for a disk. At twice the number of cores (and 4 above it) or more, everything on
    this machine gets half of its time at best, and measurements mean nothing. In a container it is the load of the whole machine. See `uptime` and
    `top`.
    """
    processor = facts.processor
    if processor.load_1m is None or processor.load_5m is None or not processor.cores_online:
        return Skipped(reason="the load is not known")
    cores = processor.cores_online
    if processor.load_1m < max(2 * cores, cores + 4) or processor.load_5m < 1.5 * cores:  # on few cores a handful of tasks is nothing
        return Passed(what=f"load {processor.load_1m:g} on {processor.cores_online} cores")
    busy = tuple(f"pid {one.pid}, {one.name}: {one.cores:g} cores" for one in facts.services.busy)
    return Finding(
        severity=Severity.NOTE,  # of this moment: it must not turn a healthy machine's exit status
        what=f"{processor.load_1m:.0f} tasks compete for {processor.cores_online} cores",
        evidence=(f"/proc/loadavg: {processor.load_1m:g} in the last minute, {processor.load_5m:g} in the last five", *busy),
        consequence="loading and launching wait for a core; what is measured now says nothing about this machine",
        fix="top -o %CPU   # whose they are; wait for them, or end those that are yours",
    )


CHECKS: tuple[Check, ...] = (
    cpu_quota_below_threads,
    omp_threads_wrong,
    threads_pinned,
    cpu_governor_saves_power,
    simd_missing,
    numa_gpu_far,
    load_from_others,
)
