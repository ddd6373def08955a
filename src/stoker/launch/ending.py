"""Why a container ended, in one line: judged from facts that were gathered elsewhere (`evidence`)."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass

from stoker.doctor.sizes import size
from stoker.errors import StokerError
from stoker.launch.last_words import last_line, line_with, plain, shown

# Kept as texts: compiling them takes longer than everything else here, and most endings need none.
_SHM = (
    r"(?i)bus error|unable to (?:allocate|open|write to|resize|mmap) .{0,20}shared memory|(?:out of|insufficient) shared memory"
    r"|no space left on device.{0,20}/dev/shm"
)
_GPU_LOST = (
    r"(?i)GPU is lost|fallen off the bus|Unable to determine the device handle|cudaErrorLaunchFailure|CUDA_ERROR_LAUNCH_FAILED"
    r"|CUDA error: (?:unspecified launch failure|uncorrectable ECC error|the launch timed out|hardware stack error|unknown error)"
)
_GPU_FULL = r"(?i)CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
_DISK = r"(?i)no space left on device|disk quota exceeded|\[disk-full\]|Errno 28\b|Errno 122\b"
_READ_ONLY = r"(?i)read-only file system|Errno 30\b"
_PROCESSES = (
    r"(?i)can't start new thread|cannot fork|failed to create new OS thread|OMP: Error #34|what\(\):\s+resource temporarily unavailable"
    r"|(?:fork|clone|spawn|pthread_create|thread creation).{0,80}resource temporarily unavailable"
)
# Python's word for it, which every read that would wait has, too: only from where processes are begun.
_AGAIN, _FORKING = r"BlockingIOError: \[Errno 11\]", r"os\.fork\(|fork_exec\(|popen_fork|forkpty|posix_spawn"
REFUSED = r"fork rejected by pids controller"
"""As the kernel says it, once for each control group."""
_OWN = r"(?m)^error: (?P<message>.+?)  \[(?P<slug>[a-z-]+)\]$"
# What the engine, its shim and runc put around what is wrong.
_OCI = r"^.*unable to start container process: (?:exec: )?|: unknown$"
# What ended before it had become the program.
_CUT_OFF = r"cannot start (?:a stopped process|a container that has stopped|an already running container)"
# The small init of podman, which has no status of its own for it.
_CATATONIT = r"^ERROR \(catatonit:\d+\): failed to exec"
_PYTHON = r"(?:\[?rank\d+\]?:? ?)?(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:: .*)?"
# As Python and click say it, who were told by SIGINT.
_PRESSED = r"^(?:KeyboardInterrupt|interrupted|Aborted!)"
_XID = r"NVRM: Xid \([^)]*\): (?P<number>\d+)(?:, pid=[^,]*)?(?:, name=[^,]*)?,? ?(?P<text>.*)"
_KILLED = r"oom-kill:.*?(?P<whole>global_oom)?,?task_memcg=[^,]*,task=(?P<task>[^,]*)"
# What a program, not the hardware, did (NVIDIA, XID Errors: docs.nvidia.com/deploy/xid-errors).
_XIDS_OF_PROGRAMS = {13, 31, 43, 69, 109}
_XIDS_THAT_FOLLOW = {45, 154}
# The status that docker gives to what was never started.
_DOCKERS = 128
_SIGNALS = {
    signal.SIGINT: "interrupted (Ctrl-C, signal 2)",
    signal.SIGILL: "the processor does not know an instruction of the program (signal 4): it was built for a newer one",
    signal.SIGABRT: "the program gave up (abort, signal 6)",
    signal.SIGSEGV: "the program crashed (segmentation fault, signal 11)",
    signal.SIGTERM: "told to end (SIGTERM) by its engine, by this machine's shut-down, or by a person",
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Everything that is known about how a container ended."""

    code: int | None
    """Its exit status (128 + N: signal N); None: it runs still, or never ran."""
    oom_killed: bool = False
    """The engine or its control group says that the kernel killed for want of memory."""
    memory_bytes: int | None = None
    """Its memory limit."""
    shm_bytes: int | None = None
    """Size of its /dev/shm."""
    pids: int | None = None
    """How many processes and threads it may have."""
    refused: bool = False
    """Whether its control group, which still runs, counts processes that it was refused for that."""
    read_only: bool = False
    """Whether its own files could not be changed."""
    log_tail: str = ""
    """The last lines that it wrote."""
    kernel: tuple[str, ...] = ()
    """Lines of the kernel's log from its life that are about it or about GPUs."""
    stopped_by: str | None = None
    """Who ended it, where that is known: `stoker stop`, `docker stop` or `kill`, ..."""
    signals: tuple[int, ...] = ()
    """Those that came to its run in the foreground while it lasted: 2 is Ctrl-C."""
    told: str = ""
    """What the engine says went wrong at its start."""
    ours: bool = False
    """Whether the image is one of Stoker's, whose start has status codes of its own."""

    @property
    def cut_off(self) -> bool:
        """Whether it was ended before its program began."""
        return self.code == _DOCKERS and bool(re.search(_CUT_OFF, self.told))


def why(ending: Ending) -> str | None:
    """Return one line; None when it ended well, or runs."""
    if ending.code is None:
        return _still_running(ending)
    if ending.code == 0:
        return None
    return next(line for cause in _CAUSES if (line := cause(ending)))


def _still_running(ending: Ending) -> str | None:
    """A notebook lives on when its kernel was killed, and waits for it forever."""
    if ending.told:
        return f"it could not be started: {_without_runtime(ending.told)}"
    if _by_kernel(ending):
        return f"a program in it ran {_memory(ending)}"
    return f"a program in it ran {_no_processes(ending)}" if ending.refused else None


def _out_of_memory(ending: Ending) -> str | None:
    return _memory(ending) if _by_kernel(ending) else None


def _by_kernel(ending: Ending) -> bool:
    return ending.oom_killed or any(re.search(_KILLED, line) for line in ending.kernel)


def _memory(ending: Ending) -> str:
    found = next((found for line in reversed(ending.kernel) if (found := re.search(_KILLED, line))), None)
    task = shown(found["task"]) if found else "it"
    if found and found["whole"]:
        return f"out of memory: this whole machine had none left, and the kernel killed {task}; give it a limit with --memory, or run less at once"
    limit = f" of {size(ending.memory_bytes)}" if ending.memory_bytes else ""
    return f"out of memory: the kernel killed {task} at its limit{limit}; raise it with --memory, or take fewer workers or a smaller batch"


def _interrupted(ending: Ending) -> str | None:
    """Somebody at its run in the foreground ended it; what they did is known for sure, and an engine would call it its own signal."""
    ends = {_DOCKERS, 128 + signal.SIGTERM, 128 + signal.SIGKILL}
    if signal.SIGINT in ending.signals and (ending.code in {*ends, 128 + signal.SIGINT} or line_with(_PRESSED, ending.log_tail)):
        return "interrupted by you (Ctrl-C)" + ("" if ending.code == 128 + signal.SIGINT else f", exit status {ending.code}")
    last = next((one for one in reversed(ending.signals) if one in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)), None)
    if last is None or ending.code not in {*ends, 128 + last}:
        return None
    told = "its terminal was closed" if last == signal.SIGHUP else f"{signal.Signals(last).name} was sent to this run"
    return f"ended because {told}" + ("" if ending.code == 128 + last else f", exit status {ending.code}")


def _cut_off(ending: Ending) -> str | None:
    return "ended before its program began, by Ctrl-C or a stop" if ending.cut_off else None


def _stopped(ending: Ending) -> str | None:
    if ending.stopped_by is None:
        return None
    if ending.code == 128 + signal.SIGKILL:
        return f"killed by {ending.stopped_by} (signal 9)"
    return f"stopped by {ending.stopped_by}" + ("" if ending.code == 128 + signal.SIGTERM else f" (exit status {ending.code})")


def _shared_memory(ending: Ending) -> str | None:
    line = line_with(_SHM, ending.log_tail)
    if line is None and ending.code != 128 + signal.SIGBUS:
        return None
    room = f"/dev/shm has {size(ending.shm_bytes)}" if ending.shm_bytes else "/dev/shm is full"
    return f"out of shared memory: {room}; give it more with --shm, or take fewer workers ({line or 'bus error, signal 7'})"


def _gpu_lost(ending: Ending) -> str | None:
    xids = [found for line in ending.kernel if (found := re.search(_XID, line)) and int(found["number"]) not in _XIDS_THAT_FOLLOW]
    line = line_with(_GPU_LOST, ending.log_tail)
    grave = [found for found in xids if int(found["number"]) not in _XIDS_OF_PROGRAMS]
    if grave:
        return f"GPU lost: the driver reported Xid {grave[-1]['number']} ({shown(grave[-1]['text'])}); `stoker doctor` says what to do"
    if xids and (line or "CUDA" in ending.log_tail):
        text = shown(xids[-1]["text"])
        return f"a GPU kernel of the program failed: Xid {xids[-1]['number']} ({text}); CUDA_LAUNCH_BLOCKING=1 finds the place in the program"
    return f"GPU lost, or a kernel on it failed: {line}; `sudo dmesg | grep Xid` and `stoker doctor` tell which" if line else None


def _gpu_full(ending: Ending) -> str | None:
    line = line_with(_GPU_FULL, ending.log_tail)
    return f"the GPU's memory is full: {line}; take a smaller batch, or see with `stoker ps` what else uses it" if line else None


def _disk_full(ending: Ending) -> str | None:
    line = line_with(_DISK, ending.log_tail)
    return f"disk full: {line}; `df -h` shows which" if line else None


def _processes(ending: Ending) -> str | None:
    """The engine does not tell of it, and the kernel only those who may read its log: what the program says counts, too."""
    log, refused = ending.log_tail, _was_refused(ending)
    line = line_with(_PROCESSES, log) or (line_with(_AGAIN, log) if re.search(_FORKING, log) else None)
    if line is None:
        return f"{_signal(ending) or _program(ending)}; before, it ran {_no_processes(ending)}" if refused else None
    own = "" if refused else "; `ulimit -u` says how many your account may have"
    return f"{_no_processes(ending)} ({line}){own}"


def _no_processes(ending: Ending) -> str:
    limit = f" at its limit of {ending.pids}; raise it with --pids, or" if ending.pids else ";"
    who = "the kernel refused it" if _was_refused(ending) else "it did not get"
    return f"out of processes: {who} one more process or thread{limit} take fewer workers or threads"


def _was_refused(ending: Ending) -> bool:
    return ending.refused or any(re.search(REFUSED, line) for line in ending.kernel)


def _read_only(ending: Ending) -> str | None:
    line = line_with(_READ_ONLY, ending.log_tail) if ending.read_only else None
    return f"read-only: {line}; /workspace, /tmp and the home can be written to, and with --writable the container's own files" if line else None


def _own_error(ending: Ending) -> str | None:
    """What Stoker itself said inside: `error: message  [slug]`, or the status codes of its start."""
    kinds = {kind.exit_code: kind for kind in StokerError.__subclasses__()}
    kind = kinds.get(ending.code or 0)
    said = [found for found in re.finditer(_OWN, plain(ending.log_tail)) if kind and found["slug"] == kind.slug]
    if kind and said:
        return f"{shown(said[-1]['message'])} ({kind.slug}, exit status {kind.exit_code})"
    if kind and ending.ours and ending.code in (54, 55):
        return f"{(kind.__doc__ or '').partition('. ')[0].rstrip('.')} ({kind.slug}, exit status {kind.exit_code})"
    return None


def _not_executed(ending: Ending) -> str | None:
    if ending.code == 1 and (line := line_with(_CATATONIT, ending.log_tail)):
        return f"the program cannot be executed: {line}"
    if ending.code not in (126, 127):
        return None
    what = "was not found" if ending.code == 127 else "cannot be executed"
    last = _without_runtime(ending.told) or last_line(ending.log_tail)
    return f"the program {what} (exit status {ending.code})" + (f": {last}" if last else "")


def _signal(ending: Ending) -> str | None:
    number = (ending.code or 0) - 128
    if number == signal.SIGKILL:
        limit = f", whose limit was {size(ending.memory_bytes)}" if ending.memory_bytes else ""
        return f"killed (signal 9) by a person, by the engine after its time to stop, or by the kernel for want of memory{limit}"
    if not 0 < number < signal.NSIG:
        return None
    known = {int(one): text for one, text in _SIGNALS.items()}
    return known.get(number) or f"ended by signal {number}"


def _program(ending: Ending) -> str:
    lines = [line.strip() for line in plain(ending.log_tail).splitlines()]
    error = next((line for line in reversed(lines) if re.fullmatch(_PYTHON, line)), None)
    return f"its program ended with exit status {ending.code}" + (f": {shown(error)}" if error else "")


_CAUSES: tuple[Callable[[Ending], str | None], ...] = (
    _out_of_memory,
    _interrupted,
    _cut_off,
    _stopped,
    _shared_memory,
    _gpu_lost,
    _gpu_full,
    _disk_full,
    _read_only,
    _processes,
    _own_error,
    _not_executed,
    _signal,
    _program,
)
"""The surest and the most particular first."""


def _without_runtime(told: str) -> str:
    return shown(re.sub(_OCI, "", told))
