"""The one door to other programs: whatever they do, it comes back in time with what they said."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from stoker import shell


def test_what_a_program_said() -> None:
    done = shell.run([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"], timeout_s=20)
    assert (done.code, done.out, done.err, done.ok) == (3, "out\n", "err\n", False)
    assert shell.run(["true"], timeout_s=20).ok


def test_a_program_is_found_where_the_shell_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first / "folder", second / "folder", second / "tool", first / "plain"):
        place.parent.mkdir(exist_ok=True)
    (first / "tool").mkdir()
    (first / "plain").write_text("")
    for place in (second / "tool", second / "plain"):
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'nowhere'}:{first}:{second}")
    for name in ("tool", "plain", "nothing"):
        assert shell.find(name) == shutil.which(name)
    assert shell.find("plain") == str(second / "plain")


def test_a_signal_is_negative() -> None:
    assert shell.run(["sh", "-c", "kill -SEGV $$"], timeout_s=20).code == -11


def test_what_does_not_start(tmp_path: Path) -> None:
    missing = shell.run([str(tmp_path / "none")], timeout_s=5)
    assert (missing.code, "No such file" in missing.err) == (None, True)
    (tmp_path / "forbidden").write_text("x")
    assert "Permission denied" in shell.run([str(tmp_path / "forbidden")], timeout_s=5).err
    (tmp_path / "garbage").write_bytes(b"\x7fELF garbage")
    (tmp_path / "garbage").chmod(0o755)
    assert "Exec format error" in shell.run([str(tmp_path / "garbage")], timeout_s=5).err


def test_a_megabyte_on_both_pipes() -> None:
    code = "import sys; sys.stderr.write('e' * 2**20); sys.stdout.write('o' * 2**20)"
    done = shell.run([sys.executable, "-c", code], timeout_s=30)
    assert (len(done.out), len(done.err)) == (2**20, 2**20)


def test_bytes_that_are_no_text() -> None:
    assert shell.run(["printf", r"a\377b"], timeout_s=5).out == "a\ufffdb"


def test_a_program_that_is_too_slow_leaves_what_it_said() -> None:
    start = time.monotonic()
    done = shell.run(["sh", "-c", "echo so far; exec sleep 60"], timeout_s=0.5)
    assert time.monotonic() - start < 5
    assert (done.code, done.out, done.err) == (None, "so far\n", "no answer within 0.5 s")


def test_a_grandchild_that_holds_the_pipes_is_not_waited_for() -> None:
    start = time.monotonic()
    done = shell.run(["sh", "-c", "sleep 8 & echo done"], timeout_s=0.5)
    assert time.monotonic() - start < 5
    assert (done.code, done.out) == (None, "done\n")
