"""How a loader is replayed, or why it is not: everything that is decided before an iteration begins."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.data as loading
from torch.nn.modules import module as modules

from stoker.boost.replay.available import share_bytes
from stoker.boost.replay.classes import line_of
from stoker.boost.replay.collates import Collate, recognise_collate
from stoker.boost.replay.data import recognise_data
from stoker.boost.replay.engine import Engine
from stoker.boost.replay.engines import engine_for
from stoker.boost.replay.fused import Fused
from stoker.boost.replay.guess import can_guess
from stoker.boost.replay.harmless import Harmless, judge
from stoker.boost.replay.library import replaced
from stoker.boost.replay.snapshot import snapshot
from stoker.boost.replay.unfit import Unfit
from stoker.host import find_limits

_SAMPLERS = (
    *(loading.SequentialSampler, loading.RandomSampler, loading.SubsetRandomSampler, loading.WeightedRandomSampler),
    loading.distributed.DistributedSampler,
)
_QUIET_THREADS = {"_MainThread", "TMonitor", "_AsyncWriterThread"}
"""Classes of threads that draw nothing: the main one, tqdm's and TensorBoard's."""
_SEEDING = {
    "timm.data.loader._worker_init",
    *(f"{package}.utilities.seed.pl_worker_init_function" for package in ("lightning.fabric", "lightning_fabric", "pytorch_lightning")),
}
"""Read in timm 1.0 and Lightning 2.6: they seed random, numpy and torch from the worker's seed and rank. The check compares what they give."""
_MEMORY_SHARE = 0.25
"""So much of the available memory may the batches on their way take."""
_SMALL_BYTES = 1 << 20
"""Where there is not even this, nothing else would run either."""
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A loader that can be replayed."""

    engine: Engine
    dataset: Any
    """The data set that the engine was made from: the loader's own, or for workers a copy such as they would have."""
    threads: int
    ahead: int
    """Batches that are worked on at once."""
    grain: int
    """Rows that one thread takes at a time."""
    rewindable: bool
    """Whether the sampler keeps nothing but generators, so that an iteration can be begun again."""
    reads_ahead: bool
    """Whether, without workers, indices may be asked for before their time because nobody can see it."""
    guesses: bool
    """Whether the next batch of a loader without workers is made ahead, on the chance that nothing it depends on changes."""
    pinned: bool
    collate: Collate
    subject: Any
    """The script's own data set at the bottom of all subsets: what is learnt about a plan holds for it."""

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a check has to be made once for."""
        facts = self.threads > 0, self.pinned, self.collate.name, torch.get_default_dtype()
        return self.engine.what, len(self.dataset), type(self.engine), *facts

    @property
    def kind(self) -> Any:
        """What the fields of a batch stand in: PyTorch locks the pages of a tuple's tensors and makes a list of them."""
        return list if self.pinned else self.collate.kind


def plan_for(loader: Any) -> Plan:
    """Return how `loader` is replayed. Draws nothing and changes nothing. Raises Unfit."""
    _check_surroundings()
    _check_loader(loader)
    collate = recognise_collate(loader.collate_fn)
    workers = loader.num_workers
    dataset = snapshot(loader.dataset) if workers else loader.dataset
    try:
        engine = engine_for(recognise_data(dataset, copied=True), collate) if workers else _own_engine(loader, collate)
    except (OverflowError, ValueError, TypeError) as error:
        raise Unfit(f"its samples cannot be taken apart ({error})") from error
    if workers:
        _check_start_method(loader)
        _check_threads(engine)
    threads = _threads(workers, engine)
    batch = _batch_size(loader)
    row_bytes = max(1, sum(_bytes(shape, dtype) for shape, dtype in engine.shapes(1)))
    ahead = _ahead(loader, engine, threads)
    _check_memory(ahead * batch * row_bytes)
    known = type(loader.sampler) in _SAMPLERS and type(loader.batch_sampler) is loading.BatchSampler
    return Plan(
        engine=engine,
        dataset=dataset,
        threads=threads,
        ahead=ahead,
        grain=_grain(engine, batch, row_bytes, threads),
        rewindable=known,
        reads_ahead=known and not workers and not engine.draws and not engine.serial and engine.ahead and _reads_ahead(loader.sampler),
        guesses=known and not workers and can_guess(engine) and _reads_ahead(loader.sampler) and _cores() > 1,
        pinned=bool(loader.pin_memory and _accelerator()),
        collate=collate,
        subject=_bottom(loader.dataset),
    )


_engines: weakref.WeakKeyDictionary[Any, Fused] = weakref.WeakKeyDictionary()
"""By loader: what was recognised an epoch ago. The loader holds its data set, as the engine does, so that nothing lives longer than it did."""


def _own_engine(loader: Any, collate: Collate) -> Engine:
    """Return the engine of a loader without workers: that of its last epoch, where all that it was made from still is what it was."""
    kept = _engines.get(loader)
    if kept is not None and not collate.bytes_only and kept.data.root is loader.dataset and kept.current() and kept.fits_labels():
        return kept
    engine = engine_for(recognise_data(loader.dataset), collate)
    if isinstance(engine, Fused):
        _engines[loader] = engine
    return engine


def generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that an iteration of `loader` may draw from, each once."""
    found = [torch.default_generator]
    for owner in (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not known for known in found):
            found.append(generator)
    return found


def _check_surroundings() -> None:
    if (name := replaced()) is not None:
        raise Unfit(f"{name} was replaced while the script ran")
    if threading.current_thread() is not threading.main_thread():
        raise Unfit("it is iterated in a thread of its own: the random state is one for all threads")
    if loading.get_worker_info() is not None:
        raise Unfit("it is iterated within a worker of another loader")
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        raise Unfit("a torch function mode is active (a default device, or a context that changes what torch does)")
    if (device := _default_device()) != "cpu":
        raise Unfit(f"the default device is {device}")
    if hooked():
        raise Unfit("a hook is registered for all modules: it would be called for transforms too")
    if torch.get_default_dtype() != torch.float32:
        raise Unfit(f"the default dtype is {torch.get_default_dtype()}: random numbers are drawn in another way then")


def _default_device() -> str:
    try:
        return str(torch.get_default_device())
    except AttributeError:  # 2.5, after set_default_device(None)
        return "cpu"


def hooked() -> bool:
    """Whether a hook is registered for every module of the process: torchvision's transforms are modules."""
    return bool(modules._global_forward_hooks or modules._global_forward_pre_hooks)


def _check_loader(loader: Any) -> None:
    if loader._dataset_kind != loading._DatasetKind.Map:
        raise Unfit("its data set is an IterableDataset")
    if loader.batch_sampler is None:
        raise Unfit("batch_size=None: there are no batches to make")
    if not getattr(loader, "in_order", True):
        raise Unfit("in_order=False: the order of its batches is not fixed")
    for generator in generators(loader):
        if generator.device.type != "cpu":
            raise Unfit(f"its generator is on {generator.device}")
    if loader.worker_init_fn is not None and loader.num_workers and not _seeds_only(loader.worker_init_fn):
        verdict = judge(loader.worker_init_fn)
        if not isinstance(verdict, Harmless):
            raise Unfit(f"worker_init_fn{line_of(loader.worker_init_fn)} cannot run in this process: {verdict}")


def _seeds_only(function: Any) -> bool:
    """Whether a worker_init_fn is a library's that is known to seed generators and to do nothing else."""
    while isinstance(function, functools.partial):
        if any(callable(value) for value in (*function.args, *function.keywords.values())):
            return False
        function = function.func
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}" in _SEEDING


def _check_start_method(loader: Any) -> None:
    """Where workers are not forked their arguments are pickled: what cannot be pickled must fail as it does without us."""
    context = loader.multiprocessing_context
    method = context.get_start_method() if context is not None else multiprocessing.get_start_method(allow_none=True)
    if method is None:
        method = multiprocessing.get_all_start_methods()[0]
    if method != "fork":
        raise Unfit(f"its workers are started by {method}, not by fork")


def _check_threads(engine: Engine) -> None:
    """Code of the script runs in a worker's random state, which is then everybody's: another thread that draws would draw from it."""
    others = {type(thread).__name__ for thread in threading.enumerate() if not thread.name.startswith("stoker-")} - _QUIET_THREADS
    if engine.serial and others:
        raise Unfit(f"threads of the script run beside it ({', '.join(sorted(others))}), and its transforms draw random numbers in code of its own")


def _check_memory(needed: int) -> None:
    if needed < _SMALL_BYTES:  # asking what is left takes longer than a short epoch
        return
    allowed = share_bytes(_MEMORY_SHARE)
    if allowed is not None and needed > allowed:
        available = allowed / _MEMORY_SHARE
        raise Unfit(f"too little memory: its batches on their way take {needed / 1e9:.2f} GB, {available / 1e9:.2f} GB are available")


def _bottom(dataset: Any) -> Any:
    while isinstance(dataset, loading.Subset):
        dataset = dataset.dataset
    return dataset


@functools.cache
def _cores() -> int:
    # Reading cgroups takes 3 ms, which an epoch of a small data set would feel.
    return find_limits().cores


def _threads(workers: int, engine: Engine) -> int:
    if engine.serial:
        return 0
    cores = _cores()
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    cores = max(1, cores // max(1, int(ranks) if ranks.isdecimal() else 1))
    if not workers:
        return cores if engine.ahead and cores > 1 else 0
    return min(workers, cores) if engine.ahead else 1


def _ahead(loader: Any, engine: Engine, threads: int) -> int:
    if not loader.num_workers:
        return max(2, threads)
    asked = max(1, loader.num_workers * (loader.prefetch_factor or 2))
    return min(asked, max(2, 2 * threads)) if engine.ahead else min(asked, 2)


def _grain(engine: Engine, batch: int, row_bytes: int, threads: int) -> int:
    if engine.ahead:
        return max(1, min(8, batch // max(1, 2 * threads)))
    return max(1, min(batch, _CHUNK_BYTES // row_bytes)) if row_bytes * batch > 4 * _CHUNK_BYTES else batch


def _reads_ahead(sampler: Any) -> bool:
    if type(sampler) is loading.RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return True


def _batch_size(loader: Any) -> int:
    size = loader.batch_size if loader.batch_size is not None else getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) and size > 0 else 1


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    count = dtype.itemsize
    for size in shape:
        count *= size
    return count


def _accelerator() -> bool:
    # 2.5 has no torch.accelerator, and knows CUDA only.
    accelerator = getattr(torch, "accelerator", None)
    return bool(accelerator.is_available()) if accelerator is not None else torch.cuda.is_available()
