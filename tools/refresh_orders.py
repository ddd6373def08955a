"""Compare the data loader's functions in PyTorch's releases with those that replay knows, and write the table anew.

    python tools/refresh_orders.py                        # every release from 2.5 on: which are known, what the others changed
    python tools/refresh_orders.py 2.12.0 2.13.0          # these releases; what differs between them, too
    python tools/refresh_orders.py --write                # write src/stoker/boost/replay/orders.py: all releases but those that --leave names
    python tools/refresh_orders.py --write --leave 2.16.0

A release belongs in the table when somebody has READ what it changed (this prints it) and an iteration still asks sampler, generators and workers in
the order in which boost/replay/iterator.py does. Sources are read out of the wheels of the index that uv or pip are configured for.
Exit status: 0 all releases are known, 1 some are not, 2 the packages could not be read.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import itertools
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.packages import Wheel, index_address, member, wheels

from stoker.boost.replay.order import block, plain, text_hash
from stoker.boost.replay.orders import ORDERS
from stoker.catalog import version_numbers
from stoker.files import write_text_atomically

TABLE = Path(__file__).resolve().parents[1] / "src" / "stoker" / "boost" / "replay" / "orders.py"
OLDEST = (2, 5)
_CONNECTIONS = 6

Sources = dict[str, dict[str, str]]
"""By release and by the name of a function: its source."""


def releases(index: str) -> dict[str, Wheel]:
    """Return a wheel of every release of PyTorch that Stoker runs on. Raises OSError."""
    found: dict[str, Wheel] = {}
    for wheel in wheels(index, "torch"):
        if "x86_64" in wheel.platform and re.fullmatch(r"\d+\.\d+\.\d+", wheel.version) and version_numbers(wheel.version) >= OLDEST:
            found.setdefault(wheel.version, wheel)
    return dict(sorted(found.items(), key=lambda item: version_numbers(item[0])))


def sources(chosen: dict[str, Wheel]) -> Sources:
    """Read the functions out of the wheels. Raises OSError, and LookupError where a release has none of that name."""

    @functools.cache
    def text(version: str, module: str) -> str:
        return b"".join(member(chosen[version].url, module.replace(".", "/") + ".py")).decode()

    modules = sorted({name.partition(":")[0] for name in ORDERS})
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(lambda pair: text(*pair), [(version, module) for version in chosen for module in modules]))
    return {version: {name: function(text(version, name.partition(":")[0]), name.partition(":")[2]) for name in ORDERS} for version in chosen}


def function(text: str, path: str) -> str:
    """Return the source of `Class.method` in a module's text. Raises LookupError."""
    node: ast.AST = ast.parse(text)
    for part in path.split("."):
        inside = [one for one in getattr(node, "body", []) if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and one.name == part]
        if not inside:
            raise LookupError(f"there is no {path}")
        node = inside[-1]
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    return block(text.splitlines(keepends=True), min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]))


def hashed(text: str, name: str) -> str:
    return text_hash(text, name.rpartition(".")[2] if "." in name.partition(":")[2] else name.partition(":")[2])


def strangers(found: Sources) -> dict[str, list[str]]:
    """Return the functions of each release that the table does not know."""
    unknown = {version: [name for name, text in texts.items() if hashed(text, name) not in ORDERS[name]] for version, texts in found.items()}
    return {version: names for version, names in unknown.items() if names}


def changes(found: Sources, old: str, new: str) -> str:
    """Return what differs between two releases, without comments and docstrings."""
    told: list[str] = []
    for name in ORDERS:
        last = name.replace(":", ".").rpartition(".")[2]
        before, after = (plain(found[version][name], last).splitlines() for version in (old, new))
        told += difflib.unified_diff(before, after, f"{old} {name}", f"{new} {name}", lineterm="")
    return "\n".join(told)


def table(found: Sources) -> str:
    """Return the text of orders.py for these releases."""
    lines = [
        '"""The functions of PyTorch\'s DataLoader whose order replay knows, by the hash of their source. Written by tools/refresh_orders.py."""',
        "",
        "from __future__ import annotations",
        "",
        "ORDERS: dict[str, dict[str, str]] = {",
    ]
    for name in ORDERS:
        versions: dict[str, list[str]] = {}
        for version, texts in found.items():
            versions.setdefault(hashed(texts[name], name), []).append(version)
        lines.append(f'    "{name}": {{')
        lines += [f'        "{digest}": "{span(own)}",' for digest, own in versions.items()]
        lines.append("    },")
    return "\n".join([*lines, "}", '"""By name: hash -> the releases that have it, from the first to the last that was read."""', ""])


def span(versions: list[str]) -> str:
    return versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", help="releases; none: all")
    parser.add_argument("--write", action="store_true", help="write the table for all releases")
    parser.add_argument("--leave", nargs="*", default=[], metavar="VERSION", help="releases that stay unknown")
    asked = parser.parse_args()
    try:
        there = releases(index_address())
        chosen = {version: wheel for version, wheel in there.items() if version in asked.versions or not asked.versions or asked.write}
        found = sources(chosen)
    except (OSError, RuntimeError, LookupError) as error:
        print(f"the packages could not be read: {error}", file=sys.stderr)
        return 2
    unknown = strangers(found)
    order = list(found)
    for version, names in unknown.items():
        place = order.index(version)
        print(f"torch {version}: not known: {', '.join(names)}")
        if place and not asked.versions:
            print(changes(found, order[place - 1], version))
    if len(asked.versions) > 1:
        for old, new in itertools.pairwise(order):
            print(changes(found, old, new))
    if asked.write:
        write_text_atomically(TABLE, table({version: texts for version, texts in found.items() if version not in asked.leave}))
        print(f"written: {TABLE.name}, {len(found) - len(asked.leave)} releases")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
