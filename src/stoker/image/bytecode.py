"""Bytecode made by the image's own Python, the same bytes wherever, in whatever order and by how many processes it is made.

`.pyc` with a hash of their source (PEP 552) instead of its time, which every layer would change. Of the two kinds it is the one that
Python checks at each import: who edits a package in a container to look for a bug gets what he wrote, as everywhere else. Not to check
was no faster where files are in memory (939 modules of sympy and networkx, Python 3.11, 5 runs each: 0.50-0.65 s of CPU both ways;
without any bytecode 2.2 s); from a cold disk the sources are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from stoker.errors import BuildFailed
from stoker.image.root import Root

BATCH_BYTES = 2**18
"""Sources that one child compiles. A part of what decides the bytes: change it, and every layer is another."""
_RUNS = 2
"""How many programs compile at once for one call: layers are made side by side, too."""
# Two seconds of work or so: more would keep an interrupt waiting, less would be spent on starting programs.
_RUN_BYTES = 6 * 2**20
# 6 MB/s here; a machine a hundred times slower is still done.
_TIMEOUT_S = 1800.0

Module = tuple[str, bytes]


def bytecode(root: Root, python: str, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the .pyc of modules by path; those that do not compile are left out.

    `sources`: by path in the image, as `opt/stoker/lib/stoker/door.py`. Raises BuildFailed when the image's Python cannot be run.
    """
    return bytecode_of_groups(root, python, [sources])


def bytecode_of_groups(
    root: Root, python: str, groups: Sequence[Mapping[str, bytes]], *, meanwhile: Callable[[], object] = lambda: None
) -> dict[str, bytes]:
    """The same for several groups (the wheels of a layer): what is in one group cannot change the bytes of another.

    `meanwhile` is called every few seconds; what it raises ends the work and is raised here.
    """
    batches = [batch for group in groups for batch in _batches(group)]
    if not batches:
        return {}
    found: dict[str, bytes] = {}
    pool = ThreadPoolExecutor(_RUNS)
    try:
        for done in as_completed([pool.submit(_compiled, root, python, share) for share in _shares(batches)]):
            found.update(done.result())
            meanwhile()
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def pyc_path(path: str, python: str) -> str:
    """Return where Python looks for the bytecode of a module: `torch/__pycache__/serialization.cpython-313.pyc`."""
    above, slash, name = path.rpartition("/")
    return f"{above}{slash}__pycache__/{name.removesuffix('.py')}.cpython-{re.sub('[^0-9]', '', python)}.pyc"


def compiler_text() -> str:
    """Return the program that the image's Python runs: what it does is a part of every layer's key."""
    return Path(__file__).with_name("compiler.py").read_text(encoding="utf-8")


def _batches(group: Mapping[str, bytes]) -> Iterator[list[Module]]:
    """Cut a group into batches, the same ones however the group was put together."""
    batch: list[Module] = []
    size = 0
    for path in sorted(group):
        batch.append((path, group[path]))
        size += len(group[path])
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _shares(batches: list[list[Module]]) -> list[list[list[Module]]]:
    """Share the batches out to programs."""
    total = sum(len(source) for batch in batches for _, source in batch)
    runs = min(len(batches), 1 + total // _RUN_BYTES)
    return [batches[first::runs] for first in range(runs)]


def _compiled(root: Root, python: str, batches: list[list[Module]]) -> dict[str, bytes]:
    """Have the image's Python compile, and return the .pyc by path."""
    # -S and a fixed seed: the program starts in the same state on every machine. env: the seed counts only from the environment.
    start = ["/usr/bin/env", "-i", "PYTHONHASHSEED=0", "LC_ALL=C.UTF-8"]
    command = [f"/usr/bin/python{python}", "-s", "-S", "-X", "utf8", "-c", compiler_text()]
    answer = root.run([*start, *command], input=b"".join(_request(batches)), timeout_s=_TIMEOUT_S)
    if not answer.ok:
        said = answer.err.strip()[-2000:] or "it said nothing"
        raise BuildFailed(
            f"the image's Python {python} could not compile its packages (status {answer.code}): {said}",
            hint="if it was killed, memory ran out: build with more, or fewer at once; otherwise the base lacks that Python",
        )
    modules = [path for batch in batches for path, _ in batch]
    pieces = _pieces(answer.out)
    if len(pieces) != len(modules):
        raise BuildFailed(f"the image's Python compiled {len(pieces)} of {len(modules)} modules", hint="run it again; if it stays so, report it")
    return {pyc_path(path, python): piece for path, piece in zip(modules, pieces, strict=True) if piece}


def _request(batches: Iterable[list[Module]]) -> Iterator[bytes]:
    for batch in batches:
        yield len(batch).to_bytes(4, "big")
        for path, source in batch:
            # The name that tracebacks show.
            name = f"/{path}".encode()
            yield len(name).to_bytes(4, "big") + name + len(source).to_bytes(4, "big") + source


def _pieces(answer: bytes) -> list[bytes]:
    pieces, at = [], 0
    while at + 4 <= len(answer):
        length = int.from_bytes(answer[at : at + 4], "big")
        pieces.append(answer[at + 4 : at + 4 + length])
        at += 4 + length
    return pieces
