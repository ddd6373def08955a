"""The pages that are made from the source: docs/errors.md, docs/findings.md, and the map src/stoker/README.md from first lines."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from stoker import errors  # noqa: E402  (from this tree, wherever it is run)
from stoker.doctor.checks import GROUPS  # noqa: E402
from stoker.doctor.finding import check_id  # noqa: E402


def errors_page() -> str:
    """Return docs/errors.md: every error's exit code, slug and advice, in the order of their codes."""
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds = [kind for kind in classes if issubclass(kind, errors.StokerError) and kind is not errors.StokerError]
    kinds.sort(key=lambda kind: (kind.exit_code, kind.slug))
    rows = [f"| {kind.exit_code} | `{kind.slug}` | {' '.join((inspect.getdoc(kind) or '').split())} |" for kind in kinds]
    head = [
        "# Errors",
        "",
        "Made by `./dev docs` from `src/stoker/errors.py`. A refusal prints what happened with its slug, and then a hint.",
        "",
        "| exit code | slug | meaning |",
        "|--:|---|---|",
    ]
    return "\n".join([*head, *rows, ""])


def findings_page() -> str:
    """Return docs/findings.md: what every check of the doctor looks for, from its docstring."""
    count = sum(map(len, GROUPS.values()))
    made = f"Made by `./dev docs` from the {count} checks in `src/stoker/doctor/checks/`. `stoker doctor --explain ID` prints one."
    lines = ["# Findings", "", made, ""]
    for group, checks in GROUPS.items():
        lines += [f"- {group}: " + ", ".join(f"[{check_id(check)}](#{check_id(check)})" for check in checks)]
    for group, checks in GROUPS.items():
        lines += ["", f"## {group}"]
        for check in checks:
            title, _, text = (inspect.getdoc(check) or "").partition("\n")
            lines += ["", f"### {check_id(check)}", "", f"**{title}**", *([text.rstrip()] if text.strip() else [])]
    return "\n".join([*lines, ""])


def map_page() -> str:
    """Return src/stoker/README.md: the first docstring line of every file, by room."""
    package = ROOT / "src/stoker"
    rooms: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.parent.relative_to(package).as_posix()
        rooms.setdefault(room, []).append(f"| `{path.name}` | {first_line(path)} |")
    lines = ["# Map", "", "Made by `./dev docs` from the first line of every file.", ""]
    for room in sorted(rooms, key=lambda room: (room != ".", room)):
        lines += [f"## {'stoker' if room == '.' else room}", "", "| file | what it is for |", "|---|---|", *rooms[room], ""]
    return "\n".join(lines)


def first_line(path: Path) -> str:
    """Return the first line of a file's docstring; empty when it has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].strip()


def list_benchmarks() -> str:
    """Return a line for each benchmark: its name for `./dev bench`, and what it is for."""
    folder = ROOT / "benchmarks"
    scripts = [path for path in sorted(folder.rglob("*.py")) if not path.name.startswith("_") and '__name__ == "__main__"' in path.read_text()]
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in scripts]
    width = max(map(len, names), default=0)
    return "\n".join(f"{name:{width}}  {first_line(path)}" for name, path in zip(names, scripts, strict=True))


def main(arguments: list[str]) -> int:
    """Write the pages; with --check say which are out of date; with --list-benchmarks print the benchmarks."""
    if arguments == ["--list-benchmarks"]:
        print(list_benchmarks())
        return 0
    stale = 0
    pages = (("docs/errors.md", errors_page()), ("docs/findings.md", findings_page()), ("src/stoker/README.md", map_page()))
    for path, text in ((ROOT / name, text) for name, text in pages):
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments == ["--check"]:
            print(f"{path.relative_to(ROOT)} is out of date: run ./dev docs")
            stale = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
