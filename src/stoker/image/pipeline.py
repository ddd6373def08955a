"""The layers of one image: which there are, what each waits for, and several of them made at once."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from stoker.image.baselayer import BaseLayer, make_base
from stoker.image.bytecode import bytecode
from stoker.image.compression import Blob, Compression, compressed
from stoker.image.fetching import fetch_wheels
from stoker.image.layers import LayerPlan, make_layer, refuse_conflicts
from stoker.image.lock import FILE_TIME, Lock
from stoker.image.names import layer_names
from stoker.image.oci import Layer
from stoker.image.own import HOME, own_entries, own_files
from stoker.image.progress import Progress, Task, bytes_text
from stoker.image.rootfs import rootfs_entries
from stoker.image.specification import Specification
from stoker.image.store import Store
from stoker.image.tarball import write_tar

_FETCHERS = 4
"""Layers whose wheels are fetched at once; each fetches several files."""
_CHUNK_BYTES = 1 << 20
# Three runs of gcc -O3: as long as packing a wheel of this size.
_KERNELS = 150_000_000


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers of an image."""

    layers: tuple[Layer, ...]
    """The lowest first."""
    made: int
    """How many were made anew."""
    base_config: Mapping[str, Any]
    """`config` of an OCI base; empty on Debian."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One layer to be made."""

    key: str
    title: str
    make: Callable[[Path, Task], Blob]
    """Writes the blob to a path."""
    plan: LayerPlan | None = None
    """Of a layer of wheels."""
    rooted: bool = True
    """Whether programs of the image are needed for it, and so the base."""
    weight: int = 0
    """How much work it is, in bytes of large wheel, as LayerPlan says it."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One build: what its steps share."""

    lock: Lock
    specification: Specification
    store: Store
    compression: Compression
    progress: Progress
    _wheels: dict[str, Path] = field(default_factory=dict)
    """By sha256; filled as they come."""
    _base: list[BaseLayer] = field(default_factory=list)
    """Filled once."""

    def layers(self) -> Layers:
        """Return the layers, each from the store or made now. Raises as `build.build`."""
        below = self._make_base() if self.lock.base.kind == "oci" else None
        steps = self._steps(below)
        blobs = {step.key: blob for step in steps if (blob := self.store.layer(step.key))}
        missing = [step for step in steps if step.key not in blobs]
        if blobs:
            self.progress.say(f"{len(blobs)} of {len(steps)} layers are in the cache ({bytes_text(sum(blob.size for blob in blobs.values()))})")
        if missing:
            blobs |= self._made(missing)
            self._refuse_conflicts(steps, missing)
        bottom = [Layer(title="base image", blob=blob) for blob in (below.blobs if below else ())]
        layers = [Layer(title=step.title, blob=blobs[step.key]) for step in steps]
        return Layers(layers=(*bottom, *layers), made=len(missing), base_config=below.config if below else {})

    def _steps(self, below: BaseLayer | None) -> list[_Step]:
        """Return every layer of ours, the lowest first."""
        lock, names = self.lock, layer_names(self.lock, self.compression)
        if below is None:
            first = _Step(key=names.first, title=f"Debian {lock.base.suite}", make=self._base_layer)
        else:
            first = _Step(key=names.first, title="user and folders", make=self._additions)
        return [
            first,
            *(
                _Step(key=plan.key, title=plan.title, plan=plan, weight=plan.weight, make=functools.partial(self._wheel_layer, plan))
                for plan in names.plans
            ),
            _Step(key=names.own, title=f"stoker {lock.own.version}", weight=_KERNELS, make=self._own_layer),
            _Step(key=names.rootfs, title="settings", make=self._rootfs_layer, rooted=False),
        ]

    def _made(self, missing: list[_Step]) -> dict[str, Blob]:
        """Make layers, as many at once as there are processors, each as soon as what it needs is there."""
        fetchers, makers = ThreadPoolExecutor(_FETCHERS + 1), ThreadPoolExecutor(os.cpu_count() or 1)
        # The largest first: what starts last should be short.
        order = sorted(missing, key=lambda step: step.weight, reverse=True)
        base = fetchers.submit(self._make_base) if any(step.rooted for step in missing) else None
        needs: dict[str, list[Future[Any]]] = {
            step.key: [*([base] if base and step.rooted else []), *([fetchers.submit(self._fetch, step.plan)] if step.plan else [])] for step in order
        }
        waiting, making = list(order), dict[Future[Blob], _Step]()
        blobs: dict[str, Blob] = {}
        try:
            while waiting or making:
                for step in [step for step in waiting if all(future.done() for future in needs[step.key])]:
                    for future in needs[step.key]:
                        future.result()
                    waiting.remove(step)
                    making[makers.submit(self._make, step)] = step
                pending = {future for step in waiting for future in needs[step.key] if not future.done()}
                if not pending and not making:
                    continue
                for done in wait({*pending, *making}, return_when=FIRST_COMPLETED).done:
                    result = done.result()
                    if done in making:
                        blobs[making.pop(done).key] = result
        except BaseException:
            # The others end at their next piece; what they have in hand is thrown away by the store.
            self.progress.give_up()
            raise
        finally:
            for pool in (fetchers, makers):
                pool.shutdown(wait=True, cancel_futures=True)
        return blobs

    def _refuse_conflicts(self, steps: list[_Step], missing: list[_Step]) -> None:
        """Compare the wheels of all layers with each other. Raises UnsafeArchive when one would replace a file of another."""
        plans = [step.plan for step in steps if step.plan]
        found = {wheel.sha256: self.store.file(wheel.sha256, size=wheel.size) for plan in plans for wheel in plan.wheels}
        files = {sha256: path for sha256, path in found.items() if path}
        # Wheels that were cleared from the cache while their layers stayed are not fetched again for this.
        if any(step.plan for step in missing) and len(files) == len(found):
            refuse_conflicts(plans, files)

    def _make(self, step: _Step) -> Blob:
        """Make a layer, unless another build makes it at this moment: then wait for that one's."""
        with self.store.lock(f"make-{step.key}", what=f"the layer {step.title}"):
            blob = self.store.layer(step.key)
            if blob:
                return blob
            task = self.progress.task(step.title)
            said = ""
            try:
                with self.store.scratch() as folder:
                    blob = self.store.add_layer(step.key, step.make(folder / "layer", task), name=step.title)
                said = f"{bytes_text(blob.size):>10} of {bytes_text(blob.unpacked_size):>10}  {task.seconds:6.1f} s"
            finally:
                task.finish(said)
            return blob

    def _make_base(self) -> BaseLayer:
        if self._base:
            return self._base[0]
        lock, mirrors = self.lock, self.specification.mirrors
        task = self.progress.task(f"base ({len(lock.base.debs)} packages)" if lock.base.kind == "debian" else "base image")
        said = ""
        try:
            # mmdebstrap is asked nothing for half a minute: this ends it where the build is given up.
            base = make_base(lock, self.store, mirrors=mirrors, base=self.specification.base, while_waiting=lambda: task.advance(0))
            self._base.append(base)
            said = f"{'ready':>24}  {task.seconds:6.1f} s"
        finally:
            task.finish(said)
        return base

    def _fetch(self, plan: LayerPlan) -> None:
        """Have the wheels of a layer in the store."""
        found = {wheel.sha256: self.store.file(wheel.sha256, size=wheel.size) for wheel in plan.wheels}
        self._wheels.update({sha256: path for sha256, path in found.items() if path})
        missing = [wheel for wheel in plan.wheels if wheel.sha256 not in self._wheels]
        if not missing:
            return
        task = self.progress.task(f"fetching {plan.title}", sum(wheel.size for wheel in missing))
        said = ""
        try:
            self._wheels.update(fetch_wheels(missing, self.store, mirrors=self.specification.mirrors, environ=os.environ, advance=task.advance))
            said = f"{bytes_text(task.done):>24}  {task.seconds:6.1f} s"
        finally:
            task.finish(said)

    def _base_layer(self, target: Path, task: Task) -> Blob:
        tar = self._base[0].tar
        assert tar is not None, "a base of Debian is a tar"

        def write(out: BinaryIO) -> None:
            with open(tar, "rb") as file:
                shutil.copyfileobj(file, out, _CHUNK_BYTES)

        return compressed(write, target, kind=self.compression, progress=task.reach)

    def _additions(self, target: Path, task: Task) -> Blob:
        entries = self._base[0].additions
        return compressed(lambda out: write_tar(entries, out, mtime=FILE_TIME), target, kind=self.compression, progress=task.reach)

    def _wheel_layer(self, plan: LayerPlan, target: Path, task: Task) -> Blob:
        return make_layer(plan, target, files=self._wheels, root=self._base[0].root, progress=task.reach)

    def _own_layer(self, target: Path, task: Task) -> Blob:
        root = self._base[0].root
        sources = {f"{HOME}/{path}": content for path, content in own_files().items() if path.endswith(".py")}
        compiled = {path.removeprefix(f"{HOME}/"): content for path, content in bytecode(root, self.lock.python, sources).items()}
        entries = own_entries(root, compiled)
        return compressed(lambda out: write_tar(entries, out, mtime=FILE_TIME), target, kind=self.compression, progress=task.reach)

    def _rootfs_layer(self, target: Path, task: Task) -> Blob:
        entries = rootfs_entries(self.lock)
        return compressed(lambda out: write_tar(entries, out, mtime=FILE_TIME), target, kind=self.compression, progress=task.reach)
