"""Programs with our terminal: exit status, signals, and an end when we are killed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.errors import ProgramMissing
from stoker.launch import attached

SOURCE = Path(attached.__file__).parents[2]


def outer(code: str, *, new_session: bool = False) -> subprocess.Popen[str]:
    """Begin a Python that runs `code`, which calls `attached.run`."""
    words = [sys.executable, "-c", f"import sys; from stoker.launch import attached\n{code}"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=new_session)


def until(true: Callable[[], bool], limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_the_exit_status_is_the_programs(tmp_path: Path) -> None:
    assert attached.run(["sh", "-c", "exit 7"]) == 7
    assert attached.run(["sh", "-c", "kill -9 $$"]) == 137
    assert (
        attached.run(["sh", "-c", '[ "$A" = b ] && [ "$PWD" = "$B" ]'], environment={**os.environ, "A": "b", "B": str(tmp_path)}, folder=tmp_path)
        == 0
    )


def test_a_program_that_is_not_there() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(ProgramMissing):
        attached.run(["/nowhere/nothing"])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_the_program_has_no_signal_blocked() -> None:
    """It inherits what we block, unless it is given back."""
    assert attached.run(["sh", "-c", "grep -q 'SigBlk:[[:space:]]*0000000000000000' /proc/self/status"]) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_that_is_sent_to_us_reaches_it(number: signal.Signals) -> None:
    told = f"import signal, time; signal.signal({int(number)}, lambda *_: exit(33)); print('ready', flush=True)\nwhile True: time.sleep(0.05)"
    process = outer(f"sys.exit(attached.run([sys.executable, '-c', {told!r}]))", new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(timeout=20) == 33


def test_a_signal_that_is_given_to_somebody_else() -> None:
    code = (
        "import subprocess, os\n"
        "sys.exit(attached.run(['sh', '-c', 'echo $$; exec sleep 60'], on_signal=lambda number: "
        "os.system(\"kill -9 $(pgrep -P %d sleep)\" % os.getpid()) or print('given', number, flush=True), apart=True))"
    )
    process = outer(code, new_session=True)
    assert process.stdout is not None
    inner = int(process.stdout.readline())
    until(lambda: Path(f"/proc/{inner}/comm").read_text() == "sleep\n")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "given 15\n"
    assert process.wait(timeout=20) == 137


def test_a_signal_that_comes_too_early_is_given_again() -> None:
    """What it is for may not have begun, and Ctrl-C is pressed once."""
    code = (
        "asked = []\n"
        "def give(number):\n"
        "    asked.append(number)\n"
        "    return len(asked) > 3 and os.kill(inner(), 9)\n"
        "def inner():\n"
        "    return int(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read().split()[0])\n"
        "code = attached.run(['sh', '-c', 'echo ready; exec sleep 60'], on_signal=give, apart=True)\n"
        "print(asked, flush=True)\n"
        "sys.exit(code)"
    )
    process = outer(f"import os\n{code}", new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "[15, 15, 15, 15]\n"
    assert process.wait(timeout=20) == 137


def test_it_ends_when_we_are_killed() -> None:
    process = outer("attached.run(['sh', '-c', 'echo $$; exec sleep 60'])")
    assert process.stdout is not None
    inner = int(process.stdout.readline())
    process.kill()
    process.wait()
    until(lambda: not alive(inner))


def test_ctrl_c_comes_once() -> None:
    """From the terminal, and not once more from us: for many programs the second one means to drop everything."""
    told = (
        "import signal, time; came = []; signal.signal(2, lambda *_: came.append(1)); print('ready', flush=True)\n"
        "while not came: time.sleep(0.02)\n"
        "time.sleep(0.5); print('came', len(came), flush=True); exit(5)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(SOURCE)
        call = f"attached.run([sys.executable, '-c', {told!r}], came=lambda number: print('told', number, flush=True))"
        code = f"import sys; from stoker.launch import attached; sys.exit({call})"
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"came 1" not in said and b"came 2" not in said:
        said += os.read(terminal, 1000)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert b"came 1" in said
    assert b"told 2" in said
    assert os.waitstatus_to_exitcode(status) == 5


def test_the_terminal_is_left_as_it_was() -> None:
    """A client that is killed while the terminal is raw would leave a shell in which nobody sees what they type."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(SOURCE)
        code = "from stoker.launch import attached; attached.run(['sh', '-c', 'stty raw -echo; kill -9 $$']); import os; os.system('stty -a')"
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    while True:
        try:
            said += (part := os.read(terminal, 1000))
        except OSError:
            break
        if not part:
            break
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b" echo " in said.replace(b";", b" "), said
    assert b" icanon " in said, said
