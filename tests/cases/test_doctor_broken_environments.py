"""Real broken environments: the torch that is installed here, linked into throw-away environments and damaged there. The doctor must name the cause.

Nothing is installed or changed in the environment that runs the tests: files are hard links (or symbolic ones across disks), and damage is
done by unlinking and writing anew, never in place.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from stoker.doctor.chain import State, why_cuda
from stoker.doctor.checks import packages, wheel
from stoker.doctor.facts import Facts
from stoker.doctor.facts.driver import gather_driver
from stoker.doctor.facts.python import gather_python
from stoker.doctor.facts.system import gather_system
from stoker.doctor.facts.variables import gather_variables
from stoker.doctor.finding import Finding, Severity, check_id
from tests.conftest import find_uv, need

SPEC = importlib.util.find_spec("torch")
SITE = Path(SPEC.origin).parent.parent if SPEC is not None and SPEC.origin else Path("/nowhere")
LINKED = ("torch", "torchvision")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment with the torch that is installed here."""
    need((SITE / "torch" / "lib" / "libtorch_cpu.so").exists(), "a torch from a wheel")
    for variable in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHOME", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "env"
    base = getattr(sys, "_base_executable", None) or sys.executable
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    fill(site_of(folder))
    return folder


def site_of(environment: Path) -> Path:
    """The site-packages of an environment."""
    return environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"


def fill(site: Path) -> None:
    """Put the packages that are installed here into a folder: torch and torchvision as files of its own, the others as links to the whole folder."""
    site.mkdir(parents=True, exist_ok=True)
    for entry in SITE.iterdir():
        name = entry.name.partition("-")[0]
        if name.startswith(("__editable__", "stoker", "_virtualenv", "__pycache__", "distutils-precedence")) or (site / entry.name).exists():
            continue
        if name in LINKED:
            shutil.copytree(entry, site / entry.name, copy_function=link, symlinks=True)
        else:
            (site / entry.name).symlink_to(entry)


def link(source: str, target: str) -> None:
    """Give a file a second name."""
    try:
        os.link(source, target)
    except OSError:
        os.symlink(source, target)


def put(path: Path, content: str | bytes) -> None:
    """Replace a file by a new one; the one that it was linked to stays as it is."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def own_tree(link_to_folder: Path) -> Path:
    """Turn a link to a package's folder into a folder of links, in which a file can be removed."""
    source = link_to_folder.resolve()
    link_to_folder.unlink()
    shutil.copytree(source, link_to_folder, copy_function=link, symlinks=True)
    return link_to_folder


def look(python: Path, limit_s: float = 30.0) -> Facts:
    """What the doctor gathers of an environment on this machine."""
    variables = gather_variables(os.environ)
    return Facts(python=gather_python(str(python), limit_s=limit_s), driver=gather_driver(), system=gather_system(), variables=variables)


def found(facts: Facts) -> dict[str, Finding]:
    """The findings of the checks of Python, torch and packages, without notes."""
    outcomes = {check_id(check): check(facts) for check in wheel.CHECKS + packages.CHECKS}
    return {name: one for name, one in outcomes.items() if isinstance(one, Finding) and one.severity is not Severity.NOTE}


def only(facts: Facts, expected: str) -> Finding:
    """The one finding that there must be."""
    findings = found(facts)
    assert set(findings) == {expected}, {name: (one.what, one.evidence) for name, one in findings.items()}
    return findings[expected]


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a machine with an NVIDIA GPU and driver 580."""
    root = tmp_path / "root"
    put(root / "sys/module/nvidia/version", "580.95.05\n")
    put(root / "sys/module/nvidia_uvm/refcnt", "0\n")
    put(root / "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep  9 2025\n")
    put(root / "sys/bus/pci/devices/0000:18:00.0/vendor", "0x10de\n")
    put(root / "sys/bus/pci/devices/0000:18:00.0/device", "0x2335\n")
    put(root / "sys/bus/pci/devices/0000:18:00.0/class", "0x030200\n")
    for node in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        put(root / "dev" / node, "")
    monkeypatch.setenv("STOKER_HOST_ROOT", str(root))
    return root


def test_the_same_environment_unharmed_has_no_findings(environment: Path) -> None:
    facts = look(environment)
    assert found(facts) == {}
    torch = facts.python.torch
    assert torch is not None
    assert torch.location == str(site_of(environment) / "torch")
    assert (torch.import_code, torch.missing_count) == (0, 0)
    assert torch.architectures == () or torch.architectures[0].startswith("sm_")


def test_cpu_only_torch_on_a_gpu_machine(environment: Path, gpu_machine: Path) -> None:
    version = site_of(environment) / "torch" / "version.py"
    text = version.read_text().splitlines()
    number = next(line.split("'")[1] for line in text if line.startswith("__version__")).partition("+")[0]
    changed = [
        f"__version__ = '{number}+cpu'" if line.startswith("__version__") else "cuda = None" if line.startswith("cuda") else line for line in text
    ]
    put(version, "\n".join(changed) + "\n")
    facts = look(environment)
    finding = only(facts, "torch-cpu-only-on-gpu-machine")
    assert f"torch {number}+cpu was built without CUDA" in finding.what
    assert f"--python {environment}/bin/python" in finding.fix


def test_the_chain_stops_at_the_cpu_only_torch(environment: Path, gpu_machine: Path) -> None:
    put(
        site_of(environment) / "torch" / "version.py",
        "__version__ = '2.13.0+cpu'\ncuda = None\nhip = None\ngit_version = ''\nxpu = None\nrocm = None\n",
    )
    facts = look(environment)
    states = {one.name: one.state for one in why_cuda(facts).links}
    assert states["driver"] is State.OK
    # This machine has no libcuda: the written-down one stops there, before it gets to torch.
    assert State.BROKEN in states.values()


@pytest.mark.network
def test_a_torchvision_of_another_release(environment: Path) -> None:
    uv = find_uv()
    need(uv is not None, "uv")
    own = next(one for one in SITE.glob("torchvision-*.dist-info")).name.split("-")[1]
    need(not own.startswith("0.25."), "another torchvision than 0.25")
    need(sys.version_info < (3, 15), "a Python that torchvision 0.25 was built for")
    for entry in site_of(environment).glob("torchvision*"):
        entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)
    command = [str(uv), "pip", "install", "--python", str(environment), "--no-deps", "torchvision==0.25.0"]
    done = subprocess.run(command, capture_output=True, text=True)
    need(done.returncode == 0, f"torchvision 0.25.0 from a package index ({done.stderr[-300:]})")
    finding = only(look(environment), "torchvision-does-not-pair")
    assert finding.severity is Severity.ERROR
    assert "torchvision 0.25.0" in finding.what
    assert "torchvision::nms" in "\n".join(finding.evidence)


def test_a_cuda_runtime_on_the_library_path_that_nothing_is_taken_from(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own path is built in and wins: a wrong libcudart there does no harm, and the doctor says nothing."""
    need(bool(own_libraries("libcudart")), "a torch that brings its libcudart")
    put(tmp_path / "cuda" / own_libraries("libcudart")[0].name, "no library at all")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "cuda"))
    facts = look(environment)
    assert facts.python.library_path
    assert found(facts) == {}


def test_a_wrong_cuda_runtime_takes_the_place_of_one_that_is_missing(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(bool(own_libraries("libcudart")), "a torch that brings its libcudart")
    tree = own_tree(site_of(environment) / "nvidia")
    name = own_libraries("libcudart")[0].name
    for path in tree.rglob("libcudart.so.*"):
        path.unlink()
    put(tmp_path / "cuda" / name, "no library at all")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "cuda"))
    finding = only(look(environment), "foreign-cuda-on-library-path")
    assert finding.severity is Severity.ERROR
    assert str(tmp_path / "cuda" / name) in finding.what
    assert name in "\n".join(finding.evidence)


@pytest.mark.network
def test_a_real_cuda_runtime_of_another_version(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = find_uv()
    need(uv is not None, "uv")
    need(any(path.name == "libcudart.so.13" for path in own_libraries("libcudart")), "a torch for CUDA 13")
    command = [str(uv), "pip", "install", "--target", str(tmp_path / "old"), "--no-deps", "nvidia-cuda-runtime-cu12==12.8.90"]
    done = subprocess.run([*command, "--python", sys.executable], capture_output=True, text=True)
    need(done.returncode == 0, f"nvidia-cuda-runtime-cu12 from a package index ({done.stderr[-300:]})")
    real = next((tmp_path / "old").rglob("libcudart.so.12"))
    (real.parent / "libcudart.so.13").symlink_to(real.name)  # what a forum tells people to do
    for path in own_tree(site_of(environment) / "nvidia").rglob("libcudart.so.*"):
        path.unlink()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(real.parent))
    finding = only(look(environment), "foreign-cuda-on-library-path")
    assert "libcudart.so.13" in "\n".join(finding.evidence)


def test_a_part_of_another_cudnn_on_the_library_path(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN loads its parts itself, and these do follow the variable: the process is ended without a traceback."""
    need(bool(own_libraries("libcudnn_graph")), "a torch whose cuDNN comes in parts")
    put(tmp_path / "cuda" / own_libraries("libcudnn_graph")[0].name, "no library at all")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "cuda"))
    facts = look(environment)
    assert facts.python.torch is not None
    assert (facts.python.torch.import_code, facts.python.torch.cuda_code) == (0, -6)
    finding = only(facts, "foreign-cuda-on-library-path")
    assert finding.severity is Severity.ERROR


def test_a_cuda_package_that_is_missing(environment: Path) -> None:
    need(any(SITE.glob("nvidia/*/lib/libnccl.so.*")), "a torch whose NCCL is a package of its own")  # no CUDA toolkit on the machine holds it
    for path in own_tree(site_of(environment) / "nvidia").rglob("libnccl.so.*"):
        path.unlink()
    finding = only(look(environment), "torch-import-fails")
    assert "libnccl.so" in "\n".join(finding.evidence)


@pytest.mark.parametrize("gone", ["lib/libtorch_cpu.so", "functional.py", "__init__.py", "_C"])
def test_torch_half_deleted(environment: Path, gone: str) -> None:
    torch = site_of(environment) / "torch"
    removed = next(torch.glob("_C.*.so")) if gone == "_C" else torch / gone
    removed.unlink()
    finding = only(look(environment), "torch-half-deleted")
    assert finding.severity is Severity.ERROR
    assert f"torch/{removed.relative_to(torch)}: missing" in finding.evidence


def test_torch_cut_short(environment: Path) -> None:
    library = site_of(environment) / "torch" / "lib" / "libtorch_cpu.so"
    put(library, (SITE / "torch" / "lib" / "libtorch_cpu.so").open("rb").read(1_000_000))
    finding = only(look(environment), "torch-half-deleted")
    assert "1000000 bytes" in finding.evidence[0]


def test_torch_in_the_user_site_hides_the_environments(tmp_path: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conda = conda_environment(tmp_path / "conda")
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "home"))
    version = sysconfig.get_python_version()
    fill(tmp_path / "home" / "lib" / f"python{version}" / "site-packages")
    facts = look(conda)
    assert facts.python.conda
    finding = only(facts, "torch-twice")
    assert "the user site hides" in finding.what
    assert "PYTHONNOUSERSITE=1" in finding.fix
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    assert found(look(conda)) == {}


def test_pip_over_conda(tmp_path: Path, environment: Path) -> None:
    conda = conda_environment(tmp_path / "conda")
    put(conda / "conda-meta" / "pytorch-2.5.1-py3.11_cuda12.4_cudnn9.1.0_0.json", "{}")
    finding = only(look(conda), "torch-twice")
    assert "over conda's pytorch 2.5.1" in finding.what


def conda_environment(folder: Path) -> Path:
    """A Python as conda makes it: no virtual environment, its own prefix, with the torch that is installed here."""
    base = Path(sys.base_prefix)
    version = f"python{sysconfig.get_python_version()}"
    need((base / "bin" / version).exists(), "a base Python with bin and lib in its folder")
    (folder / "bin").mkdir(parents=True)
    shutil.copy(base / "bin" / version, folder / "bin" / "python")
    (folder / "lib" / version).mkdir(parents=True)
    for entry in (base / "lib" / version).iterdir():
        if entry.name not in ("site-packages", "__pycache__"):
            (folder / "lib" / version / entry.name).symlink_to(entry)
    if (base / "include").exists():
        (folder / "include").symlink_to(base / "include")
    put(folder / "conda-meta" / "python-3.12.1-h0_0.json", "{}")
    fill(folder / "lib" / version / "site-packages")
    return folder


def test_a_torch_py_in_the_working_directory(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    put(work / "torch.py", "print('not torch')\n")
    put(work / "train.py", "import torch; torch.zeros(1)\n")
    monkeypatch.chdir(work)
    finding = only(look(environment), "shadowed-module")
    assert str(work / "torch.py") in "\n".join(finding.evidence)
    # It is true: a script there does get this file, and the fix mends it.
    assert subprocess.run([environment / "bin/python", "train.py"], capture_output=True).returncode == 1
    subprocess.run(finding.fix, shell=True, check=True)
    assert subprocess.run([environment / "bin/python", "train.py"], capture_output=True).returncode == 0
    assert found(look(environment)) == {}


@pytest.mark.parametrize(
    ("code", "expected", "text"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)\n", "torch-dies-on-import", "SIGILL"),
        ("import ctypes; ctypes.string_at(0)\n", "torch-dies-on-import", "SIGSEGV"),
        ("import time; time.sleep(600)\n", "torch-import-hangs", "start_up.py"),
        ("raise RuntimeError('a hook of another package fails')\n", "torch-import-fails", "a hook of another package fails"),
    ],
)
def test_an_import_that_does_not_come_to_its_end(environment: Path, code: str, expected: str, text: str) -> None:
    """The whole of torch is there; a module that it imports does this."""
    put(site_of(environment) / "typing_extensions.py", "import start_up\n")
    put(site_of(environment) / "start_up.py", code)
    finding = only(look(environment, limit_s=4), expected)
    assert text in "\n".join((finding.what, *finding.evidence))


def test_an_environment_whose_python_was_removed(environment: Path) -> None:
    for name in ("python", "python3", f"python{sysconfig.get_python_version()}"):
        path = environment / "bin" / name
        path.unlink(missing_ok=True)
        path.symlink_to("/nowhere/bin/python3")
    facts = look(environment / "bin" / "python")
    assert "which is not there" in only(facts, "python-missing").evidence[0]


def own_libraries(name: str) -> list[Path]:
    """The libraries of a name that torch brought here."""
    return sorted([*SITE.glob(f"nvidia/*/lib/{name}.so.*"), *SITE.glob(f"torch/lib/{name}*.so.*")])
