"""Checks of the network and of training on several machines: names, variables, RDMA and clocks."""

from __future__ import annotations

import re

from stoker.doctor.checks.amounts import many_machines
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_TRUE = ("1", "true", "yes", "on")
_SKEW_S = 1.0
_LAUNCHERS = re.compile(
    r"(TORCHELASTIC_|SLURM_JOB_ID|SLURM_PROCID|KUBERNETES_SERVICE_HOST|OMPI_|PMI_|PMIX_|PBS_JOBID|LSB_JOBID|FLUX_|JSM_|RAY_|SM_|AZUREML_RUN_ID|CLUSTER_SPEC|"
    r"ACCELERATE_|DEEPSPEED_)"
)


def nccl_interface_missing(facts: Facts) -> Outcome:
    """NCCL or gloo is told to use a network interface that this machine does not have.

    NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME are copied from one cluster to the next, where the interface has another name: "NCCL WARN Bootstrap : no
    socket interface found", or gloo's "Unable to find address for: eth0". NCCL takes its names as beginnings ("eth" fits eth0); "=" before them asks
    for the whole name, "^" leaves interfaces out. gloo takes whole names. See `ip -br addr`. Source: NCCL user guide, environment variables.
    """
    given = {name: facts.variables[name] for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if facts.variables.get(name, "").strip()}
    present = [interface.name for interface in facts.cluster.interfaces]
    if not given or not present:
        return Skipped(reason="no interface is asked for" if not given else "the interfaces are not known")
    wrong = {name: value for name, value in given.items() if not _fits(name, value, present)}
    if not wrong:
        return Passed(what=", ".join(f"{name}={value}" for name, value in given.items()))
    name, value = next(iter(wrong.items()))
    return Finding(
        severity=Severity.ERROR,
        what=f"{name}={value} fits no interface of this machine",
        evidence=(*(f"environment: {one}={text}" for one, text in wrong.items()), f"/sys/class/net: {', '.join(present)}"),
        consequence="training with several processes does not start" if name.startswith("GLOO") else "NCCL finds no way to the other processes",
        fix=f"unset {' '.join(wrong)}   # or one of: {', '.join(interface.name for interface in facts.cluster.interfaces if not interface.loopback)}",
    )


def _fits(name: str, value: str, present: list[str]) -> bool:
    wanted = [part.strip() for part in value.lstrip("^=").split(",") if part.strip()]
    if name.startswith("GLOO"):
        return all(part in present for part in wanted)
    if value.startswith("^"):  # what is left out need not exist, but something must be left
        whole = value.startswith("^=")
        return any(not _named(one, wanted, whole) for one in present)
    return any(_named(one, wanted, value.startswith("=")) for one in present)


def _named(interface: str, wanted: list[str], whole: bool) -> bool:
    return any(interface == part.partition(":")[0] if whole else interface.startswith(part.partition(":")[0]) for part in wanted)


def nccl_variables_hurt(facts: Facts) -> Outcome:
    """NCCL is told not to use its fast ways.

    NCCL_P2P_DISABLE, NCCL_SHM_DISABLE and NCCL_IB_DISABLE are set to get past an error and forgotten. Without peer access GPUs exchange
    gradients through the processor's memory; without shared memory through sockets; without InfiniBand several machines through TCP. NCCL_ALGO and
    NCCL_PROTO freeze a choice that NCCL makes better itself, and NCCL_DEBUG=TRACE writes at every step. Only those that matter here count: with one
    GPU none does. See `env | grep NCCL`. Source: NCCL user guide, environment variables.
    """
    seen = {name: facts.variables[name] for name in facts.variables if name.startswith("NCCL_")}
    if not seen:
        return Passed(what="no NCCL variable is set")
    if len(facts.gpus) < 2 and not many_machines(facts):
        return Skipped(reason="there is one GPU at most, NCCL has nothing to send")
    hurting = {name: reason for name, reason in _hurting(facts).items() if reason}
    if not hurting:
        return Passed(what=", ".join(f"{name}={value}" for name, value in seen.items()))
    return Finding(
        severity=Severity.WARNING,
        what=f"{', '.join(hurting)} slow{'s' if len(hurting) == 1 else ''} NCCL down",
        evidence=tuple(f"environment: {name}={seen[name]}" for name in hurting),
        consequence="; ".join(dict.fromkeys(hurting.values())),
        fix=f"unset {' '.join(hurting)}",
    )


def _hurting(facts: Facts) -> dict[str, str | None]:
    """Return what each variable that is set costs here; None: nothing."""
    given = facts.variables
    infiniband = any(port.active for port in facts.cluster.rdma)
    many = many_machines(facts)
    off = [
        name
        for name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE", "NCCL_NET_GDR_DISABLE")
        if given.get(name, "").strip().lower() in _TRUE
    ]
    found: dict[str, str | None] = {}
    if "NCCL_P2P_DISABLE" in off or given.get("NCCL_P2P_LEVEL", "").upper() in ("LOC", "0"):
        name = "NCCL_P2P_DISABLE" if "NCCL_P2P_DISABLE" in off else "NCCL_P2P_LEVEL"
        found[name] = "GPUs exchange gradients through the processor's memory" if "ok" in _peers(facts) else None
    if "NCCL_SHM_DISABLE" in off:
        apart = any(state != "ok" for state in _peers(facts))
        found["NCCL_SHM_DISABLE"] = "GPUs without peer access exchange gradients through sockets" if apart else None
    if "NCCL_IB_DISABLE" in off:
        found["NCCL_IB_DISABLE"] = "machines exchange gradients over TCP although RDMA is there" if infiniband and many else None
    if given.get("NCCL_DEBUG", "").upper() == "TRACE":
        found["NCCL_DEBUG"] = "every call is written to the log"
    if facts.variables.get("NCCL_SOCKET_IFNAME", "").lstrip("=") == "lo":
        found["NCCL_SOCKET_IFNAME"] = "over lo no other machine can be reached" if many else None
    return found


def _peers(facts: Facts) -> list[str]:
    """Return which pairs of GPUs can reach each other, as far as known; consumer cards of some generations cannot, whatever is set."""
    return [state for gpu in facts.gpus for state in gpu.peers.values()]


def infiniband_not_passed(facts: Facts) -> Outcome:
    """The machine has RDMA, and this container was not given it.

    /sys shows the devices to every container; to use them, /dev/infiniband must be passed as well (and memory be allowed to be locked). NCCL then
    takes TCP without a word of complaint, which between machines is several times slower. Looked at only in trainings on several machines. See `ls
    /dev/infiniband` and NCCL_DEBUG=INFO ("NET/Socket" instead of "NET/IB").
    """
    active = [port for port in facts.cluster.rdma if port.active]
    if not facts.system.container or not active:
        return Skipped(reason="not in a container" if not facts.system.container else "no RDMA device is active")
    if facts.cluster.rdma_nodes:
        return Passed(what=f"{len(facts.cluster.rdma_nodes)} RDMA devices can be used here")
    if not many_machines(facts):
        return Skipped(reason="this is no training on several machines")
    flags = "--device /dev/infiniband --ulimit memlock=-1 --cap-add IPC_LOCK"
    kubernetes = "in the Pod's specification ask for the RDMA device plugin's resource, as resources: {limits: {rdma/hca: 1}}"
    return Finding(
        severity=Severity.WARNING,
        what=f"{active[0].device} is active, but /dev/infiniband was not passed to this container",
        evidence=(
            *(f"/sys/class/infiniband/{port.device}: {port.link_layer or ''} {port.rate or ''} active" for port in active),
            "no /dev/infiniband/uverbs*",
        ),
        consequence="NCCL sends gradients between machines over TCP",
        fix=kubernetes
        if facts.system.container == "kubernetes"
        else f"{'podman' if facts.system.container == 'podman' else 'docker'} run {flags} ...",
    )


def node_unreachable(facts: Facts) -> Outcome:
    """A machine that was named cannot be reached by ssh.

    Asked with `ssh -o BatchMode=yes NODE date`, which takes keys only and no password. Launchers that start through ssh fail in the same way.
    """
    if not facts.cluster.nodes:
        return Skipped(reason="no other machine was named (--nodes)")
    lost = [node for node in facts.cluster.nodes if node.error]
    if not lost:
        return Passed(what=f"{', '.join(node.name for node in facts.cluster.nodes)} can be reached")
    return Finding(
        severity=Severity.ERROR,
        what=f"{', '.join(node.name for node in lost)} cannot be reached by ssh",
        evidence=tuple(f"{node.name}: {node.error}" for node in lost),
        consequence="its clock was not compared, and a launcher cannot start anything there",
        fix=f"ssh -v -o BatchMode=yes {lost[0].name} date   # says how far it gets; keys: ssh-copy-id {lost[0].name}",
    )


def clock_skew(facts: Facts) -> Outcome:
    """The clocks of the machines differ.

    Logs of several machines cannot be put in order, certificates seem not yet valid, and files on a shared disk seem to come from the future, so that
    caches and build tools go wrong. Measured by ssh; an offset below what the question itself took is no finding. See `timedatectl`, `chronyc
    tracking`.
    """
    measured = [node for node in facts.cluster.nodes if node.offset_s is not None]
    if not measured:
        return Skipped(reason="no other machine was named (--nodes)" if not facts.cluster.nodes else "no other machine answered")
    skewed = [node for node in measured if abs(node.offset_s or 0) - (node.uncertainty_s or 0) > _SKEW_S]
    if not skewed:
        return Passed(what=", ".join(f"{node.name}: {node.offset_s:+.2f} s" for node in measured))
    worst = max(skewed, key=lambda node: abs(node.offset_s or 0))
    own = ("adjtimex: this machine's clock is not synchronised",) if facts.cluster.clock_synchronised is False else ()
    return Finding(
        severity=Severity.WARNING,
        what=f"the clock of {worst.name} is {abs(worst.offset_s or 0):.1f} s {'ahead' if (worst.offset_s or 0) > 0 else 'behind'}",
        evidence=(*(f"{node.name}: {node.offset_s:+.2f} s, known to {node.uncertainty_s or 0:.2f} s" for node in skewed), *own),
        consequence="logs of several machines cannot be put in order; certificates and file times go wrong",
        fix=f"ssh {worst.name} 'sudo timedatectl set-ntp true'" + ("; sudo timedatectl set-ntp true" if own else ""),
    )


def hostname_unresolvable(facts: Facts) -> Outcome:
    """This machine's own name resolves to nothing.

    torchrun hands its workers the machine's name as MASTER_ADDR, and gloo looks it up to find its own address: then they wait for a connection that
    cannot come, or say "Name or service not known". A look-up that takes seconds makes every start slow. See `getent hosts $(hostname)`.
    """
    cluster = facts.cluster
    if cluster.hostname is None:
        return Skipped(reason="the name is not known")
    if cluster.hostname_error is None and (cluster.hostname_s or 0) < 2:
        return Passed(what=f"{cluster.hostname} is {', '.join(cluster.hostname_addresses)}")
    slow = cluster.hostname_error is None
    fix = f'echo "127.0.1.1 {cluster.hostname}" | sudo tee -a /etc/hosts'
    return Finding(
        severity=Severity.WARNING,
        what=f"resolving this machine's name {cluster.hostname} takes {cluster.hostname_s:.0f} s"
        if slow
        else f"this machine's name {cluster.hostname} resolves to nothing",
        evidence=(f"getaddrinfo({cluster.hostname!r}): {cluster.hostname_error or f'took {cluster.hostname_s} s'}",),
        consequence="torchrun and gloo wait for a connection to that name, or fail",
        fix=fix if not many_machines(facts) else f"{fix}   # with several machines: the address that the others reach, in place of 127.0.1.1",
    )


def rank_variables_stale(facts: Facts) -> Outcome:
    """RANK and WORLD_SIZE are set, and no launcher set them.

    They were exported by hand or are left from an interactive job. A program that calls init_process_group then takes itself for one of several and
    waits for the others, for 10 minutes with NCCL and 30 with gloo. See `env | grep -E "RANK|WORLD_SIZE|MASTER_"`.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = {name: facts.variables[name] for name in names if name in facts.variables}
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return Passed(what="neither RANK nor WORLD_SIZE is set")
    if any(_LAUNCHERS.match(name) for name in facts.variables):
        return Skipped(reason="a launcher set them")
    if given.get("WORLD_SIZE", "1").strip() == "1" and given.get("RANK", "0").strip() == "0":
        return Passed(what="they say one process, which is right without a launcher")
    return Finding(
        severity=Severity.WARNING,
        what=f"{' and '.join(f'{name}={given[name]}' for name in ('RANK', 'WORLD_SIZE') if name in given)}, but no launcher is at work",
        evidence=tuple(f"environment: {name}={value}" for name, value in given.items()),
        consequence="a training started here waits for processes that do not come",
        fix=f"unset {' '.join(given)}",
    )


def debug_variables_slow(facts: Facts) -> Outcome:
    """A variable for finding errors is still set, and makes everything slow.

    CUDA_LAUNCH_BLOCKING=1 waits for each kernel; PYTORCH_NO_CUDA_MEMORY_CACHING=1 asks the driver for every tensor; TORCH_DISTRIBUTED_DEBUG=DETAIL
    checks each collective; TORCHDYNAMO_DISABLE=1 and TORCH_COMPILE_DISABLE=1 switch torch.compile off; NVIDIA_TF32_OVERRIDE=0 takes the tensor cores
    from fp32. They are for one run, not for ~/.bashrc. See `env | grep -E "CUDA|TORCH|NVIDIA|PYTHON"`.
    """
    found = {name: cost for name, (pattern, cost) in _SLOW.items() if re.fullmatch(pattern, facts.variables.get(name, "").strip(), re.IGNORECASE)}
    if not found:
        return Passed(what="no variable for finding errors is set")
    return Finding(
        severity=Severity.WARNING,
        what=f"{', '.join(found)} make{'s' if len(found) == 1 else ''} every run slower",
        evidence=tuple(f"environment: {name}={facts.variables[name]}" for name in found),
        consequence="; ".join(dict.fromkeys(found.values())),
        fix=f"unset {' '.join(found)}",
    )


_ON = r"1|true|yes|on|y|t"
_SLOW = {
    "CUDA_LAUNCH_BLOCKING": ("1", "the processor waits for each kernel"),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": (r".+", "every tensor is asked of the driver, which waits for the GPU"),
    "TORCH_DISTRIBUTED_DEBUG": ("DETAIL", "each collective is checked against the other ranks"),
    "TORCHDYNAMO_DISABLE": ("1", "torch.compile does nothing"),
    "TORCH_COMPILE_DISABLE": ("1", "torch.compile does nothing"),
    "TORCH_COMPILE_DEBUG": ("1", "torch.compile writes out all that it does"),
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": (_ON, "torch.compile compiles everything again at every start"),
    "TRITON_INTERPRET": (_ON, "Triton kernels run in Python"),
    "TRITON_ALWAYS_COMPILE": (_ON, "Triton compiles every kernel again"),
    "NVIDIA_TF32_OVERRIDE": ("0", "fp32 does without the tensor cores, whatever the program sets"),
    "CUDA_CACHE_DISABLE": ("1", "kernels that come as PTX are compiled at every start"),
    "CUDA_FORCE_PTX_JIT": ("1", "all kernels are compiled from PTX at every start"),
    "CUDNN_LOGINFO_DBG": ("1", "cuDNN writes every call to a log"),
    "CUDNN_LOGLEVEL_DBG": ("[123]", "cuDNN writes calls to a log"),
    "CUBLAS_LOGINFO_DBG": ("1", "cuBLAS writes every call to a log"),
    "CUBLASLT_LOG_LEVEL": ("[2345]", "cuBLASLt writes calls to a log"),
    "PYTHONDEVMODE": (r".+", "Python checks its memory at every step"),
    "PYTHONMALLOC": (r"malloc|debug|malloc_debug|pymalloc_debug", "Python's memory comes from the system, or is checked at every step"),
    "PYTHONTRACEMALLOC": (r"[1-9]\d*", "Python notes where each object was made"),
}
"""Variable -> the values that switch it on, and what that costs. Sources: the reference pages of CUDA, cuDNN, cuBLAS, PyTorch, Triton and Python."""


CHECKS: tuple[Check, ...] = (
    nccl_interface_missing,
    nccl_variables_hurt,
    infiniband_not_passed,
    hostname_unresolvable,
    node_unreachable,
    clock_skew,
    rank_variables_stale,
    debug_variables_slow,
)
