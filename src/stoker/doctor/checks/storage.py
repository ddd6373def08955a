"""Checks of the disks: the data set's speed, free space, and caches that cannot be written."""

from __future__ import annotations

from stoker.doctor.checks.amounts import has_gpu, size
from stoker.doctor.facts import Facts
from stoker.doctor.facts.storage import Cache, DataSet, Volume
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_GIBIBYTE = 2**30
_GPU_BYTES_S = 100e6
"""What a GPU should be given at least: about 900 photos of 110 kB a second."""
_CPU_BYTES_S = 10e6
_SHORT_S = 60.0
"""An epoch whose reading takes less than this is not worth a word."""
_NETWORK = (
    "nfs nfs4 cifs smb3 smbfs afs ncpfs davfs 9p drvfs vboxsf vmhgfs prl_fs fuse.sshfs fuse.s3fs fuse.gcsfuse fuse.goofys fuse.geesefs fuse.rclone "
    "fuse.blobfuse fuse.blobfuse2 fuse.mount-s3 fuse.juicefs fuse.davfs fuse.vmhgfs-fuse fuse.glusterfs fuse.alluxio-fuse fuse.curlftpfs"
)
"""File systems that are a server, a cloud store or another operating system's disk. Parallel ones (Lustre, GPFS, BeeGFS, Ceph) are made for this."""


def data_unreadable(facts: Facts) -> Outcome:
    """The data set that was named cannot be read.

    It is not there, this user may not read it, or the disk does not answer. In a container the folder must be mounted (`-v /data:/data:ro`), and uid
    and mode are those of the machine outside. See `ls -ln` on it.
    """
    data = facts.storage.data
    if data is None:
        return Skipped(reason="no data set was named (--data)")
    reason = data.error or data.unreadable or ("there are no files in it" if data.files == 0 and data.complete else None)
    if reason is None:
        return Passed(what=f"{'' if data.complete else 'at least '}{data.files} files, {size(data.total_bytes or 0)}")
    return Finding(
        severity=Severity.ERROR,
        what=f"the data set {data.path} cannot be read",
        evidence=(f"{data.path}: {reason}",),
        consequence="the training ends at the first batch, or at that file",
        fix=f"ls -ln {data.path}; id   # uid, gid and mode against yours" + ("; mount it: -v /data:/data:ro" if facts.system.container else ""),
    )


def disk_hangs(facts: Facts) -> Outcome:
    """A disk does not answer.

    The server of a network disk or the program of a FUSE disk is gone ("Stale file handle", "Transport endpoint is not connected"), or the disk
    fails. Programs that touch it hang in the kernel (state D in `ps`), cannot be ended, and make the load rise. See `dmesg | tail` ("server not
    responding", "I/O error") and `mount`.
    """
    silent = [volume for volume in facts.storage.volumes if not volume.answered or volume.error in _GONE]
    if not facts.storage.volumes:
        return Skipped(reason="the disks could not be looked at")
    if not silent:
        return Passed(what="all disks answer")
    volume = silent[0]
    return Finding(
        severity=Severity.ERROR,
        what=f"the disk of the {_USES.get(volume.use, volume.use)} ({volume.mount or volume.path}) does not answer",
        evidence=tuple(
            f"statvfs {one.path}: {one.error or 'no answer within 2 s'} ({one.kind or 'kind not known'} of {one.device})" for one in silent
        ),
        consequence="what touches it hangs and cannot be ended",
        fix=f"sudo umount -f -l {volume.mount}   # then mount it again once its server is back" if volume.mount else "dmesg | tail -30",
    )


_GONE = ("Stale file handle", "Transport endpoint is not connected", "Input/output error", "Host is down")
"""What a network disk answers whose server is gone, or a FUSE file system whose program has ended, or a disk that fails."""
_USES = {"data": "data set", "runs": "runs", "cache": "cache", "temporary": "temporary files", "home": "home folder"}


def data_on_network_disk(facts: Facts) -> Outcome:
    """The data set lies on a network disk, and reading it is slow.

    A data set of many small files asks the server for each of them, in every epoch. A copy on a local disk, or a packed copy that is read in large
    pieces, is usually several times as fast. Under WSL the same holds for /mnt/c and other Windows disks. It is a finding only where the set
    does not fit into memory and where it was measured to be slow. See `findmnt -T PATH`.
    """
    data, volume = facts.storage.data, _data_volume(facts)
    if data is None or data.error:
        return Skipped(reason="no data set was named (--data)" if data is None else "it cannot be read: see data-unreadable")
    if volume is None or volume.kind is None:
        return Skipped(reason="the file system of the data set is not known")
    if volume.kind.lower() not in _NETWORK.split():
        return Passed(what=f"the data set is on {volume.kind}")
    told = _slow(facts, data)
    if told is None:
        return Passed(what=f"{volume.kind}, but fast enough: {_rate_text(data)}")
    where = "Windows' disk" if facts.system.wsl and volume.kind in ("9p", "drvfs") else "a network disk"
    return Finding(
        severity=Severity.WARNING,
        what=f"the data set is on {where} ({volume.kind}) that gives {_rate_text(data)}",
        evidence=(f"{volume.mount}: {volume.kind} of {volume.device}", _reading_text(data)),
        consequence=told,
        fix=f"cp -r {data.path} ~/data/   # inside WSL's own disk"
        if facts.system.wsl
        else f"rsync -a {data.path} /local/disk/   # then train from there",
    )


def data_disk_slow(facts: Facts) -> Outcome:
    """The disk of the data set is slow.

    Measured on a sample of the files themselves, read by 8 threads after the kernel was asked to forget them; below a hypervisor they may still have
    come from memory, so the disk is at most this fast. Below 100 MB/s (about 900 photos of 110 kB a second) a GPU waits for it; without a GPU, 10
    MB/s do. A set that is read within a minute, or that fits into memory after the first epoch, is no finding.
    """
    data, volume = facts.storage.data, _data_volume(facts)
    if data is None or data.error:
        return Skipped(reason="no data set was named (--data)" if data is None else "it cannot be read: see data-unreadable")
    if isinstance(data_on_network_disk(facts), Finding):
        return Skipped(reason="it is on a network disk: see data-on-network-disk")
    if not data.read_bytes or not data.read_s:
        return Skipped(reason="nothing of it could be read")
    told = _slow(facts, data)
    if told is None:
        return Passed(what=_rate_text(data))
    return Finding(
        severity=Severity.WARNING,
        what=f"the disk of the data set gives {_rate_text(data)}",
        evidence=(_reading_text(data), f"{volume.mount}: {volume.kind} on {volume.device}" if volume else f"{data.path}"),
        consequence=told,
        fix=f"rsync -a {data.path} /faster/disk/   # or a packed copy, read in large pieces",
    )


def _data_volume(facts: Facts) -> Volume | None:
    return next((volume for volume in facts.storage.volumes if volume.use == "data"), None)


def _slow(facts: Facts, data: DataSet) -> str | None:
    """Return what reading costs an epoch; None: it is fast enough, or was not measured."""
    if not data.read_bytes or not data.read_s or data.total_bytes is None:
        return None
    rate = data.read_bytes / data.read_s
    memory = facts.memory.limit_bytes or facts.memory.total_bytes
    fits = data.complete and memory is not None and data.total_bytes < 0.5 * memory
    epoch_s = data.total_bytes / rate
    if rate >= (_GPU_BYTES_S if has_gpu(facts) else _CPU_BYTES_S) or fits or (data.complete and epoch_s < _SHORT_S):
        return None
    return f"reading the whole set takes {'' if data.complete else 'more than '}{epoch_s / 60:.0f} minutes, in every epoch"


def _rate_text(data: DataSet) -> str:
    return f"{data.read_bytes / data.read_s / 1e6:.0f} MB/s" if data.read_bytes and data.read_s else "speed not measured"


def _reading_text(data: DataSet) -> str:
    cold = "after the kernel was asked to forget them" if data.dropped else "perhaps from memory"
    return f"read {data.read_files} pieces, {data.read_bytes} bytes in {data.read_s:.2f} s by {data.readers} threads, {cold}"


def disk_full(facts: Facts) -> Outcome:
    """A disk that a training writes to is full or nearly so.

    Checkpoints, caches, compiled kernels and reports need room; a run that cannot write its checkpoint has trained for nothing. See `df -h`, then
    `du -xh --max-depth=2 / | sort -h | tail`. Old caches: `pip cache purge`, `uv cache prune`, `docker system df`.
    """
    volumes = _written(facts)
    if not volumes:
        return Skipped(reason="the disks are not known")
    full = [volume for volume in volumes if (volume.total_bytes or 0) >= 4 * _GIBIBYTE and _short(volume)]
    if not full:
        return Passed(what=", ".join(f"{size(volume.free_bytes or 0)} free on {volume.mount or volume.path}" for volume in volumes))
    worst = min(full, key=lambda volume: volume.free_bytes or 0)
    return Finding(
        severity=Severity.ERROR if (worst.free_bytes or 0) < 100 * 2**20 else Severity.WARNING,
        what=f"only {size(worst.free_bytes or 0)} are free on {worst.mount or worst.path}, where the {_USES[worst.use]} {_is(worst)}",
        evidence=tuple(f"{one.path} ({one.mount}, {one.kind}): {one.free_bytes} of {one.total_bytes} bytes free" for one in full),
        consequence="checkpoints and caches cannot be written",
        fix=f"du -xh --max-depth=2 {worst.mount or worst.path} 2>/dev/null | sort -h | tail -20   # what takes the room",
    )


def _is(volume: Volume) -> str:
    return "is" if volume.use in ("cache", "home") else "are"


def _written(facts: Facts) -> list[Volume]:
    """Return the volumes that are written to, each file system once."""
    found: dict[str, Volume] = {}
    for volume in facts.storage.volumes:
        if volume.use != "data" and volume.answered and volume.free_bytes is not None and volume.total_bytes and not volume.read_only:
            found.setdefault(volume.mount or volume.path, volume)
    return list(found.values())


def _short(volume: Volume) -> bool:
    free, total = volume.free_bytes or 0, volume.total_bytes or 0
    return free < _GIBIBYTE or (free < 0.02 * total and free < 10 * _GIBIBYTE)


def inodes_full(facts: Facts) -> Outcome:
    """A disk has room, but no place for further files.

    File systems like ext4 have a fixed number of inodes, one a file. Unpacked data sets and package caches use them up; then writing fails with "No
    space left on device" although `df -h` shows room. See `df -i`.
    """
    volumes = [volume for volume in _written(facts) if volume.inodes_total and volume.inodes_free is not None]
    if not volumes:
        return Skipped(reason="the file systems have no fixed number of inodes")
    full = [volume for volume in volumes if (volume.inodes_free or 0) < min(10_000, 0.01 * (volume.inodes_total or 0))]
    if not full:
        return Passed(what="there are inodes left")
    worst = full[0]
    return Finding(
        severity=Severity.ERROR if (worst.inodes_free or 0) < 100 else Severity.WARNING,
        what=f"only {worst.inodes_free} more files fit on {worst.mount or worst.path}",
        evidence=tuple(f"{one.path} ({one.mount}, {one.kind}): {one.inodes_free} of {one.inodes_total} inodes free" for one in full),
        consequence='"No space left on device" when a checkpoint or cache is written, although there is room',
        fix=f"du -x --inodes --max-depth=3 {worst.mount or worst.path} 2>/dev/null | sort -n | tail -20   # where the many files are",
    )


def cache_not_writable(facts: Facts) -> Outcome:
    """Stoker's cache cannot be written.

    Decoded data sets and downloads are kept in STOKER_CACHE, else XDG_CACHE_HOME/stoker, else ~/.cache/stoker. Where that is read-only, belongs to
    another user, or the user has no home (a container started with `--user`), every start does all of it again. Where it is the home folder that
    cannot be written, Triton's cache is told here, too.
    """
    if _home_is_closed(facts):
        return _closed_home(facts)
    return _cache_outcome(
        facts, "stoker", "every start decodes and downloads again", "export STOKER_CACHE=/tmp/stoker-$(id -u)   # or a folder that lasts"
    )


def triton_cache_not_writable(facts: Facts) -> Outcome:
    """The cache for Triton's kernels cannot be written.

    Kernels written in Triton are compiled when they are first used and kept in TRITON_CACHE_DIR, else ~/.triton/cache. Where nothing can be written
    there, it fails with PermissionError or "Read-only file system". torch.compile sets the folder itself. Source: triton/knobs.py.
    """
    if not _may_compile(facts):
        return Skipped(reason="Triton is not installed")
    if _home_is_closed(facts):
        return Skipped(reason="it is the home folder that cannot be written: see cache-not-writable")
    return _cache_outcome(
        facts, "triton", "programs that use Triton kernels fail with PermissionError", "export TRITON_CACHE_DIR=/tmp/triton-$(id -u)"
    )


def compile_cache_not_writable(facts: Facts) -> Outcome:
    """The cache of torch.compile cannot be written.

    It is TORCHINDUCTOR_CACHE_DIR, else torchinductor_USER in the folder for temporary files. A folder of that name that another user made (root, with
    the same USER) is the usual reason. Then torch.compile fails. Source: torch/_inductor/runtime/cache_dir_utils.py.
    """
    if facts.python.torch is None:
        return Skipped(reason="torch is not installed")
    return _cache_outcome(facts, "inductor", "torch.compile fails with PermissionError", "export TORCHINDUCTOR_CACHE_DIR=/tmp/inductor-$(id -u)")


def _home_is_closed(facts: Facts) -> bool:
    """Tell whether Stoker's and Triton's caches cannot be written for one reason, which then is the home folder above both."""
    found = [cache for cache in (_cache(facts, "stoker"), _cache(facts, "triton")) if cache and cache.writable is False and not cache.variable]
    return len(found) == 2 and found[0].reason is not None and found[0].reason == found[1].reason and _may_compile(facts)


def _closed_home(facts: Facts) -> Finding:
    caches = [cache for cache in facts.storage.caches if cache.owner in ("stoker", "triton")]
    run = {"docker": "docker run -e HOME=/tmp ...", "podman": "podman run -e HOME=/tmp ..."}.get(facts.system.container or "")
    export = "export STOKER_CACHE=/tmp/stoker-$(id -u) TRITON_CACHE_DIR=/tmp/triton-$(id -u)"
    return Finding(
        severity=Severity.WARNING,
        what=f"nothing can be written to {' and '.join(cache.path for cache in caches)}, which are below the home folder",
        evidence=(f"HOME={facts.variables.get('HOME', '')}", caches[0].reason or caches[0].path),
        consequence="every start decodes and downloads again; programs that use Triton kernels fail with PermissionError",
        fix=f"{run or export}   # or folders that last",
    )


def _may_compile(facts: Facts) -> bool:
    return any(name in facts.python.packages for name in ("triton", "pytorch-triton", "triton-rocm"))


def _cache(facts: Facts, owner: str) -> Cache | None:
    return next((cache for cache in facts.storage.caches if cache.owner == owner), None)


def _cache_outcome(facts: Facts, owner: str, consequence: str, fix: str) -> Outcome:
    cache = _cache(facts, owner)
    if cache is None or cache.writable is None:
        return Skipped(reason="the folder is not known, or does not answer")
    if cache.writable:
        return Passed(what=f"{cache.path} can be written")
    chosen = f" ({cache.variable})" if cache.variable else ""
    return Finding(
        severity=Severity.WARNING,
        what=f"nothing can be written to {cache.path}{chosen}",
        evidence=(cache.reason or cache.path,),
        consequence=consequence,
        fix=fix,
    )


def tmp_noexec(facts: Facts) -> Outcome:
    """Compiled kernels lie on a file system from which nothing may be run.

    torch.compile and Triton build shared libraries in their caches and load them. On a file system that is mounted noexec (/tmp on hardened machines)
    loading fails: "failed to map segment from shared object". See `findmnt -T /tmp -o TARGET,OPTIONS`.
    """
    if facts.python.torch is None:
        return Skipped(reason="torch is not installed")
    caches = [cache for cache in facts.storage.caches if cache.owner == "inductor" or (cache.owner == "triton" and _may_compile(facts))]
    known = [cache for cache in caches if cache.noexec is not None]
    barred = [cache for cache in known if cache.noexec]
    if not known:
        return Skipped(reason="the folders are not known, or do not answer")
    if not barred:
        return Passed(what="libraries can be loaded from the caches of torch.compile and Triton")
    variables = {"inductor": "TORCHINDUCTOR_CACHE_DIR", "triton": "TRITON_CACHE_DIR"}
    return Finding(
        severity=Severity.WARNING,
        what=f"{' and '.join(cache.path for cache in barred)}: mounted noexec, so compiled kernels cannot be loaded",
        evidence=tuple(f"{cache.path} is on {cache.mount or 'a file system'}, which is mounted noexec" for cache in barred),
        consequence='torch.compile fails with "failed to map segment from shared object"',
        fix="\n".join(f"export {variables[cache.owner]}=$HOME/.cache/{cache.owner}   # or any folder on a disk without noexec" for cache in barred),
    )


def tmp_small(facts: Facts) -> Outcome:
    """The folder for temporary files has hardly any room.

    pip and uv unpack there, torch.compile keeps its kernels there, and a tmpfs of some hundred MB is quickly full; torch alone unpacks to more than
    1.5 GB. See `df -h "${TMPDIR:-/tmp}"`. Larger disks that are full are told by disk-full.
    """
    volume = next((volume for volume in facts.storage.volumes if volume.use == "temporary"), None)
    if volume is None or volume.free_bytes is None or volume.total_bytes is None:
        return Skipped(reason="the folder is not known, or does not answer")
    if volume.total_bytes >= 4 * _GIBIBYTE or volume.free_bytes >= _GIBIBYTE // 2:
        return Passed(what=f"{size(volume.free_bytes)} free in {volume.path}")
    return Finding(
        severity=Severity.WARNING,
        what=f"only {size(volume.free_bytes)} of {size(volume.total_bytes)} are free in {volume.path}",
        evidence=(f"{volume.path} ({volume.mount}, {volume.kind}): {volume.free_bytes} of {volume.total_bytes} bytes free",),
        consequence='installing packages and torch.compile fail with "No space left on device"',
        fix="export TMPDIR=$HOME/tmp && mkdir -p $TMPDIR   # or any folder with room",
    )


def user_without_name(facts: Facts) -> Outcome:
    """This process's user has no name, and torch.compile asks for it.

    In a container started with `--user 1234`, or in OpenShift, the uid is not in /etc/passwd. PyTorch before 2.13 names its compile cache after
    getpass.getuser(), which then fails: "KeyError: 'getpwuid(): uid not found: 1234'". See `id -un`. Source: pytorch issue 140765.
    """
    torch, error = facts.python.torch, facts.system.user_error
    if error is None:
        return Passed(what=f"the user is called {facts.system.user}") if facts.system.user else Skipped(reason="the user is not known")
    if "TORCHINDUCTOR_CACHE_DIR" in facts.variables:
        return Passed(what="TORCHINDUCTOR_CACHE_DIR is set, so that torch.compile does not ask for the name")
    version = _version(torch.version if torch else None)
    if version is None:
        return Skipped(reason="torch is not installed, or its version is not known")
    if version >= (2, 13):
        return Passed(what="the user has no name, but torch 2.13 and later need none")
    return Finding(
        severity=Severity.WARNING,
        what=f"uid {facts.system.uid} has no name, which torch.compile of torch {torch.version if torch else ''} needs",
        evidence=(f"getpass.getuser(): {error}",),
        consequence="torch.compile fails at once",
        fix=f"export USER=user{facts.system.uid} TORCHINDUCTOR_CACHE_DIR=/tmp/inductor-{facts.system.uid}",
    )


def _version(text: str | None) -> tuple[int, int] | None:
    parts = (text or "").split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) >= 2 and parts[0].isdecimal() and parts[1].isdecimal() else None


CHECKS: tuple[Check, ...] = (
    disk_hangs,
    data_unreadable,
    data_on_network_disk,
    data_disk_slow,
    disk_full,
    inodes_full,
    cache_not_writable,
    triton_cache_not_writable,
    compile_cache_not_writable,
    tmp_noexec,
    tmp_small,
    user_without_name,
)
