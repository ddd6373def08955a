"""Why a container died, in one line: facts in, words out."""

from __future__ import annotations

import pytest

from stoker.launch.ending import Ending, why

ID = "0fa703686f163d2d3609b4fac3a0da332b9b0a78a8895e2cb12410f35a4b0215"
KILLED = f"[1.0] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,%s,task_memcg=/docker/{ID},task=%s,pid=9,uid=0"
AT_ITS_LIMIT = KILLED % (f"oom_memcg=/docker/{ID}", "python")
OF_ALL = KILLED % ("global_oom", "pt_data_worker")
XID_79 = "[1.0] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
XID_31 = "[1.0] NVRM: Xid (PCI:0000:3b:00): 31, pid=4242, name=python, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS"
XID_45 = "[1.0] NVRM: Xid (PCI:0000:3b:00): 45, pid=4242, name=python, Ch 00000008"
NO_SHM = "RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
BUS = "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm)."
LAUNCH = "torch.AcceleratorError: CUDA error: unspecified launch failure"
FORK = (
    'Traceback\n  File "popen_fork.py", line 66, in _launch\n    self.pid = os.fork()\nBlockingIOError: [Errno 11] Resource temporarily unavailable\n'
)
BUSY = "BlockingIOError: [Errno 11] Resource temporarily unavailable"
REFUSED = f"[1.0] cgroup: fork rejected by pids controller in /libpod_parent/libpod-{ID}"
BLAS = "OpenBLAS blas_thread_init: pthread_create failed for thread 5 of 64: Resource temporarily unavailable"
THROWN = "terminate called after throwing an instance of 'std::system_error'\n  what():  Resource temporarily unavailable\n"
FULL = "OSError: [Errno 28] No space left on device: '/workspace/runs/x.pt'"
OWN = "\x1b[1merror:\x1b[0m no stack of this image runs here: the driver is 470.1  [stack-unfit]\n\nhint: update it"
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no such\x1b[31m class\x07\nbye\n'
NOT_FOUND = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
    'exec: "nosuch": executable file not found in $PATH: unknown'
)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Ending(code=137, kernel=(AT_ITS_LIMIT,), memory_bytes=2 << 30), ("out of memory", "kernel killed python", "2 GiB", "--memory")),
        (Ending(code=137, kernel=(OF_ALL,)), ("whole machine", "pt_data_worker")),
        (Ending(code=137, oom_killed=True, memory_bytes=20 << 20), ("out of memory", "20 MiB")),
        (Ending(code=1, oom_killed=True, log_tail="DataLoader worker (pid 7) is killed by signal: Killed."), ("out of memory",)),
        (Ending(code=137, oom_killed=True, stopped_by="`stoker stop` (eva)"), ("out of memory",)),
        (Ending(code=137, memory_bytes=1 << 30), ("signal 9", "person", "kernel", "1 GiB")),
        (Ending(code=137, stopped_by="`stoker stop` (eva)"), ("killed by `stoker stop` (eva)",)),
        (Ending(code=143, stopped_by="`stoker stop` (eva)", log_tail=FULL), ("stopped by `stoker stop` (eva)",)),
        (Ending(code=130, signals=(2,)), ("interrupted by you (Ctrl-C)",)),
        (Ending(code=143, signals=(2,), stopped_by="`podman stop`, ..."), ("interrupted by you (Ctrl-C), exit status 143",)),
        (Ending(code=137, signals=(2, 2), stopped_by="`podman kill`, ..."), ("interrupted by you (Ctrl-C), exit status 137",)),
        (Ending(code=1, signals=(2,), log_tail="KeyboardInterrupt\n"), ("interrupted by you (Ctrl-C), exit status 1",)),
        (Ending(code=1, signals=(2,), log_tail=FULL), ("disk full",)),
        (Ending(code=137, signals=(2,), oom_killed=True), ("out of memory",)),
        (Ending(code=143, signals=(15,), stopped_by="`podman stop`, ..."), ("ended because SIGTERM was sent to this run",)),
        (Ending(code=137, signals=(1,)), ("ended because its terminal was closed, exit status 137",)),
        (Ending(code=3, signals=(15,)), ("exit status 3",)),
        (Ending(code=139, signals=(10, 12)), ("segmentation fault",)),
        (Ending(code=1, stopped_by="`stoker stop` (eva)"), ("stopped by `stoker stop` (eva)", "status 1")),
        (Ending(code=1, log_tail=NO_SHM, shm_bytes=64 << 20), ("out of shared memory", "64 MiB", "--shm")),
        (Ending(code=1, log_tail=BUS), ("out of shared memory", "insufficient")),
        (Ending(code=135), ("out of shared memory", "bus error")),
        (Ending(code=1, kernel=(XID_79,)), ("GPU lost", "Xid 79", "fallen off the bus", "stoker doctor")),
        (Ending(code=1, kernel=(XID_31, XID_45), log_tail=LAUNCH), ("a GPU kernel of the program", "Xid 31", "MMU Fault")),
        (Ending(code=1, log_tail=LAUNCH), ("GPU lost, or", "unspecified launch failure", "dmesg")),
        (Ending(code=1, log_tail="Unable to determine the device handle for GPU0: 0000:3B:00.0: GPU is lost."), ("GPU lost",)),
        (Ending(code=1, log_tail="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"), ("GPU's memory is full", "batch")),
        (Ending(code=1, log_tail=FULL), ("disk full", "runs/x.pt")),
        (Ending(code=1, log_tail="OSError: [Errno 28] No space left on device: '/dev/shm/x'"), ("out of shared memory",)),
        (Ending(code=1, log_tail="RuntimeError: can't start new thread", pids=20), ("out of processes", "at its limit of 20", "--pids", "ulimit -u")),
        (Ending(code=1, log_tail="RuntimeError: can't start new thread"), ("out of processes", "thread; take fewer", "ulimit -u")),
        (Ending(code=1, log_tail=FORK, pids=20, kernel=(REFUSED,)), ("out of processes", "the kernel refused", "limit of 20", "BlockingIOError")),
        (Ending(code=1, log_tail=BUSY), ("exit status 1: BlockingIOError",)),
        (Ending(code=254, log_tail="bash: fork: retry: Resource temporarily unavailable\n", pids=20), ("out of processes", "bash: fork")),
        (Ending(code=2, log_tail="sh: 0: Cannot fork\n", pids=20), ("out of processes", "sh: 0: Cannot fork")),
        (Ending(code=130, log_tail=BLAS, pids=20), ("out of processes", "OpenBLAS")),
        (Ending(code=134, log_tail=THROWN, pids=20), ("out of processes", "what():")),
        (Ending(code=1, log_tail="libgomp: Thread creation failed: Resource temporarily unavailable"), ("out of processes", "libgomp")),
        (Ending(code=7, pids=20, kernel=(REFUSED,)), ("exit status 7; before, it ran out of processes", "limit of 20", "--pids")),
        (Ending(code=None, pids=20, refused=True), ("a program in it ran out of processes", "the kernel refused", "limit of 20")),
        (Ending(code=1, log_tail="OSError: [Errno 30] Read-only file system: '/etc/x'", read_only=True), ("read-only", "/etc/x", "--writable")),
        (Ending(code=1, log_tail="OSError: [Errno 30] Read-only file system: '/etc/x'"), ("exit status 1: OSError",)),
        (Ending(code=34, log_tail="error: no space left on the disk while writing x  [disk-full]"), ("disk full",)),
        (Ending(code=54, log_tail=OWN, ours=True), ("no stack of this image runs here: the driver is 470.1", "stack-unfit", "54")),
        (Ending(code=55, ours=True), ("JupyterLab or sshd", "service-unfit", "55")),
        (Ending(code=127, told=NOT_FOUND), ('was not found (exit status 127): "nosuch": executable file not found in $PATH',)),
        (Ending(code=126, log_tail="Error: runc: permission denied\n"), ("cannot be executed", "126", "permission denied")),
        (Ending(code=1, log_tail="ERROR (catatonit:6): failed to exec pid1: No such file or directory\n"), ("cannot be executed", "No such file")),
        (Ending(code=139), ("segmentation fault",)),
        (Ending(code=132), ("instruction",)),
        (Ending(code=143), ("SIGTERM",)),
        (Ending(code=130), ("Ctrl-C",)),
        (Ending(code=159), ("signal 31",)),
        (Ending(code=3), ("exit status 3",)),
        (Ending(code=255), ("exit status 255",)),
        (Ending(code=1, log_tail=TRACE), ("exit status 1: ValueError: no such class",)),
        (Ending(code=None, oom_killed=True), ("a program in it ran out of memory",)),
        (Ending(code=None, told=NOT_FOUND), ("could not be started", "nosuch")),
    ],
)
def test_the_reason(facts: Ending, words: tuple[str, ...]) -> None:
    line = why(facts)
    assert line is not None
    assert [word for word in words if word not in line] == [], line
    assert line.isprintable()
    assert "unable to start container process" not in line


@pytest.mark.parametrize(
    "facts", [Ending(code=0), Ending(code=0, log_tail=FULL, stopped_by="x"), Ending(code=None), Ending(code=None, log_tail=NO_SHM)]
)
def test_what_ended_well_or_runs_has_none(facts: Ending) -> None:
    assert why(facts) is None


def test_a_status_of_stokers_own_means_nothing_from_a_stranger() -> None:
    """54 of any program is not what 54 of our start is."""
    line = why(Ending(code=54, log_tail="error: something  [other-slug]\n"))
    assert line == "its program ended with exit status 54"


def test_an_xid_that_follows_from_a_stop_is_no_lost_gpu() -> None:
    assert "GPU" not in str(why(Ending(code=1, kernel=(XID_45,))))


def test_a_stranger_writes_one_long_line() -> None:
    line = why(Ending(code=1, log_tail="x" * 5000 + " No space left on device"))
    assert line is not None
    assert len(line) < 300
