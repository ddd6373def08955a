"""`stoker image check` on images that podman has: read through an export, without being started."""

from __future__ import annotations

import shutil
import subprocess
import uuid

import pytest

from stoker.errors import EngineFailed
from stoker.image.check import check
from tests.conftest import need
from tests.unit.test_image_check import KEY, healthy


@pytest.fixture
def loaded(tmp_path):
    """Return a function that loads a tiny image into podman and gives its name there."""
    need(all(shutil.which(program) for program in ("podman", "skopeo")), "podman and skopeo")
    names = []

    def load(image):
        number = uuid.uuid4().hex[:12]
        name, layout = f"localhost/stoker-test-{number}:1", image.write(tmp_path / number)
        command = ["skopeo", "--insecure-policy", "copy", f"oci:{layout}", f"containers-storage:{name}"]
        subprocess.run(command, check=True, capture_output=True)
        names.append(name)
        return name

    yield load
    for name in names:
        subprocess.run(["podman", "rmi", "--force", name], capture_output=True)


def containers() -> int:
    """How many containers podman has, stopped ones too."""
    return len(subprocess.run(["podman", "ps", "--all", "--quiet"], capture_output=True, text=True, check=True).stdout.split())


def test_a_healthy_and_a_spoilt_image(loaded):
    before = containers()
    found = check(loaded(healthy()), try_it=False)
    assert found.findings == ()
    assert found.own_lock
    spoilt = healthy()
    spoilt.add("workspace/server.key", KEY)
    spoilt.add("usr/bin/openssl", "program openssl", mode=0o4755)
    spoilt.add("gone", "x")
    spoilt.add(".wh.gone", layer=1)
    spoilt.config["User"] = ""
    assert {one.rule for one in check(loaded(spoilt), engine="podman", try_it=False).findings} == {"secret", "setuid", "root-user"}
    assert containers() == before


def test_programs_that_do_not_start_are_a_finding(loaded):
    found = check(loaded(healthy()))
    assert {one.rule for one in found.findings} == {"import", "verify"}
    assert found.tried


def test_an_image_that_no_engine_has():
    need(shutil.which("podman") is not None, "podman")
    with pytest.raises(EngineFailed, match="no engine has an image of that name"):
        check("localhost/stoker-test-nothing:1")
