"""Programs of the image, run in its unpacked root: as root by chroot, as anybody else in a user namespace.

The root stays as it is, to the byte: it is read-only for what runs in it, which writes to `/tmp` (in memory, gone afterwards) and nowhere else, has
no network and a fixed environment, and dies with its caller. `shell.run` is for programs of the host; these take bytes and give bytes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stoker.errors import BuildFailed, ProgramMissing
from stoker.shell import run

# Arguments: the root, the user or nothing, the number of mounts, source and place of each, then the command. All mounts are in a namespace of their
# own and end with it.
_ENTER = r"""
set -eu
root=$1 user=$2 count=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/mnt"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for node in null zero full random urandom; do
    : > "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir -m 1777 "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
# A container hides parts of /proc, and then the kernel refuses a new one: the one that is there is shown instead.
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc" 2>/dev/null || true
while [ "$count" -gt 0 ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")"; : > "$root$2"; fi
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro,nosuid,nodev "$root$2"
    shift 2
    count=$((count - 1))
done
mount -o remount,bind,ro,nosuid,nodev "$root"
cd "$root"
# Not by exec: as the first process of its namespace the program would be deaf to signals that it does not handle.
status=0
chroot ${user:+"--userspec=+$user:+$user" --groups=} "$root" "$@" || status=$?
exit "$status"
"""
_FOLDERS = ("tmp", "mnt", "dev", "proc")
# How long the system may take to say whether namespaces are allowed.
_PROBE_S = 10.0
# What runs gains no right by what it executes, and dies when the thread that started it does.
_GUARDED = ("setpriv", "--no-new-privs", "--pdeathsig", "KILL")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a program of the image did."""

    code: int | None
    """Exit status; 128 + N: signal N ended it; None: it ran past its time limit."""
    out: bytes
    err: str

    @property
    def ok(self) -> bool:
        """Whether it ran to its end and said success."""
        return self.code == 0


@dataclass(frozen=True, kw_only=True)
class Root:
    """The unpacked root of an image."""

    folder: Path
    created: int
    """SOURCE_DATE_EPOCH of what runs in it."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        input: bytes = b"",
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
        user: int | None = None,
    ) -> Answer:
        """Run a program of the image to its end, `input` on its standard input; one that fails or is too slow is an Answer, not an exception.

        Started by root it runs as root, or as `user` with no right at all, which is the way to run what a stranger's image holds; started by anybody
        else it runs as that person, who looks like root in there, whatever `user` is. `environment` is added to a fixed one; `mounts` shows folders
        or files of the host, read-only: `{"/mnt/wheels": Path(...)}`, all below `/mnt`. Several may run at once. Raises BuildFailed where the system
        lets this user make no namespace.
        """
        mounts = {_place(place): path.resolve(strict=True) for place, path in (mounts or {}).items()}
        with self._entered(mounts, user if os.geteuid() == 0 else None) as command:
            return _run([*command, *arguments], {**self._environment(), **(environment or {})}, input, timeout_s)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": str(self.created),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @contextlib.contextmanager
    def _entered(self, mounts: Mapping[str, Path], user: int | None) -> Iterator[list[str]]:
        """Yield the command that runs the rest of its arguments in the root."""
        missing = [name for name in _FOLDERS if not (self.folder / name).is_dir() or (self.folder / name).is_symlink()]
        if missing:
            raise BuildFailed(
                f"{self.folder} is no root of an image: it has no folder {missing[0]}", hint="run `stoker image cache prune`, then build again"
            )
        refusal = namespace_refusal()
        if refusal is None:
            pairs = [text for place, path in mounts.items() for text in (str(path), place)]
            yield [*_namespaces(), "sh", "-c", _ENTER, "sh", str(self.folder.resolve()), str(user or ""), str(len(mounts)), *pairs]
        elif os.geteuid() == 0:
            with self._copy(mounts) as copy:
                yield [*_GUARDED, "chroot", *([f"--userspec=+{user}:+{user}", "--groups="] if user else []), str(copy)]
        else:
            raise BuildFailed(
                f"{_name()} may not make a user namespace here: {refusal}",
                hint="allow it (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; "
                "in a container: --security-opt seccomp=unconfined), or build as root",
            )

    @contextlib.contextmanager
    def _copy(self, mounts: Mapping[str, Path]) -> Iterator[Path]:
        """Yield a copy to run in where root may not mount (a container without CAP_SYS_ADMIN): slower, and with the host's network."""
        with tempfile.TemporaryDirectory(prefix="stoker-root-", dir=self.folder.parent) as folder:
            copy = Path(folder) / "root"
            done = run(["cp", "-a", "--reflink=auto", str(self.folder), str(copy)], timeout_s=600)
            if not done.ok:
                raise BuildFailed(f"the root of the image cannot be copied: {done.err.strip()}", hint="free space in the cache folder")
            for place, path in mounts.items():
                target = copy / place.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)
            (copy / "tmp").chmod(0o1777)
            for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
                try:
                    os.mknod(copy / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
                except OSError:  # not in this container; a compiler makes do with a file
                    (copy / "dev" / name).touch()
            yield copy


def _place(place: str) -> str:
    path = PurePosixPath(place)
    if path.parts[:2] != ("/", "mnt") or len(path.parts) < 3 or ".." in path.parts:
        raise ValueError(f"{place} is not below /mnt")
    return str(path)


def _namespaces() -> list[str]:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    # The death of this process kills `unshare`, and that kills everything in the namespace.
    return [*_GUARDED, "unshare", *own, "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child=KILL"]


@functools.lru_cache(maxsize=2)
def namespace_refusal() -> str | None:
    """Return why this user cannot make the namespaces; None: it can."""
    for program in ("unshare", "setpriv", "mount", "chroot"):
        if shutil.which(program, path=_HOST_PATH) is None:
            raise ProgramMissing(f"{program} is not there", hint="install the packages util-linux, mount and coreutils")
    tried = run(["env", f"PATH={_HOST_PATH}", *_namespaces(), "mount", "--make-rprivate", "/"], timeout_s=_PROBE_S)
    return None if tried.ok else tried.err.strip() or f"exit status {tried.code}"


# `unshare`, `mount` and `chroot` of the host: an ordinary user's PATH lacks sbin on some systems.
_HOST_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def _run(arguments: list[str], environment: Mapping[str, str], input: bytes, timeout_s: float) -> Answer:
    # The program's own PATH must not lead to other programs of the host before the root is entered.
    program = shutil.which(arguments[0], path=_HOST_PATH) or arguments[0]
    try:
        process = subprocess.Popen(
            [program, *arguments[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment) | {"PATH": environment["PATH"] + ":/sbin:/bin"},
            umask=0o022,
            start_new_session=True,
        )
    except OSError as error:
        raise ProgramMissing(f"{arguments[0]} did not start: {error}", hint="install the package util-linux") from error
    try:
        out, err = process.communicate(input, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        out, err = process.communicate()
        return Answer(code=None, out=out, err=err.decode(errors="replace") + f"\nno answer within {timeout_s:g} s")
    except BaseException:
        _kill(process)
        process.wait()
        raise
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Answer(code=code, out=out, err=err.decode(errors="replace"))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it and all that it started: where there is no namespace that does so, its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _name() -> str:
    return os.environ.get("USER") or f"user {os.geteuid()}"
