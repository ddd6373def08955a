"""`./stoker` and `./dev` on fresh copies of the tree: the set-up, its failures, and that it can be run again after each of them.

Most copies have a tiny lock (click and a few more), so that a set-up takes a second or two.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.environment.venv import lock_digest
from tests.conftest import REPOSITORY, find_uv, need

SHIPPED = ("stoker", "dev", "src", "native", "locks", "docs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
BASE_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
# What ./stoker needs beside a Python and uv.
TOOLS = ("bash", "sh", "env", "cat", "sha256sum", "readlink", "realpath", "dirname", "sed", "sleep", "touch")
# In place of our command: tells what reached it.
STUB = """
import json, os, signal, sys
def main():
    if sys.argv[1:] == ["wait"]:
        print("waiting", flush=True)
        signal.pause()
    print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "input": sys.stdin.read()}))
    sys.exit(7)
"""


def tiny(lock: str, **changes: str) -> str:
    """A lock with the head of a real one and a few small packages of it: what the generated pages are made with."""
    head, _, _ = lock.partition("\nabsl")
    for key, value in ({"check": "click", "disk-gb": "0.02", "download-gb": "0.01"} | changes).items():
        head = re.sub(rf"^# {key}: .*$", f"# {key}: {value}", head, flags=re.MULTILINE)
    packages = [re.search(rf"^{name}==.*?(?=^[a-z0-9]|\Z)", lock, re.MULTILINE | re.DOTALL) for name in ("click", "psutil", "setuptools", "tomli")]
    return head + "\n" + "".join(found.group(0) for found in packages if found)


class Tree:
    """A copy of the source tree and the variables with which it is used."""

    def __init__(self, root: Path, variables: dict[str, str]) -> None:
        self.root, self.variables = root, variables

    def start(self, *arguments: str, program: str = "stoker", **variables: str) -> subprocess.Popen[str]:
        """Start ./stoker in a process group of its own."""
        return subprocess.Popen(
            [str(self.root / program), *arguments],
            env=self.variables | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, program: str = "stoker", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ./stoker to its end."""
        process = self.start(*arguments, program=program, **variables)
        try:
            out, err = process.communicate(timeout=300)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess([program, *arguments], process.returncode, out, err)

    def works(self) -> None:
        """The next call sets up what is missing, and leaves nothing half-made."""
        done = self.run("--version")
        assert (done.returncode, done.stdout) == (0, self.version), done.stderr
        assert self.beside() == [".venv"]

    def beside(self) -> list[str]:
        """The environments that are there, whole or half-made."""
        return sorted(path.name for path in self.root.glob(".venv*") if path.name not in (".venv.lock", ".venv.uv"))

    @property
    def version(self) -> str:
        init = (self.root / "src/stoker/__init__.py").read_text()
        return "stoker " + re.findall('__version__ = "(.*)"', init)[0] + "\n"


def copy_tree(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.egg-info")
    for name in SHIPPED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=ignored, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, root / name)
    (root / "README.md").touch()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A package index that can be reached (or a cache that holds what the tiny locks need)."""
    uv = find_uv()
    if uv is None:
        return  # it will be fetched, which is a test of the network as good as any
    wanted = tmp_path_factory.mktemp("network") / "lock.txt"
    wanted.write_text(tiny((REPOSITORY / "locks/cu130.txt").read_text()))
    asked = [str(uv), "pip", "install", "--dry-run", "--python", BASE_PYTHON, "--target", str(wanted.parent / "out"), "-r", str(wanted)]
    done = subprocess.run(asked, capture_output=True, text=True)
    need(done.returncode == 0, f"a package index ({done.stderr.strip().splitlines()[-1:]})")


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder for PATH with this Python, the tools that ./stoker needs, and no uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        if found := shutil.which(name):
            (folder / name).symlink_to(os.path.realpath(found)) if name != "sh" else (folder / name).symlink_to(found)
    (folder / "python3").symlink_to(BASE_PYTHON)
    return folder


def script(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def make_tree(tmp_path: Path, bin_folder: Path, network: None) -> Callable[..., Tree]:
    """Return a maker of trees with tiny locks, run with a PATH of their own."""

    def make(name: str = "a tree", **head: str) -> Tree:
        root = tmp_path / name
        copy_tree(root)
        for lock in ("cu130.txt", "cu128.txt"):
            (root / "locks" / lock).write_text(tiny((REPOSITORY / "locks" / lock).read_text(), **head))
        machine = tmp_path / "machine"
        machine.mkdir(exist_ok=True)
        if (uv := find_uv()) and not (bin_folder / "uv").exists():
            # A shim finds its program through the PATH that it had.
            script(bin_folder / "uv", f'PATH={os.environ["PATH"]!r} exec {str(uv)!r} "$@"')
        dropped = ("STOKER_", "UV_PYTHON", "VIRTUAL_ENV", "PYTHONPATH")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        # No compiler: the native kernel has tests of its own, and takes seconds.
        return Tree(root, kept | {"PATH": str(bin_folder), "STOKER_HOST_ROOT": str(machine), "CC": "/bin/false"})

    return make


@pytest.fixture
def tree(make_tree: Callable[..., Tree]) -> Tree:
    """A copy of the tree with tiny locks, in a folder with a space in its name."""
    return make_tree()


# --- when all is well -----------------------------------------------------------------------------------------------


def test_first_call_sets_up_and_says_so_the_second_says_nothing(tree: Tree) -> None:
    first = tree.run("--version")
    assert (first.returncode, first.stdout) == (0, tree.version), first.stderr
    assert all(
        text in first.stderr for text in ("setting up .venv", "cu130 (torch 2.13.0, CUDA 13.0)", "no NVIDIA driver here", "GB", "is ready after")
    )
    second = tree.run("--version", PATH=f"{tree.variables['PATH']}:/nowhere")
    assert (second.returncode, second.stdout, second.stderr) == (0, tree.version, "")
    assert tree.beside() == [".venv"]


def test_everything_passes_through_untouched(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "src/stoker/cli/__init__.py").write_text(STUB)
    link, folder = tmp_path / "link", tmp_path / "else where"
    link.symlink_to(tree.root / "stoker")
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit('a file of the working directory was imported')")
    arguments = ["a b", "", "*", "--set", "x='$HOME'"]
    for _ in ("with the set-up", "at once"):
        done = subprocess.run([link, *arguments], cwd=folder, env=tree.variables, input="some input", stdout=subprocess.PIPE, text=True)
        assert done.returncode == 7
        assert json.loads(done.stdout) == {"arguments": arguments, "folder": str(folder), "input": "some input"}
    process = tree.start("wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.terminate()
    assert process.wait(timeout=30) == -signal.SIGTERM


def test_a_changed_build_file_builds_our_package_again(tree: Tree) -> None:
    tree.works()
    with open(tree.root / "setup.py", "a") as file:
        file.write("# changed\n")
    assert "building Stoker's own package again" in tree.run("--version").stderr
    assert tree.run("--version").stderr == ""


def test_another_lock_makes_another_environment(tree: Tree) -> None:
    tree.works()
    with open(tree.root / "locks/cu130.txt", "a") as file:
        file.write("# changed\n")
    assert "removing the environment that it replaces" in tree.run("--version").stderr
    assert tree.run("--version").stderr == ""
    assert tree.beside() == [".venv"]


def test_a_tree_that_moved_is_set_up_again(tree: Tree, tmp_path: Path) -> None:
    tree.works()
    tree.root.rename(tmp_path / "moved")
    moved = Tree(tmp_path / "moved", tree.variables)
    assert "setting up" in moved.run("--version").stderr
    assert moved.run("--version").stderr == ""


def test_a_python_that_is_gone_is_replaced(tree: Tree) -> None:
    tree.works()
    python = tree.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    tree.works()


# --- the stack that fits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "gpu", "asked", "code", "said"),
    [
        ("580.95.05", "NVIDIA H200, GPU-1, 143771, 9.0", "", 0, "cu130 (torch 2.13.0, CUDA 13.0): driver 580.95.05, NVIDIA H200 (9.0)"),
        ("535.104.05", "NVIDIA H200, GPU-1, 143771, 9.0", "", 0, "cu128 (torch 2.10.0, CUDA 12.8): driver 535.104.05"),
        ("580.95.05", "Tesla V100, GPU-1, 16160, 7.0", "", 0, "cu128 (torch 2.10.0, CUDA 12.8): driver 580.95.05, Tesla V100 (7.0)"),
        ("470.57.02", "Tesla T4, GPU-1, 15360, 7.5", "", 4, "torch 2.7.1 for CUDA 11.8"),
        ("470.57.02", "Tesla T4, GPU-1, 15360, 7.5", "cu128", 0, "STOKER_STACK asks for it"),
        ("580.95.05", "NVIDIA H200, GPU-1, 143771, 9.0", "cu12", 20, "the nearest is cu128"),
    ],
)
def test_the_stack_fits_the_machine(tree: Tree, bin_folder: Path, driver: str, gpu: str, asked: str, code: int, said: str) -> None:
    module = Path(tree.variables["STOKER_HOST_ROOT"]) / "sys/module/nvidia/version"
    module.parent.mkdir(parents=True)
    module.write_text(f"{driver}\n")
    script(bin_folder / "nvidia-smi", f'[[ "$1" == --query-gpu=index,name,uuid,memory.total,compute_cap ]] && echo "0, {gpu}"')
    done = tree.run("--version", **({"STOKER_STACK": asked} if asked else {}))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    if code == 0:
        assert tree.run("--version", **({"STOKER_STACK": asked} if asked else {})).stderr == ""


def test_a_new_driver_is_noticed(tree: Tree, bin_folder: Path) -> None:
    module = Path(tree.variables["STOKER_HOST_ROOT"]) / "sys/module/nvidia/version"
    module.parent.mkdir(parents=True)
    script(bin_folder / "nvidia-smi", 'echo "0, NVIDIA H200, GPU-1, 143771, 9.0"')
    for driver, said in (("535.104.05", "cu128"), ("570.26", ""), ("580.95.05", "cu130")):
        module.write_text(f"{driver}\n")
        done = tree.run("--version")
        assert done.returncode == 0
        assert (f"stack   {said}" in done.stderr) if said else done.stderr == ""


# --- when something is wrong ----------------------------------------------------------------------------------------


def hang_at_sync(bin_folder: Path) -> None:
    """A uv that stops for good in the middle of the installation."""
    real = (bin_folder / "uv").read_text().splitlines()[1]
    script(bin_folder / "uv-real", real)
    hang = f'if [[ "$1 $2" == "pip install" ]]; then touch "{bin_folder}/reached"; sleep 600; fi'
    script(bin_folder / "uv", f'{hang}\nexec "{bin_folder}/uv-real" "$@"')


def go_on(bin_folder: Path) -> None:
    os.replace(bin_folder / "uv-real", bin_folder / "uv")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not happen within a minute"
        time.sleep(0.02)


def test_killed_midway_then_run_again(tree: Tree, bin_folder: Path) -> None:
    need(find_uv() is not None, "uv")
    hang_at_sync(bin_folder)
    process = tree.start("--version")
    wait_for((bin_folder / "reached").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert tree.beside() == [".venv.new"]
    go_on(bin_folder)
    tree.works()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_midway_leaves_nothing_half_made(tree: Tree, bin_folder: Path, number: int, code: int) -> None:
    need(find_uv() is not None, "uv")
    hang_at_sync(bin_folder)
    process = tree.start("--version")
    wait_for((bin_folder / "reached").exists)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert tree.beside() == []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    go_on(bin_folder)
    tree.works()


def test_two_at_once_make_one_environment(tree: Tree) -> None:
    processes = [tree.start("--version") for _ in range(3)]
    said = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (0, tree.version), err
        said.append(err)
    assert sum("setting up" in err for err in said) == 1
    assert sum("waiting for it" in err for err in said) == 2
    assert tree.beside() == [".venv"]


def test_a_uv_that_outlives_its_set_up_is_waited_for(tree: Tree, bin_folder: Path) -> None:
    need(find_uv() is not None, "uv")
    hang_at_sync(bin_folder)
    first = tree.start("--version")
    wait_for((bin_folder / "reached").exists)
    os.kill(first.pid, signal.SIGKILL)
    go_on(bin_folder)
    second = tree.start("--version")
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    os.killpg(first.pid, signal.SIGKILL)
    out, err = second.communicate(timeout=300)
    first.communicate()
    assert (second.returncode, out) == (0, tree.version), err


def test_no_network_is_told_and_the_old_environment_stays(tree: Tree, tmp_path: Path) -> None:
    tree.works()
    lock = tree.root / "locks/cu130.txt"
    text = lock.read_text()
    lock.write_text(text + "# changed\n")
    done = tree.run("--version", UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "empty"))
    assert (done.returncode, done.stdout) == (3, "")
    assert all(text in done.stderr for text in ("[setup-failed]", "hint:", "UV_DEFAULT_INDEX")), done.stderr
    assert tree.beside() == [".venv"]
    lock.write_text(text)
    assert tree.run("--version", UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "empty")).stderr == ""


def test_an_index_that_does_not_answer(tree: Tree, tmp_path: Path) -> None:
    # Port 9 of this machine, through pip's setting: it is handed to uv, and nobody listens there.
    quick = {"UV_CACHE_DIR": str(tmp_path / "empty"), "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "5"}
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"):
        tree.variables.pop(name, None)
    done = tree.run("--version", PIP_INDEX_URL="http://127.0.0.1:9/simple", **quick)
    assert done.returncode == 3
    assert all(text in done.stderr for text in ("127.0.0.1:9", "PIP_INDEX_URL"))
    tree.works()


def test_too_small_a_disk_is_told_before_the_download(make_tree: Callable[..., Tree], tmp_path: Path) -> None:
    tree = make_tree(**{"disk-gb": "900000"})
    done = tree.run("--version", UV_CACHE_DIR=str(tmp_path / "empty"))
    assert done.returncode == 3
    assert re.search(r"900000\.0 GB are needed, \d+\.\d GB are free", done.stderr)
    assert tree.beside() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    need(os.geteuid() == 0, "root, to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True, text=True)
    need(mounted.returncode == 0, f"a mount ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_midway(make_tree: Callable[..., Tree], small_disk: Path) -> None:
    tree = make_tree("disk/tree", **{"disk-gb": "0.001"})
    (small_disk / "filler").write_bytes(b"\0" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 2_000_000))
    done = tree.run("--version")
    assert done.returncode == 3, done.stderr
    assert re.search(r"\[setup-failed\]|GB are free", done.stderr)
    assert "free space there" in done.stderr
    assert tree.beside() == []
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    tree.works()


def test_a_tree_that_cannot_be_written(make_tree: Callable[..., Tree], small_disk: Path) -> None:
    tree = make_tree("disk/tree")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = tree.run("--version")
    assert done.returncode == 3
    assert all(text in done.stderr for text in ("cannot be written to", "[setup-failed]", "hint:"))


def test_somebody_elses_venv_is_left_alone(tree: Tree) -> None:
    (tree.root / ".venv").mkdir()
    (tree.root / ".venv/theirs").touch()
    done = tree.run("--version")
    assert done.returncode == 3
    assert "./stoker did not make it" in done.stderr
    assert (tree.root / ".venv/theirs").exists()


def test_a_package_that_does_not_import_is_told(make_tree: Callable[..., Tree]) -> None:
    done = make_tree(check="click.nothing").run("--version")
    assert done.returncode == 3
    assert "No module named 'click.nothing'" in done.stderr


# --- Pythons and uvs ------------------------------------------------------------------------------------------------


def test_no_python(tree: Tree, bin_folder: Path) -> None:
    (bin_folder / "python3").unlink()
    done = tree.run("--version")
    assert done.returncode == 3
    assert all(text in done.stderr for text in ("no Python 3.10 to 3.14", "apt install python3", "STOKER_PYTHON"))


def test_a_python_that_is_too_old(tree: Tree, bin_folder: Path) -> None:
    script(bin_folder / "python3", "exit 1")
    assert tree.run("--version").returncode == 3
    (bin_folder / "python3.12").symlink_to(BASE_PYTHON)
    tree.works()


def test_the_python_that_is_asked_for(tree: Tree, tmp_path: Path) -> None:
    done = tree.run("--version", STOKER_PYTHON="/nowhere/python")
    assert done.returncode == 3
    assert "STOKER_PYTHON=/nowhere/python is no Python" in done.stderr
    (tree.root.parent / "my python").symlink_to(BASE_PYTHON)
    assert tree.run("--version", STOKER_PYTHON=str(tree.root.parent / "my python")).stdout == tree.version


def lame_python(bin_folder: Path, *lacking: str) -> None:
    """A Python without pip, or without ensurepip, as Debian's without python3-pip and python3-venv: an environment that hides them."""
    lame = bin_folder.parent / "lame"
    subprocess.run([BASE_PYTHON, "-m", "venv", *(["--without-pip"] if "pip" in lacking else []), str(lame)], check=True)
    if "venv" in lacking:
        (site,) = lame.glob("lib/python*/site-packages")
        (site / "lame.pth").write_text("import sys; sys.modules['ensurepip'] = None\n")
    (bin_folder / "python3").unlink()
    # A link to a link in another folder would lose the environment.
    script(bin_folder / "python3", f'exec "{lame}/bin/python" "$@"')


def test_neither_uv_nor_pip_nor_venv(tree: Tree, bin_folder: Path) -> None:
    lame_python(bin_folder, "pip", "venv")
    (bin_folder / "uv").unlink(missing_ok=True)
    done = tree.run("--version")
    assert done.returncode == 3, done.stderr
    assert "apt install python3-venv" in done.stderr
    assert tree.beside() == []


@pytest.mark.parametrize("lacking", ["pip", "venv"])
def test_uv_is_fetched_with_what_there_is(tree: Tree, bin_folder: Path, lacking: str) -> None:
    lame_python(bin_folder, lacking)
    (bin_folder / "uv").unlink(missing_ok=True)
    tree.works()
    assert (tree.root / ".venv.uv/bin/uv").exists()


# --- ./dev ----------------------------------------------------------------------------------------------------------


def test_dev_says_what_it_can_do(tree: Tree) -> None:
    for arguments, code in (([], 2), (["tset"], 2), (["--help"], 0)):
        done = tree.run(*arguments, program="dev")
        assert done.returncode == code
        assert "usage: ./dev COMMAND" in (done.stderr if code else done.stdout)


def test_dev_bench_lists_and_runs(tree: Tree) -> None:
    folder = tree.root / "benchmarks/sub"
    folder.mkdir(parents=True)
    text = '"""Says what it got."""\nimport sys\nif __name__ == "__main__":\n    print(sys.argv[1:])\n'
    (folder / "echo.py").write_text(text)
    assert tree.run("bench", program="dev").stdout == "sub/echo  Says what it got.\n"
    assert tree.run("bench", "sub/echo", "a b", program="dev").stdout == "['a b']\n"
    done = tree.run("bench", "ecoh", program="dev")
    assert done.returncode == 2
    assert "sub/echo" in done.stderr


def test_dev_docs_writes_what_lint_checks(tree: Tree) -> None:
    page = tree.root / "docs/errors.md"
    page.write_text("old\n")
    check = [sys.executable, str(tree.root / "docs/make.py"), "--check"]
    assert subprocess.run(check, capture_output=True).returncode == 1
    assert tree.run("docs", program="dev").returncode == 0
    assert "| 34 | `disk-full` |" in page.read_text()
    assert subprocess.run(check, capture_output=True).returncode == 0


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.network
def test_the_real_lock(make_tree: Callable[..., Tree]) -> None:
    """Gigabytes are not set up twice: an environment that was made of this very lock, as CI's is, has shown that it can be."""
    lock, python = REPOSITORY / "locks/cu130.txt", Path(sys.executable)
    if lock_digest() != f"sha256:{hashlib.sha256(lock.read_bytes()).hexdigest()}":
        tree = make_tree()
        shutil.copy2(lock, tree.root / "locks")
        tree.works()
        python = tree.root / ".venv/bin/python"
    code = "import torch, torchvision, timm, sklearn, onnx, onnxruntime, onnxscript; print(torch.__version__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2.13.0+cu130\n", done.stderr


def test_what_looks_at_a_machine_runs_before_anything_large_is_fetched(tree: Tree, network: None) -> None:
    lock = tree.root / "locks/cu130.txt"
    lock.write_text((REPOSITORY / "locks/cu130.txt").read_text())  # the real one: with PyTorch, which is not fetched here
    done = tree.run("doctor", "--explain", "driver-missing")
    assert done.returncode == 0, done.stderr
    assert "driver-missing" in done.stdout
    assert tree.beside() == [".venv.look"]
    installed = {path.name.partition("-")[0] for path in (tree.root / ".venv.look").glob("lib/python*/site-packages/*.dist-info")}
    assert {"click", "psutil", "nvidia_ml_py"} <= installed
    assert "torch" not in installed
    again = tree.run("resolve", "--help")
    assert (again.returncode, again.stderr) == (0, ""), "made once"
    for command in ("image", "up", "run", "ps", "logs", "stop", "rm", "exec", "shell"):
        assert tree.run(command, "--help").returncode == 0, command
    assert tree.beside() == [".venv.look"]


def test_what_turns_out_to_need_packages_goes_on_in_the_whole_environment(tree: Tree, network: None) -> None:
    # Without a container it is Stoker's own environment in which the program runs.
    code = "import os, sys; print(sys.prefix, os.getcwd(), sys.argv[1:])"
    done = tree.run("run", "--engine", "local", "--project", str(tree.root / "src"), "--", "python", "-c", code, "a b", STOKER_HOST_ROOT="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tree.root / '.venv'} {tree.root / 'src'} ['a b']\n"
    assert {".venv", ".venv.look"} <= set(tree.beside())


def test_what_looks_at_a_machine_says_so_when_even_that_cannot_be_made(tree: Tree, network: None) -> None:
    lock = tree.root / "locks/cu130.txt"
    lock.write_text(re.sub("sha256:[0-9a-f]{8}", "sha256:00000000", (REPOSITORY / "locks/cu130.txt").read_text()))
    done = tree.run("doctor")
    assert done.returncode == 3
    assert "setup-failed" in done.stderr
    assert tree.beside() == []
