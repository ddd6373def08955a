"""Runs at the start of every Python of a diagnosed program: the person's own sitecustomize, then a door that opens when torch is imported.

Works without Stoker installed, from Python 3.8 on. Nothing is touched until torch is imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_OBSERVER = os.path.join(os.path.dirname(_HERE), "observer.py")


def _leave_the_path() -> None:
    """Take our folder out of sys.path, so that the program meets the modules that it would meet without us."""
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != _HERE]


def _run_the_own() -> None:
    """Run the sitecustomize that would have run without us. What it raises goes where it would have gone: to Python's own `site`."""
    ours = sys.modules.pop("sitecustomize")
    spec = importlib.util.find_spec("sitecustomize")
    sys.modules["sitecustomize"] = ours  # Python expects an entry after the import, and finds ours when there is no other
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


class _Door:
    """Finds torch as Python would, and loads the observer once torch has been imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Answer for torch only, and once."""
        if name != "torch" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec("torch")
            if spec is None or spec.loader is None:
                sys.meta_path.insert(0, self)  # torch may come to sys.path later
                return spec
            _watch(spec.loader)
            return spec
        except Exception as error:
            _complain(error)
            return None


def _watch(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        execute(module)
        _observe()

    loader.exec_module = exec_module


def _observe() -> None:
    try:
        spec = importlib.util.spec_from_file_location("_stoker_observer", _OBSERVER)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        sys.modules["_stoker_observer"] = module
        spec.loader.exec_module(module)
        module.begin()
    except Exception as error:
        _complain(error)


def _complain(error: Exception) -> None:
    print(f"stoker diagnose: process {os.getpid()} goes on unobserved ({type(error).__name__}: {error})", file=sys.stderr)


if __name__ == "sitecustomize":  # imported by Python itself at its start, and not by a test or a tool that reads the file
    _leave_the_path()
    try:
        _run_the_own()
    finally:
        if os.environ.get("STOKER_DIAGNOSE_FOLDER"):
            sys.meta_path.insert(0, _Door())
