"""The trial of an image: its packages imported one after the other, whatever they do, and what is said of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.image.checks import inside
from stoker.image.checks.contents import Contents, Node
from stoker.image.checks.ownership import Expected, Ownership
from stoker.image.checks.remaking import Guarded
from stoker.image.checks.trial import Said, judge_imports, judge_verification, modules_of
from stoker.image.root import Root
from tests.image_locks import lock, stack, wheel

MODULES = {
    "fine": "x = 1",
    "loud": "print('noise on stdout')",
    "broken": "import nothing_of_this_name",
    "leaves": "raise SystemExit(3)",
    "dies": "import os; os._exit(7)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "closes": "import os; os.closerange(3, 50)",
    "odd": "raise ValueError('two\\nlines, and \\u2028 more')",
}


def tried(folder: Path, *modules: str) -> dict[str, str | None]:
    """Run the text that runs in images, here."""
    source = Path(inside.__file__).read_text()
    done = subprocess.run([sys.executable, "-c", source, *modules], capture_output=True, text=True, cwd=folder, timeout=60)
    return {told["module"]: told["problem"] for told in map(json.loads, done.stdout.splitlines())}


@pytest.fixture
def folder(tmp_path):
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_every_module_is_tried_whatever_the_others_do(folder):
    found = tried(folder, *MODULES, "json")
    assert set(found) == {*MODULES, "json"}
    assert found["fine"] is found["loud"] is found["json"] is None
    assert found["broken"] == "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert found["leaves"] == "SystemExit: 3"
    assert found["dies"] == "the interpreter ended with exit status 7"
    assert found["killed"] == "the interpreter ended with signal 9"
    assert found["closes"] is not None
    assert found["odd"] == "ValueError: two"


def test_no_modules_are_no_problem(folder):
    assert tried(folder) == {}


def owned(*paths: str) -> tuple[Contents, Ownership]:
    """Contents and ownership of these files of the stack `cpu`."""
    site = "opt/stoker/cpu/lib/python3.13/site-packages/"
    nodes = {site + path: Node(path=site + path, kind="file", mode=0o644, uid=0, gid=0, size=1) for path in paths}
    return Contents(nodes=nodes), Ownership(wheels={path: Expected(owner="x 1", hashes=frozenset()) for path in nodes})


def test_which_modules_are_imported():
    contents, ownership = owned(
        "torch/__init__.py",
        "torch/nn/__init__.py",
        "google/protobuf/__init__.py",
        "google/protobuf/internal/__init__.py",
        "six.py",
        "_private.py",
        "_cffi_backend.cpython-313-x86_64-linux-gnu.so",
        "yaml/__init__.py",
        "fast.cpython-313-x86_64-linux-gnu.so",
        "stable.abi3.so",
        "tests/__init__.py",
        "nvidia/cu13/lib/libcudart.so.13",
        "torch-2.13.0.dist-info/METADATA",
        "not-a-name/__init__.py",
    )
    wanted = lock(stack("cpu", wheel("torch", "2.13.0")))
    assert modules_of(wanted, wanted.stacks[0], contents, ownership) == ["fast", "google.protobuf", "six", "stable", "torch", "yaml"]


class Fake:
    """Something that runs nothing and says what it was told to."""

    def __init__(self, said: Said) -> None:
        self.said = said
        self.asked: list[list[str]] = []

    def __call__(self, arguments, *, timeout_s):
        self.asked.append(list(arguments))
        return self.said


IMPORTABLE = ("a.py", "b.py")


@pytest.mark.parametrize(
    ("said", "evidence"),
    [
        (Said(code=0, out='{"module": "a", "problem": null}\n{"module": "b", "problem": null}\n', err=""), None),
        (Said(code=0, out='{"module": "a", "problem": null}\n{"module": "b", "problem": "ImportError: x"}\n', err=""), ("b: ImportError: x",)),
        (Said(code=None, out='{"module": "a", "problem": null}\n', err="no answer"), ("b: no end (no answer)",)),
        (Said(code=127, out="", err="no such file"), ("a: exit status 127 (no such file)", "b: not tried")),
        (Said(code=0, out="garbage\n[]\n1\n", err=""), ("a: exit status 0 (it said nothing)", "b: not tried")),
    ],
)
def test_what_is_said_of_the_imports(said, evidence):
    contents, ownership = owned(*IMPORTABLE)
    found = judge_imports(lock(stack("cpu", wheel("a", "1"))), contents, ownership, Fake(said))
    assert (found[0].evidence if found else None) == evidence


@pytest.mark.parametrize(("code", "found"), [(0, False), (1, False), (2, True), (5, True), (139, True), (None, True)])
def test_what_is_said_of_the_verification(code, found):
    run = Fake(Said(code=code, out="", err="first\nhandshake: wrong numbers\n\n"))
    said = judge_verification(lock(stack("cpu", wheel("torch", "2.13.0"), torch="2.13.0")), run, 60)
    assert bool(said) == found
    assert run.asked[0][:4] == ["/opt/stoker/cpu/bin/python", "-m", "stoker", "verify"]
    if found:
        assert "handshake: wrong numbers" in said[0].evidence[0]


def test_what_is_wrong_is_told_in_the_words_of_the_verification():
    checks = [{"title": "Feeding", "verdict": "low", "sentence": "Slow."}, {"title": "Compute", "verdict": "wrong", "sentence": "The loss is NaN."}]
    run = Fake(Said(code=2, out=json.dumps({"checks": checks}), err="compute ..."))
    (found,) = judge_verification(lock(stack("cpu", wheel("torch", "2.13.0"), torch="2.13.0")), run, 60)
    assert found.evidence == ("cpu: exit status 2: Compute: The loss is NaN.",)


def test_without_torch_nothing_is_verified():
    run = Fake(Said(code=1, out="", err=""))
    assert judge_verification(lock(), run, 60) == []
    assert run.asked == []


def test_programs_of_a_layout_run_as_the_user_with_loopback_and_nothing_else(tmp_path, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def entered(self, mounts, user):
        asked.append(user)
        yield ["env", "A=1", "sh", "-c", "exec", "sh"]

    monkeypatch.setattr(Root, "_entered", entered)
    guarded = Guarded(folder=tmp_path, created=0, user=1000)
    with guarded._entered({}, 1000) as command:
        assert command[:3] == ["env", "A=1", sys.executable]
        assert command[-4:] == ["sh", "-c", "exec", "sh"]
    monkeypatch.setattr(Root, "run", lambda self, arguments, *, user=None, **_: asked.append(user))
    guarded.run(["true"], timeout_s=1)
    assert asked == [1000, 1000]
