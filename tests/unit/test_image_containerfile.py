"""The equivalent Containerfile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.image.containerfile import containerfile
from stoker.image.lock import Base
from tests.conftest import need
from tests.image_locks import hashed, lock, stack, universal, wheel

OCI = lock(stack("cpu", wheel("torch", "2.13.0"), torch="2.13.0"), base=Base(kind="oci", suite=None, digest=f"sha256:{hashed('base')}", debs=()))


@pytest.mark.parametrize("wanted", [universal(), lock(), OCI], ids=["universal", "empty", "on an OCI base"])
def test_hadolint_has_nothing_to_say(wanted, tmp_path):
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    need(hadolint is not None, "hadolint")
    path = tmp_path / "Containerfile"
    path.write_text(containerfile(wanted))
    done = subprocess.run([hadolint, "--no-color", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_package_is_in_it_with_its_hash():
    wanted = universal()
    text = containerfile(wanted)
    for deb in wanted.base.debs:
        assert f"{deb.name}={deb.version} " in text
    for one in wanted.stacks:
        for package in one.wheels:
            assert f"{package.name}=={package.version} --hash=sha256:{package.sha256}" in text
    assert "--require-hashes" in text
    assert "FROM debian:trixie-slim" in text
    assert "USER 1000" in text


def test_the_account_has_the_shell_of_the_image():
    assert "--shell /bin/zsh stoker" in containerfile(universal())
    assert "--shell /bin/bash stoker" in containerfile(universal().part(["cli"]))


def test_no_address_is_in_it():
    assert "://" not in containerfile(universal())


def test_the_older_stack_lies_below_the_newer_one():
    text = containerfile(universal())
    assert text.index("COPY --from=packages /opt/stoker/cu126") < text.index("COPY --from=packages /opt/stoker/cu130")


def test_shell_understands_every_run(tmp_path):
    lines = containerfile(universal()).replace(" \\\n", " ").splitlines()
    runs = [line[4:] for line in lines if line.startswith("RUN ")]
    assert len(runs) >= 5
    for run in runs:
        assert subprocess.run(["bash", "-n", "-c", run], capture_output=True).returncode == 0, run


def test_it_is_the_same_every_time():
    assert containerfile(universal()) == containerfile(universal())
