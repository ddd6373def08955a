"""Which stack fits which machine, the mirror in uv's words, the stamp of a complete environment, and what a failed set-up says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.environment import installer
from stoker.environment import venv as environment
from stoker.environment.mirror import mirror_variables, pip_settings
from stoker.environment.stacks import Choice, choose, read_stacks
from stoker.environment.tail import follow
from stoker.errors import DriverTooOld, SetupError, UnknownName
from stoker.host import Driver, Gpu
from tests.conftest import REPOSITORY

STACKS = read_stacks(REPOSITORY / "locks")
V100, P100, T4, H200, B200 = (7, 0), (6, 0), (7, 5), (9, 0), (10, 0)


def gpus(*capabilities: tuple[int, int] | None) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(index=index, name="Some GPU", uuid=None, memory_bytes=None, compute_capability=capability)
        for index, capability in enumerate(capabilities)
    )


def chosen(version: str | None, *capabilities: tuple[int, int] | None, machine: str = "x86_64", asked: str | None = None, cards: int = 0) -> Choice:
    driver = Driver(version=version, cards=cards, nodes=len(capabilities))
    return choose(STACKS, driver=driver, gpus=gpus(*capabilities), machine=machine, asked=asked)


# --- the locks ------------------------------------------------------------------------------------------------------


def test_the_heads_of_the_locks() -> None:
    assert [(stack.name, stack.torch, stack.torchvision, stack.cuda) for stack in STACKS] == [
        ("cu130", "2.13.0", "0.28.0", "13.0"),
        ("cu128", "2.10.0", "0.25.0", "12.8"),
    ]
    assert [(stack.driver_min, stack.compute_min) for stack in STACKS] == [("580.65.06", (7, 5)), ("525.60.13", (7, 0))]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "locks").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_is_small_hashed_and_names_no_address(path: Path) -> None:
    text = path.read_text()
    assert len(text) < 1_000_000
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash=sha256:[0-9a-f]{64}( \\)?$)", text, re.MULTILINE)  # no option but hashes
    requirements = re.findall(r"^[a-z0-9][^\n]*==[^\n]*\\\n    --hash=", text, re.MULTILINE)
    assert len(requirements) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > 0


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)
def test_a_lock_holds_what_its_head_says(stack: object) -> None:
    text = stack.lock.read_text()  # type: ignore[attr-defined]
    assert f"\ntorch=={stack.torch} " in text  # type: ignore[attr-defined]
    assert f"\ntorchvision=={stack.torchvision} " in text  # type: ignore[attr-defined]
    pairs = (REPOSITORY / "locks/torchvision.pairs").read_text()
    assert f"\n{stack.torch} {stack.torchvision}\n" in pairs  # type: ignore[attr-defined]


def test_a_head_that_lacks_a_fact_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cu1.txt").write_text("# stack: cu1\n# torch: 1\ntorch==1\n")
    with pytest.raises(SetupError, match="torchvision"):
        read_stacks(tmp_path)


def test_no_lock_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no lock"):
        read_stacks(tmp_path)


# --- the choice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "capabilities", "stack"),
    [
        (None, (), "cu130"),
        ("580.65.06", (T4,), "cu130"),
        ("580.95.05", (H200, H200), "cu130"),
        ("595.45.04", (B200,), "cu130"),
        ("580.95.05", (), "cu130"),
        ("580.95.05", (None,), "cu130"),
        ("580.65.05", (H200,), "cu128"),
        ("579.99", (H200,), "cu128"),
        ("570.124.06", (B200,), "cu128"),
        ("525.60.13", (T4,), "cu128"),
        ("525.60.13", (), "cu128"),
        ("580.95.05", (V100,), "cu128"),
        ("595.45.04", (V100, H200), "cu128"),
        ("535.104.05", (V100,), "cu128"),
        ("580.95.05", (P100, H200), "cu130"),
        ("580.95.05", (P100, V100), "cu128"),
    ],
)
def test_choice(driver: str | None, capabilities: tuple[tuple[int, int] | None, ...], stack: str) -> None:
    choice = chosen(driver, *capabilities)
    assert choice.stack.name == stack
    assert choice.why
    if driver:
        assert driver in choice.why


def test_the_choice_says_why_not_the_newer_one() -> None:
    why = chosen("535.104.05", H200).why
    assert "cu130 needs driver 580.65.06 or newer" in why
    assert "Some GPU (9.0)" in why


def test_a_gpu_that_is_left_out_is_named() -> None:
    assert "left out: Some GPU (6.0)" in chosen("580.95.05", P100, H200).why


def test_a_card_without_a_driver_is_told() -> None:
    assert "no NVIDIA driver is loaded" in chosen(None, cards=1).why
    assert "2 NVIDIA GPUs" in chosen(None, cards=2).why


@pytest.mark.parametrize("driver", ["525.60.12", "470.57.02", "450.80.02", "390.157"])
def test_an_old_driver_is_told_what_would_run(driver: str) -> None:
    with pytest.raises(DriverTooOld) as caught:
        chosen(driver, T4)
    assert all(text in caught.value.message for text in (driver, "580.65.06", "525.60.13"))
    assert ("torch 2.7.1 for CUDA 11.8" in caught.value.hint) == (driver != "390.157")
    assert "STOKER_STACK=cu130" in caught.value.hint


def test_an_old_driver_without_a_reachable_gpu_is_no_hindrance() -> None:
    choice = chosen("470.57.02")
    assert choice.stack.name == "cu130"
    assert "470.57.02" in choice.why


def test_where_the_older_stack_brings_no_cuda_it_is_not_offered() -> None:
    with pytest.raises(DriverTooOld) as caught:
        chosen("570.124.06", H200, machine="aarch64")
    assert "cu128" not in caught.value.message


def test_a_gpu_older_than_every_stack() -> None:
    with pytest.raises(SetupError, match=r"Some GPU \(6\.0\)"):
        chosen("580.95.05", P100)


def test_the_stack_that_is_asked_for() -> None:
    choice = chosen("470.57.02", T4, asked="cu128")
    assert choice.stack.name == "cu128"
    assert "STOKER_STACK" in choice.why
    with pytest.raises(UnknownName, match="the nearest is cu130"):
        chosen(None, asked="cu13")
    with pytest.raises(UnknownName, match=r"no such stack$"):
        chosen(None, asked="rocm")


# --- the mirror -----------------------------------------------------------------------------------------------------

MIRROR = "file:///mirror/simple"


def home(folder: Path, pip: str = "", uv: str = "") -> dict[str, str]:
    """An environment with a home folder that holds these configurations, and nothing of this machine's."""
    for name, text in (("pip/pip.conf", pip), ("uv/uv.toml", uv)):
        if text:
            (folder / ".config" / name).parent.mkdir(parents=True)
            (folder / ".config" / name).write_text(text)
    return {"HOME": str(folder), "XDG_CONFIG_DIRS": str(folder / "none"), "PIP_CONFIG_FILE": str(folder / "last.conf")}


@pytest.fixture(autouse=True)
def no_machine_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the files of the machine itself."""
    from stoker.environment import mirror

    for name in ("_pip_files", "_uv_files"):
        real = getattr(mirror, name)
        monkeypatch.setattr(mirror, name, lambda environ, real=real: [path for path in real(environ) if str(path).startswith(environ["HOME"])])


def test_pip_conf_is_honoured(tmp_path: Path) -> None:
    environ = home(
        tmp_path, "[global]\nindex_url = file:///first\ncert = /a.pem\n[install]\nindex-url = " + MIRROR + "\ntrusted-host =\n  one\n  two\n"
    )
    assert mirror_variables(environ) == {"UV_DEFAULT_INDEX": MIRROR, "SSL_CERT_FILE": "/a.pem", "UV_INSECURE_HOST": "one two"}


def test_pips_variables_win_over_its_files(tmp_path: Path) -> None:
    environ = home(tmp_path, "[global]\nindex-url = file:///first\n") | {"PIP_INDEX_URL": MIRROR, "PIP_PROXY": "proxy:1"}
    assert mirror_variables(environ) == {"UV_DEFAULT_INDEX": MIRROR, "ALL_PROXY": "proxy:1"}


def test_the_named_configuration_is_the_last_one(tmp_path: Path) -> None:
    environ = home(tmp_path, "[global]\nindex-url = file:///first\n")
    (tmp_path / "last.conf").write_text(f"[global]\nindex-url = {MIRROR}\n")
    assert mirror_variables(environ) == {"UV_DEFAULT_INDEX": MIRROR}
    assert mirror_variables(environ | {"PIP_CONFIG_FILE": os.devnull}) == {}


def test_what_is_set_for_uv_stays(tmp_path: Path) -> None:
    environ = home(tmp_path, f"[global]\nindex-url = {MIRROR}\ncert = /a.pem\nproxy = p:1\n")
    own = {"UV_INDEX_URL": "file:///own", "SSL_CERT_FILE": "/b.pem", "HTTPS_PROXY": "q:1"}
    assert mirror_variables(environ | own) == {}
    (tmp_path / ".config/uv").mkdir()
    (tmp_path / ".config/uv/uv.toml").write_text('[[index]]\nurl = "file:///own"\n')
    assert "UV_DEFAULT_INDEX" not in mirror_variables(environ)


def test_extra_indexes_are_left_alone(tmp_path: Path) -> None:
    environ = home(tmp_path, "[global]\nextra-index-url = file:///more\nfind-links = /wheels\n") | {"PIP_FIND_LINKS": "/wheels"}
    assert mirror_variables(environ) == {}


@pytest.mark.parametrize("text", ["no section\n", "[global\n", "[global]\nindex-url = %(nothing)s\n[global]\n", "\x00\n"])
def test_a_broken_pip_conf_is_passed_over(tmp_path: Path, text: str) -> None:
    assert pip_settings(home(tmp_path, text) | {"PIP_INDEX_URL": MIRROR})["index-url"] == MIRROR


# --- stamps and keys ------------------------------------------------------------------------------------------------

STAMP = environment.Stamp(key="1|/a tree|||580.95.05|ff", stack="cu130", lock="aa", build="bb", python="/usr/bin/python3")


def test_a_stamp_reads_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "stoker-ready").write_text(STAMP.text())
    assert environment.Stamp.read(tmp_path) == STAMP


@pytest.mark.parametrize("text", ["", "key", "key\nstack: a\nlock\n", STAMP.text()[:-30], "\x00" * 100])
def test_a_torn_stamp_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stoker-ready").write_text(text)
    assert environment.Stamp.read(tmp_path) is None


def test_an_environment_whose_python_is_anothers_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    assert not environment.starts(tmp_path / "venv")
    for prefix, own in ((tmp_path / "venv", True), (Path("/usr"), False)):
        python.write_text(f"#!/bin/sh\necho {prefix}\n")
        python.chmod(0o755)
        assert environment.starts(tmp_path / "venv") == own


def test_bash_and_python_write_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "host root/sys/module/nvidia/version"
    module.parent.mkdir(parents=True)
    module.write_text("580.95.05\n")
    for variables in ({}, {"STOKER_HOST_ROOT": str(tmp_path / "host root")}, {"STOKER_STACK": "cu128", "STOKER_PYTHON": "python 3"}):
        with monkeypatch.context() as patch:
            for name in ("STOKER_HOST_ROOT", "STOKER_STACK", "STOKER_PYTHON"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            bash = subprocess.run(
                ["bash", "-c", 'source "$1"; ready_key', "bash", str(REPOSITORY / "stoker")], stdout=subprocess.PIPE, text=True, check=True
            )
            assert bash.stdout == environment.ready_key(REPOSITORY)


def test_the_lock_of_somebody_elses_environment_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert environment.lock_digest() is None
    (tmp_path / "stoker-ready").write_text(STAMP.text())
    assert environment.lock_digest() == "sha256:aa"


# --- what went wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("error: Failed to fetch: `...`\n  Caused by: dns error", "UV_DEFAULT_INDEX"),
        ("Because torch was not found in the cache and network connectivity is disabled", "UV_DEFAULT_INDEX"),
        ("error: failed to write to file `a`: No space left on device (os error 28)", "free space"),
        ("error: Hash mismatch for `click==8.0`", "other files"),
        ("something else", "again"),
    ],
)
def test_uvs_message_becomes_an_error_with_a_hint(tmp_path: Path, said: str, hint: str) -> None:
    error = installer.explained("uv pip sync", said, tmp_path)
    assert said.splitlines()[-1] in error.message
    assert hint in error.hint


def test_follow_drains_keeps_the_end_and_passes_on(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    # A megabyte each on both: a pipe that nobody reads would stop the program.
    code = "import sys\nfor i in range(20000): print('o' * 50, flush=True); print('e' * 50, file=sys.stderr)\nprint('the end'); sys.exit(5)"
    status, said = follow([sys.executable, "-c", code], folder=tmp_path, variables=dict(os.environ))
    assert status == 5
    assert said.endswith("the end\n")
    assert len(said) <= 16384
    assert len(capfdbinary.readouterr().err) > 2_000_000


def test_follow_leaves_the_packages_out_of_a_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    follow(["bash", "-c", "printf ' + torch==2.13.0\\nInstalled 1 package\\nlast'"], folder=tmp_path, variables=dict(os.environ))
    assert capfd.readouterr().err == "Installed 1 package\nlast"


def test_follow_a_program_that_is_not_there(tmp_path: Path) -> None:
    status, said = follow([str(tmp_path / "nothing")], folder=tmp_path, variables={})
    assert status == 127
    assert "nothing" in said


def test_no_room_names_what_is_needed_and_free(tmp_path: Path) -> None:
    error = installer.no_space(tmp_path / "not/there", 7_000_000_000, "too small")
    assert re.search(r"7\.0 GB are needed, \d+\.\d GB are free", error.message)
