"""`stoker ps`, `logs`, `stop`, `rm`, `exec`: what is typed and what comes back, with a podman that only writes down what it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
# Answers from files beside it. What it was called with goes into `calls`.
PODMAN = """#!/bin/sh
here=$(dirname "$0")
case "$1" in
  --version) echo "podman version 5.4.2";;
  ps) cat "$here/ps";;
  inspect) cat "$here/inspect";;
  logs) cat "$here/log";;
  exec) echo "$*" >>"$here/calls"; echo inside; exit 7;;
  stop|rm|kill) echo "$*" >>"$here/calls"; [ -e "$here/gone" ] && { echo "Error: no such container" >&2; exit 1; }; exit 0;;
esac
"""


class Bench:
    """A machine with that podman, and commands typed on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "programs"
        self.folder.mkdir()
        (self.folder / "podman").write_text(PODMAN)
        (self.folder / "podman").chmod(0o755)
        self.put("inspect", [])
        self.put("ps", [])
        (self.folder / "log").write_text("line\n")
        self.environment = {
            "PATH": f"{self.folder}:/usr/bin:/bin",
            "PYTHONPATH": str(SOURCE),
            "HOME": str(folder),
            "STOKER_CACHE": str(folder / "cache"),
            "STOKER_HOST_ROOT": str(folder),
            "STOKER_ENGINE": "podman",
        }

    def put(self, name: str, rows: list[dict[str, Any]]) -> None:
        (self.folder / name).write_text(json.dumps(rows))

    def type(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "stoker", *words], env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


def row(name: str, *, state: str = "running", code: int = 0, kind: str = "run", **labels: str) -> dict[str, Any]:
    named = {"dev.stoker.launch": "1", "dev.stoker.launch.name": name, "dev.stoker.launch.kind": kind, "dev.stoker.launch.grace": "45", **labels}
    return {
        "Id": f"{name}0123456789",
        "Names": [f"stoker-{name}"],
        "Labels": named,
        "State": state,
        "ExitCode": code,
        "StartedAt": 1795298127,
        "ExitedAt": 1795298130 if state == "exited" else -62135596800,
        "Created": 1795298120,
        "Image": "localhost/pets:latest",
        "Ports": [{"host_ip": "127.0.0.1", "container_port": 8888, "host_port": 8889, "protocol": "tcp"}] if kind == "notebook" else [],
    }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """With one notebook that runs, and one program that ended with 3."""
    made = Bench(tmp_path)
    made.put("ps", [row("lab", kind="notebook"), row("night", state="exited", code=3)])
    return made


def test_ps(bench: Bench) -> None:
    lines = bench.type("ps").stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:3] == ["lab", "notebook", "running"]
    assert "https://127.0.0.1:8889" in lines[1]
    everything = bench.type("ps", "-a").stdout
    assert "exited (3)" in everything
    assert bench.type("ps", "-a", "-q").stdout == "lab\nnight\n"
    rows = json.loads(bench.type("ps", "--all", "--json").stdout)
    assert [(one["name"], one["running"], one["exit_code"], one["address"]) for one in rows] == [
        ("lab", True, None, "https://127.0.0.1:8889"),
        ("night", False, 3, ""),
    ]


def test_ps_of_nothing(bench: Bench) -> None:
    bench.put("ps", [row("night", state="exited")])
    assert "stoker ps -a" in bench.type("ps").stderr
    bench.put("ps", [])
    assert "stoker run" in bench.type("ps").stderr
    assert json.loads(bench.type("ps", "--json").stdout) == []


def test_a_name_from_a_stranger_does_not_steer_the_terminal(bench: Bench) -> None:
    bench.put("ps", [row("x\x1b[2Jy")])
    assert "\x1b" not in bench.type("ps").stdout


def test_logs_say_why(bench: Bench) -> None:
    (bench.folder / "log").write_text("RuntimeError: CUDA out of memory.\n")
    state = {"Status": "exited", "Running": False, "ExitCode": 1}
    bench.put("inspect", [{"State": state, "HostConfig": {"ShmSize": 1 << 26}}])
    done = bench.type("logs", "night")
    assert done.stdout == "RuntimeError: CUDA out of memory.\n"
    assert done.stderr.startswith("night: the GPU's memory is full")
    told = json.loads(bench.type("logs", "--json", "night").stdout)
    assert (told["name"], told["log"]) == ("night", "RuntimeError: CUDA out of memory.\n")
    assert "GPU" in told["why"]


def test_stop(bench: Bench) -> None:
    done = bench.type("stop", "lab", "night")
    assert done.stdout == "lab\nnight\n"
    assert "up to 45 s" in done.stderr
    assert "night: does not run (exited)" in done.stderr
    assert bench.calls == ["stop -t 45 lab0123456789"]
    (result,) = json.loads(bench.type("stop", "--json", "-t", "0", "lab").stdout)
    assert (result["name"], result["ran"], result["saved"]) == ("lab", True, [])
    bench.type("stop", "--all")
    assert bench.calls[1:] == ["stop -t 0 lab0123456789", "stop -t 45 lab0123456789"]


def test_what_podman_starts_again_with_the_machine_is_said_when_it_is_stopped(bench: Bench) -> None:
    (bench.folder / "inspect").write_text("always\n")
    assert "`stoker rm lab` prevents that" in bench.type("stop", "lab").stderr
    (bench.folder / "inspect").write_text("no\n")
    assert "again" not in bench.type("stop", "lab").stderr


@pytest.mark.parametrize("words", [("stop",), ("rm",), ("stop", "--all", "x"), ("rm", "--ended", "x"), ("exec", "lab"), ("logs",)])
def test_what_does_not_fit_together(bench: Bench, words: tuple[str, ...]) -> None:
    bench.type(*words, status=2)
    assert bench.calls == []


def test_rm(bench: Bench) -> None:
    assert "stoker stop lab" in bench.type("rm", "night", "lab", status=83).stderr
    assert "night" in bench.type("rm", "lab", "nigth", status=76).stderr
    assert bench.calls == []
    assert bench.type("rm", "--ended").stdout == "night\n"
    assert bench.type("rm", "--force", "lab").stdout == "lab\n"
    assert bench.calls == ["rm --volumes night0123456789", "kill --signal 9 lab0123456789", "rm --force --volumes lab0123456789"]
    (bench.folder / "gone").touch()
    assert "gone already" in bench.type("rm", "night").stderr


def test_exec(bench: Bench) -> None:
    assert bench.type("exec", "lab", "--", "python", "--version", "-t", status=7).stdout == "inside\n"
    assert bench.type("exec", "-i", "-w", "/x", "lab", "ls", "-l", status=7).stdout == "inside\n"
    assert bench.calls[0].endswith(" lab0123456789 python --version -t")
    assert "--tty" not in bench.calls[0]
    assert bench.calls[1].startswith("exec --interactive ")
    assert bench.calls[1].endswith(" --workdir /x lab0123456789 ls -l")
    bench.type("exec", "night", "true", status=83)
    assert "export" in bench.type("exec", "-e", "A=1", "lab", "true", status=21).stderr
    assert "export" in bench.type("exec", "-e", "NOT_THERE", "lab", "true", status=21).stderr


def test_a_shell(bench: Bench) -> None:
    bench.put("ps", [row("lab", **{"dev.stoker.variants": "cli"})])
    bench.type("shell", "lab", status=7)
    assert "/opt/stoker/bin/stoker-start --quiet sh -c" in bench.calls[0]


def test_an_engine_that_is_not_there(bench: Bench) -> None:
    for words in (("ps",), ("logs", "x"), ("stop", "x"), ("rm", "x"), ("exec", "x", "true"), ("shell", "x")):
        (bench.folder / "podman").rename(bench.folder / "away")
        bench.environment["PATH"] = str(bench.folder)
        assert "[engine-missing]" in bench.type(*words, status=73).stderr
        (bench.folder / "away").rename(bench.folder / "podman")
