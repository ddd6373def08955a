"""Checks of memory: shared memory for the loader, limits of cgroup and user, swap and kills."""

from __future__ import annotations

import math

from stoker.doctor.checks.amounts import loader_workers, many_machines, on_host, set_threads, size, training_processes, usable_cores
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped
from stoker.doctor.sizes import BATCH_BYTES, loader_shm_bytes

_GIBIBYTE = 2**30
_PAGES_A_SECOND = 256
"""1 MiB/s of 4 KiB pages: more than what idle pages make as they are moved out once."""


def shm_too_small(facts: Facts) -> Outcome:
    """/dev/shm is too small for the batches of a DataLoader with workers.

    Workers hand their batches over in shared memory. A container gets 64 MB of it unless told otherwise, which is less than two batches of 64 images
    in float32: the workers die with "Bus error" or "unable to allocate shared memory(shm)". What is needed is
    batch x (prefetch_factor x workers + 1); for 64x3x224x224 float32 (38.5 MB) and the default prefetch_factor of 2, that is 116 MB with one
    worker and 655 MB with eight. Measured: 64 MB dies with one worker, 116 MB lives with one and dies with two, 195 MB lives with two. NCCL uses some
    as well. See `df -h /dev/shm`. Source: torch/utils/data; docker run --shm-size.
    """
    have = facts.memory.shm_bytes
    if have is None:
        return Skipped(reason="there is no /dev/shm, or it cannot be read")
    workers = loader_workers(facts) if usable_cores(facts) is not None else 1  # nothing is known of the cores: what even one worker needs
    need = loader_shm_bytes(workers)
    if have >= need:
        return Passed(what=f"/dev/shm has {size(have)}, {workers} workers need {size(need)}")
    dies = have < loader_shm_bytes(1)
    given = _rounded(need)
    return Finding(
        severity=Severity.ERROR if dies else Severity.WARNING,
        what=f"/dev/shm has {size(have)}, a loader with {workers} worker{'s' if workers > 1 else ''} needs {size(need)}",
        evidence=(
            f"/dev/shm: {size(have)} ({have} bytes)",
            f"64 x 3 x 224 x 224 x 4 bytes = {BATCH_BYTES} a batch; x (prefetch 2 x {workers} workers + 1) = {need} bytes",
        ),
        consequence='loader workers die with "Bus error" or "No space left on device"' + ("" if dies else " once batches or workers are that many"),
        fix=_larger_shm(facts, given),
        safe_fix=("mount", "-o", f"remount,size={given}", "/dev/shm") if facts.system.container is None and facts.system.uid == 0 else None,
    )


def _rounded(need: int) -> str:
    """Return the next quarter or whole GiB above, as mount and Docker write it."""
    return f"{math.ceil(need / (_GIBIBYTE // 4)) * 256}m" if need <= _GIBIBYTE // 4 * 3 else f"{math.ceil(need / _GIBIBYTE)}g"


def _larger_shm(facts: Facts, given: str) -> str:
    kubernetes = given.replace("m", "Mi").replace("g", "Gi")
    commands = {
        "docker": f"docker run --shm-size={given} ...   # or --ipc=host; in a compose file: shm_size: {given}",
        "podman": f"podman run --shm-size={given} ...   # or --ipc=host",
        "container": f"start the container with {given} of /dev/shm",
        "kubernetes": "in the Pod's specification:\n"
        f"volumes: [{{name: shm, emptyDir: {{medium: Memory, sizeLimit: {kubernetes}}}}}]\n"
        "containers: [{..., volumeMounts: [{name: shm, mountPath: /dev/shm}]}]",
    }
    return commands.get(facts.system.container or "", on_host(facts, f"sudo mount -o remount,size={given} /dev/shm"))


def shm_full(facts: Facts) -> Outcome:
    """/dev/shm is large enough, but full.

    Processes that were killed leave their batches there: files named torch_*, sem.*, psm_*, nccl-*. They take memory until they are removed or the
    machine restarts. See `ls -lt /dev/shm`; `fuser /dev/shm/*` says which are in use. Also a /dev/shm that this user may not write to is told here.
    """
    memory = facts.memory
    if memory.shm_bytes is None or memory.shm_free_bytes is None:
        return Skipped(reason="there is no /dev/shm, or it cannot be read")
    if memory.shm_bytes < loader_shm_bytes(1):
        return Skipped(reason="it is too small: see shm-too-small")
    if memory.shm_writable is False:
        return Finding(
            severity=Severity.ERROR,
            what="/dev/shm may not be written to",
            evidence=(f"os.access: /dev/shm is not writable for uid {facts.system.uid}",),
            consequence="a DataLoader with workers, and NCCL between GPUs without peer access, do not start",
            fix=on_host(facts, "sudo mount -o remount,rw,mode=1777 /dev/shm"),
        )
    if memory.shm_free_bytes >= loader_shm_bytes(1):
        return Passed(what=f"{size(memory.shm_free_bytes)} of /dev/shm are free")
    return Finding(
        severity=Severity.WARNING,
        what=f"only {size(memory.shm_free_bytes)} of the {size(memory.shm_bytes)} in /dev/shm are free",
        evidence=(f"/dev/shm: {memory.shm_free_bytes} of {memory.shm_bytes} bytes free",),
        consequence='loader workers die with "Bus error" or "No space left on device"',
        fix="ls -lt /dev/shm; fuser -v /dev/shm/*   # then remove what no process uses: rm /dev/shm/torch_*",
    )


def memory_nearly_full(facts: Facts) -> Outcome:
    """Memory is nearly used up.

    When the last of it goes, the kernel ends the largest process: the training, or one of its workers ("DataLoader worker is killed by signal:
    Killed"). In a container the cgroup's limit counts, not what `free` shows. See `free -h`, `cat /sys/fs/cgroup/memory.{max,current}`, `ps aux
    --sort=-rss | head`.
    """
    memory = facts.memory
    if memory.limit_bytes and memory.limit_used_bytes is not None and memory.limit_used_bytes > 0.95 * memory.limit_bytes:
        left = memory.limit_bytes - memory.limit_used_bytes
        where = memory.limit_text or f"memory limit: {memory.limit_bytes}"
        return _full(f"the cgroup holds all but {size(max(0, left))} of its {size(memory.limit_bytes)}", where, memory.limit_used_bytes, facts)
    if memory.total_bytes is None or memory.available_bytes is None:
        return Skipped(reason="the memory is not known")
    if memory.available_bytes < 0.05 * memory.total_bytes:
        what = f"only {size(memory.available_bytes)} of {size(memory.total_bytes)} memory are available"
        return _full(what, f"/proc/meminfo: MemAvailable {memory.available_bytes} of MemTotal {memory.total_bytes} bytes", None, facts)
    return Passed(what=f"{size(memory.available_bytes)} of {size(memory.total_bytes)} are available")


def _full(what: str, where: str, used: int | None, facts: Facts) -> Finding:
    pressure = facts.memory.pressure_percent
    told = (
        f"in use, without the file cache: {used} bytes" if used is not None else None,
        f"/proc/pressure/memory: some avg60={pressure}" if pressure else None,
    )
    return Finding(
        severity=Severity.WARNING,
        what=what,
        evidence=(where, *(text for text in told if text)),
        consequence="the next large allocation ends a process: the training, or a worker of the loader",
        fix="ps -eo pid,user,rss,args --sort=-rss | head   # who holds it; then fewer workers, smaller batches in flight, or a larger limit",
    )


def swap_in_use(facts: Facts) -> Outcome:
    """Memory is moved to and from the swap.

    A little swap in use is healthy: pages that nobody touched for days. It hurts when pages move all the time, or when memory is short and much of
    what is needed lies on the disk. See `vmstat 1` (si, so).
    """
    memory = facts.memory
    if not memory.swap_total_bytes or memory.swap_used_bytes is None:
        return Skipped(reason="there is no swap")
    if isinstance(memory_nearly_full(facts), Finding):
        return Skipped(reason="memory is nearly full: see memory-nearly-full")
    total = memory.total_bytes or 0
    moving = (memory.swap_pages_per_s or 0) >= _PAGES_A_SECOND
    short = memory.available_bytes is not None and memory.available_bytes < 0.1 * total and memory.swap_used_bytes > 0.1 * total
    if not moving and not short:
        return Passed(what=f"{size(memory.swap_used_bytes)} of swap in use, and nothing moves")
    rate = (f"/proc/vmstat: {memory.swap_pages_per_s:.0f} pages a second to or from swap",) if memory.swap_pages_per_s else ()
    return Finding(
        severity=Severity.WARNING,
        what=f"{size(memory.swap_used_bytes)} are in the swap" + (", and pages move all the time" if moving else " while memory is short"),
        evidence=(f"/proc/meminfo: swap used {memory.swap_used_bytes} of {memory.swap_total_bytes} bytes", *rate),
        consequence="a batch that has to come back from the disk takes a thousand times as long",
        fix="ps -eo pid,user,rss,args --sort=-rss | head   # who holds the memory; then fewer workers or smaller batches",
    )


def oom_kills(facts: Facts) -> Outcome:
    """The kernel has killed a process here for want of memory.

    It shows as "DataLoader worker (pid N) is killed by signal: Killed", as exit status 137, or as a notebook whose kernel restarts. The count is that
    of this process's own cgroup, that is of the container or session, since it was made. See `cat /sys/fs/cgroup/memory.events` and
    `dmesg | grep -i "killed process"`.
    """
    memory = facts.memory
    if memory.oom_kills is None:
        return Skipped(reason="the cgroup does not tell")
    if not memory.oom_kills:
        return Passed(what="nothing was killed for want of memory")
    limit = f" of {size(memory.limit_bytes)}" if memory.limit_bytes else ""
    return Finding(
        severity=Severity.WARNING,
        what=f"{memory.oom_kills} process{'es were' if memory.oom_kills > 1 else ' was'} killed here for want of memory",
        evidence=tuple(text for text in (memory.oom_text, memory.limit_text) if text),
        consequence=f"a training or a worker ended with status 137; with the same memory{limit} it will happen again",
        fix=_more_memory(facts),
    )


def _more_memory(facts: Facts) -> str:
    less = "fewer workers (num_workers), prefetch_factor=1 or smaller batches"
    limit = facts.memory.limit_bytes
    if limit is None:
        return less
    twice = f"{math.ceil(2 * limit / _GIBIBYTE)}"
    commands = {
        "docker": f"docker run --memory={twice}g ...",
        "podman": f"podman run --memory={twice}g ...",
        "kubernetes": f"in the Pod's specification: resources: {{limits: {{memory: {twice}Gi}}}}",
    }
    command = commands.get(facts.system.container or "")
    if "SLURM_JOB_ID" in facts.variables:
        command = f"sbatch --mem={twice}G ..."
    return f"{command}   # or {less}" if command else less


def memory_limit_against_data(facts: Facts) -> Outcome:
    """The data set does not fit into the memory that this process may use.

    What was read once stays in memory as file cache, and the cache counts against the cgroup's limit: a data set that fits is read from the disk
    once, another one in every epoch. It matters where the disk is slow. Only looked at with `--data`.
    """
    data, memory = facts.storage.data, facts.memory
    if data is None:
        return Skipped(reason="no data set was named (--data)")
    allowed = memory.limit_bytes or memory.total_bytes
    if data.error or data.total_bytes is None or allowed is None or memory.total_bytes is None:
        return Skipped(reason="the size of the data set or of the memory is not known")
    if data.total_bytes <= allowed:
        return Passed(what=f"{'' if data.complete else 'at least '}{size(data.total_bytes)} of data, {size(allowed)} of memory")
    limited = memory.limit_bytes is not None and data.total_bytes < 0.8 * memory.total_bytes
    least = "" if data.complete else "at least "
    return Finding(
        severity=Severity.WARNING if limited else Severity.NOTE,
        what=f"the data set has {least}{size(data.total_bytes)}, this process may use {size(allowed)} of memory",
        evidence=tuple(
            text
            for text in (f"{data.path}: {least}{data.files} files, {data.total_bytes} bytes", memory.limit_text, f"MemTotal {memory.total_bytes}")
            if text
        ),
        consequence="every epoch reads it from the disk again",
        fix=_more_memory(facts) if limited else "keep the data set smaller (resized images, a packed copy), or on a fast local disk",
    )


def memlock_too_low(facts: Facts) -> Outcome:
    """Too little memory may be locked for RDMA.

    InfiniBand and RoCE need the memory that they send from to be locked. NCCL then fails with "ibv_reg_mr ... Cannot allocate memory" or "Call to
    ibv_create_qp failed". On one machine NCCL does without RDMA: there it is a note. Looked at only where GPUs can use an RDMA device; without one,
    pinned memory for the GPU does not count against this limit. See `ulimit -l`. Source: NCCL user guide, troubleshooting.
    """
    memory = facts.memory
    active = [port.device for port in facts.cluster.rdma if port.active]
    if not active or not facts.cluster.rdma_nodes:
        return Skipped(reason="no RDMA device is active" if not active else "no RDMA device can be used here")
    if not facts.gpus:
        return Skipped(reason="it is NCCL that sends over it, from GPUs")
    if memory.memlock_soft is None or memory.lock_unlimited is None:
        return Skipped(reason="the limit is not known")
    if memory.lock_unlimited or memory.memlock_soft < 0 or memory.memlock_soft >= _GIBIBYTE:
        return Passed(what="enough memory may be locked")
    commands = {"docker": "docker run --ulimit memlock=-1 ...", "podman": "podman run --ulimit memlock=-1 ..."}
    lasting = "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/90-memlock.conf   # then log in again"
    slurm = "in slurmd's unit: LimitMEMLOCK=infinity; in slurm.conf: PropagateResourceLimitsExcept=MEMLOCK"
    return Finding(
        severity=Severity.WARNING if many_machines(facts) else Severity.NOTE,
        what=f"only {size(memory.memlock_soft)} may be locked, and there is RDMA",
        evidence=(f"ulimit -l: {memory.memlock_soft // 1024} KiB", f"active: {', '.join(active)}"),
        consequence="NCCL between machines fails when it registers its buffers (ibv_reg_mr: Cannot allocate memory)",
        fix=commands.get(facts.system.container or "", slurm if "SLURM_JOB_ID" in facts.variables else lasting),
    )


def nofile_too_low(facts: Facts) -> Outcome:
    """Few files may be open at once.

    Each tensor that a worker hands over takes a file descriptor (sharing strategy file_descriptor, Linux's default), NCCL one or more for every peer,
    and a data set of shards one a shard. At the limit it says "Too many open files", or "received 0 items of ancdata". The limit is one for each
    process. 1024, the default of most systems, is enough on one machine with the usual number of workers: a training has a process a GPU. Among many
    machines, each GPU a peer of every other, it is worth knowing. See `ulimit -n`. Source: torch.multiprocessing.
    """
    memory = facts.memory
    soft = memory.nofile_soft
    if soft is None:
        return Skipped(reason="the limit is not known")
    if soft < 0 or soft >= 4096 or (soft >= 1024 and not many_machines(facts)):
        return Passed(what="any number of files may be open" if soft < 0 else f"{soft} files may be open")
    hard = memory.nofile_hard if memory.nofile_hard is not None else soft
    wanted = 65536 if hard < 0 else min(65536, hard)
    lasting = "echo '* - nofile 65536' | sudo tee /etc/security/limits.d/90-nofile.conf   # then log in again"
    commands = {"docker": "docker run --ulimit nofile=65536:65536 ...", "podman": "podman run --ulimit nofile=65536:65536 ..."}
    return Finding(
        severity=Severity.WARNING if soft < 1024 else Severity.NOTE,
        what=f"only {soft} files may be open at once",
        evidence=(f"ulimit -n: {soft} (hard: {hard if hard >= 0 else 'unlimited'})", f"{loader_workers(facts)} workers, {len(facts.gpus)} GPUs"),
        consequence='with many workers, shards or peers: "Too many open files"',
        fix=f"ulimit -n {wanted}" if wanted > soft else commands.get(facts.system.container or "", lasting),
    )


def pids_limit_low(facts: Facts) -> Outcome:
    """Few processes and threads may be started.

    A training is many threads: one a core for the arithmetic, some dozens of CUDA and NCCL, four or so a loader worker, and up to 32 processes that
    compile. Threads count as processes here. At the limit: "Resource temporarily unavailable", "can't start new thread", or a worker that
    never starts. See `cat /sys/fs/cgroup/pids.{max,current}` and `ulimit -u`.
    """
    memory = facts.memory
    need = _tasks(facts)
    user_limit = memory.nproc_soft if facts.system.uid not in (0, None) and (memory.nproc_soft or -1) > 0 else None
    if memory.total_bytes is None:
        return Skipped(reason="the limits are not known")
    if memory.pids_limit is None and user_limit is None:
        return Passed(what="processes and threads are not limited")
    left = memory.pids_limit - (memory.pids_now or 0) if memory.pids_limit is not None else None
    if (left is None or left >= need) and (user_limit is None or user_limit >= need):
        return Passed(what=f"room for {left if left is not None else user_limit} more processes and threads")
    group = left is not None and left < need
    now = f"{memory.pids_now} of {memory.pids_limit} in use" if memory.pids_now is not None else f"{memory.pids_limit} allowed"
    commands = {
        "docker": "docker run --pids-limit=-1 ...",
        "podman": "podman run --pids-limit=-1 ...",
        "kubernetes": "podPidsLimit: 4096 in the kubelet's configuration",
    }
    return Finding(
        severity=Severity.WARNING,
        what=f"room for {max(0, left) if group and left is not None else user_limit} processes and threads, a training here starts about {need}",
        evidence=tuple(text for text in (memory.pids_text, now) if text) if group else (f"ulimit -u: {user_limit}",),
        consequence='"can\'t start new thread" or "Resource temporarily unavailable", often only after hours',
        fix=commands.get(facts.system.container or "", "sudo systemctl set-property user-$(id -u).slice TasksMax=infinity")
        if group
        else "ulimit -u $(ulimit -Hu)",
    )


def _tasks(facts: Facts) -> int:
    """Return about how many threads and processes a training starts: arithmetic, CUDA and NCCL, loader workers, compiling."""
    cores = max(1, int(usable_cores(facts) or 4))
    processes = training_processes(facts)
    threads = set_threads(facts) or (1 if processes > 1 else cores)
    return processes * (threads + 40 + min(32, cores)) + 4 * loader_workers(facts)


def huge_pages(facts: Facts) -> Outcome:
    """Transparent huge pages are switched off.

    A batch of 38 MB is 9,400 pages of 4 KiB, each a fault when it is first touched; with huge pages it is 19. "madvise" lets programs ask for them
    (PyTorch does with THP_MEM_ALLOC_ENABLE=1), "always" gives them to all. Some databases ask for "never". Stoker's own loader re-uses its buffers
    and gains little; plain DataLoaders gain. See `cat /sys/kernel/mm/transparent_hugepage/enabled`. Source: kernel documentation,
    admin-guide/mm/transhuge.
    """
    state = facts.memory.huge_pages
    if state is None:
        return Skipped(reason="the kernel does not tell")
    if state != "never":
        return Passed(what=f"transparent huge pages: {state}")
    return Finding(
        severity=Severity.NOTE,
        what="transparent huge pages are switched off",
        evidence=("/sys/kernel/mm/transparent_hugepage/enabled: never",),
        consequence="fresh batches on the CPU cost a page fault for every 4 KiB",
        fix=on_host(facts, "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
    )


CHECKS: tuple[Check, ...] = (
    shm_too_small,
    shm_full,
    memory_nearly_full,
    oom_kills,
    swap_in_use,
    memory_limit_against_data,
    pids_limit_low,
    nofile_too_low,
    memlock_too_low,
    huge_pages,
)
