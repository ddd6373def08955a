"""The entry point as a process: a fake driver library, the child that asks it, signals, several services, and what is imported."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stoker.image.rootfs import _START
from stoker.start.driver import look
from tests.conftest import REPOSITORY, need
from tests.fakes import driver

STACKS = [{"name": "cu130", "torch": "2.13.0", "cuda": "13.0"}, {"name": "cu126", "torch": "2.13.0", "cuda": "12.6"}]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = driver.build(tmp_path_factory.mktemp("driver"))
    need(folder is not None, "a C compiler")
    assert folder is not None
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without GPU on which an image says that it has two stacks."""
    place = tmp_path / "root"
    (place / "etc/stoker").mkdir(parents=True)
    (place / "dev").mkdir()
    told = {"name": "lab", "machine": "x86_64", "variants": ["cli"], "stacks": STACKS}
    (place / "etc/stoker/image.json").write_text(json.dumps(told))
    return place


def given(root: Path, **environment: str) -> dict[str, str]:
    home = root / "home"
    home.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "src"), "STOKER_HOST_ROOT": str(root), "HOME": str(home), **environment}


def start(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stoker.start", *words], env=given(root, **environment), capture_output=True, text=True, timeout=60)


CHOSEN = ("sh", "-c", 'echo "$STOKER_STACK_CHOSEN"')


@pytest.mark.parametrize(
    ("version", "capabilities", "stack", "why"),
    [
        ("580.95.05", "9.0", "cu130", "driver 580.95.05, Fake 9.0 (compute capability 9.0)"),
        ("550.54.14", "9.0,9.0", "cu126", "driver 550.54.14, 2 x Fake 9.0"),
        ("580.95.05", "6.1", "cu126", "not cu130: Fake 6.1"),
    ],
)
def test_the_driver_chooses(root: Path, library: Path, version: str, capabilities: str, stack: str, why: str) -> None:
    done = start(root, *CHOSEN, LD_LIBRARY_PATH=str(library), FAKE_DRIVER=version, FAKE_CAPABILITIES=capabilities)
    assert (done.returncode, done.stdout.strip()) == (0, stack)
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_gpu_is_the_newest_on_the_cpu(root: Path) -> None:
    done = start(root, *CHOSEN)
    assert (done.stdout.strip(), done.stderr.count("\n")) == ("cu130", 1)
    assert "on the CPU: there is no NVIDIA driver or GPU here" in done.stderr
    assert start(root, "--quiet", *CHOSEN).stderr == ""


def test_no_stack_that_runs_is_an_error_and_by_hand_it_starts(root: Path, library: Path) -> None:
    faked = {"LD_LIBRARY_PATH": str(library), "FAKE_DRIVER": "470.57.02", "FAKE_CAPABILITIES": "9.0"}
    done = start(root, *CHOSEN, **faked)
    assert (done.returncode, done.stdout) == (54, "")
    assert "[stack-unfit]" in done.stderr
    by_hand = start(root, *CHOSEN, **faked, STOKER_STACK="cu126")
    assert (by_hand.returncode, by_hand.stdout.strip()) == (0, "cu126")
    assert "warning: the stack cu126 cannot use this machine's GPUs" in by_hand.stderr
    assert start(root, *CHOSEN, STOKER_STACK="cu12").returncode == 20


def test_cuda_visible_devices_hides(root: Path, library: Path) -> None:
    faked = {"LD_LIBRARY_PATH": str(library), "FAKE_DRIVER": "580.95.05", "FAKE_CAPABILITIES": "9.0,6.1"}
    assert "cu126 (" in start(root, "true", **faked).stderr
    assert "stack cu130" in start(root, "true", **faked, CUDA_VISIBLE_DEVICES="GPU-00000000").stderr
    assert "CUDA_VISIBLE_DEVICES hides every GPU" in start(root, "true", **faked, CUDA_VISIBLE_DEVICES="").stderr


def faulty(root: Path, library: Path, fault: str, patience_s: float) -> dict[str, object]:
    code = f"import dataclasses, json; from stoker.start.driver import look; print(json.dumps(dataclasses.asdict(look(patience_s={patience_s}))))"
    environment = given(root, LD_LIBRARY_PATH=str(library), FAKE_DRIVER="550.54.14", FAKE_CAPABILITIES="9.0,8.0", FAKE_DRIVER_FAULT=fault)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("fault", "trouble"), [("hang", "NVML gave no answer within 1 s"), ("crash", "NVML died with signal 11")])
def test_a_driver_that_hangs_or_kills_is_said_and_its_version_read_elsewhere(root: Path, library: Path, fault: str, trouble: str) -> None:
    (root / "sys/module/nvidia").mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("550.54.14\n")
    (root / "dev/nvidia0").touch()
    found = faulty(root, library, fault, 1.0)
    assert (found["driver"], found["cards"], found["trouble"]) == ("550.54.14", [], trouble)
    (root / "dev/nvidia0").unlink()
    assert faulty(root, library, fault, 1.0)["trouble"] is None, "no device node: there is no GPU to be troubled about"


def test_a_lost_gpu_is_said_and_the_others_count(root: Path, library: Path) -> None:
    found = faulty(root, library, "lost", 10.0)
    assert found["trouble"] == "a GPU is lost or gives no answer"
    assert [card["compute_capability"] for card in found["cards"]] == [[9, 0]]  # type: ignore[attr-defined]


def test_looking_leaves_no_process_behind(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    look(tmp_path)
    assert {child.pid for child in psutil.Process().children()} <= before  # one that nobody waited for would still be listed


def test_it_becomes_the_program(root: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "stoker.start", "sh", "-c", "echo $$; exec sleep 60"], env=given(root), stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert int(running.stdout.readline()) == running.pid
    running.terminate()
    assert running.wait(timeout=60) == -signal.SIGTERM
    assert start(root, "sh", "-c", "exit 7").returncode == 7
    assert start(root, "no-such-program").returncode == 127


# --- Ctrl-C at any moment -------------------------------------------------------------------------------------------

SWALLOWS = """
import time
print("importing", flush=True)
try:
    time.sleep(30)
except BaseException:
    pass
print("the interrupt was lost", flush=True)
def main(): pass
"""


def script(root: Path, *folders: Path) -> list[str]:
    """The entry point as it stands in an image, for the Python of the tests; it tells when its first line has run."""
    toml = importlib.util.find_spec("tomllib" if sys.version_info >= (3, 11) else "tomli")
    assert toml is not None
    assert toml.origin is not None
    text = _START.format(python="", folders=[*map(str, folders), str(Path(toml.origin).parents[1])])
    first, _, rest = text.partition("sys.path[:0]")
    path = root / "stoker-start"
    path.write_text(f"{first}posix.write(1, b'.')\nsys.path[:0]{rest}")
    return [sys.executable, "-IS", str(path)]


def test_ctrl_c_amidst_an_import_ends_it_quietly(root: Path) -> None:
    package = root / "stoker/start"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(SWALLOWS)
    running = subprocess.Popen(script(root, root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == ".importing\n"
    running.send_signal(signal.SIGINT)
    assert (*running.communicate(timeout=20), running.returncode) == ("", "", 130)


def test_ctrl_c_at_any_moment_of_the_start_is_quiet(root: Path) -> None:
    for moment in range(20):
        words = [*script(root, REPOSITORY / "src"), "sleep", "60"]
        running = subprocess.Popen(words, env=given(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stdout.read(1) == b"."
        time.sleep(moment * 0.01)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
        # Once it has become the program, that one is ended as it likes.
        assert running.returncode in (130, -signal.SIGINT), err
        assert [line for line in err.decode().splitlines() if not line.startswith("stoker: stack ")] == []
        assert running.returncode == 130 or err


def test_what_was_started_to_ignore_ctrl_c_goes_on(root: Path) -> None:
    words = shlex.join([*script(root, REPOSITORY / "src"), "sh", "-c", "echo started; sleep 0.2; exit 7"])
    running = subprocess.Popen(["sh", "-c", f"trap '' INT; exec {words}"], env=given(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.read(1) == b"."
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=20)
    assert (out, running.returncode) == (b"started\n", 7)


def test_outside_of_an_image_it_says_so(tmp_path: Path) -> None:
    done = start(tmp_path, "true")
    assert done.returncode == 2
    assert "not inside an image of Stoker" in done.stderr


def test_a_start_imports_little(root: Path) -> None:
    code = "import sys, stoker.start.__main__; print(sorted({'torch', 'numpy', 'click', 'rich', 'ssl', 'asyncio', 'pynvml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=given(root), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- several services -----------------------------------------------------------------------------------------------

TOGETHER = """
import os, sys
from stoker.start.services import Service, run_together
sys.exit(run_together([Service(command=["sh", "-c", text], environment=os.environ) for text in sys.argv[1:]]))
"""


def together(root: Path, *texts: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", TOGETHER, *texts], env=given(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_when_one_service_ends_all_end(root: Path) -> None:
    running = together(root, "exit 3", 'trap "echo told; exit 0" TERM; while :; do sleep 0.05; done')
    _, err = running.communicate(timeout=20)
    assert running.returncode == 3
    assert "ended with 3: the container ends" in err
    assert together(root, "kill -9 $$", "exec sleep 60").wait(timeout=20) == 137


def test_a_stop_reaches_every_service(root: Path) -> None:
    told = 'trap "echo told; exit 0" TERM; echo ready; while :; do sleep 0.05; done'
    running = together(root, told, told)
    assert running.stdout is not None
    assert [running.stdout.readline().strip() for _ in range(2)] == ["ready"] * 2
    running.terminate()
    out, _ = running.communicate(timeout=20)
    assert out.split() == ["told"] * 2
    assert running.returncode == 128 + signal.SIGTERM


def test_a_service_that_does_not_listen_is_killed_in_time(root: Path) -> None:
    running = together(root, 'trap "" TERM; echo ready; while :; do sleep 0.05; done', "sleep 60")
    assert running.stdout is not None
    running.stdout.readline()
    began = time.monotonic()
    running.terminate()
    assert running.wait(timeout=20) == 128 + signal.SIGTERM
    # docker and podman kill after 10 s.
    assert time.monotonic() - began < 10
