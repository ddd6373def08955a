"""Runs in the image, by its own Python, as text: imports packages one after the other and says how each went. Standard library only.

Arguments: the names of modules. A line of JSON for each: {"module", "problem"}; problem is null when all is well.
What a module prints goes to stderr. One that kills the interpreter is named, and the next ones are tried in a new one.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main(arguments: list[str]) -> None:
    """Import all modules and report on file descriptor 1."""
    left = arguments
    report = os.dup(1)
    os.dup2(2, 1)
    while left:
        left = left[one_interpreter(left, report) :]


def one_interpreter(modules: list[str], report: int) -> int:
    """Import modules in a child until all are done or it dies; return how many are settled."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        for module in modules:
            os.write(writer, f"+{module}\n".encode())
            problem = imported(module)
            os.write(writer, (json.dumps({"module": module, "problem": problem}) + "\n").encode())
        os._exit(0)
    os.close(writer)
    begun, settled = None, 0
    with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("+"):
                begun = line[1:].strip()
            else:
                begun, settled = None, settled + 1
                os.write(report, line.encode())
    status = os.waitpid(child, 0)[1]
    if begun is None:
        return settled if settled == len(modules) else lost(modules, settled, report)
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    os.write(report, (json.dumps({"module": begun, "problem": f"the interpreter ended with {how}"}) + "\n").encode())
    return settled + 1


def lost(modules: list[str], settled: int, report: int) -> int:
    """Settle the next module as lost: its interpreter went without a word."""
    os.write(report, (json.dumps({"module": modules[settled], "problem": "the interpreter ended before it was tried"}) + "\n").encode())
    return settled + 1


def imported(module: str) -> str | None:
    """Import a module; return what went wrong, in a line."""
    try:
        importlib.import_module(module)
    except BaseException as error:  # SystemExit, too: a module that ends the program at import is broken
        return f"{type(error).__name__}: {error}".splitlines()[0][:500]
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
