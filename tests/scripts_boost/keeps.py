"""Hostile script: batches that are kept, changed, viewed and handed on: none may ever be written again while anybody can see it."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import queue
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stage import CROPPED, case, cifar, digest, main, say
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms


def loaders() -> list[DataLoader[Any]]:
    """One of each kind of engine."""
    tensors = TensorDataset(torch.rand(160, 6), torch.arange(160))
    slow = cifar(80, transforms.Compose([transforms.ColorJitter(0.3), transforms.ToTensor()]))
    pure = cifar(80, transforms.Compose([CROPPED, transforms.Lambda(lambda x: x * 2)]))
    return [
        DataLoader(cifar(80), 4, shuffle=True),
        DataLoader(cifar(80), 4, shuffle=True, num_workers=2),
        DataLoader(tensors, 8, shuffle=True),
        DataLoader(tensors, 8, shuffle=True, num_workers=1),
        DataLoader(slow, 4, shuffle=True),
        DataLoader(pure, 4, shuffle=True, num_workers=2),
    ]


def kept_as(keep: Callable[[list[torch.Tensor]], Any], read: Callable[[Any], Any]) -> None:
    """Keep something of every batch of two epochs, then print it all."""
    for loader in loaders():
        kept, seen = [], []
        for _ in range(2):
            for batch in loader:
                seen.append([part.clone() for part in batch])
                kept.append(keep(batch))
                del batch
        say(*(digest(read(one)) for one in kept))
        say(*(digest(one) for one in seen))


@case
def whole_batches() -> None:
    kept_as(lambda batch: batch, lambda kept: kept)


@case
def arrays() -> None:
    kept_as(lambda batch: batch[0].numpy(), lambda kept: torch.from_numpy(kept.copy()))


@case
def views() -> None:
    kept_as(lambda batch: batch[0][1:3], lambda kept: kept)


@case
def flat_views() -> None:
    kept_as(lambda batch: batch[0].view(-1), lambda kept: kept)


@case
def detached() -> None:
    kept_as(lambda batch: batch[0].detach(), lambda kept: kept)


@case
def one_row() -> None:
    kept_as(lambda batch: next(iter(batch[0])), lambda kept: kept)


@case
def storages() -> None:
    kept_as(lambda batch: batch[0].untyped_storage(), lambda kept: torch.empty(0, dtype=torch.uint8).set_(kept))


@case
def memory_views() -> None:
    kept_as(lambda batch: memoryview(batch[0].numpy()), lambda kept: torch.from_numpy(np.array(kept)))


@case
def capsules() -> None:
    kept_as(lambda batch: torch.utils.dlpack.to_dlpack(batch[0]), torch.utils.dlpack.from_dlpack)


@case
def numpy_of_numpy() -> None:
    kept_as(lambda batch: np.asarray(batch[0])[..., 1:].T, lambda kept: torch.from_numpy(kept.copy()))


@case
def inside_a_graph() -> None:
    weight = torch.ones(1, requires_grad=True)
    kept_as(lambda batch: (batch[0].float() * weight).square().sum(), lambda kept: torch.autograd.grad(kept, weight)[0])


@case
def shallow_copies() -> None:
    kept_as(copy.copy, lambda kept: kept)


@case
def parameters() -> None:
    kept_as(lambda batch: torch.nn.Parameter(batch[0].float(), requires_grad=True), lambda kept: kept.data)


@case
def as_data_of_another() -> None:
    def take(batch: list[torch.Tensor]) -> torch.Tensor:
        other = torch.empty(0)
        other.data = batch[0].float()
        return other

    kept_as(take, lambda kept: kept)


@case
def set_into_another() -> None:
    kept_as(lambda batch: torch.empty(0, dtype=batch[0].dtype).set_(batch[0]), lambda kept: kept)


@case
def labels_only() -> None:
    kept_as(lambda batch: batch[1], lambda kept: kept)


@case
def changed_in_place() -> None:
    for loader in loaders():
        for _ in range(2):
            for images, labels in loader:
                say(digest([images, labels]))
                images.fill_(7)
                labels.mul_(0).sub_(1)
                images.numpy()[:] = 3


@case
def reshaped_in_place() -> None:
    for loader in loaders():
        for _ in range(2):
            for images, labels in loader:
                say(digest([images, labels]), images.stride(), images.storage_offset())
                images.t_() if images.dim() == 2 else images.transpose_(0, 1)
                images.resize_(3)
                labels.resize_(2)
                labels.unsqueeze_(0)


@case
def batch_edited() -> None:
    for loader in loaders():
        for batch in loader:
            say(type(batch).__name__, len(batch), digest(batch))
            batch.append(batch.pop(0))
            batch.clear()


@case
def gradients_of_inputs() -> None:
    for loader in loaders():
        for images, _ in loader:
            images.requires_grad_()
            images.square().sum().backward()
            say(images.is_leaf, digest(images.grad), images.grad_fn, images.requires_grad)


@case
def saved_and_pickled() -> None:
    for loader in loaders():
        for batch in loader:
            buffer = io.BytesIO()
            torch.save(batch, buffer)
            again = pickle.loads(pickle.dumps(batch))
            say(len(buffer.getvalue()), digest(again), digest(copy.deepcopy(batch)), batch[0].untyped_storage().nbytes(), batch[0]._base is None)


@case
def weak_references() -> None:
    for loader in loaders():
        kept = []
        for batch in loader:
            kept.append(weakref.ref(batch[0]))
        del batch
        gc.collect()
        say(sum(one() is not None for one in kept))


@case
def through_a_queue() -> None:
    for loader in loaders():
        line: queue.Queue[Any] = queue.Queue()
        for batch in loader:
            line.put(batch)
        while not line.empty():
            say(digest(line.get()))


def _answer(line: Any, back: Any) -> None:
    while True:
        got = line.get()
        if got is None:
            return
        back.put(digest(got))


@case
def to_another_process() -> None:
    context = multiprocessing.get_context("fork")
    line, back = context.SimpleQueue(), context.SimpleQueue()
    child = context.Process(target=_answer, args=(line, back))
    child.start()
    for loader in loaders()[:3]:
        for batch in loader:
            line.put([part.numpy().tobytes() for part in batch])
            say(back.get())
    line.put(None)
    child.join()


@case
def tensors_to_another_process() -> None:
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        for loader in loaders()[:3]:
            for batch in loader:
                say(pool.apply(digest, (batch,)))


@case
def shared_memory() -> None:
    for loader in loaders()[:3]:
        kept = [[part.share_memory_() for part in batch] for batch in loader]
        say(*(digest(batch) for batch in kept), kept[0][0].is_shared())


@case
def iterator_gone_batches_stay() -> None:
    for loader in loaders():
        iterator = iter(loader)
        kept = [next(iterator) for _ in range(12)]
        before = [digest(batch) for batch in kept]
        del iterator, loader
        gc.collect()
        garbage = [torch.rand(1000) for _ in range(50)]
        say(before == [digest(batch) for batch in kept], len(garbage), *before)


@case
def listed_at_once() -> None:
    for loader in loaders():
        say(*(digest(batch) for batch in list(loader)))
        images, labels = zip(*loader, strict=False)
        say(digest(torch.cat(images)), digest(torch.cat(labels)))
        say(digest(max(loader, key=lambda batch: batch[1].float().mean().item())))


if __name__ == "__main__":
    main()
