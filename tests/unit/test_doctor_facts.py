"""How the doctor reads system, processor, memory, disks, network and processes: from written-down machines, and of this one."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stoker import shell
from stoker.doctor.facts import cluster as cluster_file
from stoker.doctor.facts import services as services_file
from stoker.doctor.facts.answers import ask_all
from stoker.doctor.facts.cluster import gather_cluster
from stoker.doctor.facts.cores import cores_of, list_of
from stoker.doctor.facts.jupyter import is_server
from stoker.doctor.facts.memory import gather_memory
from stoker.doctor.facts.processor import gather_processor
from stoker.doctor.facts.sample import count, read_sample
from stoker.doctor.facts.services import gather_services
from stoker.doctor.facts.storage import gather_storage
from stoker.doctor.facts.system import gather_system
from stoker.doctor.facts.variables import gather_variables, secrets


def machine(folder: Path, files: dict[str, str]) -> Path:
    """Write a machine down."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


GARBAGE = dict.fromkeys(
    (
        "proc/cpuinfo",
        "proc/meminfo",
        "proc/loadavg",
        "proc/vmstat",
        "proc/self/cgroup",
        "proc/self/status",
        "proc/self/uid_map",
        "proc/self/mountinfo",
        "proc/pressure/memory",
        "proc/12/stat",
        "proc/sys/kernel/osrelease",
        "sys/devices/system/cpu/online",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "sys/devices/system/node/node0/cpulist",
        "sys/kernel/mm/transparent_hugepage/enabled",
        "sys/fs/cgroup/cpu.max",
        "sys/fs/cgroup/cpu.stat",
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory.events",
        "sys/fs/cgroup/pids.max",
        "sys/class/net/eth0/speed",
        "sys/class/infiniband/mlx5_0/ports/1/state",
        "etc/os-release",
        "etc/docker/daemon.json",
    ),
    "\x00\xff garbage: : 1e999 -1 999999999999999999999999\n: \n)))(((\n",
)


@pytest.mark.parametrize("files", [{}, GARBAGE], ids=["nothing", "garbage"])
def test_a_machine_that_tells_nothing_or_nonsense(tmp_path: Path, files: dict[str, str]) -> None:
    root = machine(tmp_path, files)
    assert gather_system(root).container is None or os.environ.get("KUBERNETES_SERVICE_HOST")
    assert gather_processor(root).quota_cores is None
    memory = gather_memory(root)
    assert (memory.total_bytes, memory.limit_bytes, memory.pids_limit, memory.oom_kills, memory.huge_pages) == (None, None, None, None, None)
    assert gather_cluster(root=root).rdma_nodes == ()
    assert gather_services(root).jupyter == ()
    assert all(volume.kind is None for volume in gather_storage(root=root).volumes)


# --- system ---------------------------------------------------------------------------------------------------------


def test_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("NVIDIA_PYTORCH_VERSION", raising=False)
    root = machine(
        tmp_path,
        {
            "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\n',
            "proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n",
            "run/.containerenv": "",
            "proc/self/uid_map": f"         0       1000          1\n         1     100000      {2**32 - 2}\n",
            "etc/stoker/image-created": "2026-08-01T10:00:00Z\n",
        },
    )
    system = gather_system(root)
    assert (system.os, system.wsl, system.virtual, system.container) == ("Ubuntu 24.04.1 LTS", True, "wsl", "podman")
    assert system.uid_outside == (1000 if os.getuid() == 0 else 100_000 + os.getuid() - 1)
    assert (system.image_created, system.image_created_from) == ("2026-08-01T10:00:00+00:00", "/etc/stoker/image-created")


@pytest.mark.parametrize(
    ("version", "mtime", "created", "source"),
    [
        ("25.06", None, "2025-06-01T00:00:00+00:00", "NVIDIA_PYTORCH_VERSION"),
        ("25.99", 1_700_000_000, "2023-11-14T22:13:20+00:00", "/var/lib/dpkg/status"),
        (None, 0, None, None),  # a time that was set so that the image is the same each time
        (None, None, None, None),
    ],
)
def test_age_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, mtime: int | None, created: str | None, source: str | None
) -> None:
    root = machine(tmp_path, {".dockerenv": "", **({"var/lib/dpkg/status": ""} if mtime is not None else {})})
    if mtime is not None:
        os.utime(root / "var/lib/dpkg/status", (mtime, mtime))
    if version:
        monkeypatch.setenv("NVIDIA_PYTORCH_VERSION", version)
    else:
        monkeypatch.delenv("NVIDIA_PYTORCH_VERSION", raising=False)
    system = gather_system(root)
    assert (system.image_created, system.image_created_from) == (created, source)


# --- processor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,8", {0, 1, 2, 3, 8}), ("5", {5}), ("", set()), ("a-b", set()), ("0-99999999", set()), (None, set())]
)
def test_lists_of_cores(text: str | None, cores: set[int]) -> None:
    assert cores_of(text) == cores
    if cores:
        assert list_of(cores) == text


def test_processor(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = machine(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: AMD EPYC 9554\nflags\t\t: fpu avx avx2 avx512f hypervisor\n\nmodel name\t: other\n",
            f"{cpu}/online": "0-3\n",
            **{f"{cpu}/cpu{number}/cpufreq/scaling_governor": "powersave\n" if number else "performance\n" for number in range(4)},
            f"{cpu}/cpu0/cpufreq/scaling_driver": "acpi-cpufreq\n",
            "sys/devices/system/node/node0/cpulist": "0-1\n",
            "sys/devices/system/node/node1/cpulist": "2-3\n",
            "sys/devices/system/node/node2/cpulist": "\n",  # memory without cores
            "proc/self/cgroup": "0::/job/step\n",
            "sys/fs/cgroup/job/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/job/cpu.stat": "usage_usec 1\nnr_periods 1000\nnr_throttled 812\n",
            "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
            "proc/loadavg": "3.50 2.25 1.00 2/900 4711\n",
        },
    )
    processor = gather_processor(root)
    assert (processor.model, processor.flags, processor.hypervisor) == ("AMD EPYC 9554", ("avx", "avx2", "avx512f"), True)
    assert (processor.cores_online, processor.governors, processor.frequency_driver) == (4, {"performance": 1, "powersave": 3}, "acpi-cpufreq")
    assert (processor.numa_nodes, processor.numa_cpus) == (2, {"0": "0-1", "1": "2-3", "2": ""})
    assert (processor.quota_cores, processor.quota_text) == (1.5, "/sys/fs/cgroup/job/cpu.max: 150000 100000")
    assert (processor.throttled_periods, processor.periods) == (812, 1000)
    assert (processor.load_1m, processor.load_5m) == (3.5, 2.25)
    assert processor.cores_usable == len(os.sched_getaffinity(0))


def test_a_quota_of_cgroup_v1(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct"
    root = machine(tmp_path, {"proc/self/cgroup": "4:cpu,cpuacct:/\n"})
    files = {"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}
    machine(
        tmp_path, {f"sys/fs/cgroup/cpu/{name}": text for name, text in files.items()} | {f"{folder}/{name}": text for name, text in files.items()}
    )
    processor = gather_processor(root)
    assert (processor.quota_cores, processor.quota_text) == (4.0, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us: 400000, cpu.cfs_period_us: 100000")


# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 65536 kB\nMemAvailable: 32768 kB\nSwapTotal: 1024 kB\nSwapFree: 1000 kB\nHugePages_Total: 0\n",
            "proc/vmstat": "pswpin 5\npswpout 7\n",
            "proc/pressure/memory": "some avg10=0.00 avg60=1.25 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.75 avg300=0.00 total=0\n",
            "proc/self/status": "Name:\tx\nCapEff:\t0000000000004000\n",
            "proc/self/uid_map": "0 0 4294967295\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "33554432\n",
            "sys/fs/cgroup/memory.current": "20000000\n",
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 5000000\n",
            "sys/fs/cgroup/memory.events": "low 0\noom 3\noom_kill 2\n",
            "sys/fs/cgroup/pids.max": "256\n",
            "sys/fs/cgroup/pids.current": "12\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
            "dev/shm/x": "",
        },
    )
    memory = gather_memory(root)
    assert (memory.total_bytes, memory.available_bytes) == (65536 * 1024, 32768 * 1024)
    assert (memory.swap_total_bytes, memory.swap_used_bytes, memory.swap_pages_per_s) == (1024 * 1024, 24 * 1024, 0.0)
    assert (memory.limit_bytes, memory.limit_text, memory.limit_used_bytes) == (33554432, "/sys/fs/cgroup/memory.max: 33554432", 15_000_000)
    assert (memory.oom_kills, memory.oom_text) == (2, "/sys/fs/cgroup/memory.events: oom_kill 2")
    assert (memory.pids_limit, memory.pids_now, memory.pids_text) == (256, 12, "/sys/fs/cgroup/pids.max: 256")
    assert (memory.huge_pages, memory.pressure_percent, memory.lock_unlimited) == ("never", 1.25, True)
    assert memory.shm_bytes
    assert memory.shm_writable


@pytest.mark.parametrize(
    ("mapped", "capabilities", "expected"), [("0 1000 1", "0000000000004000", False), ("0 0 4294967295", "0000000000000000", False)]
)
def test_a_capability_counts_on_the_machine_itself_only(tmp_path: Path, mapped: str, capabilities: str, expected: bool) -> None:
    root = machine(tmp_path, {"proc/self/status": f"CapEff:\t{capabilities}\n", "proc/self/uid_map": f"{mapped}\n"})
    assert gather_memory(root).lock_unlimited is expected


# --- disks ----------------------------------------------------------------------------------------------------------


def test_a_data_set_is_counted_and_read(tmp_path: Path) -> None:
    files = {f"class{number % 3}/{number}.jpg": "x" * (1000 + number) for number in range(60)}
    machine(tmp_path / "data", files)
    data = gather_storage(tmp_path / "data").data
    assert data
    assert (data.files, data.total_bytes, data.complete) == (60, sum(len(text) for text in files.values()), True)
    assert (data.read_files, data.read_bytes, data.error, data.unreadable) == (60, data.total_bytes, None, None)
    assert data.read_s


def test_one_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "set.tar"
    with open(file, "wb") as opened:
        opened.truncate(100 * 2**20)
    found = count(file)
    assert (found.files, found.total_bytes, found.complete) == (1, 100 * 2**20, True)
    reading = read_sample(found.sample)
    assert 0 < reading.read_bytes <= len(found.sample) * 8 * 2**20


def test_data_that_is_not_there_or_breaks(tmp_path: Path) -> None:
    missing = gather_storage(tmp_path / "nowhere").data
    assert missing
    assert missing.error == "No such file or directory"
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "links" / "loop").symlink_to(tmp_path / "links")
    empty = gather_storage(tmp_path / "links").data
    assert empty
    assert (empty.files, empty.complete) == (0, True)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    reading = read_sample([(str(tmp_path / "gone.jpg"), 10)])
    assert reading.refusal == f"{tmp_path / 'gone.jpg'}: No such file or directory"


def test_a_pipe_in_the_data_set_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.jpg").write_text("x")
    begun = time.monotonic()
    data = gather_storage(tmp_path).data
    assert data
    assert data.files == 1
    assert time.monotonic() - begun < 5


def test_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "with space"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    lines = [
        "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
        f"40 27 0:40 / {escaped} rw shared:5 - nfs4 server:/export rw,vers=4.2",
        f"41 27 0:41 / {escaped}-other rw - tmpfs none rw",
    ]
    root = machine(tmp_path / "root", {"proc/self/mountinfo": "\n".join(lines)})
    monkeypatch.setenv("STOKER_RUNS", str(place / "runs" / "deep"))
    runs = next(volume for volume in gather_storage(root=root).volumes if volume.use == "runs")
    assert (runs.mount, runs.kind, runs.device, runs.path) == (str(place), "nfs4", "server:/export", str(place / "runs" / "deep"))


def test_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    environ = {"TRITON_CACHE_DIR": str(tmp_path / "file"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    caches = {cache.owner: cache for cache in gather_storage(environ=environ).caches}
    assert (caches["triton"].writable, caches["triton"].reason) == (False, f"{tmp_path / 'file'} is no folder")
    assert (caches["inductor"].writable, caches["inductor"].variable) == (True, "TORCHINDUCTOR_CACHE_DIR")
    assert not (tmp_path / "inductor").exists()  # looking makes nothing


def test_a_disk_whose_server_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def statvfs(path: object) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(os, "statvfs", statvfs)
    storage = gather_storage()
    assert {(volume.answered, volume.error) for volume in storage.volumes} == {(True, "Transport endpoint is not connected")}
    assert all(cache.writable is False for cache in storage.caches)


def test_questions_that_hang_or_fail_are_left_out() -> None:
    def fail() -> int:
        raise OSError("gone")

    release = threading.Event()
    begun = time.monotonic()
    assert ask_all({"well": lambda: 1, "hangs": lambda: int(release.wait(30)), "fails": fail}, limit_s=0.2) == {"well": 1}
    assert time.monotonic() - begun < 20
    release.set()


# --- network --------------------------------------------------------------------------------------------------------


def test_interfaces_and_rdma(tmp_path: Path) -> None:
    port = "sys/class/infiniband/mlx5_0/ports/1"
    root = machine(
        tmp_path,
        {
            "sys/class/net/ens3/operstate": "up\n",
            "sys/class/net/ens3/flags": "0x1003\n",
            "sys/class/net/ens3/speed": "25000\n",
            "sys/class/net/lo/operstate": "unknown\n",
            "sys/class/net/lo/flags": "0x9\n",
            "sys/class/net/down/operstate": "down\n",
            "sys/class/net/down/speed": "-1\n",
            f"{port}/state": "4: ACTIVE\n",
            f"{port}/link_layer": "InfiniBand\n",
            f"{port}/rate": "400 Gb/sec (4X NDR)\n",
            "dev/infiniband/uverbs0": "",
            "dev/infiniband/rdma_cm": "",
        },
    )
    found = gather_cluster(root=root)
    shown = {one.name: (one.up, one.loopback, one.speed_mbit) for one in found.interfaces}
    assert shown == {"down": (False, False, None), "ens3": (True, False, 25000), "lo": (True, True, None)}
    assert [(one.device, one.active, one.rate) for one in found.rdma] == [("mlx5_0", True, "400 Gb/sec (4X NDR)")]
    assert found.rdma_nodes == ("/dev/infiniband/uverbs0",)


def test_clocks_of_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str], **others: Any) -> shell.Outcome:
        assert arguments[:6] == ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "--"]
        answers = {
            "ahead": (0, f"{time.time() + 60:.9f}\n", ""),
            "odd": (0, "Welcome!\n", ""),
            "shut": (255, "", "ssh: connect: Connection refused\n"),
        }
        code, out, err = answers[arguments[6]]
        return shell.Outcome(command="ssh", code=code, out=out, err=err)

    monkeypatch.setattr(cluster_file.shell, "run", run)
    nodes = {node.name: node for node in gather_cluster(("ahead", "odd", "shut", "-oProxyCommand=evil", "ahead"), tmp_path).nodes}
    assert list(nodes) == ["ahead", "odd", "shut", "-oProxyCommand=evil"]
    assert nodes["ahead"].offset_s == pytest.approx(60, abs=1)
    assert nodes["odd"].error == "Welcome!"
    assert nodes["shut"].error == "ssh: connect: Connection refused"
    assert nodes["-oProxyCommand=evil"].error == "this is no name of a machine"


# --- variables ------------------------------------------------------------------------------------------------------


def test_variables_hold_what_matters_and_no_secret() -> None:
    environ = {
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_NUM_THREADS": "4",
        "LD_LIBRARY_PATH": "/usr/lib",
        "RANK": "1",
        "EDITOR": "vi",
        "HF_TOKEN": "hf_abc",
        "AWS_SECRET_ACCESS_KEY": "x" * 40,
        "WANDB_API_KEY": "y",
        "PIP_INDEX_URL": "https://ada:pw@pypi.example/simple",
        "UV_INDEX_URL": "https://pypi.example/simple",
        "GOOGLE_APPLICATION_CREDENTIALS": "/run/key.json",
        "GPG_KEY": "A035C8C19219BA821ECEA86B64E628F8D684696D",
        "TOKENIZERS_PARALLELISM": "false",
        "EMPTY_PASSWORD": "",
    }
    found = gather_variables(environ)
    assert {name: found[name] for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "RANK", "UV_INDEX_URL")} == {
        name: environ[name] for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "RANK", "UV_INDEX_URL")
    }
    assert found["AWS_SECRET_ACCESS_KEY"] == "(40 characters)"
    assert "EDITOR" not in found
    assert not any(value in json.dumps(found) for value in ("hf_abc", "ada:pw", "x" * 40))
    assert secrets(found) == ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PIP_INDEX_URL", "WANDB_API_KEY")


# --- processes ------------------------------------------------------------------------------------------------------


def process(pid: int, name: str, arguments: list[str]) -> dict[str, str]:
    return {
        f"proc/{pid}/stat": f"{pid} ({name}) S 1 {pid} {pid} 0 -1 0 0 0 0 0 10 5 0 0 20 0 1 0 0\n",
        f"proc/{pid}/cmdline": "\0".join(arguments) + "\0",
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("/usr/bin/python3", "/opt/bin/jupyter-lab", "--ip=0.0.0.0"), True),
        (("/usr/bin/python3", "-m", "jupyterlab"), True),
        (("jupyter", "notebook"), True),
        (("/usr/bin/python3", "-I", "/opt/bin/jupyter-server"), True),
        (("/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "x.json"), False),
        (("/usr/bin/python3", "/opt/bin/jupyterhub-singleuser"), False),
        (("/usr/bin/python3", "train.py", "jupyter-lab"), False),
        (("vi", "jupyter.md"), False),
        ((), False),
    ],
)
def test_which_command_lines_are_jupyter_servers(arguments: tuple[str, ...], expected: bool) -> None:
    assert is_server(arguments) is expected


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> str:
    """A home below the written-down machine."""
    monkeypatch.setenv("HOME", "/home/ada")
    return "home/ada"


def test_a_jupyter_server_tells_in_its_runtime_file(tmp_path: Path, home: str) -> None:
    written = {"hostname": "0.0.0.0", "pid": 77, "port": 8888, "token": "", "password": False, "url": "http://x:8888/"}
    files = process(77, "jupyter-lab", ["/usr/bin/python3", "/usr/bin/jupyter-lab"]) | {
        f"{home}/.local/share/jupyter/runtime/jpserver-77.json": json.dumps(written)
    }
    (server,) = gather_services(machine(tmp_path, files)).jupyter
    assert (server.pid, server.address, server.port, server.token, server.password) == (77, "0.0.0.0", 8888, False, False)


def test_a_runtime_file_of_a_server_that_ended_is_left_out(tmp_path: Path, home: str) -> None:
    written = {"hostname": "0.0.0.0", "pid": 77, "port": 8888, "token": "", "password": False}
    assert gather_services(machine(tmp_path, {f"{home}/.local/share/jupyter/runtime/jpserver-77.json": json.dumps(written)})).jupyter == ()


@pytest.mark.parametrize(
    ("arguments", "configuration", "expected"),
    [
        (["--ip=0.0.0.0", "--ServerApp.token="], "", ("0.0.0.0", False, False)),
        (["--ip", "0.0.0.0", "--NotebookApp.token=''"], "", ("0.0.0.0", False, False)),
        (["--IdentityProvider.token=s3cret"], "", (None, True, False)),
        ([], "", (None, None, False)),
        ([], "c.ServerApp.ip = '0.0.0.0'\nc.IdentityProvider.token = ''  # open\n", ("0.0.0.0", False, False)),
        (["--ServerApp.token="], 'c.PasswordIdentityProvider.hashed_password = "argon2:x"\n', (None, False, True)),
        ([], "# c.ServerApp.token = ''\nc.ServerApp.token = os.environ['T']\n", (None, None, False)),
    ],
)
def test_a_jupyter_server_without_a_runtime_file(
    tmp_path: Path, home: str, arguments: list[str], configuration: str, expected: tuple[Any, ...]
) -> None:
    files = process(78, "python3", ["/usr/bin/python3", "-m", "jupyterlab", *arguments]) | {
        f"{home}/.jupyter/jupyter_server_config.py": configuration
    }
    services = gather_services(machine(tmp_path, files))
    (server,) = services.jupyter
    assert (server.address, server.token, server.password) == expected
    assert "s3cret" not in repr(services)


def test_a_configuration_that_will_open_a_server(tmp_path: Path, home: str) -> None:
    (found,) = gather_services(machine(tmp_path, {f"{home}/.jupyter/jupyter_server_config.json": '{"ServerApp": {"token": "", "ip": "*"}}'})).jupyter
    assert (found.pid, found.token, found.password, found.source) == (None, False, False, "/home/ada/.jupyter/jupyter_server_config.json")


def test_docker_over_the_network_and_its_socket(tmp_path: Path) -> None:
    open_daemon = process(5, "dockerd", ["/usr/bin/dockerd", "-H", "fd://", "-H", "tcp://0.0.0.0:2375"])
    root = machine(tmp_path / "a", open_daemon | {"etc/docker/daemon.json": '{"hosts": ["tcp://10.0.0.5:2375"]}'})
    (root / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root / "run")  # the address of a socket is short
        try:
            listener.bind("docker.sock")
        finally:
            os.chdir(here)
        services = gather_services(root)
    assert services.docker_ports == ("tcp://0.0.0.0:2375", "tcp://10.0.0.5:2375")
    assert (services.docker_socket, services.docker_socket_writable) == ("/run/docker.sock", True)
    closed = machine(tmp_path / "b", process(5, "dockerd", ["/usr/bin/dockerd", "--tlsverify", "-H=tcp://0.0.0.0:2376"]))
    assert gather_services(closed).docker_ports == ()


@pytest.mark.parametrize(
    ("configuration", "shadow", "lines"),
    [
        ("PermitRootLogin yes\n", "root:$y$abc:19000:0:::::\n", 2),
        ("PermitRootLogin yes\n", "root:*:19000:0:::::\n", 0),
        ("PermitRootLogin yes\n", "", 0),  # not ours to read: say nothing
        ("PermitRootLogin prohibit-password\nPermitRootLogin yes\n", "root:$y$abc:1:::::\n", 0),  # the first holds
        ("permitrootlogin=yes\nPasswordAuthentication no\n", "root:$y$abc:1:::::\n", 0),
        ("Match User ada\nPermitRootLogin yes\n", "root:$y$abc:1:::::\n", 0),
        ("Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin no\n", "root:$y$abc:1:::::\n", 2),
        ("Include sshd_config\nPermitRootLogin yes\n", "root:$y$abc:1:::::\n", 2),  # itself, which ends
        ("", "root:$y$abc:1:::::\n", 0),
    ],
)
def test_root_by_ssh(tmp_path: Path, configuration: str, shadow: str, lines: int) -> None:
    files = {"etc/ssh/sshd_config": configuration, "etc/shadow": shadow, "etc/ssh/sshd_config.d/50-cloud.conf": "PermitRootLogin yes\n"}
    root = machine(tmp_path, files | process(9, "sshd", ["/usr/sbin/sshd", "-D"]))
    assert len(gather_services(root).ssh_root) == lines
    assert gather_services(machine(tmp_path / "without", files)).ssh_root == ()  # no server runs


def test_thousands_of_processes_take_little_time(tmp_path: Path) -> None:
    for pid in range(2, 3002):
        machine(tmp_path, process(pid, "python3", ["python3", "x.py"]))
    begun = time.process_time()
    services = gather_services(tmp_path)
    assert time.process_time() - begun < 2
    assert services.processes


@pytest.mark.parametrize("parent", [os.getppid(), 1], ids=["shell", "init"])
def test_a_busy_process_is_named(parent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: parent)
    # Not a child of ours: what the doctor starts itself is left out.
    started = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -c 'while True: pass' >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    pid = int(started.stdout)
    try:
        machine(tmp_path, {"proc/loadavg": "999.0 999.0 999.0 1/1 1\n"})  # an overloaded machine, with one process of this one
        (tmp_path / "proc" / str(pid)).symlink_to(f"/proc/{pid}")
        until = time.monotonic() + 30
        while not (found := gather_services(tmp_path).busy) and time.monotonic() < until:
            time.sleep(0.1)  # on a machine with other work it may not get a fifth of a core at once
    finally:
        os.kill(pid, signal.SIGKILL)
    (busy,) = found
    assert (busy.pid, busy.uid) == (pid, os.getuid())
    assert 0.2 <= busy.cores < 1.5


def test_where_there_are_cores_enough_nobody_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(services_file.time, "sleep", slept.append)
    overloaded, calm = (f"{load} {load} {load} 1/1 1\n" for load in ("999.0", "0.10"))
    for load, naps in ((overloaded, 1), (calm, 0)):
        slept.clear()
        root = machine(tmp_path / load[:3], {"proc/loadavg": load, **process(5, "idle", ["idle"])})
        assert gather_services(root).busy == ()
        assert len(slept) == naps


def test_this_machine() -> None:
    memory, processor, services, system = gather_memory(), gather_processor(), gather_services(), gather_system()
    assert memory.total_bytes
    assert memory.nofile_soft
    assert processor.cores_online
    assert services.processes
    assert system.kernel == os.uname().release
    volumes = {volume.use: volume for volume in gather_storage().volumes}
    assert {"runs", "cache", "temporary", "home"} <= set(volumes)
    assert volumes["temporary"].kind
    assert stat.S_ISDIR(Path(volumes["temporary"].path).stat().st_mode)
