"""The order of versions, against `packaging` and `dpkg`."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest

from stoker.image.version_order import debian_key, python_key, without_local
from tests.conftest import need

DEBIAN_IN_ORDER = [
    "1.0~~",
    "1.0~~a",
    "1.0~",
    "1.0~rc1",
    "1.0",
    "1.0-0ubuntu1",
    "1.0-1~bpo12+1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-1+deb12u1",
    "1.0-1+deb12u2",
    "1.0-1+deb12u10",
    "1.0a",
    "1.0+dfsg-1",
    "1.0.1",
    "1.9",
    "1.10",
    "1:0.1",
    "2:0",
]
PYTHON_IN_ORDER = [
    "1.0.dev1",
    "1.0a1.dev1",
    "1.0a1",
    "1.0b2",
    "1.0rc1",
    "1.0",
    "1.0+cu118",
    "1.0+cu126",
    "1.0+1",
    "1.0.post1.dev2",
    "1.0.post1",
    "1.0.1",
]


@pytest.mark.parametrize(("versions", "key"), [(DEBIAN_IN_ORDER, debian_key), (PYTHON_IN_ORDER, python_key)], ids=["debian", "python"])
def test_versions_in_order(versions, key):
    shuffled = list(versions)
    random.Random(1).shuffle(shuffled)
    assert len({key(version) for version in versions}) == len(versions)
    assert sorted(shuffled, key=key) == versions


@pytest.mark.parametrize(("one", "same"), [("1.0", "1.0.0"), ("1.0-1", "1.0.post1"), ("v1.0", "1.0"), ("1.0c1", "1.0rc1"), ("1.0_alpha", "1.0a0")])
def test_pep440_spells_one_version_in_many_ways(one, same):
    assert python_key(one) == python_key(same) is not None


@pytest.mark.parametrize("text", ["", "latest", "1.0-", "1..0", "1.0+", "2004d"])
def test_what_is_no_python_version_has_no_key(text):
    assert python_key(text) is None


def test_python_order_is_that_of_packaging():
    packaging = pytest.importorskip("packaging.version")
    versions = [_python_version(random.Random(seed)) for seed in range(600)]
    for version in versions:
        assert (python_key(version) is not None) == _valid(packaging, version), version
    valid = [version for version in versions if python_key(version)]
    generator = random.Random(2)
    for _ in range(20_000):
        one, other = generator.choice(valid), generator.choice(valid)
        ours = (python_key(one) < python_key(other), python_key(one) == python_key(other))
        theirs = (packaging.Version(one) < packaging.Version(other), packaging.Version(one) == packaging.Version(other))
        assert ours == theirs, (one, other)


def test_debian_order_is_that_of_dpkg():
    need(shutil.which("dpkg") is not None, "dpkg")
    generator = random.Random(3)
    for _ in range(150):
        one = _debian_version(generator)
        at = generator.randint(len(one) // 2, len(one))
        other = _debian_version(generator) if generator.random() < 0.4 else one[:at] + generator.choice(["~", "0", "a", ".", "1", "+"]) + one[at:]
        relation = "lt" if debian_key(one) < debian_key(other) else "eq" if debian_key(one) == debian_key(other) else "gt"
        assert subprocess.run(["dpkg", "--compare-versions", one, relation, other]).returncode == 0, (one, relation, other)


def test_advisories_name_public_versions():
    assert without_local("2.7.1+cu126") == "2.7.1"
    assert without_local("2.7.1") == "2.7.1"


def _valid(packaging, version):
    try:
        packaging.Version(version)
    except packaging.InvalidVersion:
        return False
    return True


def _python_version(generator):
    text = generator.choice(["", "", "", "1!", "v"]) + ".".join(generator.choice("0012") for _ in range(generator.randint(1, 4)))
    if generator.random() < 0.4:
        text += (
            generator.choice(["", ".", "-", "_"])
            + generator.choice(["a", "b", "rc", "alpha", "c", "preview"])
            + generator.choice(["", "0", ".1", "2"])
        )
    if generator.random() < 0.3:
        text += generator.choice(["-1", ".post", "post1", "-r2", ".rev3", "_post.2"])
    if generator.random() < 0.3:
        text += generator.choice([".dev", "dev0", "-dev1", ".dev.2"])
    if generator.random() < 0.3:
        text += "+" + generator.choice(["cu126", "1", "1.2", "a.1", "1.a", "abc-1", "a", "+"])
    return text


def _debian_version(generator):
    pieces = [".", "+", "~", "1", "0", "10", "00", "a", "B", "z", "~~", "rc", "dfsg"]
    revision = generator.choice(["", "-1", "-1+deb12u2", "-0ubuntu1", "-1~bpo12+1"])
    return (
        generator.choice(["", "", "1:", "0:"]) + generator.choice("0123") + "".join(generator.choices(pieces, k=generator.randint(0, 6))) + revision
    )
