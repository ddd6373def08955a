"""The doctor's driver section judged on written-down facts: each fault is one finding, a healthy machine has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stoker.doctor.checks import driver as checks
from stoker.doctor.checks.xid import XIDS
from stoker.doctor.examination import title_of
from stoker.doctor.facts import Facts
from stoker.doctor.facts.driver import Node
from stoker.doctor.facts.libcuda import Library
from stoker.doctor.facts.python import Python, Torch
from stoker.doctor.finding import Finding, Severity, Skipped, check_id
from tests.fakes import smi
from tests.fakes.machines import LIBRARIES, NODES, container, h200, laptop, server

XID_79 = "[123.456] NVRM: Xid (PCI:0000:18:00): 79, pid=1234, name=python, GPU has fallen off the bus."
XID_31 = "[99.1] NVRM: Xid (PCI:0000:2a:00): 31, pid=77, name=python, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS"


def found(facts: Facts) -> dict[str, Finding]:
    """Return what the checks of this section find."""
    outcomes = {check_id(check): check(facts) for check in checks.CHECKS}
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Finding)}


def only(facts: Facts) -> tuple[str, Finding]:
    """Return the one finding there is."""
    ((name, finding),) = found(facts).items()
    assert finding.evidence
    assert all(finding.evidence)
    assert finding.fix.strip()
    return name, finding


@pytest.mark.parametrize(
    "facts", [server(), container("docker"), container("kubernetes"), laptop(), Facts()], ids=["server", "docker", "k8s", "laptop", "nothing"]
)
def test_a_healthy_machine_has_no_finding(facts: Facts) -> None:
    assert found(facts) == {}


def test_every_check_says_what_is_wrong_and_how_to_mend_it() -> None:
    assert len({check_id(check) for check in checks.CHECKS}) == len(checks.CHECKS) >= 19
    for check in checks.CHECKS:
        assert title_of(check).endswith(".")
        assert len((check.__doc__ or "").split()) > 25, check.__name__


NO_DRIVER = {"version": None, "smi_code": 9, "smi_text": smi.NO_DRIVER, "nvml_code": 9, "nvml_error": "Driver Not Loaded", "nodes": ()}


@pytest.mark.parametrize(
    ("os", "changes", "said", "fix"),
    [
        ("Ubuntu 24.04 LTS", {"nouveau": True, "card_modules": ("nouveau",)}, "nouveau holds the card", "ubuntu-drivers"),
        (
            "Debian GNU/Linux 12 (bookworm)",
            {"nouveau": True, "packages": ("nvidia-driver",), "module_files": ("updates/dkms/nvidia.ko",)},
            "though nvidia-driver is installed",
            "blacklist nouveau",
        ),
        # nouveau took the card because there is no module for this kernel: building it is the cure.
        ("Debian GNU/Linux 12", {"nouveau": True, "packages": ("nvidia-driver",)}, "was not built", "dkms autoinstall"),
        (
            "Fedora Linux 43",
            {"nouveau": True, "module_other_kernels": ("6.17.7",), "packages": ("akmod-nvidia",)},
            "built for kernel 6.17.7",
            "akmods --force",
        ),
        ("Rocky Linux 9.6", {}, "none is installed", "dnf install"),
        ("Ubuntu 24.04 LTS", {"module_files": ("updates/dkms/nvidia.ko",), "secure_boot": True}, "Secure Boot", "enroll-key"),
        ("Fedora Linux 43", {"module_files": ("extra/nvidia.ko",), "secure_boot": True}, "Secure Boot", "mokutil --import"),
        ("Ubuntu 24.04 LTS", {"module_other_kernels": ("6.8.0-45-generic",)}, "built for kernel 6.8.0-45-generic", "dkms autoinstall"),
        ("Debian GNU/Linux 12", {"packages": ("dkms nvidia/580.95.05",)}, "was not built", "dkms autoinstall"),
        ("Arch Linux", {"module_files": ("extramodules/nvidia.ko.zst",)}, "not loaded", "modprobe nvidia"),
        ("Haiku", {}, "none is installed", "driver-installation-guide"),
    ],
)
def test_a_missing_driver_is_one_finding_that_says_why(os: str, changes: dict[str, Any], said: str, fix: str) -> None:
    facts = server(driver=NO_DRIVER | {"card_modules": ("",)} | changes, gpus=())
    facts = replace(facts, system=replace(facts.system, os=os))
    name, finding = only(facts)
    assert name == "driver-missing"
    assert said in finding.what
    assert fix in finding.fix
    assert any(smi.NO_DRIVER[:40] in line for line in finding.evidence)


def test_cards_given_to_virtual_machines_need_no_driver() -> None:
    facts = server(driver=NO_DRIVER | {"card_modules": ("vfio-pci", "vfio-pci")}, gpus=())
    assert found(facts) == {}
    mixed = server(driver=NO_DRIVER | {"card_modules": ("vfio-pci", "")}, gpus=())
    assert "driver-missing" in found(mixed)


@pytest.mark.parametrize(
    "changes",
    [
        {"nvml_code": 18, "nvml_error": "RM has detected an NVML/RM version mismatch.", "library_version": "580.105.08"},
        {"nvml_code": None, "smi_code": 18, "smi_text": smi.MISMATCH, "library_version": None},
        {"nvml_code": None, "smi_found": False, "smi_code": None, "smi_text": "", "library_version": "580.105.08"},
    ],
)
def test_libraries_of_another_version(changes: dict[str, Any]) -> None:
    name, finding = only(server(driver=changes, gpus=()))
    assert name == "driver-library-mismatch"
    assert "580.95.05" in finding.what
    assert "rmmod" in finding.fix
    name, finding = only(container(driver=changes, gpus=()))
    assert name == "driver-library-mismatch"
    assert "rmmod" not in finding.fix
    assert "in the image" in finding.fix


def test_nvml_that_works_is_believed_more_than_file_names() -> None:
    assert found(server(driver={"library_version": "580.105.08", "nvml_code": 0})) == {}


NOTHING_GIVEN = {"nodes": (), "libraries": (), "library_version": None, "libcuda_error": "libcuda.so.1: cannot open shared object file: No such file"}
NOTHING_GIVEN |= {"smi_found": False, "smi_code": None, "smi_text": "", "nvml_code": 12, "nvml_error": "NVML Shared Library Not Found"}


@pytest.mark.parametrize(
    ("engine", "fix"),
    [("docker", "--gpus all"), ("podman", "nvidia.com/gpu=all"), ("kubernetes", "limits"), ("apptainer", "--nv"), ("container", "--gpus")],
)
def test_a_container_without_gpus(engine: str, fix: str) -> None:
    name, finding = only(container(engine, driver=NOTHING_GIVEN, gpus=()))
    assert name == "driver-not-in-container"
    assert fix in finding.fix


@pytest.mark.parametrize("variables", [{}, {"NVIDIA_VISIBLE_DEVICES": "void"}])
def test_a_container_with_a_torch_for_processors_may_be_meant_so(variables: dict[str, str]) -> None:
    facts = container(driver=NOTHING_GIVEN, gpus=(), variables=variables)
    assert only(facts)[1].severity is Severity.ERROR
    built = [Torch(version="2.13.0+cpu"), Torch(version="2.13.0+cu130", cuda="13.0"), Torch()]
    severities = [only(replace(facts, python=Python(torch=torch)))[1].severity for torch in built]
    assert severities == [Severity.NOTE, Severity.ERROR, Severity.ERROR]


def test_void_is_the_cause_only_where_no_gpu_came() -> None:
    void = {"NVIDIA_VISIBLE_DEVICES": "void"}
    name, finding = only(container(driver=NOTHING_GIVEN, gpus=(), variables=void))
    assert name == "nvidia-visible-devices-void"
    assert "'void'" in finding.what
    assert found(container(variables=void)) == {}  # CDI sets void beside the GPUs


def test_capabilities_without_compute() -> None:
    changes = {"libcuda_error": "libcuda.so.1: cannot open shared object file: No such file or directory", "libraries": LIBRARIES[:1]}
    name, finding = only(container(driver=changes, variables={"NVIDIA_DRIVER_CAPABILITIES": "utility"}))
    assert name == "driver-library-missing"
    assert "NVIDIA_DRIVER_CAPABILITIES=utility" in finding.evidence
    name, finding = only(server(driver=changes))
    assert name == "driver-library-missing"
    assert "ubuntu-drivers" in finding.fix


def test_missing_nodes() -> None:
    name, finding = only(server(driver={"nodes": NODES[:2], "nvml_code": 9, "nvml_error": "Driver Not Loaded"}, gpus=()))
    assert (name, "/dev/nvidiactl is not there" in finding.what) == ("device-nodes-missing", True)
    assert "nvidia-modprobe" in finding.fix


def shut(error: str, **changes: Any) -> tuple[Node, ...]:
    return tuple(replace(node, readable=False, error=error, **changes) for node in NODES)


def test_nodes_that_this_user_may_not_open() -> None:
    refused = {"nodes": shut("Permission denied", mode="660", gid=44, group="video"), "nvml_code": 4, "nvml_error": "Insufficient Permissions"}
    name, finding = only(server(driver=refused, gpus=()))
    assert name == "device-nodes-forbidden"
    assert "usermod -aG video" in finding.fix
    name, finding = only(container(driver=refused, gpus=()))
    assert "--group-add 44" in finding.fix


def test_the_cgroup_that_loses_gpus() -> None:
    changes = {"nvml_code": 999, "nvml_error": "Unknown Error", "smi_code": 255, "smi_text": smi.UNKNOWN}
    for nodes in (shut("Operation not permitted"), NODES):
        name, finding = only(container(driver=changes | {"nodes": nodes}, gpus=()))
        assert name == "gpus-lost-after-daemon-reload"
        assert "cdi generate" in finding.fix
    name, _ = only(server(driver=changes, gpus=()))
    assert name == "nvml-broken"


def test_uvm() -> None:
    without = {"nodes": NODES[:3], "uvm_loaded": False}
    assert found(server(driver=without)) == {}  # nvidia-modprobe loads it
    assert only(server(driver=without | {"modprobe_helper": False}))[0] == "nvidia-uvm-missing"
    assert only(container(driver=without))[0] == "nvidia-uvm-missing"


@pytest.mark.parametrize(
    "changes",
    [
        {"smi_code": None, "smi_text": "no answer within 4 s"},
        {"nvml_code": None, "nvml_error": "NVML gave no answer within 3.5 s (at nvmlInit)"},
        {
            "smi_code": None,
            "smi_text": "no answer within 4 s",
            "nvml_code": 0,
            "nvml_error": "NVML gave no answer within 3.5 s (at nvmlX)",
        },
    ],
)
def test_a_driver_that_hangs(changes: dict[str, Any]) -> None:
    name, finding = only(server(driver=changes, gpus=()))
    assert name == "smi-hangs"
    assert "hang" in finding.what


@pytest.mark.parametrize(
    "changes",
    [
        {"nvml_code": 999, "nvml_error": "Unknown Error"},
        {"nvml_code": 9, "nvml_error": "Driver Not Loaded"},  # though it is, with all its nodes
        {"nvml_code": 4, "nvml_error": "Insufficient Permissions"},
        {"nvml_code": None, "nvml_error": "NVML died with signal 11 (SIGSEGV)"},
        {"nvml_code": 0, "nvml_error": "NVML died with signal 11 (SIGSEGV)"},
    ],
)
def test_nvml_that_fails(changes: dict[str, Any]) -> None:
    name, finding = only(server(driver=changes, gpus=()))
    assert name == "nvml-broken"
    assert any(changes["nvml_error"] in line for line in finding.evidence)


def test_nvml_that_answers_garbage() -> None:
    garbage = h200(name=None, uuid=None, memory_bytes=None)
    assert only(server(gpus=(garbage, replace(garbage, index=1))))[0] == "nvml-broken"
    assert found(server(gpus=(replace(garbage, lost=True), h200(1)))) == {}


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("NVRM: GPU 0000:18:00.0: RmInitAdapter failed! (0x24:0x72:1568)", "power cable"),
        (
            "NVRM: The NVIDIA GPU 0000:18:00.0 is not supported by open nvidia.ko because it does not include the required GPU System Processor",
            "closed",
        ),
        ("NVRM:  supported through the NVIDIA 470.xx Legacy drivers.", "legacy"),
    ],
)
def test_gpus_that_the_driver_could_not_start(line: str, fix: str) -> None:
    changes = {"smi_code": 6, "smi_text": smi.NO_DEVICES, "kernel_log": (line,)}
    name, finding = only(server(driver=changes, gpus=()))
    assert name == "gpus-not-initialised"
    assert fix in finding.fix
    assert any(line in evidence for evidence in finding.evidence)


def test_fabric_manager() -> None:
    waiting = (h200(0, fabric="in_progress"), h200(1, fabric="in_progress"))
    assert only(server(driver={"fabric_manager": False}, gpus=waiting))[0] == "fabric-manager-down"
    assert only(container(gpus=waiting))[0] == "fabric-manager-down"
    assert found(server(driver={"fabric_manager": False})) == {}  # the GPUs say it is done
    assert found(server(driver={"fabric_manager": None}, gpus=waiting)) == {}
    assert found(server(driver={"fabric_manager": False, "nvswitches": 0}, gpus=waiting)) == {}


def taken(path: str, version: str | None) -> dict[str, Any]:
    return {"libraries": (LIBRARIES[0], Library(path=path, version=version, first=True), replace(LIBRARIES[1], first=False))}


def test_compat_and_stub() -> None:
    path = "/usr/local/cuda/compat/libcuda.so.590.44.01"
    assert found(server(driver=taken(path, "590.44.01"))) == {}  # H200: that is what it is for
    name, finding = only(server(driver=taken(path, "590.44.01"), gpus=(h200(name="NVIDIA GeForce RTX 4090"),) * 2))
    assert (name, "804" in finding.consequence) == ("cuda-compat-misplaced", True)
    name, finding = only(server(driver=taken(path.replace("590.44.01", "535.54.03"), "535.54.03")))
    assert (name, "803" in finding.consequence) == ("cuda-compat-misplaced", True)
    assert only(server(driver=taken("/usr/local/cuda/lib64/stubs/libcuda.so", None)))[0] == "cuda-stub-taken"


def test_wsl() -> None:
    windows = Library(path="/usr/lib/wsl/lib/libcuda.so.1", first=True)
    linux = Library(path="/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05", version="580.95.05", first=True)
    base = {"version": "581.42", "library_version": None, "cards": 0, "card_modules": (), "card_names": (), "uvm_loaded": False, "nvswitches": 0}
    base |= {"nodes": (Node(path="/dev/dxg", mode="666", readable=True),)}
    gpu = h200(name="NVIDIA GeForce RTX 4070 Laptop GPU", persistence=False, nvlinks=None, nvlinks_active=None, fabric=None)

    def wsl(**changes: Any) -> Facts:
        facts = server(driver=base | changes, gpus=(gpu,))
        return replace(facts, system=replace(facts.system, wsl=True))

    assert found(wsl(libraries=(windows,))) == {}
    assert only(wsl(libraries=(linux, replace(windows, first=False))))[0] == "wsl-driver"
    assert found(wsl(libraries=())) == {}


@pytest.mark.parametrize(
    ("version", "gathered", "ended"),
    [
        ("570.124.06", "2026-11-21T10:00:00+00:00", True),
        ("570.124.06", "2026-02-20T10:00:00+00:00", False),
        ("580.95.05", "2026-11-21T10:00:00+00:00", False),
        ("570.124.06", None, False),
        ("999.1", "2026-11-21T10:00:00+00:00", False),
    ],
)
def test_the_end_of_a_branch(version: str, gathered: str | None, ended: bool) -> None:
    facts = server(driver={"version": version, "library_version": version}, gathered=gathered)
    assert set(found(facts)) == ({"driver-branch-ended"} if ended else set())


@pytest.mark.parametrize(
    ("value", "severity", "said"),
    [
        ("0", None, ""),
        ("0,1", None, ""),
        (" 1 , 0 ", None, ""),
        ("GPU-0", None, ""),
        ("GPU-10000000-aaaa-bbbb-cccc-000000000001", None, ""),
        ("", Severity.WARNING, "hides every GPU"),
        ("-1", Severity.WARNING, "hides every GPU"),
        ("NoDevFiles", Severity.WARNING, "hides every GPU"),
        ("2", Severity.ERROR, "only GPU 0 to 1"),
        ("0,2", Severity.WARNING, "names GPU 2"),
        ("GPU-", Severity.ERROR, "begins several names"),
        ("GPU-77", Severity.ERROR, "is not here"),
        ("MIG-77", Severity.ERROR, "is not here"),
        ("cuda:0", Severity.ERROR, "neither an index nor a UUID"),
        ("all", Severity.ERROR, "neither"),
        ("0;1", Severity.ERROR, "neither"),
        ("0,,1", Severity.WARNING, "neither"),
        ("1,1", Severity.WARNING, "twice"),
    ],
)
def test_cuda_visible_devices(value: str, severity: Severity | None, said: str) -> None:
    facts = server(variables={"CUDA_VISIBLE_DEVICES": value})
    if severity is None:
        assert found(facts) == {}
        return
    name, finding = only(facts)
    assert (name, finding.severity) == ("cuda-visible-devices-wrong", severity)
    assert said in finding.what
    assert "unset" in finding.fix
    assert found(replace(laptop(), variables={"CUDA_VISIBLE_DEVICES": value})) == {}


def test_xids() -> None:
    name, finding = only(server(driver={"kernel_log": (XID_31, XID_79)}))
    assert (name, finding.severity) == ("xid-errors", Severity.ERROR)
    assert "fallen off" in finding.what
    assert any(XID_79 in line for line in finding.evidence)
    name, finding = only(server(driver={"kernel_log": (XID_31,)}))
    assert finding.severity is Severity.NOTE
    assert found(server(driver={"kernel_log": (XID_31.replace("31,", "45,"), "[1.0] NVRM: something else")})) == {}
    assert only(server(driver={"kernel_log": (XID_31.replace(": 31,", ": 777,"),)}))[1].severity is Severity.WARNING
    # The lost GPU is a finding of its own; the Xid is its evidence there.
    assert found(server(driver={"kernel_log": (XID_79,)}, gpus=(h200(0, lost=True), h200(1)))) == {}
    hangs = {"kernel_log": (XID_79.replace(": 79,", ": 119,"),), "smi_code": None, "smi_text": "no answer within 4 s"}
    assert only(server(driver=hangs, gpus=()))[0] == "smi-hangs"
    assert isinstance(checks.xid_errors(server(driver={"kernel_log_source": None})), Skipped)
    assert {13, 31, 43, 45, 48, 63, 64, 74, 79, 92, 94, 95, 119} <= set(XIDS)
