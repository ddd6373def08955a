"""Pending fixes of Debian, looked up in the real archives through apt."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from stoker.errors import StokerError
from stoker.image.debian import lock_base
from stoker.image.lock import Base
from stoker.image.scan import pending_fixes, scan
from stoker.image.specification import Mirrors
from tests.conftest import need
from tests.image_locks import lock

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def base() -> Base:
    """A base as Debian has it today."""
    need(shutil.which("apt-get") is not None, "apt")
    return lock_base(suite="trixie", machine="x86_64", packages={"cli": ["openssl"]}, mirrors=Mirrors())


def test_todays_packages_have_no_pending_fix_and_older_ones_do(base):
    assert pending_fixes(lock(base=base), Mirrors()) == ()
    older = tuple(
        dataclasses.replace(deb, version=f"0~{deb.version.partition(':')[2] or deb.version}") if deb.name == "openssl" else deb for deb in base.debs
    )
    (found,) = pending_fixes(lock(base=dataclasses.replace(base, debs=older)), Mirrors())
    today = next(deb for deb in base.debs if deb.name == "openssl")
    assert (found.package, found.fixed) == ("openssl", today.version)


def test_no_archive_is_a_gap(base, tmp_path):
    nowhere = Mirrors(debian=tmp_path.as_uri(), security=tmp_path.as_uri())
    with pytest.raises(StokerError):
        pending_fixes(lock(base=base), nowhere)
    found = scan(lock(base=base), kinds=("deb",), mirrors=nowhere)
    assert [gap.kind for gap in found.gaps] == ["deb"]
    assert found.vulnerabilities == ()
