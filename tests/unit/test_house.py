"""The house: who may import whom, no cycles, no rooms without a noun."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "stoker"

# Room -> level. A room may import rooms of a lower level only (its own files always).
LEVELS = {
    "errors": 0,
    "settings": 1,
    "files": 1,
    "kernels": 1,
    "console": 1,
    "shell": 1,
    "measure": 1,
    "catalog": 1,
    "host": 2,
    "environment": 3,
    "doctor": 3,
    "runs": 3,
    "data": 3,
    "arithmetic": 3,
    "pool": 3,
    "bench": 4,
    "diagnosis": 4,
    "train": 4,
    "boost": 4,
    "start": 3,
    "image": 4,
    "launch": 4,
    "runner": 5,
    "cli": 6,
    "door": 6,
    "__main__": 7,
}
# These run on a laptop without torch and start fast.
WITHOUT_TORCH = {
    *("errors", "settings", "files", "kernels", "console", "shell", "measure", "catalog", "host"),
    *("environment", "doctor", "runs", "start", "image", "launch"),
}


@functools.cache
def tree_of(file: Path) -> ast.Module:
    """The syntax of a file, which several tests look at."""
    return ast.parse(file.read_text())


@functools.cache
def imports_of(file: Path) -> list[tuple[str, bool]]:
    """Every module that `file` imports, and whether it does so at the top level of the file."""
    tree = tree_of(file)
    inside = {child for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for child in ast.walk(node)}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, node not in inside) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names] if node.module == "stoker" else [node.module]
            found += [(name, node not in inside) for name in names]
    return found


def room_of(file: Path) -> str:
    """The room in which a file stands."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(file for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_room_imports_only_downwards(file: Path) -> None:
    room = room_of(file)
    assert room in LEVELS, f"the room {room} has no level: add it to LEVELS and to the design"
    for module, _ in imports_of(file):
        parts = module.split(".")
        if parts[0] == "stoker" and len(parts) > 1 and parts[1] != "__version__":
            other = parts[1]
            assert other == room or LEVELS[other] < LEVELS[room], f"{room} (level {LEVELS[room]}) imports {other} (level {LEVELS[other]})"


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) in WITHOUT_TORCH], ids=lambda file: str(file.relative_to(SOURCE)))
def test_what_stands_outside_the_container_never_imports_torch(file: Path) -> None:
    assert not [module for module, _ in imports_of(file) if module.split(".")[0] in ("torch", "torchvision", "timm")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_says_what_it_is_for_and_has_a_noun(file: Path) -> None:
    assert ast.get_docstring(tree_of(file)), "no docstring in the first line"
    assert file.stem not in ("utils", "util", "helpers", "common", "misc", "base", "core")


def test_there_is_no_import_cycle() -> None:
    graph = {
        ".".join(("stoker", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): {
            module for module, top in imports_of(file) if top and module.startswith("stoker.")
        }
        for file in FILES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' -> '.join((*path, module))}"
        if module in graph and module not in done:
            for other in graph[module]:
                if not module.startswith(other + ".") and other != module:
                    visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.argv = ['stoker', '--help']\n"
        "from stoker.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in ('torch', 'numpy', 'rich', 'PIL') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE.parent)}, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
