"""Where a broken environment is entered: on this machine with files laid over it, or in a podman container."""

from __future__ import annotations

import resource
import shutil
import sys
from pathlib import Path
from typing import Protocol

from broken.debian import NotMade
from stoker.shell import Outcome, run

REPOSITORY = Path(__file__).resolve().parents[2]
ENTER = Path(__file__).with_name("enter.sh")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Place(Protocol):
    """Runs programs in one environment; all of them see the same machine, variables and working directory."""

    def run(self, arguments: list[str], *, timeout_s: float = 120) -> Outcome:
        """Run a program there to its end."""

    def close(self) -> None:
        """Leave nothing running."""


def variables(environment: Path, home: Path, more: dict[str, str]) -> dict[str, str]:
    """Return the variables of somebody who has activated a virtual environment, and nothing else of this process's own."""
    return {"PATH": f"{environment}/bin:{_PATH}", "VIRTUAL_ENV": str(environment), "HOME": str(home), "LANG": "C.UTF-8", **more}


class OnHost:
    """This machine, with the files of `machine` (None: none) laid over it in a mount namespace of each program's own."""

    def __init__(self, work: Path, environ: dict[str, str], machine: Path | None) -> None:
        """Nothing is started yet. `work`: the working directory."""
        self.work, self.environ, self.machine = work, environ, machine
        if machine is not None and not run(["unshare", "--mount", "true"], timeout_s=10).ok:
            raise NotMade("a mount namespace is needed to lay a machine's files over this one's: run it as root")

    def run(self, arguments: list[str], *, timeout_s: float = 120) -> Outcome:
        """Run a program there to its end."""
        inside = ["env", "-i", *(f"{name}={value}" for name, value in self.environ.items()), *arguments]
        if self.machine is not None:
            inside = ["unshare", "--mount", "--propagation", "private", "sh", str(ENTER), str(self.machine), *inside]
        return run(inside, timeout_s=timeout_s, folder=self.work)

    def close(self) -> None:
        """There is nothing to stop."""


class InContainer:
    """A podman container over this machine's own /usr, without a network; `options` are podman's."""

    def __init__(self, folder: Path, work: Path, environ: dict[str, str], *, machine: Path | None, options: list[str]) -> None:
        """Start it. Raises NotMade."""
        self.work, self.container = work, ""
        self.podman = ["env", f"CONTAINERS_CONF={_settings(folder)}", "podman"]
        if shutil.which("podman") is None:
            raise NotMade("podman is needed for an environment in a container")
        binds = [f"--volume={path}:{path}:ro" for path in _read_only()] + [f"--volume={folder}:{folder}"]
        pairs = [f"--env={name}={value}" for name, value in environ.items()]
        root = ["--rootfs", str(_root(folder))]
        done = run([*self.podman, "run", "--detach", "--rm", "--network=none", *options, *binds, *pairs, *root, "sleep", "900"], timeout_s=60)
        if not done.ok:
            raise NotMade(f"podman starts no container: {done.err.strip()[-300:]}")
        self.container = done.out.strip()
        if machine is not None:
            self._lay(machine)

    def _lay(self, machine: Path) -> None:
        """Show the host's kernel files in the container, as the kernel of a real machine does."""
        process = run([*self.podman, "inspect", "--format", "{{.State.Pid}}", self.container], timeout_s=30).out.strip()
        done = run(["nsenter", "--mount", "--target", process, "sh", str(ENTER), str(machine), "true"], timeout_s=30)
        if not done.ok:
            self.close()
            raise NotMade(f"the machine's files cannot be laid over the container's: {done.err.strip()[-300:]}")

    def run(self, arguments: list[str], *, timeout_s: float = 120) -> Outcome:
        """Run a program there to its end."""
        return run([*self.podman, "exec", "--workdir", str(self.work), self.container, *arguments], timeout_s=timeout_s)

    def close(self) -> None:
        """Remove the container."""
        run([*self.podman, "rm", "--force", "--time", "0", self.container], timeout_s=60)


def _settings(folder: Path) -> Path:
    """Write podman's settings: limits that this process may hand on, and runc where it is installed."""
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: min(20_000, top) if (top := resource.getrlimit(limit)[1]) >= 0 else 20_000 for name, limit in limits.items()}
    ulimits = ", ".join(f'"{name}={value}:{value}"' for name, value in hard.items())
    engine = '[engine]\nruntime = "runc"\n' if shutil.which("runc") else ""
    path = folder / "containers.conf"
    path.write_text(f'[containers]\ndefault_ulimits = [{ulimits}]\nlog_driver = "k8s-file"\n{engine}')
    return path


def _read_only() -> list[Path]:
    """Return the folders of this machine that the container sees: its programs, this Python, this repository."""
    wanted = [Path("/usr"), Path(sys.base_prefix).resolve(), REPOSITORY]
    return [path for path in wanted if not any(other in path.parents for other in wanted)]


def _root(folder: Path) -> Path:
    """Make an empty root whose programs are this machine's."""
    root = folder / "root"
    for name in ("usr", "proc", "sys", "dev", "tmp", "run", "var/tmp", "etc", "root", "home"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("ld.so.cache", "passwd", "group", "nsswitch.conf", "os-release"):
        if Path("/etc", name).exists():
            shutil.copy(f"/etc/{name}", root / "etc" / name)
    return root
