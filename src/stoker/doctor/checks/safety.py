"""Checks of safety: open servers, secrets, root, and how old the image is."""

from __future__ import annotations

import datetime
import re

from stoker.doctor.facts import Facts
from stoker.doctor.facts.services import Jupyter
from stoker.doctor.facts.variables import secrets
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_OLD_DAYS = 90
_NEAR = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|\[::1\]|ip6-localhost")


def jupyter_open(facts: Facts) -> Outcome:
    """A Jupyter server lets anybody in.

    With an empty token and no password whoever reaches the port runs commands as this user: such servers are found by scanners within hours and mine
    coins on the GPUs. On an address beyond this machine that is an error; on localhost it lets in all users of the machine. A server below JupyterHub
    is not looked at, the hub lets people in. See `jupyter server list`. Source: Jupyter Server documentation, security.
    """
    open_ones = [server for server in facts.services.jupyter if server.token is False and server.password is False]
    if facts.services.processes is None:
        return _unseen()
    if not facts.services.jupyter:
        return Skipped(reason="no Jupyter server runs, and no configuration opens one")
    if not open_ones:
        return Passed(what="the Jupyter server asks for a token or a password")
    server = min(open_ones, key=lambda one: (one.pid is None, not _beyond(one)))
    beyond, running = _beyond(server), server.pid is not None
    where = f"{server.address or 'localhost'}{f':{server.port}' if server.port else ''}"
    return Finding(
        severity=Severity.ERROR if beyond and running else Severity.WARNING if beyond or running else Severity.NOTE,
        what=f"a Jupyter server on {where} {'runs' if running else 'is configured'} without token and password",
        evidence=tuple(f"{one.source}: address {one.address or 'localhost (not given)'}, empty token, no password" for one in open_ones),
        consequence="whoever reaches the port runs commands as this user" if beyond else "every user of this machine can run commands as this user",
        fix=f"kill {server.pid}; jupyter lab   # which makes a token of its own; remove the empty one from its start or configuration"
        if running
        else f"jupyter server password   # and remove the empty token from {server.source}",
    )


def _unseen() -> Skipped:
    return Skipped(reason="the processes of this machine cannot be seen")


def _beyond(server: Jupyter) -> bool:
    """Tell whether a server listens to other machines; without an address it is localhost."""
    return bool(server.address) and _NEAR.fullmatch(server.address or "") is None


def docker_port_open(facts: Facts) -> Outcome:
    """Docker can be commanded over the network by anybody.

    A daemon that listens on TCP without certificates gives root on this machine to whoever reaches the port. See
    `ss -ltnp | grep dockerd`. Source: Docker documentation, "Protect the Docker daemon socket".
    """
    if facts.services.processes is None:
        return _unseen()
    ports = [port for port in facts.services.docker_ports if _NEAR.fullmatch(re.sub(r"^tcp://|:\d+$", "", port)) is None]
    if not ports:
        return Passed(what="no Docker daemon is seen that listens to other machines without certificates")
    return Finding(
        severity=Severity.ERROR,
        what=f"Docker listens on {', '.join(ports)} without certificates",
        evidence=tuple(f"dockerd: -H {port}, no --tlsverify" for port in ports),
        consequence="whoever reaches the port is root on this machine",
        fix="remove the tcp:// address from dockerd's start and /etc/docker/daemon.json; sudo systemctl restart docker   # from afar: DOCKER_HOST=ssh://user@host",
    )


def docker_socket_mounted(facts: Facts) -> Outcome:
    """The container can command the machine's container engine.

    A Docker socket mounted into a container makes whoever may write to it root outside: it can start a container with the whole disk mounted. Some
    tools that start containers need that; a training does not. See `ls -l /var/run/docker.sock`.
    """
    if not facts.system.container:
        return Skipped(reason="not in a container")
    socket = facts.services.docker_socket
    if socket is None or not facts.services.docker_socket_writable:
        return Passed(what="no engine's socket can be written to here")
    return Finding(
        severity=Severity.WARNING,
        what=f"{socket} is mounted into this container",
        evidence=(f"{socket}: a socket that uid {facts.system.uid} may write to",),
        consequence="any program in here, a package from the internet too, can become root on the machine",
        fix=f"start the container without -v {socket}:{socket}",
    )


def ssh_root_open(facts: Facts) -> Outcome:
    """The SSH server lets root in by password.

    Passwords of root are what scanners try all day. Looked at only where an SSH server runs, its configuration says so, and root has a password that
    is not locked (which only root can see). See `sshd -T | grep -E "permitrootlogin|passwordauthentication"`. Source: sshd_config(5).
    """
    if facts.services.processes is None:
        return _unseen()
    lines = tuple(line for line in facts.services.ssh_root if line)
    if not lines:
        return Passed(what="no SSH server is seen that lets root in by password")
    return Finding(
        severity=Severity.WARNING,
        what="the SSH server lets root in by password",
        evidence=lines,
        consequence="whoever guesses the password owns this machine",
        fix="echo 'PermitRootLogin prohibit-password' | sudo tee /etc/ssh/sshd_config.d/00-root.conf; sudo systemctl reload ssh",
    )


def running_as_root(facts: Facts) -> Outcome:
    """This process runs as root.

    A mistake in a path, or a package from the internet, then changes anything; in a container without a user namespace it is the machine's own root,
    and files on mounted folders belong to root. uid 0 in a rootless container is an ordinary user outside and is no finding. See `id` and `cat
    /proc/self/uid_map`.
    """
    system = facts.system
    if system.uid is None:
        return Skipped(reason="the user is not known")
    if system.uid != 0:
        return Passed(what=f"runs as uid {system.uid}")
    if system.uid_outside != 0:
        outside = f"uid {system.uid_outside} outside" if system.uid_outside is not None else "in a user namespace that is not known"
        return Passed(what=f"uid 0 is {outside}") if system.uid_outside is not None else Skipped(reason=outside)
    if system.wsl:
        return Skipped(reason="under WSL root is the root of a private virtual machine")
    container = {"docker": "docker run --user $(id -u):$(id -g) -e HOME=/tmp ...", "podman": "podman run ... as an ordinary user, without sudo"}
    kubernetes = "in the Pod's specification: securityContext: {runAsNonRoot: true, runAsUser: 1000}"
    return Finding(
        severity=Severity.NOTE,
        what="this runs as root" + (", also outside of the container" if system.container else ""),
        evidence=("uid 0", "/proc/self/uid_map: 0 is 0 outside"),
        consequence="a mistake or a bad package can change anything; files made on mounted folders belong to root",
        fix=kubernetes if system.container == "kubernetes" else container.get(system.container or "", "sudo -iu USER   # train as an ordinary user"),
    )


def secrets_in_environment(facts: Facts) -> Outcome:
    """Secrets stand in the container's environment.

    `docker inspect`, crash reports, and every program in the container show them; those of an image (ENV) are in every copy of it. Files that are
    mounted are seen only by those who may read them. Only names are looked at, and shown. Outside of containers a person's own shell is no finding.
    Of a variable that holds an address with a password, that is meant.
    """
    if not facts.system.container:
        return Skipped(reason="not in a container")
    names = secrets(facts.variables)
    if not names:
        return Passed(what="no variable looks like a secret")
    run = (
        "podman run --secret NAME,type=mount ..." if facts.system.container == "podman" else "docker run -v /path/to/secret:/run/secrets/NAME:ro ..."
    )
    kubernetes = "mount the Secret as a file: volumes: [{name: NAME, secret: {secretName: NAME}}]"
    return Finding(
        severity=Severity.NOTE,
        what=f"{', '.join(names[:8])} look{'' if len(names) > 1 else 's'} like {'secrets' if len(names) > 1 else 'a secret'}",
        evidence=tuple(f"environment: {name} {facts.variables[name]}" for name in names[:20]),
        consequence="`inspect` of the container, logs and every program in it can show them",
        fix=kubernetes if facts.system.container == "kubernetes" else f"{run}   # and let the program read the file",
    )


def image_old(facts: Facts) -> Outcome:
    """The image is old.

    System packages in an image stay as they were when it was made, holes included. Stoker's images say when that was; NVIDIA's by their year and
    month; of others the last change of the package list tells. See `docker inspect -f '{{.Created}}' IMAGE`.
    """
    system = facts.system
    if not system.container or system.image_created is None:
        return Skipped(reason="not in a container" if not system.container else "when the image was made is not known")
    days = _days(system.image_created, facts.gathered)
    if days is None:
        return Skipped(reason="when the image was made is not known")
    if days <= _OLD_DAYS:
        return Passed(what=f"the image is {days} days old")
    told = system.image_created_from or "the image"
    packages = told.startswith(("/var/lib", "/usr/lib", "/lib"))
    return Finding(
        severity=Severity.NOTE,
        what=f"the system packages of this image were last changed {days} days ago" if packages else f"this image is {days} days old",
        evidence=(f"{told}: {system.image_created}",),
        consequence="holes found since then are open in it",
        fix="docker build --pull --no-cache ...   # build it again; with a base image, take that one's newest first",
    )


def _days(created: str, now: str | None) -> int | None:
    """Return the age in days; None when one of the times is garbage, or the image is from the future."""
    try:
        age = datetime.datetime.fromisoformat(now or "") - datetime.datetime.fromisoformat(created)
    except (ValueError, TypeError):
        return None
    return age.days if age.days >= 0 else None


CHECKS: tuple[Check, ...] = (
    jupyter_open,
    docker_port_open,
    docker_socket_mounted,
    ssh_root_open,
    secrets_in_environment,
    running_as_root,
    image_old,
)
