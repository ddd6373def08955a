"""Locks for the tests of the room `image`: written by hand, with every kind of row."""

from __future__ import annotations

from typing import Any

from stoker.image.lock import FORMAT, Base, Deb, Lock, LockedStack, Own, Wheel


def hashed(text: str) -> str:
    """Return a hash that looks like one, and is another for another text."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def wheel(name: str, version: str, **more: Any) -> Wheel:
    """Return the row of a pure wheel."""
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return Wheel(
        **{"name": name, "version": version, "file": file, "sha256": hashed(file), "size": 1000, "index": None, "variants": ("cli",), **more}
    )


def deb(name: str, version: str, *, source: str | None = None, **more: Any) -> Deb:
    """Return the row of a .deb."""
    source = source or name
    file = f"pool/main/{source[0]}/{source}/{name}_{version.partition(':')[2] or version}_amd64.deb"
    row = {"name": name, "version": version, "architecture": "amd64", "file": file, "sha256": hashed(file), "size": 1000, "archive": "debian"}
    return Deb(**{**row, "variants": ("cli",), **more})


def stack(name: str = "cpu", *wheels: Wheel, **more: Any) -> LockedStack:
    """Return a stack of these wheels, for the CPU unless it is said otherwise."""
    unset = dict.fromkeys(("torch", "torchvision", "cuda", "toolkit", "cudnn", "driver_min", "driver_full"))
    return LockedStack(**{**unset, "name": name, "architectures": (), "ptx": False, "wheels": wheels, **more})


def lock(*stacks: LockedStack, debs: tuple[Deb, ...] = (), **more: Any) -> Lock:
    """Return a lock of these stacks and packages of Debian."""
    fields = {
        "format": FORMAT,
        "name": "trainer",
        "created": 1_790_000_000,
        "machine": "x86_64",
        "specification": f"sha256:{hashed('specification')}",
        "python": "3.13",
        "python_full": "3.13.5",
        "base": Base(kind="debian", suite="trixie", digest=None, debs=debs),
        "stacks": stacks or (stack("plain"),),
        "variants": ("cli",),
        "prune": (),
        "own": Own(version="0.1.0", sha256=hashed("own")),
        "compression": "zstandard 0.25.0 level 3",
    }
    return Lock(**{**fields, **more})


def universal() -> Lock:
    """Return a lock with two stacks that share a wheel, a wheel of PyTorch's own index, an epoch, all variants and pruning."""
    shared = wheel("numpy", "2.4.6")
    newer = stack(
        "cu130", wheel("torch", "2.13.0"), shared, torch="2.13.0", cuda="13.0", driver_min="580.65.06", architectures=("75", "120"), ptx=True
    )
    older = stack(
        "cu126",
        wheel("torch", "2.13.0+cu126", index="cu126"),
        shared,
        torch="2.13.0",
        cuda="12.6",
        driver_min="525.60.13",
        architectures=("50", "90"),
    )
    debs = (
        deb("base-files", "13.8+deb13u1"),
        deb("catatonit", "0.2.1-2"),
        deb("libssl3t64", "3.5.1-1", source="openssl"),
        deb("vim", "2:9.1.1230-2", variants=("dev",)),
    )
    return lock(newer, older, debs=debs, variants=("cli", "notebook", "ssh", "dev"), prune=("amd", "static"), name="team/trainer")
