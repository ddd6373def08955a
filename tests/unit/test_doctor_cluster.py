"""The doctor's checks of network, variables and clocks, on written-down facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.doctor.checks import cluster as checks
from stoker.doctor.facts import Cluster, Facts, Gpu, System
from stoker.doctor.facts.cluster import Interface, OtherNode, RdmaPort
from stoker.doctor.finding import Finding, Passed, Severity, Skipped

INTERFACES = (Interface(name="ens3", up=True), Interface(name="ib0", up=True), Interface(name="lo", up=True, loopback=True))
PORT = RdmaPort(device="mlx5_0", active=True, link_layer="InfiniBand", rate="400 Gb/sec (4X NDR)")
NODE = Cluster(
    hostname="n0", hostname_addresses=("10.0.0.1",), hostname_s=0.001, interfaces=INTERFACES, rdma=(PORT,), rdma_nodes=("/dev/infiniband/uverbs0",)
)
TWO_GPUS = (Gpu(index=0, peers={"1": "ok"}), Gpu(index=1, peers={"0": "ok"}))
MANY = {"SLURM_JOB_NUM_NODES": "4"}
NCCL_ADVICE = {"NCCL_SOCKET_IFNAME": "ens3", "NCCL_DEBUG": "WARN", "NCCL_IB_HCA": "mlx5"}


def test_a_healthy_node_gives_no_findings() -> None:
    facts = Facts(cluster=NODE, gpus=TWO_GPUS, variables=NCCL_ADVICE)
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(facts), Finding)]


def test_nothing_known_gives_no_findings() -> None:
    assert not [check.__name__ for check in checks.CHECKS if isinstance(check(Facts()), Finding)]


# --- interfaces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"NCCL_SOCKET_IFNAME": "eth0"}, Finding),
        ({"NCCL_SOCKET_IFNAME": "en"}, Passed),  # the beginning of a name
        ({"NCCL_SOCKET_IFNAME": "=en"}, Finding),
        ({"NCCL_SOCKET_IFNAME": "=ens3"}, Passed),
        ({"NCCL_SOCKET_IFNAME": "eth0,ib"}, Passed),
        ({"NCCL_SOCKET_IFNAME": "^lo,docker"}, Passed),
        ({"NCCL_SOCKET_IFNAME": "^lo,ens,ib"}, Finding),
        ({"GLOO_SOCKET_IFNAME": "en"}, Finding),  # gloo takes whole names
        ({"GLOO_SOCKET_IFNAME": "ens3"}, Passed),
        ({"GLOO_SOCKET_IFNAME": "lo"}, Passed),
        ({"NCCL_SOCKET_IFNAME": ""}, Skipped),
        ({}, Skipped),
    ],
)
def test_interfaces(variables: dict[str, str], kind: type) -> None:
    assert isinstance(checks.nccl_interface_missing(Facts(cluster=NODE, variables=variables)), kind)


def test_the_fix_names_the_interfaces_that_there_are() -> None:
    found = checks.nccl_interface_missing(Facts(cluster=NODE, variables={"NCCL_SOCKET_IFNAME": "eth0"}))
    assert isinstance(found, Finding)
    assert found.evidence == ("environment: NCCL_SOCKET_IFNAME=eth0", "/sys/class/net: ens3, ib0, lo")
    assert found.fix == "unset NCCL_SOCKET_IFNAME   # or one of: ens3, ib0"


# --- variables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "gpus", "kind"),
    [
        ({"NCCL_P2P_DISABLE": "1"}, TWO_GPUS, Finding),
        ({"NCCL_P2P_DISABLE": "1"}, TWO_GPUS[:1], Skipped),  # one GPU has nobody to talk to
        ({"NCCL_P2P_DISABLE": "1"}, (Gpu(index=0, peers={"1": "chipset_not_supported"}), Gpu(index=1)), Passed),  # they cannot anyway
        ({"NCCL_P2P_DISABLE": "0"}, TWO_GPUS, Passed),
        ({"NCCL_SHM_DISABLE": "1"}, TWO_GPUS, Passed),  # all of them have peer access
        ({"NCCL_SHM_DISABLE": "1"}, (Gpu(index=0, peers={"1": "chipset_not_supported"}), Gpu(index=1)), Finding),
        ({"NCCL_SHM_DISABLE": "1", "NCCL_P2P_DISABLE": "1"}, (Gpu(index=0), Gpu(index=1)), Passed),  # peer access is not known: say nothing
        ({"NCCL_IB_DISABLE": "1"}, TWO_GPUS, Passed),  # on one machine
        ({"NCCL_IB_DISABLE": "1", **MANY}, TWO_GPUS, Finding),
        ({"NCCL_DEBUG": "TRACE"}, TWO_GPUS, Finding),
        ({"NCCL_DEBUG": "INFO"}, TWO_GPUS, Passed),
        ({"NCCL_SOCKET_IFNAME": "lo", **MANY}, TWO_GPUS, Finding),
        ({"NCCL_SOCKET_IFNAME": "lo"}, TWO_GPUS, Passed),
        ({}, TWO_GPUS, Passed),
    ],
)
def test_nccl_variables(variables: dict[str, str], gpus: tuple[Gpu, ...], kind: type) -> None:
    assert isinstance(checks.nccl_variables_hurt(Facts(cluster=NODE, gpus=gpus, variables=variables)), kind)


def test_all_that_hurts_is_one_finding() -> None:
    found = checks.nccl_variables_hurt(
        Facts(cluster=NODE, gpus=TWO_GPUS, variables={"NCCL_P2P_DISABLE": "1", "NCCL_DEBUG": "TRACE", "NCCL_ALGO": "Ring"})
    )
    assert isinstance(found, Finding)
    assert found.fix == "unset NCCL_P2P_DISABLE NCCL_DEBUG"


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "n0"}, Finding),
        ({"RANK": "3"}, Finding),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Passed),
        ({"RANK": "0", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "a"}, Skipped),
        ({"RANK": "0", "WORLD_SIZE": "4", "SLURM_JOB_ID": "7"}, Skipped),
        ({"WORLD_SIZE": "4", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Skipped),
        ({"MASTER_ADDR": "n0"}, Passed),
        ({}, Passed),
    ],
)
def test_ranks_without_a_launcher(variables: dict[str, str], kind: type) -> None:
    assert isinstance(checks.rank_variables_stale(Facts(variables=variables)), kind)


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"CUDA_LAUNCH_BLOCKING": "1"}, Finding),
        ({"CUDA_LAUNCH_BLOCKING": "0"}, Passed),
        ({"TORCHDYNAMO_DISABLE": "1"}, Finding),
        ({"TORCHDYNAMO_DISABLE": "true"}, Passed),  # torch looks for "1" only
        ({"TRITON_INTERPRET": "true"}, Finding),
        ({"TORCH_DISTRIBUTED_DEBUG": "detail"}, Finding),
        ({"TORCH_DISTRIBUTED_DEBUG": "INFO"}, Passed),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, Finding),
        ({"PYTHONUNBUFFERED": "1", "TORCH_SHOW_CPP_STACKTRACES": "1"}, Passed),
    ],
)
def test_variables_for_finding_errors(variables: dict[str, str], kind: type) -> None:
    assert isinstance(checks.debug_variables_slow(Facts(variables=variables)), kind)


# --- names, RDMA, clocks --------------------------------------------------------------------------------------------


def test_a_name_that_resolves_to_nothing() -> None:
    lost = Cluster(hostname="n0", hostname_error="gaierror: [Errno -2] Name or service not known", hostname_s=0.01)
    found = checks.hostname_unresolvable(Facts(cluster=lost))
    assert isinstance(found, Finding)
    assert found.fix == 'echo "127.0.1.1 n0" | sudo tee -a /etc/hosts'
    slow = checks.hostname_unresolvable(Facts(cluster=replace(NODE, hostname_s=2.9)))
    assert isinstance(slow, Finding)
    assert "takes 3 s" in slow.what


def test_rdma_that_the_container_was_not_given() -> None:
    bare = replace(NODE, rdma_nodes=())
    inside = System(container="docker")
    found = checks.infiniband_not_passed(Facts(system=inside, cluster=bare, variables=MANY))
    assert isinstance(found, Finding)
    assert "--device /dev/infiniband" in found.fix
    assert isinstance(checks.infiniband_not_passed(Facts(system=inside, cluster=bare)), Skipped)  # one machine does without
    assert isinstance(checks.infiniband_not_passed(Facts(system=inside, cluster=NODE, variables=MANY)), Passed)
    assert isinstance(checks.infiniband_not_passed(Facts(cluster=bare, variables=MANY)), Skipped)  # not in a container


def test_nodes_and_their_clocks() -> None:
    nodes = (
        OtherNode(name="n1", offset_s=0.2, uncertainty_s=0.3),
        OtherNode(name="n2", offset_s=-75.0, uncertainty_s=0.3),
        OtherNode(name="n3", error="ssh: connect to host n3 port 22: Connection refused"),
    )
    facts = Facts(cluster=replace(NODE, nodes=nodes))
    skewed, lost = checks.clock_skew(facts), checks.node_unreachable(facts)
    assert isinstance(skewed, Finding)
    assert skewed.what == "the clock of n2 is 75.0 s behind"
    assert skewed.evidence == ("n2: -75.00 s, known to 0.30 s",)
    assert isinstance(lost, Finding)
    assert lost.severity is Severity.ERROR
    assert lost.evidence == ("n3: ssh: connect to host n3 port 22: Connection refused",)


@pytest.mark.parametrize(("offset", "uncertainty", "kind"), [(1.2, 0.5, Passed), (1.2, 0.1, Finding), (-0.5, 0.0, Passed)])
def test_an_offset_below_what_the_question_took_is_no_finding(offset: float, uncertainty: float, kind: type) -> None:
    node = OtherNode(name="n1", offset_s=offset, uncertainty_s=uncertainty)
    assert isinstance(checks.clock_skew(Facts(cluster=replace(NODE, nodes=(node,)))), kind)
