"""The commit of a stoker.lock as labels: only when it is in that commit as it is, without what should stay secret."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from stoker.errors import BuildFailed
from stoker.image.commit import commit_labels

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> str:
    """Run git there."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock in a commit, and a later commit of something else."""
    git(tmp_path, "init", "-q")
    for name in ("stoker.lock", "other"):
        (tmp_path / name).write_text(name)
        git(tmp_path, "add", name)
        git(tmp_path, "commit", "-q", "-m", name)
    return tmp_path / "stoker.lock"


def test_the_revision_is_the_commit_of_the_lock_and_not_the_last_one(lock: Path) -> None:
    assert commit_labels(lock) == {"org.opencontainers.image.revision": git(lock.parent, "rev-parse", "HEAD~1")}


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("https://user:token@example.org/team/trainer.git", "https://example.org/team/trainer.git"),
        ("https://example.org/team/trainer.git", "https://example.org/team/trainer.git"),
        ("git@example.org:team/trainer.git", "git@example.org:team/trainer.git"),
        ("ssh://git@example.org/team/trainer.git", "ssh://example.org/team/trainer.git"),
    ],
)
def test_the_source_is_the_origin_without_a_password(lock: Path, origin: str, told: str) -> None:
    git(lock.parent, "remote", "add", "origin", origin)
    assert commit_labels(lock)["org.opencontainers.image.source"] == told


def test_a_lock_that_no_commit_holds_gets_no_label(lock: Path, tmp_path: Path) -> None:
    lock.write_text("changed")
    with pytest.raises(BuildFailed, match="differs"):
        commit_labels(lock)
    git(lock.parent, "checkout", "-q", "stoker.lock")
    git(lock.parent, "rm", "-q", "--cached", "stoker.lock")
    with pytest.raises(BuildFailed):
        commit_labels(lock)


def test_outside_of_a_repository_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "stoker.lock").write_text("x")
    with pytest.raises(BuildFailed, match="git knows nothing"):
        commit_labels(tmp_path / "stoker.lock")
