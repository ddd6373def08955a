"""Watches a training from inside its own process: when each phase of a step begins and ends, and nothing else.

One file that needs nothing but torch and Python 3.8: it is loaded by `injected/sitecustomize.py` into programs that know nothing of Stoker.
It never changes a number: it wraps calls, reads the clock, and calls what it wraps with what it was given. On a GPU it also records CUDA
events, which wait for nothing. An error of its own is said once on stderr, everything is put back, and the program goes on.

Only one thread is watched: the first that calls an optimizer or backward. Its time is cut into segments without gaps; a phase inside
another (a forward inside an optimizer's closure) is taken out of the outer one. The file is JSON lines:
`start` (at import), `facts`, `site`, `segments` [phase, start_us, duration_us, gpu_us, site, cpu_us] (the last three only where one of them is
known), `memory`, `window`, `end`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
import sysconfig
import time
import weakref
from multiprocessing.process import parent_process
from multiprocessing.util import Finalize
from threading import get_ident
from typing import Any

import torch
import torch.autograd
import torch.utils.data.dataloader as loading
from torch.optim import optimizer as optimizing

_FLUSH_S = 0.5
_MOST_SEGMENTS = 400_000
"""A safety net: about 40 MB of JSON."""
_SLOW_START_S = 10.0
"""Steps so slow that the warm-up would take longer than this are watched from the second on."""
_CLOSED = ("forward", "evaluation", "backward", "data")
"""Phases in which a module's call begins no forward: it is within one, recomputes one, or is a loader's transform (torchvision's are modules)."""
_LOADER_FACTS = ("num_workers", "batch_size", "pin_memory", "persistent_workers", "prefetch_factor", "drop_last")


class Recorder:
    """Cuts the time of one thread into segments and writes them to a file of this process."""

    def __init__(self, folder: str, seconds: float, skip: int, clock: Any = time.perf_counter) -> None:
        self.folder, self.seconds, self.skip, self.clock = folder, seconds, skip, clock
        self.patches: list[tuple[Any, str, Any, Any]] = []
        self.handles: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """Begin anew: at the start, and in a forked child, which is another process with a file of its own."""
        self.on = True
        self.thread: int | None = None
        self.phase, self.mark = "other", 0.0
        self.site: int | None = None
        self.event: Any = None
        self.cpu: float | None = None
        self.stack: list[tuple[str, Any]] = []
        self.segments: list[tuple[Any, ...]] = []
        self.lines: list[str] = []
        self.sites: dict[Any, int] = {}
        self.facts: dict[str, Any] = {}
        self.optimizers: dict[int, int] = {}
        self.count = self.steps = 0
        self.window: tuple[float, int] | None = None
        self.first = self.flushed = 0.0
        self.cuda: Any = None
        self.want_peak = False
        self.pool: list[Any] = []

    # --- segments -------------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Begin to watch the thread that calls: it trains."""
        self.thread = get_ident()
        self.mark = self.first = self.flushed = self.clock()
        if parent_process() is not None:  # such a process leaves without running atexit
            Finalize(None, self.finish, args=("exit",), exitpriority=100)

    def enter(self, phase: str, what: str | None = None, **more: Any) -> None:
        """End the segment that runs and begin one of `phase`; `what` stands at a line of the person's code. Raises nothing."""
        try:
            site = None if what is None else self.place(what, **more)
            self.cut()
            self.stack.append((self.phase, self.site))
            self.phase, self.site = phase, site
        except Exception as error:
            self.fail(error)

    def leave(self) -> None:
        """End the segment and go on with the phase around it. Raises nothing, whatever state a CUDA error has left."""
        if self.on:
            try:
                self.cut()
                self.phase, self.site = self.stack.pop() if self.stack else ("other", None)
            except Exception as error:
                self.fail(error)

    def cut(self) -> None:
        """Close the segment that runs."""
        event = self.stamp()
        now = self.clock()
        self.segments.append((self.phase, self.mark, now, self.site, self.event, event, self.cpu))
        self.mark, self.event, self.cpu = now, event, None

    def stamp(self) -> Any:
        """Return a CUDA event that has been recorded on the current stream, or None without a GPU and while a graph is captured."""
        if self.cuda is None or self.cuda.is_current_stream_capturing():
            return None
        event = self.pool.pop() if self.pool else self.cuda.Event(enable_timing=True)
        event.record()
        return event

    def place(self, what: str, **more: Any) -> int:
        """Return the number of the line of the person's code that called us."""
        key = (*_caller(), what)
        number = self.sites.get(key)
        if number is None:
            number = self.sites[key] = len(self.sites)
            self.write("site", number=number, file=key[0], line=key[1], what=what, **more)
        return number

    # --- steps ----------------------------------------------------------------------------------------------------

    def step_done(self, optimizer: Any) -> None:
        """Mark the end of a step, and end the window when it is over."""
        number = self.optimizers.setdefault(id(optimizer), len(self.optimizers))
        self.segments.append(("step", self.mark, self.mark, number, None, None, None))
        self.steps += 1
        if self.window is None and (self.steps >= self.skip or self.mark - self.first > _SLOW_START_S):
            self.window = (self.mark, self.steps)
            self.write("window", at_us=_us(self.mark))
        self.tidy()

    def tidy(self) -> None:
        """Write what is due; end the window when it is over."""
        now = self.mark
        over = self.window is not None and now - self.window[0] >= self.seconds and self.steps - self.window[1] >= 2
        if over or self.count > _MOST_SEGMENTS:
            self.finish("window" if over else "too many events")
        elif now - self.flushed >= _FLUSH_S:
            self.flushed, self.want_peak = now, True
            self.memory("step")
            self.flush()
            after = self.clock()
            self.segments.append(("observer", now, after, None, None, None, None))
            self.mark = after

    def memory(self, when: str) -> None:
        """Write how much memory is in use. The counters are only read, never reset: the program may read them too."""
        line: dict[str, Any] = {"at_us": _us(self.clock()), "when": when, "rss_bytes": _resident()}
        if self.cuda is not None and not self.cuda.is_current_stream_capturing():
            stats = self.cuda.memory_stats()
            for name in ("allocated_bytes", "reserved_bytes", "inactive_split_bytes"):
                line[name] = stats.get(name + ".all.current")
            line["peak_allocated_bytes"] = stats.get("allocated_bytes.all.peak")
            line["peak_reserved_bytes"] = stats.get("reserved_bytes.all.peak")
            line["alloc_retries"], line["ooms"] = stats.get("num_alloc_retries"), stats.get("num_ooms")
        self.write("memory", **line)

    def tell(self, **facts: Any) -> None:
        """Write facts that are new."""
        new = {key: value for key, value in facts.items() if self.facts.get(key, self) != value}
        if new:
            self.facts.update(new)
            self.write("facts", **new)

    # --- the file -------------------------------------------------------------------------------------------------

    def write(self, kind: str, **values: Any) -> None:
        """Keep a line for the next flush."""
        self.lines.append(json.dumps(dict(values, kind=kind), default=str))

    def flush(self, last: bool = False) -> None:
        """Append the segments whose CUDA events are over, and the lines, to this process's file."""
        if self.cuda is not None and self.cuda.is_current_stream_capturing():
            return
        ready = len(self.segments)
        if self.cuda is not None and not last:
            finished = (index for index in reversed(range(ready)) if self.segments[index][5] is not None and self.segments[index][5].query())
            ready = next(finished, -1) + 1
        done, self.segments = self.segments[:ready], self.segments[ready:]
        self.count += len(done)
        if done:
            self.lines.append('{"kind": "segments", "v": [' + ",".join([self.row(entry) for entry in done]) + "]}")
        if self.lines:
            with open(os.path.join(self.folder, f"process-{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
                file.write("\n".join(self.lines) + "\n")
        self.lines = []

    def row(self, entry: tuple[Any, ...]) -> str:
        """Return a segment as JSON holds it, its times in whole microseconds; without what it does not have at its end."""
        phase, start, end, site, before, after, cpu = entry
        begin_us = int(1e6 * start + 0.5)
        head = f'["{phase}",{begin_us},{int(1e6 * end + 0.5) - begin_us}'  # by hand: a training of tiny steps has thousands a second
        gpu = self.gpu_us(before, after)
        if gpu is None and site is None and cpu is None:
            return head + "]"
        return f"{head},{_json(gpu)},{_json(site)},{_json(None if cpu is None else _us(cpu))}]"

    def gpu_us(self, before: Any, after: Any) -> int | None:
        """Return the time on the GPU between two events that are over; the first may then be used again."""
        gpu = None
        if before is not None and after is not None and after.query():
            try:
                gpu = round(1e3 * before.elapsed_time(after))
            except Exception:  # events of two devices
                gpu = None
        if before is not None:
            self.pool.append(before)
        return gpu

    def finish(self, why: str) -> None:
        """Put everything back as it was and write what is left."""
        if not self.on:
            return
        self.on = False
        kept = self.restore()
        try:
            if self.thread is not None:
                if self.mark and get_ident() == self.thread and why != "window":
                    self.cut()
                self.memory("end")
                self.flush(last=True)
                self.write("end", why=why, steps=self.steps, cost_us=_own_cost_us(self), left=kept, at_us=_us(self.clock()))
                self.flush(last=True)
        except Exception as error:
            _complain(error)

    def restore(self) -> list[str]:
        """Take the patches out, last first, and return the names of those that somebody else has patched over: these stay, and do nothing."""
        kept = []
        for owner, name, original, ours in reversed(self.patches):
            if vars(owner).get(name) is not ours:
                kept.append(name)
            elif original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        self.patches = []
        for handle in self.handles:
            handle.remove()
        self.handles = []
        _forget_in_dynamo()
        return kept

    def fail(self, error: Exception) -> None:
        """End after an error of ours."""
        if self.on:
            _complain(error)
            self.on = False
            self.restore()

    def watches(self) -> bool:
        """Whether this thread is the one that is watched, now."""
        return self.on and self.thread == get_ident()


# --- what is wrapped ----------------------------------------------------------------------------------------------


def begin() -> None:
    """Wrap torch in this process, as the environment says. Called once, right after torch was imported."""
    folder = os.environ["STOKER_DIAGNOSE_FOLDER"]
    recorder = Recorder(folder, float(os.environ.get("STOKER_DIAGNOSE_SECONDS", "20")), int(os.environ.get("STOKER_DIAGNOSE_SKIP", "5")))
    try:
        apply(recorder)
        start(recorder)
    except Exception as error:
        recorder.fail(error)
        return
    atexit.register(recorder.finish, "exit")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _forked(recorder))


def start(recorder: Recorder) -> None:
    """Say in this process's file that torch was imported here."""
    recorder.write(
        "start",
        pid=os.getpid(),
        parent=os.getppid(),
        rank=os.environ.get("RANK"),
        argv=list(getattr(sys, "argv", [])),  # not there yet when something imports torch from a .pth file
        python=sys.version.split()[0],
        executable=sys.executable,
        torch=str(torch.__version__),
        clock_s=time.time() - recorder.clock(),
    )
    recorder.flush()


def _forked(recorder: Recorder) -> None:
    """In a forked child: its own recorder state; data loader workers never train, so they never write."""
    if recorder.on:
        recorder.reset()
        try:
            start(recorder)
        except Exception as error:
            recorder.fail(error)


def apply(recorder: Recorder) -> None:
    """Wrap the calls that begin and end a phase."""
    _patch(recorder, torch.nn.Module, "__call__", _forward)
    _patch(recorder, torch.autograd, "backward", functools.partial(_spanning, phase="backward", arms=True))
    _patch(recorder, torch.autograd, "grad", functools.partial(_spanning, phase="backward", arms=True))
    _patch(recorder, torch.optim.Optimizer, "zero_grad", functools.partial(_spanning, phase="optimizer"))
    _patch(recorder, loading._BaseDataLoaderIter, "__next__", _fetch)
    _patch(recorder, loading.DataLoader, "__iter__", _iterate)
    _patch(recorder, loading.DataLoader, "__init__", _construct)
    recorder.handles += [
        optimizing.register_optimizer_step_pre_hook(functools.partial(_step_begins, recorder)),
        optimizing.register_optimizer_step_post_hook(functools.partial(_step_ends, recorder)),
    ]
    if torch.version.cuda or getattr(torch.version, "hip", None):  # else no tensor ever leaves the CPU; no question is put to the driver here
        for name in ("to", "cuda"):
            _patch(recorder, torch.Tensor, name, functools.partial(_move, name=name))
        for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__"):
            _patch(recorder, torch.Tensor, name, functools.partial(_read, name=name))
        _patch(recorder, torch.Tensor, "copy_", _copy)
        _patch(recorder, torch.cuda, "synchronize", functools.partial(_spanning, phase="sync"))


def _patch(recorder: Recorder, owner: Any, name: str, make: Any) -> None:
    """Put `make(recorder, original)` in the place of an attribute; what it inherits is wrapped too, and deleted again at the end."""
    original = getattr(owner, name)
    ours = functools.wraps(original)(make(recorder, original))
    recorder.patches.append((owner, name, vars(owner).get(name), ours))
    setattr(owner, name, ours)


def _forward(recorder: Recorder, original: Any) -> Any:
    compiling = getattr(torch.compiler, "is_compiling", lambda: False) if hasattr(torch, "compiler") else lambda: False
    grad_enabled = torch.is_grad_enabled

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The first question is a constant to torch.compile, which then sees the original call and no more.
        if compiling() or recorder.phase in _CLOSED or not recorder.watches():
            return original(self, *args, **kwargs)
        recorder.enter("forward" if grad_enabled() else "evaluation")
        try:
            if recorder.steps < 3:
                _guarded(recorder, _look_at_model, self, args)
            return original(self, *args, **kwargs)
        finally:
            recorder.leave()

    return __call__


def _spanning(recorder: Recorder, original: Any, phase: str, arms: bool = False) -> Any:
    def span(*args: Any, **kwargs: Any) -> Any:
        if not recorder.on:
            return original(*args, **kwargs)
        if recorder.thread is None and arms:
            _guarded(recorder, Recorder.arm)
        if recorder.thread != get_ident() or recorder.phase in (phase, "data"):
            return original(*args, **kwargs)
        if phase == "backward" and recorder.want_peak:
            recorder.want_peak = False
            _guarded(recorder, _peak)
        recorder.enter(phase, "synchronize" if phase == "sync" else None)
        try:
            return original(*args, **kwargs)
        finally:
            recorder.leave()

    return span


def _fetch(recorder: Recorder, original: Any) -> Any:
    def __next__(self: Any) -> Any:
        if not recorder.watches() or recorder.phase == "data":
            return original(self)
        recorder.stack.clear()  # whatever an exception left open: a batch is fetched at the outermost level
        recorder.phase = "other"
        recorder.enter("data", "DataLoader")
        before = time.thread_time()
        try:
            return original(self)
        finally:
            recorder.cpu = time.thread_time() - before
            recorder.leave()
            _guarded(recorder, Recorder.tidy)

    return __next__


def _iterate(recorder: Recorder, original: Any) -> Any:
    def __iter__(self: Any) -> Any:
        if recorder.on and id(self) in _loaders:
            _guarded(recorder, _look_at_loader, self)
        if not recorder.watches() or recorder.phase == "data":
            return original(self)
        recorder.enter("data", "iter")
        try:
            return original(self)
        finally:
            recorder.leave()

    return __iter__


_loaders: dict[int, tuple[Any, str, int]] = {}
"""Data loaders that live, by id: a weak reference and the line that made them."""


def _construct(recorder: Recorder, original: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if recorder.on:
            _loaders[id(self)] = (weakref.ref(self), *_caller())

    return __init__


def _move(recorder: Recorder, original: Any, name: str) -> Any:
    def target(self: Any, args: Any, kwargs: Any) -> Any:
        to = kwargs.get("device", args[0] if args else kwargs.get("other", "cuda" if name == "cuda" else None))
        if isinstance(to, torch.Tensor):
            return to.device.type
        if isinstance(to, torch.device):
            return to.type
        if isinstance(to, str):
            return to.partition(":")[0]
        return "cuda" if isinstance(to, int) and not isinstance(to, bool) else None

    def move(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorder.watches():
            return original(self, *args, **kwargs)
        to = target(self, args, kwargs)
        if to is None or to == self.device.type:
            return original(self, *args, **kwargs)
        waits = not (kwargs.get("non_blocking") or any(entry is True for entry in args[1:3]))
        return _moved(recorder, original, self, args, kwargs, to=to, name=name, waits=waits)

    return move


def _moved(recorder: Recorder, original: Any, tensor: Any, args: Any, kwargs: Any, to: str, name: str, waits: bool) -> Any:
    """Call a copy to another device; one to the CPU that waits is a synchronisation."""
    if to == "cpu":
        recorder.enter("sync" if waits else "copy", f".{name}()")
    else:
        pinned = _pinned(tensor) if recorder.steps < 3 and recorder.cuda is not None else None
        recorder.enter("copy", f".{name}()", pinned=pinned, non_blocking=not waits)
    try:
        return original(tensor, *args, **kwargs)
    finally:
        recorder.leave()


def _copy(recorder: Recorder, original: Any) -> Any:
    def copy_(self: Any, *args: Any, **kwargs: Any) -> Any:
        source: Any = args[0] if args else kwargs.get("src")
        if not recorder.watches() or not hasattr(source, "device") or source.device.type == self.device.type:
            return original(self, *args, **kwargs)
        waits = not (kwargs.get("non_blocking") or any(entry is True for entry in args[1:2]))
        recorder.enter("sync" if self.device.type == "cpu" and waits else "copy", ".copy_()")
        try:
            return original(self, *args, **kwargs)
        finally:
            recorder.leave()

    return copy_


def _read(recorder: Recorder, original: Any, name: str) -> Any:
    shown = {"__bool__": "bool()", "__float__": "float()", "__int__": "int()"}.get(name, f".{name}()")

    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_cpu or not recorder.watches() or recorder.phase == "sync":
            return original(self, *args, **kwargs)
        recorder.enter("sync", shown)
        try:
            return original(self, *args, **kwargs)
        finally:
            recorder.leave()

    return read


def _step_begins(recorder: Recorder, optimizer: Any, args: Any, kwargs: Any) -> None:
    if getattr(torch, "compiler", None) is not None and torch.compiler.is_compiling():
        return
    if recorder.thread is None:
        _guarded(recorder, Recorder.arm)
    if recorder.watches():
        if recorder.phase == "optimizer":  # a step that raised left it open
            recorder.stack.clear()
        recorder.enter("optimizer")
        if id(optimizer) not in recorder.optimizers:
            _guarded(recorder, _look_at_optimizer, optimizer)


def _step_ends(recorder: Recorder, optimizer: Any, args: Any, kwargs: Any) -> None:
    if getattr(torch, "compiler", None) is not None and torch.compiler.is_compiling():
        return
    if recorder.watches() and recorder.phase == "optimizer":
        recorder.leave()
        _guarded(recorder, Recorder.step_done, optimizer)


# --- what is looked at once ----------------------------------------------------------------------------------------


def _look_at_optimizer(recorder: Recorder, optimizer: Any) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device.type if parameters else "cpu"
    if device == "cuda" and recorder.cuda is None and torch.cuda.is_initialized():
        recorder.cuda = torch.cuda
        recorder.tell(gpu=torch.cuda.get_device_name(), gpu_uuid=str(getattr(torch.cuda.get_device_properties(parameters[0].device), "uuid", "")))
    name = "optimizer" if not recorder.optimizers else f"optimizer {len(recorder.optimizers)}"
    described = {key: optimizer.defaults.get(key) for key in ("foreach", "fused", "capturable") if key in optimizer.defaults}
    described.update(name=type(optimizer).__name__, tensors=len(parameters), device=device)
    described["parameters"] = sum(parameter.numel() for parameter in parameters)
    recorder.tell(**{name: described})
    recorder.tell(
        device=device,
        threads=torch.get_num_threads(),
        omp=os.environ.get("OMP_NUM_THREADS"),
        cudnn_benchmark=bool(torch.backends.cudnn.benchmark),
        tf32=bool(torch.backends.cuda.matmul.allow_tf32),
        world_size=os.environ.get("WORLD_SIZE"),
        local_world_size=os.environ.get("LOCAL_WORLD_SIZE"),
    )


def _look_at_model(recorder: Recorder, model: Any, args: Any) -> None:
    if sum(1 for _ in model.parameters()) == 0:  # a loss
        return
    first = next((value for value in args if isinstance(value, torch.Tensor)), None)
    compiled = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
    facts: dict[str, Any] = {"model": type(model).__name__, "compiled": compiled}
    if hasattr(model, "_orig_mod"):
        facts["model"] = type(model._orig_mod).__name__
    if first is not None:
        facts.update(batch_shape=list(first.shape), dtype=str(first.dtype))
        if first.dim() == 4:
            weights = [weight for weight in model.parameters() if weight.dim() == 4 and weight.shape[1] > 1]
            facts["channels_last"] = any(weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous() for weight in weights)
            facts["convolutions"] = len(weights)
    facts["autocast"] = _autocast(first.device.type if first is not None else "cpu")
    if "model" not in recorder.facts:
        recorder.tell(**facts)


def _autocast(device: str) -> bool:
    try:
        return bool(torch.is_autocast_enabled(device))
    except TypeError:  # before torch 2.4 it took no device
        return bool(torch.is_autocast_enabled() if device == "cuda" else torch.is_autocast_cpu_enabled())


def _look_at_loader(recorder: Recorder, loader: Any) -> None:
    reference, file, line = _loaders[id(loader)]
    if reference() is not loader:
        return
    facts = {name: getattr(loader, name, None) for name in _LOADER_FACTS}
    facts.update(file=file, line=line, dataset=type(loader.dataset).__name__)
    seen = recorder.facts.get("loaders", [])
    if facts not in seen and len(seen) < 8:
        recorder.tell(loaders=[*seen, facts])


def _peak(recorder: Recorder) -> None:
    """Memory before backward: about where the activations are at their most."""
    if recorder.cuda is not None:
        recorder.memory("backward")


# --- small things --------------------------------------------------------------------------------------------------

_own: dict[str, int] = {}
"""By the name of a code file: 0 the person's, 1 installed packages and Python's own, 2 torch and this file."""


def _caller() -> tuple[str, int]:
    """Return file and line of the nearest frame that is the person's code, else of the nearest outside of torch."""
    frame: Any = sys._getframe(1)
    second: tuple[str, int] = ("", 0)
    while frame is not None:
        name = frame.f_code.co_filename
        rank = _own.get(name)
        if rank is None:
            rank = _own[name] = _rank_of(name)
        if rank == 0:
            return name, frame.f_lineno
        if rank == 1 and not second[0]:
            second = (name, frame.f_lineno)
        frame = frame.f_back
    return second


def _rank_of(name: str) -> int:
    package = os.path.dirname(os.path.abspath(torch.__file__))
    if os.path.abspath(name).startswith(package + os.sep) or name == __file__:
        return 2
    library = sysconfig.get_paths()["stdlib"]
    installed = f"{os.sep}site-packages{os.sep}" in name or f"{os.sep}dist-packages{os.sep}" in name
    return 1 if installed or name.startswith(("<frozen", "<string", library + os.sep)) else 0


def _pinned(tensor: Any) -> bool | None:
    try:
        return bool(tensor.is_pinned()) if tensor.device.type == "cpu" else None
    except Exception:
        return None


def _guarded(recorder: Recorder, call: Any, *args: Any) -> None:
    try:
        if recorder.on:
            call(recorder, *args)
    except Exception as error:
        recorder.fail(error)


def _forget_in_dynamo() -> None:
    """torch.compile keeps the Module.__call__ that it met at its import as the unpatched one: give it the true one back."""
    for name in ("torch._dynamo.utils", "torch._dynamo.variables.nn_module"):
        module = sys.modules.get(name)
        if hasattr(getattr(module, "unpatched_nn_module_call", None), "__wrapped__"):
            module.unpatched_nn_module_call = torch.nn.Module.__call__  # type: ignore[union-attr]


def _own_cost_us(recorder: Recorder) -> float:
    """Return what one segment costs, measured now on a recorder that writes nothing."""
    trial = Recorder(recorder.folder, recorder.seconds, recorder.skip)
    trial.thread = get_ident()
    begin_s = time.perf_counter()
    for _ in range(500):
        if trial.watches():
            trial.enter("other")
            trial.leave()
    return 1e6 * (time.perf_counter() - begin_s) / 1000


def _resident() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _json(value: int | None) -> str:
    return "null" if value is None else str(value)


def _us(seconds: float) -> int:
    return int(1e6 * seconds + 0.5)


def _complain(error: Exception) -> None:
    print(f"stoker diagnose: process {os.getpid()} goes on unobserved ({type(error).__name__}: {error})", file=sys.stderr, flush=True)
