"""A small training with one chosen trait, for the tests of `stoker diagnose`: prints every loss to the last bit, and the random state at its end."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    """Random pictures; `wait_s` seconds of sleep or `work` matrix products for each."""

    def __init__(self, count: int, wait_s: float) -> None:
        self.count, self.wait_s = count, wait_s

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(self.wait_s)
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 16, 16, generator=generator), index % 10


def network(wide: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, wide, 3), nn.ReLU(), nn.Flatten(), nn.Linear(wide * 196, 10))


def shown(loss: torch.Tensor) -> None:
    print("loss", float(loss.detach()).hex(), flush=True)


def plain(arguments: argparse.Namespace) -> None:
    """One model, one optimizer, one loader; `--trait` bends it."""
    trait = arguments.trait
    model: nn.Module = network(1024 if trait == "forward" else 8)
    if trait == "optimizer":
        model.register_parameter("ballast", nn.Parameter(torch.zeros(4_000_000)))
    ballast_gradient = torch.full((4_000_000,), 1e-3)
    if trait == "compiled":
        model = torch.compile(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    wait_s = 0.002 if trait == "data" else 0.0
    images = Images(arguments.images, wait_s)
    loader = DataLoader(images, batch_size=16, shuffle=True, num_workers=arguments.workers)
    done = 0
    while done < arguments.steps:
        for number, (pictures, labels) in enumerate(loader):
            if trait == "broken" and number == 2:
                break
            if trait == "meta":
                pictures.to("meta")
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pictures), labels)
            loss.backward()
            if trait == "optimizer":
                model.ballast.grad = ballast_gradient
            optimizer.step()
            shown(loss)
            done += 1
            time.sleep(arguments.pause)
            if done == arguments.die_at:
                die(trait)
            if done >= arguments.steps:
                break
        if trait == "evaluate":
            model.eval()
            with torch.no_grad():
                for pictures, _ in loader:
                    model(pictures)
                    time.sleep(0.05)
            model.train()


def die(trait: str) -> None:
    """End in the way that the trait says."""
    if trait == "exit3":
        sys.exit(3)
    if trait == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if trait == "raises":
        raise ValueError("the victim's own error")


def adversaries(arguments: argparse.Namespace) -> None:
    """Two models and two optimizers, no loader."""
    first, second = network(4), network(4)
    optimizers = [torch.optim.SGD(model.parameters(), 1e-2) for model in (first, second)]
    for _ in range(arguments.steps):
        pictures = torch.randn(8, 3, 16, 16)
        for model, optimizer in zip((first, second), optimizers):  # noqa: B905 (runs on Python 3.8 too)
            optimizer.zero_grad()
            loss = model(pictures).square().mean()
            loss.backward()
            optimizer.step()
            shown(loss)


def accumulation(arguments: argparse.Namespace) -> None:
    """Four batches a step."""
    model = network(8)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loader = iter(DataLoader(Images(16 * 4 * arguments.steps, 0.0), batch_size=16))
    for _ in range(arguments.steps):
        optimizer.zero_grad()
        for _ in range(4):
            pictures, labels = next(loader)
            loss = nn.functional.cross_entropy(model(pictures), labels)
            loss.backward()
        optimizer.step()
        shown(loss)


def closure(arguments: argparse.Namespace) -> None:
    """LBFGS calls forward and backward inside its step."""
    model = network(4)
    optimizer = torch.optim.LBFGS(model.parameters(), 1e-2, max_iter=3)
    pictures, labels = torch.randn(32, 3, 16, 16), torch.randint(0, 10, (32,))

    def compute() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        return loss

    for _ in range(arguments.steps):
        shown(optimizer.step(compute))


def scaled(arguments: argparse.Namespace) -> None:
    """Autocast and a gradient scaler."""
    model = network(8)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(arguments.steps):
        pictures, labels = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(pictures), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        shown(loss)


def ranks(arguments: argparse.Namespace) -> None:
    """Under torchrun: DistributedDataParallel over gloo; rank 1 has the slow loader."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model = nn.parallel.DistributedDataParallel(network(8))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    loader = DataLoader(Images(16 * arguments.steps, 0.002 if rank == 1 else 0.0), batch_size=16)
    for pictures, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
        if rank == 0:
            shown(loss)
    torch.distributed.barrier()  # without it 3 of 12 runs of torch 2.13 ended in gloo's "terminate called without an active exception"
    torch.distributed.destroy_process_group()


def never(arguments: argparse.Namespace) -> None:
    """Imports torch and does not train."""
    print("sum", torch.ones(3).sum().item())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trait", default="plain")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--die-at", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(5)
    torch.set_num_threads(1)  # other tests may run beside this one
    known = {"two": adversaries, "accumulate": accumulation, "closure": closure, "scaler": scaled, "ranks": ranks, "never": never}
    known.get(arguments.trait, plain)(arguments)
    print("random", hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()[:16], flush=True)


if __name__ == "__main__":
    main()
