"""Whether the engine answers, can set the limits that were asked for, and starts containers again after a reboot."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.doctor.finding import Finding, Severity
from stoker.launch.checks.gathering import Before
from stoker.launch.engine import silent


def engine_silent(before: Before) -> Iterator[Finding]:
    """The engine gives no answer: its daemon is down, or this user may not talk to it."""
    engine = before.site.engine
    if engine.answers is not None:
        error = silent(engine.name, engine.answers)
        yield Finding(
            severity=Severity.ERROR,
            what=f"{engine.name} does not answer",
            evidence=(f"{engine.program}: {engine.answers}",),
            consequence="no container can be started",
            fix=error.hint,
        )


def limits_unset(before: Before) -> Iterator[Finding]:
    """A limit cannot be set on this host: it is left out."""
    for unset in before.unset:
        yield Finding(
            # Without --memory a training can take the machine with it; the others are comfort.
            severity=Severity.WARNING if unset.option == "--memory" else Severity.NOTE,
            what=f"{unset.option} is left out: this host cannot set it",
            evidence=(unset.reason,),
            consequence=unset.consequence,
            fix=_delegate(before, unset.option),
        )


def _delegate(before: Before, option: str) -> str:
    engine = before.site.engine
    if engine.cgroups == 1:
        return "sudo grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1   # or in GRUB_CMDLINE_LINUX; then reboot"
    if not engine.session:
        return "sudo loginctl enable-linger $(id -un)   # or log in over SSH"
    if engine.rootless:
        unit = "/etc/systemd/system/user@.service.d/delegate.conf"
        return (
            f"sudo mkdir -p {unit.rpartition('/')[0]} && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo tee {unit}\n"
            "sudo systemctl daemon-reload   # then log in again"
        )
    return f"start without it: {option} none" if option == "--memory" else "boot a kernel with this controller (cgroup_disable= in /proc/cmdline?)"


def restart_void(before: Before) -> Iterator[Finding]:
    """It is to come back after a reboot, and nothing would start it."""
    found, engine = before.restarts, before.site.engine
    if found is None or (found.systemd and found.enabled and found.lingering):
        return
    user = " --user" if engine.rootless else ""
    sudo = "" if engine.rootless else "sudo "
    unit = "podman-restart.service" if engine.name == "podman" else "docker.service"
    # Without polkit, as on many servers, only root may turn lingering on, also for oneself.
    linger = [] if found.lingering else [f"sudo loginctl enable-linger {found.account}"]
    commands = [*([] if found.enabled else [f"{sudo}systemctl{user} enable {unit}"]), *linger]
    yield Finding(
        severity=Severity.WARNING,
        what="it would not come back after a reboot" + ("" if found.systemd else ": there is no systemd here"),
        evidence=(
            *([] if found.enabled else [f"{unit} is not enabled"]),
            *([] if found.lingering else ["services of this user end with the last login (no lingering)"]),
            *([] if found.systemd else ["/run/systemd/system is not there"]),
        ),
        consequence="after a crash it is started again, after a reboot not",
        fix="\n".join(commands) if found.systemd else _by_own_init(engine.name),
    )


def _by_own_init(engine: str) -> str:
    # What podman-restart.service runs; docker's daemon starts again by itself what ran.
    command = "podman start --all --filter restart-policy=always" if engine == "podman" else "dockerd   # it starts again what ran"
    return f"have this machine's own init run at its start: {command}"


CHECKS = (engine_silent, limits_unset, restart_void)
