"""The doctor's checks of safety, on written-down facts."""

from __future__ import annotations

import pytest

from stoker.doctor.checks import safety as checks
from stoker.doctor.facts import Facts, Services, System
from stoker.doctor.facts.services import Jupyter
from stoker.doctor.finding import Finding, Passed, Severity, Skipped

NOW = "2026-11-20T10:00:00+00:00"


def test_a_healthy_machine_and_container_give_no_findings() -> None:
    outside = Facts(gathered=NOW, system=System(uid=1000), services=Services(processes=300), variables={"HF_TOKEN": "(37 characters)"})
    created = "2026-10-20T10:00:00+00:00"
    inside = Facts(
        gathered=NOW,
        system=System(container="podman", uid=0, uid_outside=1000, image_created=created, image_created_from="/etc/stoker/image-created"),
        services=Services(processes=3),
    )
    for facts in (outside, inside):
        assert not [check.__name__ for check in checks.CHECKS if isinstance(check(facts), Finding)]


def test_nothing_known_gives_no_findings() -> None:
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(Facts()), Finding)]


# --- servers --------------------------------------------------------------------------------------------------------


def judged(server: Jupyter) -> Severity | None:
    outcome = checks.jupyter_open(Facts(services=Services(processes=9, jupyter=(server,))))
    return outcome.severity if isinstance(outcome, Finding) else None


@pytest.mark.parametrize(
    ("address", "token", "password", "pid", "expected"),
    [
        ("0.0.0.0", False, False, 7, Severity.ERROR),
        ("::", False, False, 7, Severity.ERROR),
        ("10.1.2.3", False, False, 7, Severity.ERROR),
        ("localhost", False, False, 7, Severity.WARNING),
        ("127.0.0.1", False, False, 7, Severity.WARNING),
        (None, False, False, 7, Severity.WARNING),
        ("0.0.0.0", False, False, None, Severity.WARNING),  # a configuration that will open one
        (None, False, False, None, Severity.NOTE),
        ("0.0.0.0", True, False, 7, None),
        ("0.0.0.0", False, True, 7, None),
        ("0.0.0.0", None, None, 7, None),  # not known: say nothing
        ("0.0.0.0", False, None, 7, None),
    ],
)
def test_jupyter(address: str | None, token: bool | None, password: bool | None, pid: int | None, expected: Severity | None) -> None:
    assert judged(Jupyter(source="x", address=address, port=8888, token=token, password=password, pid=pid)) is expected


def test_the_worst_server_is_named() -> None:
    near = Jupyter(source="a", address="localhost", port=8888, token=False, password=False, pid=7)
    far = Jupyter(source="b", address="0.0.0.0", port=8889, token=False, password=False, pid=8)
    found = checks.jupyter_open(Facts(services=Services(processes=9, jupyter=(near, far))))
    assert isinstance(found, Finding)
    assert found.what == "a Jupyter server on 0.0.0.0:8889 runs without token and password"
    assert len(found.evidence) == 2


@pytest.mark.parametrize(
    ("ports", "kind"),
    [
        (("tcp://0.0.0.0:2375",), Finding),
        (("tcp://127.0.0.1:2375",), Passed),
        (("tcp://127.0.0.1:2375", "tcp://10.0.0.5:2375"), Finding),
        ((), Passed),
    ],
)
def test_docker_over_the_network(ports: tuple[str, ...], kind: type) -> None:
    assert isinstance(checks.docker_port_open(Facts(services=Services(processes=9, docker_ports=ports))), kind)


@pytest.mark.parametrize(
    ("container", "socket", "writable", "kind"),
    [
        ("docker", "/var/run/docker.sock", True, Finding),
        ("docker", "/var/run/docker.sock", False, Passed),
        ("docker", None, None, Passed),
        (None, "/run/docker.sock", True, Skipped),
    ],
)
def test_a_socket_in_the_container(container: str | None, socket: str | None, writable: bool | None, kind: type) -> None:
    services = Services(processes=9, docker_socket=socket, docker_socket_writable=writable)
    assert isinstance(checks.docker_socket_mounted(Facts(system=System(container=container), services=services)), kind)


def test_root_by_password() -> None:
    lines = ("/etc/ssh/sshd_config: PermitRootLogin yes", "/etc/ssh/sshd_config: PasswordAuthentication yes")
    found = checks.ssh_root_open(Facts(services=Services(processes=9, ssh_root=lines)))
    assert isinstance(found, Finding)
    assert found.evidence == lines


# --- users, secrets, age --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "kind"),
    [
        (System(uid=0, uid_outside=0), Finding),
        (System(uid=0, uid_outside=0, container="docker"), Finding),
        (System(uid=0, uid_outside=1000, container="podman"), Passed),
        (System(uid=0, uid_outside=None), Skipped),
        (System(uid=0, uid_outside=0, wsl=True), Skipped),
        (System(uid=1000, uid_outside=1000), Passed),
    ],
)
def test_root(system: System, kind: type) -> None:
    outcome = checks.running_as_root(Facts(system=system))
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Finding) or outcome.severity is Severity.NOTE


def test_secrets_are_told_by_name_and_only_in_containers() -> None:
    variables = {"HF_TOKEN": "(37 characters)", "EMPTY_TOKEN": "(0 characters)", "OMP_NUM_THREADS": "4"}
    found = checks.secrets_in_environment(Facts(system=System(container="docker"), variables=variables))
    assert isinstance(found, Finding)
    assert found.what == "HF_TOKEN looks like a secret"
    assert found.evidence == ("environment: HF_TOKEN (37 characters)",)
    assert isinstance(checks.secrets_in_environment(Facts(variables=variables)), Skipped)
    assert isinstance(checks.secrets_in_environment(Facts(system=System(container="docker"))), Passed)


@pytest.mark.parametrize(
    ("created", "source", "text"),
    [
        ("2025-06-01T00:00:00+00:00", "NVIDIA_PYTORCH_VERSION", "this image is 537 days old"),
        ("2026-07-01T10:00:00+00:00", "/var/lib/dpkg/status", "the system packages of this image were last changed 142 days ago"),
        ("2026-10-01T00:00:00+00:00", "/etc/stoker/image-created", None),
        ("2027-10-01T00:00:00+00:00", "/etc/stoker/image-created", None),  # from the future
        ("garbage", "/etc/stoker/image-created", None),
    ],
)
def test_age_of_the_image(created: str, source: str, text: str | None) -> None:
    found = checks.image_old(Facts(gathered=NOW, system=System(container="docker", image_created=created, image_created_from=source)))
    assert (found.what if isinstance(found, Finding) else None) == text
