"""Bytecode: a function of the sources and of Python, whatever was compiled before, in which order and by how many."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from stoker.errors import BuildFailed
from stoker.image import bytecode as module
from stoker.image.bytecode import bytecode, bytecode_of_groups, compiler_text, pyc_path
from stoker.image.root import Answer
from tests.image_wheels import HOST_ROOT, PYTHON, HostRoot

SITE = f"opt/stoker/cpu/lib/python{PYTHON}/site-packages"
# The name of such a class is one object with its constant, or two, by whether an equal string is interned already.
INTERNED = b"def outer():\n    class Inner:\n        pass\n    return Inner\n"


def standard_library() -> dict[str, bytes]:
    """Some real modules of every kind."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = [*folder.glob("*.py"), *folder.glob("asyncio/*.py"), *folder.glob("xml/**/*.py"), *folder.glob("ctypes/*.py")]
    return {f"{SITE}/{path.relative_to(folder)}": path.read_bytes() for path in sorted(names)[::2]}


def test_the_order_of_the_sources_changes_nothing() -> None:
    sources = standard_library()
    shuffled = [*sources.items()]
    random.Random(1).shuffle(shuffled)
    assert bytecode(HOST_ROOT, PYTHON, dict(shuffled)) == bytecode(HOST_ROOT, PYTHON, sources)


def test_how_many_compile_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = standard_library()
    found = []
    for runs, size in ((1, 10**9), (2, 10**6), (5, 1)):
        monkeypatch.setattr(module, "_RUNS", runs)
        monkeypatch.setattr(module, "_RUN_BYTES", size)
        found.append(bytecode(HOST_ROOT, PYTHON, sources))
    assert found[0] == found[1] == found[2]


def test_what_else_is_compiled_changes_nothing() -> None:
    # The same class in another module before it, and the same text as its name there.
    alone = bytecode(HOST_ROOT, PYTHON, {f"{SITE}/b.py": INTERNED})
    others = {f"{SITE}/a{number}.py": INTERNED + b"import sys\nkeep = sys.intern('outer.<locals>.Inner')\n" for number in range(50)}
    after = bytecode_of_groups(HOST_ROOT, PYTHON, [others, standard_library(), {f"{SITE}/b.py": INTERNED}])
    assert after.items() >= alone.items()


def test_the_seed_of_hashes_and_the_environment_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {f"{SITE}/sets.py": b"X = {1, 'b', 'c', ('d', 2.5)}\ndef f(x):\n    return x in {'alpha', 'beta', 'gamma', 'delta', 1, None}\n"}
    found = []
    for seed in ("1", "77", "random"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("PYTHONOPTIMIZE", "2")
        monkeypatch.setenv("LANG", "C" if seed == "1" else "C.UTF-8")
        found.append(bytecode(HOST_ROOT, PYTHON, sources))
    assert found[0] == found[1] == found[2]


def test_what_does_not_compile_is_left_out() -> None:
    sources = {
        f"{SITE}/good.py": b"x = 1\n",
        f"{SITE}/two.py": b"print 'hello'\n",
        f"{SITE}/template.py": b"class {{ name }}:\n",
        f"{SITE}/zero.py": b"x = '\0'\n",
        f"{SITE}/coding.py": b"# -*- coding: klingon -*-\n",
        f"{SITE}/latin.py": b"x = '\xe9'\n",
        f"{SITE}/deep.py": b"(" * 100_000,
        f"{SITE}/deeper.py": b"x = " + b"-" * 200_000 + b"1\n",
        f"{SITE}/empty.py": b"",
    }
    assert {path.rpartition("/")[2].split(".")[0] for path in bytecode(HOST_ROOT, PYTHON, sources)} == {"good", "empty"}


def test_a_module_that_brings_python_down_is_left_out_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import builtins, os\nreal = builtins.compile\ndef fall(source, *rest, **more):\n    b'CRASH' in source and os.kill(os.getpid(), 11)\n"
    crash += "    return real(source, *rest, **more)\nbuiltins.compile = fall\n"
    text = compiler_text()
    monkeypatch.setattr(module, "compiler_text", lambda: crash + text)
    sources = {f"{SITE}/{name}.py": name.encode() + b" = 1\n" for name in ("a", "CRASH", "b")}
    assert {path.rpartition("/")[2].split(".")[0] for path in bytecode(HOST_ROOT, PYTHON, sources)} == {"a", "b"}


def test_python_takes_it_until_the_source_is_edited(tmp_path: Path) -> None:
    source = b"def where():\n    raise ValueError(__file__)\n"
    for path, content in {"demo/__init__.py": source, **bytecode(HOST_ROOT, PYTHON, {"demo/__init__.py": source})}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    os.utime(tmp_path / "demo/__init__.py", (1, 1))
    code = "import demo; print(demo.__cached__); print(demo.where.__code__.co_filename)"
    done = subprocess.run([sys.executable, "-v", "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert f"code object from '{tmp_path}/demo/__pycache__" in done.stderr
    (tmp_path / "demo/__init__.py").write_bytes(source.replace(b"where", b"there"))
    edited = subprocess.run([sys.executable, "-B", "-c", "import demo; print(demo.there)"], cwd=tmp_path, capture_output=True, text=True)
    assert edited.returncode == 0, edited.stderr
    # The path in the image is in the .pyc; Python puts the one from which it was read in its place.
    assert done.stdout.splitlines()[1] == f"{tmp_path}/demo/__init__.py"
    content = bytecode(HOST_ROOT, PYTHON, {"demo/__init__.py": source})[pyc_path("demo/__init__.py", PYTHON)]
    assert b"/demo/__init__.py" in content
    assert content[:4] == importlib.util.MAGIC_NUMBER
    assert content[4:16] == (3).to_bytes(4, "little") + importlib.util.source_hash(source)


def test_where_python_looks() -> None:
    assert pyc_path("a/b/c.py", "3.13") == "a/b/__pycache__/c.cpython-313.pyc"
    assert pyc_path("c.py", PYTHON) == importlib.util.cache_from_source("c.py")


class Broken(HostRoot):
    def run(
        self,
        arguments: Sequence[str],
        *,
        input: bytes = b"",
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> Answer:
        return Answer(code=self.created or None, out=b"", err="Killed")


def test_a_python_that_cannot_be_run_is_an_error() -> None:
    for code in (0, 137):
        with pytest.raises(BuildFailed, match="Killed"):
            bytecode(Broken(folder=Path("/nowhere"), created=code), PYTHON, {"a.py": b""})


def test_nothing_to_compile_runs_nothing() -> None:
    assert bytecode(Broken(folder=Path("/nowhere"), created=1), PYTHON, {}) == {}


def test_compiling_ends_when_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RUN_BYTES", 1)
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    ran: list[int] = []

    class Counting(HostRoot):
        def run(
            self,
            arguments: Sequence[str],
            *,
            input: bytes = b"",
            timeout_s: float,
            environment: Mapping[str, str] | None = None,
            mounts: Mapping[str, Path] | None = None,
        ) -> Answer:
            ran.append(len(input))
            return super().run(arguments, input=input, timeout_s=timeout_s)

    def give_up() -> None:
        raise KeyboardInterrupt

    sources = {f"{SITE}/m{number}.py": b"x = 1\n" for number in range(40)}
    with pytest.raises(KeyboardInterrupt):
        bytecode_of_groups(Counting(folder=Path("/nowhere"), created=0), PYTHON, [sources], meanwhile=give_up)
    assert 0 < len(ran) < 20
