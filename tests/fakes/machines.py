"""Facts of healthy machines, from which a test changes what it is about; and machines written down as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from stoker.doctor.facts import Containers, Driver, Facts, Gpu, System
from stoker.doctor.facts.cdi import CdiSpecification
from stoker.doctor.facts.driver import Node
from stoker.doctor.facts.libcuda import Library

ELF = b"\x7fELF\x02"
VERSION = "580.95.05"
NODES = tuple(
    Node(path=f"/dev/{name}", mode="666", uid=0, gid=0, group="root", readable=True) for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
)
LIBRARIES = (
    Library(path=f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{VERSION}", version=VERSION, first=True),
    Library(path=f"/usr/lib/x86_64-linux-gnu/libcuda.so.{VERSION}", version=VERSION, first=True),
)
DRIVER = Driver(
    version=VERSION,
    library_version=VERSION,
    libraries=LIBRARIES,
    open_module=True,
    uvm_loaded=True,
    cards=2,
    card_names=("0000:18:00.0 GH100 [H200 SXM 141GB]", "0000:2a:00.0 GH100 [H200 SXM 141GB]"),
    card_modules=("nvidia", "nvidia"),
    nodes=NODES,
    modprobe_helper=True,
    nvswitches=4,
    fabric_manager=True,
    smi_found=True,
    smi_code=0,
    smi_text=f"NVIDIA-SMI {VERSION}  Driver Version: {VERSION}  CUDA Version: 13.0",
    nvml_code=0,
    cuda_shown="13.0",
    kernel_log_source="/dev/kmsg",
)


def h200(index: int = 0, **changes: Any) -> Gpu:
    """An idle H200 in order."""
    gpu = Gpu(
        index=index,
        name="NVIDIA H200",
        uuid=f"GPU-{index}0000000-aaaa-bbbb-cccc-00000000000{index}",
        bus_id=f"0000:{0x18 + index:02x}:00.0",
        compute_capability=(9, 0),
        memory_bytes=150_754_820_096,
        memory_used_bytes=600 * 1024**2,
        utilization_percent=0,
        compute_mode="default",
        display=False,
        persistence=True,
        mig=False,
        ecc=True,
        ecc_uncorrected_volatile=0,
        ecc_uncorrected_aggregate=0,
        rows_pending=False,
        rows_failed=False,
        throttle=("gpu_idle",),
        temperature_c=33,
        temperature_limit_c=87,
        power_w=77.0,
        power_limit_w=700.0,
        power_limit_default_w=700.0,
        clock_applications_mhz=1980,
        clock_applications_default_mhz=1980,
        # An idle GPU lowers its generation: no finding.
        pcie_generation=1,
        pcie_generation_max=5,
        pcie_generation_gpu=5,
        pcie_width=16,
        pcie_width_max=16,
        pcie_width_slot=16,
        numa_node=0,
        nvlinks=18,
        nvlinks_active=18,
        fabric="completed",
        peers={str(1 - index): "ok"},
        topology={str(1 - index): "NODE"},
    )
    return replace(gpu, **changes)


def server(*, driver: dict[str, Any] | None = None, gpus: tuple[Gpu, ...] | None = None, **changes: Any) -> Facts:
    """A healthy server with two H200, Docker, Podman and the toolkit."""
    specification = CdiSpecification(
        path="/run/cdi/nvidia.yaml", version="0.5.0", kind="nvidia.com/gpu", devices=("0", "1", "all"), driver_versions=(VERSION,)
    )
    facts = Facts(
        gathered="2026-11-21T10:00:00+00:00",
        system=System(os="Ubuntu 24.04.3 LTS", kernel="6.8.0-87-generic", architecture="x86_64", uid=1000),
        driver=replace(DRIVER, **(driver or {})),
        gpus=(h200(0), h200(1)) if gpus is None else gpus,
        containers=Containers(
            docker_version="29.2.1",
            docker_server_version="29.2.1",
            docker_runtimes=("io.containerd.runc.v2", "nvidia", "runc"),
            docker_default_runtime="runc",
            docker_cgroup_driver="systemd",
            docker_cdi_folders=("/etc/cdi", "/var/run/cdi"),
            docker_socket_group="docker",
            podman_version="5.4.2",
            toolkit_version="1.18.1",
            toolkit_path="/usr/bin/nvidia-ctk",
            cdi=(specification,),
            systemd=True,
            cgroup_version=2,
        ),
    )
    return replace(facts, **changes)


def container(engine: str = "docker", **others: Any) -> Facts:
    """A healthy container on that server, started with its GPUs."""
    facts = server(**others)
    return replace(facts, system=replace(facts.system, container=engine, uid=0), containers=others.get("containers", Containers()))


def laptop() -> Facts:
    """A laptop with an Intel GPU."""
    return Facts(
        gathered="2026-11-21T10:00:00+00:00",
        system=System(os="Fedora Linux 43 (Workstation Edition)", kernel="6.17.1", architecture="x86_64", uid=1000),
        driver=Driver(uvm_loaded=False, fabric_manager=False),
        containers=Containers(podman_version="5.6.0"),
    )


def written(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write a machine down below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
