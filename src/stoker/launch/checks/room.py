"""Whether there is room: ports, disks, memory and shared memory."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.doctor.finding import Finding, Severity
from stoker.doctor.sizes import size
from stoker.host.place import filesystem_root, read
from stoker.launch.checks.gathering import Before
from stoker.launch.checks.places import Disk
from stoker.launch.defaults import needed_shm_bytes
from stoker.launch.request import Port
from stoker.launch.wanted import Wanted

_NO_BYTES = 64 * 2**20
"""Below this an engine cannot even write a container's own files."""
_FEW_BYTES = 2**30
"""A checkpoint or two."""
_FEW_FILES = 1000
_FIRST_UNPRIVILEGED = 1024
_NEARLY_ALL = 0.1
_ENDLESS_BYTES = 2**60


def port_taken(before: Before) -> Iterator[Finding]:
    """Somebody listens on a port that was asked for."""
    for port in before.taken:
        owner = _owner(before, port)
        yield Finding(
            severity=Severity.ERROR,
            what=f"port {port.text} is taken" + (f" by {owner}" if owner else ""),
            evidence=(f"bind {port.text}: Address already in use",),
            consequence="the engine refuses to start the container",
            fix=(f"stoker stop {owner.removeprefix('container ')}\n" if owner else f"ss -ltnp 'sport = :{port.host}'   # says by whom\n")
            + f"or take the next free one: -p {port.inside}",
        )


def _owner(before: Before, port: Port) -> str | None:
    return next((f"container {one.name}" for one in before.site.containers if one.running and port.host in {own.host for own in one.ports}), None)


def address_foreign(before: Before) -> Iterator[Finding]:
    """The address to listen on is not one of this machine's."""
    for address in before.foreign:
        yield Finding(
            severity=Severity.ERROR,
            what=f"--listen {address}: this machine has no such address",
            evidence=(f"bind {address}: Cannot assign requested address",),
            consequence="the engine refuses to start the container",
            fix="ip -brief address   # lists those that it has; 127.0.0.1 is for this machine only",
        )


def port_privileged(before: Before) -> Iterator[Finding]:
    """Without root, engines cannot listen on the lowest ports."""
    told = read(filesystem_root() / "proc/sys/net/ipv4/ip_unprivileged_port_start") or ""
    first = int(told) if told.isdecimal() else _FIRST_UNPRIVILEGED
    for port in before.request.ports:
        if before.site.engine.rootless and port.host < first:
            yield Finding(
                severity=Severity.ERROR,
                what=f"port {port.host} is for root only",
                evidence=(f"/proc/sys/net/ipv4/ip_unprivileged_port_start: {first}", f"{before.site.engine.name} runs without root"),
                consequence="the engine refuses to start the container",
                fix=f"-p {port.host + 8000}:{port.inside}\nor for everybody: sudo sysctl net.ipv4.ip_unprivileged_port_start={port.host}",
            )


def port_open_to_others(before: Before) -> Iterator[Finding]:
    """A program without Stoker's TLS and token answers to other machines."""
    open_ports = [port for port in before.request.ports if before.request.kind == "run" and not _is_loopback(port.address)]
    if open_ports:
        yield Finding(
            severity=Severity.WARNING,
            what=f"{', '.join(port.text for port in open_ports)} can be reached from other machines",
            evidence=(f"--listen {open_ports[0].address}",),
            consequence="whoever reaches this machine reaches the program: Stoker puts neither TLS nor a password before it",
            fix="leave --listen out, and come from outside through ssh: ssh -L "
            + " -L ".join(f"{port.host}:127.0.0.1:{port.host}" for port in open_ports)
            + " USER@THIS-MACHINE",
        )


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")


def disk_full(before: Before) -> Iterator[Finding]:
    """There is hardly room on a disk that the container writes to."""
    disks: dict[int, list[Disk]] = {}
    for disk in before.disks:
        disks.setdefault(disk.device, []).append(disk)
    for same in disks.values():
        disk, uses = same[0], " and ".join(one.use for one in same)
        no_files = disk.files_free is not None and disk.files_free < _FEW_FILES
        if disk.free_bytes >= _FEW_BYTES and not no_files:
            continue
        left = f"room for {disk.files_free} more files" if no_files else f"{size(disk.free_bytes)} free"
        yield Finding(
            severity=Severity.ERROR if disk.free_bytes < _NO_BYTES or no_files else Severity.WARNING,
            what=f"the disk of {uses} is nearly full: {left}",
            evidence=tuple(f"{one.folder} ({one.use}): {one.free_bytes} bytes free" for one in same),
            consequence="checkpoints and notebooks cannot be saved, or the container does not start",
            fix=f"{'df -i' if no_files else 'df -h'} {disk.folder}   # then make room"
            + (f"\n{before.site.engine.name} image prune   # removes images without a name" if any("storage" in one.use for one in same) else ""),
        )


def memory_short(before: Before) -> Iterator[Finding]:
    """Hardly any memory is left on this machine."""
    total, available = before.site.memory_bytes, before.available_bytes
    if total is None or available is None or available >= _NEARLY_ALL * total:
        return
    yield Finding(
        severity=Severity.WARNING,
        what=f"only {size(available)} of {size(total)} memory are free",
        evidence=(f"/proc/meminfo: MemAvailable {available} bytes",),
        consequence="the kernel may end the program, or another one, as soon as it takes more",
        fix="ps -eo pid,user,rss,args --sort=-rss | head   # who holds it\nstoker ps   # what was started here",
    )


def shm_short(before: Before) -> Iterator[Finding]:
    """The shared memory is less than what the loader workers need that were named."""
    wanted, limits = before.site.wanted, before.request.limits
    if limits.shm_bytes is None or (wanted.batch is None and wanted.workers is None):
        return
    need = needed_shm_bytes(wanted, before.site, _ENDLESS_BYTES)
    if limits.shm_bytes >= need:
        return
    most = limits.memory_bytes or before.site.memory_bytes or 0
    yield Finding(
        severity=Severity.WARNING,
        what=f"the loader workers need {size(need)} of shared memory, the container gets {size(limits.shm_bytes)}",
        evidence=(f"{_said(wanted)}: {need} bytes", f"memory of the container: {size(most)}"),
        consequence='workers die with "Bus error" or "unable to allocate shared memory"',
        fix="fewer workers or smaller batches" + (f"; or --shm {need // 2**20}m" if need <= most else ", or more --memory"),
    )


def _said(wanted: Wanted) -> str:
    said = {"--batch": wanted.batch, "--workers": wanted.workers}
    return " ".join(f"{option} {value}" for option, value in said.items() if value is not None)


CHECKS = (port_taken, address_foreign, port_privileged, port_open_to_others, disk_full, memory_short, shm_short)
