"""The door: closed unless asked for, light, and never the reason why `import torch` fails."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stoker
from stoker import door

SOURCE = str(Path(stoker.__file__).resolve().parents[1])


def run(code: str, folder: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_BOOST")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**outer, **variables}, cwd=folder)


def test_pytorch_finds_it() -> None:
    found = [entry for entry in metadata.entry_points(group="torch.backends") if entry.name == "stoker"]
    assert found, "not installed: the package was installed before it had the entry point"
    assert found[0].load() is door.open_door


@pytest.mark.parametrize("variables", [{}, {"STOKER_BOOST": ""}])
def test_closed_it_imports_nothing(variables: dict[str, str]) -> None:
    code = "import sys; before = set(sys.modules); from stoker.door import open_door; open_door(); print(sorted(set(sys.modules) - before))"
    assert run(code, **variables).stdout.strip() == "['stoker', 'stoker.door']"


@pytest.mark.parametrize("value", ["0", "off", "OFF", "no"])
def test_it_can_be_told_to_stay_closed(value: str) -> None:
    done = run("import stoker.door, stoker.boost.session as session; stoker.door.open_door(); print(session.current())", STOKER_BOOST=value)
    assert (done.stdout, done.stderr) == ("None\n", "")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STOKER_BOOST": "exakt"}, "boost stays off: in STOKER_BOOST, there is no tier 'exakt': did you mean 'exact'?"),
        (
            {"STOKER_BOOST": "exact", "STOKER_BOOST_OFF": "loaders"},
            "boost stays off: in STOKER_BOOST_OFF, there is no part 'loaders': did you mean 'loader'?",
        ),
    ],
)
def test_what_it_does_not_know_is_one_line_and_nothing_else(variables: dict[str, str], said: str) -> None:
    done = run("import stoker.door, stoker.boost.session as session; stoker.door.open_door(); print(session.current())", **variables)
    assert (done.returncode, done.stdout) == (0, "None\n")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "broken",
    [
        "stoker/boost/__init__.py",
        "stoker/boost/session.py",
        "stoker/boost/request.py",
        "stoker/boost/guard.py",
        "stoker/boost/ending.py",
        "stoker/errors.py",
    ],
)
def test_a_stoker_that_is_half_broken_does_not_stop_torch(tmp_path: Path, broken: str) -> None:
    """A file that cannot be compiled, as after an upgrade that was interrupted."""
    copy = tmp_path / "stoker"
    for file in Path(SOURCE, "stoker").rglob("*.py"):
        target = copy / file.relative_to(Path(SOURCE, "stoker"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    (tmp_path / broken).unlink()
    (tmp_path / broken).write_text("this is no Python")
    done = run("import stoker.door as door; door.open_door(); print(door.__file__)", folder=tmp_path, STOKER_BOOST="exact", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout.strip()) == (0, str(copy / "door.py"))
    assert done.stderr.startswith("stoker boost: the door failed (SyntaxError")
    assert len(done.stderr.splitlines()) == 1


def test_nothing_that_is_raised_inside_comes_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from stoker.boost import session

    def fail() -> None:
        raise RuntimeError("inside")

    monkeypatch.setenv("STOKER_BOOST", "exact")
    monkeypatch.setattr(session, "open_from_environment", fail)
    door.open_door()
    assert capsys.readouterr().err == "stoker boost: the door failed (RuntimeError: inside); the program goes on without it\n"
    monkeypatch.setattr(sys, "stderr", None)
    door.open_door()


WATCH = """
import sys, torch, torch.nn, torch.utils.data, torch.optim, random, threading, types
import numpy, multiprocessing.util

def seen():
    found = {}
    for module in list(sys.modules.values()):
        if not isinstance(module, types.ModuleType) or module.__name__.split(".")[0] not in ("torch", "random", "numpy", "threading"):
            continue
        for owner in [module, *[thing for thing in vars(module).values() if issubclass(type(thing), type)]]:
            for name, value in list(vars(owner).items()):
                if not issubclass(type(value), (types.ModuleType, int, float)) and name not in ("__warningregistry__", "__abstractmethods__"):
                    found[owner, name] = value
    return found
"""


@pytest.mark.parametrize("tier", ["exact", "close", "fast"])
def test_off_puts_back_the_very_objects_that_were_there(tier: str) -> None:
    code = f"""{WATCH}
import stoker.boost
stoker.boost.on({tier!r}); stoker.boost.off()  # what is imported now stays imported
before = seen()
stoker.boost.on({tier!r})
during = seen()
stoker.boost.off()
after = seen()
owners = {{owner for owner, name in before}}
print(len([key for key in before if during.get(key) is not before[key]]))
print([(owner.__name__, name) for owner, name in before if after.get((owner, name)) is not before[owner, name]])
print([(owner.__name__, name) for owner, name in after if owner in owners and (owner, name) not in before])
"""
    done = run(code)
    assert done.stderr == ""
    changed, lost, left = done.stdout.splitlines()
    assert int(changed) > 0
    assert lost == left == "[]"


def test_on_is_off_where_the_environment_says_so() -> None:
    code = "import stoker.boost; stoker.boost.on('fast'); print(stoker.boost.session.current())"
    for value in ("off", "record"):
        assert run(code, STOKER_BOOST=value).stdout == "None\n"
