"""What surrounds torch: every check of the doctor on written-down facts, and the gathering of them from made-up Pythons."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stoker.doctor.checks import packages
from stoker.doctor.facts import Facts
from stoker.doctor.facts import probe as probe_file
from stoker.doctor.facts.interpreter import choose
from stoker.doctor.facts.python import Companion, Copy, Library, gather_python
from stoker.doctor.finding import Check, Finding, Passed, Severity, Skipped, check_id
from stoker.doctor.written import facts_from
from tests.gpu_hosts import SITE, healthy, laptop, with_python, with_torch

OWN = Library(
    name="libcudnn_graph",
    path=f"{SITE}/nvidia/cudnn/lib/libcudnn_graph.so.9",
    real=f"{SITE}/nvidia/cudnn/lib/libcudnn_graph.so.9",
    version="9",
    size_bytes=4_000_000,
)
CUBLAS = Library(name="libcublas", path=f"{SITE}/nvidia/cu13/lib/libcublas.so.13", real=f"{SITE}/nvidia/cu13/lib/libcublas.so.13", size_bytes=50)
FOREIGN = Library(
    name="libcudnn_graph",
    path="/usr/local/cuda/lib64/libcudnn_graph.so.9",
    real="/usr/local/cuda/lib64/libcudnn_graph.so.9.1.0",
    version="9.1.0",
    size_bytes=3,
)


def copy(version: str, location: str, origin: str, installer: str | None = "pip") -> Copy:
    """A copy of torch."""
    return Copy(name="torch", version=version, location=location, origin=origin, installer=installer)


def found(facts: Facts) -> dict[str, Finding]:
    """Every finding of these checks, by its id."""
    outcomes = {check_id(check): check(facts) for check in packages.CHECKS}
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Finding)}


ENVIRONMENT = copy("2.13.0", SITE, "environment")


@pytest.mark.parametrize(
    "facts",
    [
        healthy(),
        laptop(),
        Facts(),
        with_python(healthy(), torch=None, copies=()),
        # A virtual environment over a Python that has a torch of its own; a copy behind the environment's.
        with_python(healthy(), copies=(ENVIRONMENT, copy("2.9.0", "/usr/lib/python3/dist-packages", "base Python", "conda"))),
        with_python(healthy(), copies=(ENVIRONMENT, copy("2.9.0", "/home/someone/.local/lib/python3.12/site-packages", "user site"))),
        # No environment at all: the user site is where pip installs.
        with_python(healthy(), prefix="/usr", from_user_site=("numpy 2.4.6",), user_site="/home/someone/.local/lib/python3.12/site-packages"),
        # CUDA on LD_LIBRARY_PATH that nothing is taken from; and torch's own folder on it.
        with_python(
            healthy(), own_libraries=(CUBLAS,), loaded=(CUBLAS,), library_path=(replace(CUBLAS, path="/usr/local/cuda/lib64/libcublas.so.12"),)
        ),
        with_python(healthy(), own_libraries=(OWN,), loaded=(OWN,), library_path=(OWN,)),
        with_python(healthy(), own_libraries=(OWN,), library_path=(replace(FOREIGN, size_bytes=4_000_000),)),
        # A conda or a distribution's torch without libraries of its own.
        with_python(healthy(), loaded=(replace(FOREIGN, name="libcudnn"),)),
        # numpy and sklearn bring the same GNU runtime again.
        with_python(healthy(), loaded=(Library(name="libgomp", path="/a/libgomp.so.1"), Library(name="libgomp", path="/usr/lib/libgomp.so.1"))),
        with_python(healthy(), packages=healthy().python.packages | {"nvidia-cublas-cu12": "12.8.4.1", "nvidia-cuda-runtime-cu12": "12.8.90"}),
        replace(healthy(), variables={"PYTHONHOME": "/env/"}),
    ],
)
def test_what_is_well_is_left_alone(facts: Facts) -> None:
    assert found(facts) == {}


@pytest.mark.parametrize(
    ("facts", "expected", "text"),
    [
        (
            with_python(healthy(), copies=(copy("2.9.0", "/home/someone/.local/lib/python3.12/site-packages", "user site"), ENVIRONMENT)),
            "torch-twice",
            "hides torch 2.13.0",
        ),
        (with_python(healthy(), copies=(copy("2.9.0", "/opt/extra", "PYTHONPATH"), ENVIRONMENT)), "torch-twice", "/opt/extra"),
        (with_python(healthy(), copies=(ENVIRONMENT, copy("2.12.0", SITE, "environment"))), "torch-twice", "recorded twice"),
        (
            with_python(healthy(), conda=True, conda_packages={"pytorch": "2.5.1 py3.12_cuda12.4_cudnn9.1.0_0"}, copies=(ENVIRONMENT,)),
            "torch-twice",
            "over conda's pytorch 2.5.1",
        ),
        (with_python(healthy(), shadows=("torch.py",)), "shadowed-module", "torch.py"),
        (with_python(healthy(), shadows=("random.py",)), "shadowed-module", "random.py"),
        (
            with_python(
                healthy(),
                conda=True,
                conda_packages={"numpy": "2.4.6 py312h"},
                copies=(
                    Copy(name="numpy", version="1.26.4", location="/home/someone/.local", installer="pip", origin="user site"),
                    Copy(name="numpy", version="2.4.6", location=SITE, installer="conda", origin="environment"),
                ),
                from_user_site=("numpy 1.26.4",),
                user_site="/home/someone/.local",
            ),
            "user-site-leaks",
            "numpy 1.26.4",
        ),
        (
            with_python(
                healthy(),
                conda=True,
                conda_packages={"numpy": "1.26.4 py312h"},
                copies=(ENVIRONMENT, Copy(name="numpy", version="2.4.6", location=SITE, installer="pip", origin="environment")),
            ),
            "pip-conda-mixed",
            "conda says 1.26.4",
        ),
        (with_python(healthy(), own_libraries=(OWN,), library_path=(FOREIGN,)), "foreign-cuda-on-library-path", "libcudnn_graph.so.9"),
        (
            with_python(
                healthy(),
                own_libraries=(CUBLAS,),
                loaded=(Library(name="libcublas", path="/opt/cuda/libcublas.so.13.0.1", real="/opt/cuda/libcublas.so.13.0.1", size_bytes=9),),
                library_path=(Library(name="libcublas", path="/opt/cuda/libcublas.so.13", real="/opt/cuda/libcublas.so.13.0.1", size_bytes=9),),
            ),
            "foreign-cuda-on-library-path",
            "loaded: /opt/cuda/libcublas.so.13.0.1",
        ),
        (
            with_torch(
                with_python(healthy(), library_path=(Library(name="libcudart", path="/opt/cuda/libcudart.so.13"),)),
                import_code=1,
                import_text="OSError: /opt/cuda/libcudart.so.13: file too short",
            ),
            "foreign-cuda-on-library-path",
            "file too short",
        ),
        (
            with_torch(
                healthy(), cudnn_text="RuntimeError: cuDNN version incompatibility: PyTorch was compiled against (9, 20, 0) but found (8, 9, 2)"
            ),
            "cudnn-foreign",
            "found (8, 9, 2)",
        ),
        (
            with_python(healthy(), own_libraries=(replace(OWN, name="libcudnn"),), loaded=(replace(FOREIGN, name="libcudnn"),)),
            "cudnn-foreign",
            "/usr/local/cuda/lib64",
        ),
        (
            with_python(healthy(), packages=healthy().python.packages | {"nvidia-cudnn-cu12": "9.10.2.21"}),
            "nvidia-packages-mixed",
            "nvidia-cudnn-cu12 9.10.2.21",
        ),
        (
            with_python(healthy(), packages=healthy().python.packages | {"nvidia-cudnn-cu13": "9.13.0.50"}),
            "nvidia-packages-do-not-pair",
            "asks for 9.20.0.48",
        ),
        (
            with_python(healthy(), loaded=(Library(name="libgomp", path="/a/libgomp.so.1"), Library(name="libiomp5", path="/conda/lib/libiomp5.so"))),
            "openmp-twice",
            "libiomp5.so",
        ),
        (
            with_python(
                healthy(), torchvision=Companion(version="0.25.0", runs=False, error="RuntimeError: operator torchvision::nms does not exist")
            ),
            "torchvision-does-not-pair",
            "operator torchvision::nms does not exist",
        ),
        (with_python(healthy(), torchvision=Companion(version="0.25.0")), "torchvision-does-not-pair", "pairs with torchvision 0.28.0"),
        (
            with_torch(
                with_python(healthy(), packages={"torch": "2.9.0", "torchaudio": "2.8.0", "triton": "3.7.1"}, torchvision=None), version="2.9.0+cu128"
            ),
            "torchaudio-does-not-pair",
            "2.9.0",
        ),
        (
            with_torch(with_python(healthy(), packages={"numpy": "2.1.0", "triton": "3.7.1"}, torchvision=None), version="2.2.2+cu121"),
            "numpy-too-new",
            "numpy 2.1.0",
        ),
        (with_python(healthy(), packages={"torch": "2.13.0"}), "triton-missing", "no package triton"),
        (with_python(healthy(), triton_error="ImportError: libtriton.so: undefined symbol"), "triton-missing", "undefined symbol"),
        (with_python(healthy(), triton_error="ModuleNotFoundError: No module named 'setuptools'"), "triton-missing", "No module named 'setuptools'"),
        (with_python(healthy(), packages=healthy().python.packages | {"triton": "3.4.0"}), "triton-does-not-pair", "asks for 3.7.1"),
        (with_python(healthy(), c_compiler=None, compiler=None, headers=None), "compiler-missing", "not on PATH"),
        (with_python(healthy(), headers=None), "python-headers-missing", "Python.h"),
        (replace(healthy(), variables={"PYTHONHOME": "/opt/python2"}), "pythonhome-set", "/opt/python2"),
        (with_python(healthy(), preload_missing=("/usr/lib/libjemalloc.so.2",)), "preload-missing", "libjemalloc.so.2: no such file"),
        (with_python(healthy(), leftovers=(f"{SITE}/~orch",)), "interrupted-upgrade", "~orch"),
    ],
)
def test_one_cause_gives_one_finding_with_what_was_seen(facts: Facts, expected: str, text: str) -> None:
    findings = found(facts)
    assert set(findings) == {expected}
    finding = findings[expected]
    assert text in "\n".join((finding.what, *finding.evidence))
    assert finding.fix
    assert finding.consequence


@pytest.mark.parametrize("check", packages.CHECKS, ids=check_id)
def test_nothing_is_said_of_what_is_not_known(check: Check) -> None:
    assert isinstance(check(Facts()), Skipped | Passed)


def test_a_slim_container_without_a_compiler_is_a_note() -> None:
    slim = with_python(laptop(), c_compiler=None, compiler=None)
    assert found(slim)["compiler-missing"].severity is Severity.NOTE
    assert found(with_python(healthy(), c_compiler=None))["compiler-missing"].severity is Severity.WARNING


def test_a_hiding_copy_of_a_torch_that_cannot_be_imported_is_an_error() -> None:
    facts = with_torch(with_python(healthy(), copies=(copy("2.9.0", "/opt/extra", "PYTHONPATH"), ENVIRONMENT)), import_code=1, import_text="OSError")
    assert found(facts)["torch-twice"].severity is Severity.ERROR
    assert "PYTHONPATH" in found(facts)["torch-twice"].fix


def test_torchvision_that_fails_beside_a_hiding_torch_is_part_of_that_finding() -> None:
    facts = with_python(healthy(), copies=(copy("2.9.0", "/opt/extra", "PYTHONPATH"), ENVIRONMENT))
    facts = with_python(facts, torchvision=Companion(version="0.28.0", runs=False, error="RuntimeError: operator torchvision::nms does not exist"))
    assert {name: finding.severity for name, finding in found(facts).items()} == {"torch-twice": Severity.ERROR}


def test_a_torchvision_that_fails_because_of_a_hiding_torch_is_the_same_finding() -> None:
    copies = (copy("2.9.0", "/home/someone/.local/lib/python3.12/site-packages", "user site"), ENVIRONMENT)
    fails = Companion(version="0.28.0", runs=False, error="RuntimeError: operator torchvision::nms does not exist")
    findings = found(with_python(healthy(), copies=copies, torchvision=fails))
    assert set(findings) == {"torch-twice"}
    assert findings["torch-twice"].severity is Severity.ERROR


# --- gathering -------------------------------------------------------------------------------------------------------


def fake_python(folder: Path, script: str) -> Path:
    """A program that stands where a Python should."""
    path = folder / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_probe_is_python_3_6() -> None:
    ast.parse(Path(probe_file.__file__).read_text(), feature_version=(3, 6))
    assert "with (" not in Path(probe_file.__file__).read_text()


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo I am no Python; exit 3", "status 3"),
        ("cat /dev/null", "is no Python"),
        ("kill -SEGV $$", "signal 11 (SIGSEGV)"),
        ("head -c 300000 /dev/urandom; exit 1", "status 1"),
        ("echo 'STOKER-PROBE {\"stage\": '", "is no Python"),
    ],
)
def test_a_program_that_is_no_python_is_a_fact(tmp_path: Path, script: str, text: str) -> None:
    python = gather_python(str(fake_python(tmp_path, script)), limit_s=5)
    assert python.error is not None
    assert text in python.error
    assert len(python.error) < 2500
    assert python.version is None
    assert python.torch is None


def test_a_python_that_hangs_is_a_fact(tmp_path: Path) -> None:
    python = gather_python(str(fake_python(tmp_path, "exec sleep 60")), limit_s=1)
    assert python.error is not None
    assert "no answer within" in python.error


def test_what_cannot_be_executed_is_a_fact(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    for asked, expected in [
        (str(tmp_path / "nothing"), "not there"),
        ("", "empty name"),
        ("a" * 5000, "too long"),
        ("a\0b", "no such program"),
        ("~nobody-of-this-name/env", "home"),
        ("/dev/null", "no file that can be run"),
        (str(tmp_path), "without bin/python"),
        (str(text), "not executable"),
        ("no-such-program-anywhere", "on PATH"),
    ]:
        assert expected in (gather_python(asked).error or "")
    text.chmod(0o755)
    assert gather_python(str(text)).error  # executable, but no program: Exec format error
    link = tmp_path / "venv" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "gone")
    assert "which is not there" in (gather_python(str(link)).error or "")


def test_the_active_environment_is_chosen_then_the_first_on_path_then_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert choose(None).executable == sys.executable
    first = fake_python(tmp_path / "first", "exit 0")  # whoever asks it whether it has torch is told yes
    monkeypatch.setenv("PATH", f"{first.parent}:/usr/bin:/bin")
    assert choose(None).executable == str(first)
    environment = fake_python(tmp_path / "environment", "exit 0")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "environment"))
    assert choose(None).executable == str(environment)
    assert choose(None).active
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "deleted"))
    assert choose(None).executable == str(first)
    assert choose(str(tmp_path / "environment")).executable == str(environment)
    monkeypatch.setenv("PATH", f"{environment.parent}:/usr/bin:/bin")
    assert choose("python").executable == str(environment)


def test_out_of_the_small_environment_the_trees_own_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv.look"))
    assert choose(None).executable == sys.executable
    own = fake_python(tmp_path / ".venv", "exit 0")
    assert choose(None).executable == str(own)


def test_an_empty_environment_is_read_without_torch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = gather_python(str(tmp_path / "venv"))
    assert python.error is None
    assert python.version == sys.version_info[:2]
    assert python.prefix == str(tmp_path / "venv")
    assert python.torch is None
    assert python.torchvision is None
    assert python.packages == {}


def test_metadata_that_lie_about_are_read_without_being_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records of one torch, a record without RECORD, a broken METADATA, a left-over: none stops the reading."""
    site = tmp_path / "site"
    for name in ("torch-2.9.0.dist-info", "torch-2.8.0.dist-info", "~orch-2.7.0.dist-info", "numpy-1.26.4.dist-info", "-.dist-info"):
        (site / name).mkdir(parents=True)
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text("")
    (site / "torch" / "version.py").write_text("__version__ = '2.9.0+cu128'\ncuda: str = '12.8'\nhip = None\n")
    (site / "torch-2.8.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00Requires-Dist: nvidia-cudnn-cu12==9")
    (site / "torch-2.8.0.dist-info" / "RECORD").write_text("torch/version.py,sha256=x,12\ntorch/lib/libtorch_cpu.so,,5\n,,\nodd")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    monkeypatch.setenv("PYTHONPATH", str(site))
    python = gather_python(str(tmp_path / "venv"))
    assert [(one.version, one.origin) for one in python.copies if one.name == "torch"] == [("2.8.0", "PYTHONPATH"), ("2.9.0", "PYTHONPATH")]
    assert python.torch is not None
    assert (python.torch.version, python.torch.cuda) == (None, None)  # what was imported counts: this one is hollow
    assert python.torch.missing_files == ("torch/lib/libtorch_cpu.so: missing",)
    assert len(python.leftovers) == 1


def test_a_torch_that_dies_while_it_is_asked_is_told_apart_from_one_that_dies_on_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    package.joinpath("version.py").write_text("__version__ = '2.9.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    died = "import os, signal, types\nclass cuda:\n    is_available = staticmethod(lambda: os.kill(os.getpid(), signal.SIGSEGV))\n"
    package.joinpath("__init__.py").write_text(died + "__version__ = '2.9.0'\nversion = types.SimpleNamespace(cuda='12.8', hip=None)\n")
    torch = gather_python(str(tmp_path / "venv")).torch
    assert torch is not None
    assert (torch.import_code, torch.cuda_code, torch.available) == (0, -11, None)
    package.joinpath("__init__.py").write_text("import time\ntime.sleep(60)\n")
    torch = gather_python(str(tmp_path / "venv"), limit_s=1).torch
    assert torch is not None
    assert torch.import_code is None
    assert "__init__.py" in torch.import_text  # where it hung


def test_files_that_hide_modules_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("torch.py", "random.py", "train.py", "data.py", "utils.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "numpy").mkdir()  # without __init__.py it hides nothing
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    assert probe_file.shadows() == ["random.py", "torch.py", "torchvision/__init__.py"]
    (tmp_path / "__init__.py").write_text("")
    assert probe_file.shadows() == []  # inside of a package nobody starts a script


def test_preloads_and_library_folders_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libcudart.so.12.4.127").write_bytes(b"12345")
    (tmp_path / "libcudart.so.12").symlink_to("libcudart.so.12.4.127")
    (tmp_path / "libother.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:/nowhere::{tmp_path}")
    python = gather_python(sys.executable if not os.environ.get("VIRTUAL_ENV") else None)
    assert [(one.name, one.version, one.size_bytes) for one in python.library_path] == [("libcudart", "12.4.127", 5)] * 2
    assert python.library_path[0].real == str(tmp_path / "libcudart.so.12.4.127")


def test_the_facts_can_be_written_and_read(tmp_path: Path) -> None:
    facts = with_python(healthy(), own_libraries=(OWN,), library_path=(FOREIGN,))
    assert facts_from(json.loads(json.dumps(asdict(facts)))) == facts


def test_what_triton_lacks_is_installed_and_not_triton_again() -> None:
    facts = with_python(healthy(), triton_error="ModuleNotFoundError: No module named 'setuptools'")
    assert found(facts)["triton-missing"].fix.endswith(" setuptools")
    broken = with_python(healthy(), triton_error="ModuleNotFoundError: No module named 'triton._C'")
    assert "--reinstall-package triton triton" in found(broken)["triton-missing"].fix
