"""`stoker image check`: an image against its lock, and what should not be in it: gathered, judged, tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stoker.image.checks.configured import judge_configuration
from stoker.image.checks.cuda import judge_cuda
from stoker.image.checks.exposure import judge_exposure
from stoker.image.checks.finding import Finding
from stoker.image.checks.integrity import judge_files
from stoker.image.checks.layers import Made, judge_layers, made_layers, proven
from stoker.image.checks.ownership import Ownership, read_ownership
from stoker.image.checks.packages import built_part, judge_labels, judge_packages
from stoker.image.checks.permissions import judge_permissions
from stoker.image.checks.remaking import judge_made
from stoker.image.checks.subject import Subject, lock_inside, read_subject
from stoker.image.checks.trial import judge_imports, judge_verification, running
from stoker.image.lock import Lock
from stoker.image.store import Store

VERIFY_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An image, checked."""

    image: str
    digest: str
    lock: str
    """Digest of the lock that it was compared with."""
    own_lock: bool
    """Whether that is the one that the image carries: then the image vouches for itself."""
    files: int
    packages: int
    proven: int
    """How many wheels were compared with the wheel itself; the others with the list of files that the image brings along."""
    wheels: int
    same_layers: int
    """How many layers are, to the bit, those that were made of this lock in the cache here: that leaves nothing to doubt."""
    layers: int
    """How many there are; 0: the engine does not say."""
    own_compared: bool
    """Whether Stoker's own files were compared: only the Stoker that made the lock knows them."""
    tried: bool
    """Whether its programs were run."""
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def check(
    name: str,
    *,
    lock: Lock | None = None,
    engine: str | None = None,
    try_it: bool = True,
    verify_s: float = VERIFY_S,
    on_part: Callable[[str], None] = lambda part: None,
    store: Store | None = None,
) -> Checked:
    """Check a layout's folder or an image that podman or docker has, against `lock` or else the lock that it carries.

    Raises ImageBroken for what cannot be read as an image, EngineFailed, ProgramMissing, LockBroken.
    """
    store = store or Store()
    on_part("reading every file")
    subject = read_subject(name, engine)
    wanted = built_part(lock or lock_inside(subject), subject.configuration)
    ownership = read_ownership(wanted, subject.contents, store)
    of_lock = not judge_labels(wanted, subject.configuration)
    made = made_layers(wanted, store) if of_lock else ()
    contents = subject.contents
    findings = [
        *judge_labels(wanted, subject.configuration),
        *judge_layers(wanted, made, subject.diff_ids),
        *(judge_configuration(wanted, subject.configuration) if of_lock and ownership.own else []),
        *judge_packages(wanted, contents),
        *judge_files(wanted, contents, ownership),
        *judge_cuda(wanted, contents, ownership),
        *judge_permissions(contents, subject.configuration),
        *judge_exposure(contents, subject.configuration, ownership),
    ]
    if try_it:
        with running(subject, store) as (run, root):
            if root:
                on_part("making bytecode and kernels again")
                findings += judge_made(wanted, contents, ownership, root, store)
            on_part("importing every package")
            findings += judge_imports(wanted, contents, ownership, run)
            on_part("stoker verify --quick")
            findings += judge_verification(wanted, run, verify_s)
    return _checked(subject, wanted, findings, ownership, made, own_lock=lock is None, tried=try_it)


def _checked(
    subject: Subject, lock: Lock, findings: list[Finding], ownership: Ownership, made: Sequence[Made], *, own_lock: bool, tried: bool
) -> Checked:
    wheels = sum(len(stack.wheels) for stack in lock.stacks)
    return Checked(
        image=subject.name,
        digest=subject.digest,
        lock=lock.digest,
        own_lock=own_lock,
        files=len(subject.contents.nodes),
        packages=wheels + len(lock.base.debs),
        proven=ownership.proven,
        own_compared=bool(ownership.own),
        wheels=wheels,
        same_layers=proven(made, subject.diff_ids),
        layers=len(subject.diff_ids),
        tried=tried,
        findings=tuple(findings),
    )
