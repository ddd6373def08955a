"""Samples of a running Python's stacks, taken by py-spy from outside, sorted into the phases of a training step."""

from __future__ import annotations

import linecache
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from stoker import shell
from stoker.diagnosis.observation import Site, Split
from stoker.diagnosis.steps import PHASES

_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^()]*?)(?::(?P<line>\d+))?\)$")
_RATE = 50
_LOADING = ("torch/utils/data/dataloader.py", "torch/utils/data/_utils/")
_PLACES = (
    # (end of the path of a frame's file, names of its functions or None for any, phase); the innermost frame that fits decides.
    ("torch/optim/", None, "optimizer"),
    ("torch/nn/utils/clip_grad.py", None, "optimizer"),
    ("torch/autograd/__init__.py", ("backward", "grad"), "backward"),
    ("torch/autograd/graph.py", ("_engine_run_backward",), "backward"),
    ("torch/cuda/__init__.py", ("synchronize",), "sync"),
    ("torch/nn/functional.py", None, "forward"),
    ("torch/nn/modules/", None, "forward"),
)
_SYNC = re.compile(r"\.(item|tolist|cpu|synchronize)\(|\b(float|int|bool)\(")
_COPY = re.compile(r"\.(to|cuda)\(|\.copy_\(")


def sample(pid: int, seconds: float, *, gpu: bool) -> tuple[Split | None, str | None]:
    """Watch a process with py-spy, without stopping it; return the split, or None and why there is none. `gpu`: whether it may use one."""
    program = find_py_spy()
    if program is None:
        return None, "py-spy is not installed, so the phases of a step cannot be told apart: pip install 'stoker[diagnose]'"
    with tempfile.TemporaryDirectory(prefix="stoker-diagnose-") as folder:
        path = Path(folder) / "stacks"
        arguments = [program, "record", "--pid", str(pid), "--duration", str(max(1, round(seconds))), "--rate", str(_RATE), "--format", "raw"]
        outcome = shell.run([*arguments, "--idle", "--threads", "--full-filenames", "--nonblocking", "--output", str(path)], timeout_s=seconds + 60)
        try:
            text = path.read_text(errors="replace")
        except OSError:
            return None, f"py-spy cannot see into process {pid}: {_reason(outcome.err)}"
    split = split_of_stacks(pid, text, gpu=gpu, root=Path(f"/proc/{pid}/root"))
    return split, None if split else f"py-spy saw no Python thread of process {pid} that trains"


def find_py_spy() -> str | None:
    """Return py-spy beside our Python, else the one on the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def split_of_stacks(pid: int, text: str, *, gpu: bool, root: Path = Path("/"), line_of: Callable[[str, int], str] | None = None) -> Split | None:
    """Return the split of py-spy's raw format: `thread;frame (file:line);... count` a line. The thread with most samples in a phase is it.

    Without a GPU `.item()` and `.to()` wait for nothing, and count as Python.
    """
    read_line = line_of or (lambda file, line: linecache.getline(str(root / file.lstrip("/")), line) or linecache.getline(file, line))
    threads: dict[str, Counter[tuple[str, str, int, str]]] = {}
    for entry in text.splitlines():
        stack, _, count = entry.rpartition(" ")
        thread, _, rest = stack.partition(";")
        frames = [found for part in rest.split(";") if (found := _FRAME.match(part))]
        if count.isdecimal() and frames:
            threads.setdefault(thread, Counter())[_classified(frames, read_line, gpu)] += int(count)
    trained = {name: sum(count for (phase, *_), count in counts.items() if phase != "other") for name, counts in threads.items()}
    # Backward and optimizer make a training; a thread that only feeds (pin memory, autograd's own) has other phases only.
    chosen = max(trained, key=lambda name: trained[name], default=None)
    if chosen is None or trained[chosen] == 0:
        return None
    return _split(pid, threads[chosen])


def _split(pid: int, counts: Counter[tuple[str, str, int, str]]) -> Split:
    total = sum(counts.values())
    shares = {phase: sum(count for (found, *_), count in counts.items() if found == phase) / total for phase in PHASES}
    sites = [
        Site(what=what, phase=phase, file=file, line=line, per_step=0.0, share=count / total, pinned=None, non_blocking=None)
        for (phase, file, line, what), count in counts.most_common(40)
        if phase in ("data", "copy", "sync", "other")
    ]
    return Split(
        pid=pid,
        rank=None,
        source="samples",
        steps=None,
        step_s=None,
        median_s=None,
        samples=total,
        shares=shares,
        gpu_shares=None,
        batch=None,
        data_cpu=None,
        breathing=None,
        waits_s=(),
        warmup_s=(),
        pauses=None,
        evaluation_s=0.0,
        observed_s=total / _RATE,
        sites=tuple(sites[:12]),
        facts={},
        memory=None,
        cost=None,
        typical=(),
    )


def _classified(frames: list[re.Match[str]], line_of: Callable[[str, int], str], gpu: bool) -> tuple[str, str, int, str]:
    """Return the phase of a stack (outermost frame first), and the line of the person's code that it is due to."""
    own = [frame for frame in frames if "site-packages/" not in frame["file"] and not frame["file"].startswith("<") and frame["line"]]
    user = next((frame for frame in own if "/lib/python" not in frame["file"]), frames[0])
    innermost = next((frame for frame in reversed(own) if "/lib/python" not in frame["file"]), user)
    if any(place in frame["file"] for frame in frames for place in _LOADING):  # its transforms may be modules: they are no forward
        return "data", user["file"], int(user["line"] or 0), "DataLoader"
    for frame in reversed(frames):
        for place, names, phase in _PLACES:
            if place in frame["file"] and (names is None or frame["name"].rpartition(".")[2] in names):
                return phase, user["file"], int(user["line"] or 0), ""
    # Calls into C have no frame of their own: the line tells.
    file, line = innermost["file"], int(innermost["line"] or 0)
    text = line_of(file, line) if line and frames[-1] is innermost else ""
    for pattern, phase in ((_SYNC, "sync"), (_COPY, "copy")) if gpu else ():
        if found := pattern.search(text):
            return phase, file, line, found.group(0).rstrip("(") + "()"
    return "other", file, line, text.strip()[:60]


def _reason(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"^(\d+: |Error: )", line)]
    if any("ermission denied" in line or "ptrace" in line.lower() for line in lines):
        return "it is not allowed to (ptrace: run as the same user or root; in a container add --cap-add SYS_PTRACE)"
    return re.sub(r"^(\d+: |Error: )", "", causes[0]) if causes else "it gave no reason"
