"""`stoker image age`: when a rebuild is due."""

from __future__ import annotations

import dataclasses
import datetime
import json

import pytest
from click.testing import CliRunner

from stoker.catalog import torch_releases
from stoker.cli.image.age import age as command
from stoker.image import age as module
from stoker.image.age import age
from stoker.image.debian import RELEASES
from stoker.image.lock import Base, write_lock
from stoker.image.suites import find_suite, suites
from tests.image_locks import lock, stack, wheel
from tests.unit.test_image_scan import vulnerability

DAY = datetime.date(2026, 3, 1)
LOCKED = int(datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc).timestamp())


def locked(suite: str = "trixie", torch: str | None = None, days: int = 0):
    """A lock that was made so many days before DAY."""
    stacks = (stack("cpu", wheel("torch", torch), torch=torch),) if torch else ()
    return lock(*stacks, created=LOCKED - days * 86400, base=Base(kind="debian", suite=suite, digest=None, debs=()))


@pytest.mark.parametrize(("days", "due"), [(0, False), (30, False), (31, True)])
def test_days(days, due):
    found = age(locked(days=days), today=DAY)
    assert (found.days, found.due) == (days, due)


def test_a_limit_of_ones_own():
    assert age(locked(days=3), today=DAY, most_days=2).due
    assert not age(locked(days=3), today=DAY, most_days=3).due


def test_a_lock_from_the_future_is_told_and_not_due():
    found = age(locked(days=-2), today=DAY)
    assert not found.due
    assert (found.days, found.reasons[0].what) == (-2, "the clock of this machine, or that of the one that made the lock, is wrong")


def test_pending_fixes_make_it_due():
    found = age(locked(), today=DAY, pending=[vulnerability(), vulnerability(id="B"), vulnerability(package="x", fixed=None)])
    assert found.due
    assert found.reasons[0].fix == "stoker image lock --upgrade jinja2 && stoker image build"
    assert not age(locked(), today=DAY, pending=[vulnerability(fixed=None)]).due


@pytest.mark.parametrize(
    ("day", "due", "says"),
    [
        (datetime.date(2025, 1, 1), False, None),
        (datetime.date(2026, 5, 1), False, "full security support until 2026-07-11"),
        (datetime.date(2026, 8, 1), False, "long-term support since"),
        (datetime.date(2028, 7, 1), True, "no security fixes since 2028-06-30"),
    ],
)
def test_the_end_of_a_suite(day, due, says):
    held = dataclasses.replace(
        locked("bookworm"), created=int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.timezone.utc).timestamp())
    )
    found = age(held, today=day)
    assert found.due == due
    assert [reason for reason in found.reasons if says and says in reason.what] or (says is None and not found.reasons)


def test_a_newer_patch_release_of_torch_is_due_and_a_newer_torch_is_not(monkeypatch):
    newest = torch_releases()[0]
    patched = [
        dataclasses.replace(newest, version="7.1.2"),
        dataclasses.replace(newest, version="7.1.1"),
        dataclasses.replace(newest, version="7.2.0"),
    ]
    monkeypatch.setattr(module, "torch_releases", lambda: tuple(patched))
    found = age(locked(torch="7.1.0"), today=DAY)
    assert found.due
    assert "PyTorch 7.1.2 mends errors of 7.1.0" in found.reasons[0].what
    assert not age(locked(torch="7.1.2"), today=DAY).due
    assert not age(locked(torch="6.0.0"), today=DAY).due


def test_the_table_of_suites_knows_every_release_that_images_stand_on():
    for release in RELEASES:
        suite = find_suite(release.name)
        assert suite is not None
        assert suite.released < suite.security_end < suite.long_term_end
    assert len({suite.name for suite in suites()}) == len(suites())
    assert find_suite(None) is None


def test_the_command(tmp_path, monkeypatch):
    write_lock(tmp_path / "stoker.lock", dataclasses.replace(locked(), created=int(datetime.datetime.now().timestamp())))
    path = str(tmp_path / "stoker.lock")
    done = CliRunner().invoke(command, [path], standalone_mode=False)
    assert (done.return_value, done.exception) == (0, None)
    assert "a rebuild is not due" in done.stdout
    write_lock(tmp_path / "stoker.lock", locked(days=400))
    done = CliRunner().invoke(command, [path, "--json"], standalone_mode=False)
    assert done.return_value == 1
    assert json.loads(done.stdout)["due"] is True
