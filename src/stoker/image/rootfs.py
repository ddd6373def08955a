"""The last layer of an image: what is neither Debian nor a wheel. Settings, shims, kernels, what the image says about itself, the stacks' frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from stoker.image.configuration import created_text
from stoker.image.entries import Entry, file, folder, symlink
from stoker.image.lock import Lock, LockedStack, lock_text

DATA = Path(__file__).with_name("rootfs")
"""The files of this layer that are the same in every image, at the paths that they have there."""

_USER = 1000
_HOME = "home/stoker"
_BIN = "opt/stoker/bin"
_DISPATCH = "../share/dispatch"
_KERNELS = "opt/stoker/share/jupyter/kernels"
_LIBRARY = "/opt/stoker/lib"
_INIT = "catatonit"

_NEEDED_BY = {
    "etc/jupyter": "notebook",
    "etc/ipython": "notebook",
    "etc/tmux.conf": "dev",
    "etc/vim": "dev",
    "opt/stoker/share/zsh": "dev",
}
"""The variant that a file or folder is for; the others are for all."""
_PROGRAMS = {"opt/stoker/share/dispatch"}
_SCRIPTS = {
    "torch": ("torchrun",),
    "jupyter-core": ("jupyter",),
    "jupyterlab": ("jupyter-lab",),
    "ipython": ("ipython", "ipython3"),
    "tensorboard": ("tensorboard",),
    "accelerate": ("accelerate",),
}
"""Programs of wheels that people type, and that follow `stoker stack use` at once. Others are found in the stack that the start chose."""

_ZSHRC = """\
# Yours: change it as you like. The image's settings are in the file below.
source /opt/stoker/share/zsh/zshrc
"""
_START = """\
#!/usr/bin/python{python} -IS
# The entry point. -I and -S: neither the person's variables and files nor any site-packages take part, and nothing of them is read.
# Only modules that are built into the interpreter come before Ctrl-C is quiet; a KeyboardInterrupt amidst an import could be lost there.
import _signal, posix, sys

ours = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler  # else whoever started this wants it to be ignored
if ours:
    _signal.signal(_signal.SIGINT, lambda number, frame: posix._exit(128 + number))
sys.path[:0] = {folders!r}
from stoker.start.__main__ import main

try:
    if ours:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    main()
except KeyboardInterrupt:
    posix._exit(128 + _signal.SIGINT)
"""


def rootfs_entries(lock: Lock) -> list[Entry]:
    """Return the entries of the layer: a function of the lock and of this Stoker."""
    return [*_settings(lock), *_shims(lock), *_told(lock), *_stacks(lock), *(_kernels(lock) if "notebook" in lock.variants else ()), *_home(lock)]


def init(lock: Lock) -> tuple[str, ...]:
    """Return the entry point: an init that passes signals on and collects what dies, then ours."""
    start = f"/{_BIN}/stoker-start"
    # A base of somebody else's may have no init; engines bring one with `--init`.
    return (f"/usr/bin/{_INIT}", "--", start) if any(deb.name == _INIT for deb in lock.base.debs) else (start,)


def command(lock: Lock) -> tuple[str, ...]:
    """Return what a container does when it is not told: the services that are in the image, else a shell."""
    services = tuple(service for variant, service in (("notebook", "notebook"), ("ssh", "sshd")) if variant in lock.variants)
    return services or (("zsh",) if "dev" in lock.variants else ("bash",))


def _settings(lock: Lock) -> Iterator[Entry]:
    for path in sorted(DATA.rglob("*")):
        name = path.relative_to(DATA).as_posix()
        variant = next((variant for start, variant in _NEEDED_BY.items() if name == start or name.startswith(start + "/")), "cli")
        if path.is_file() and (variant == "cli" or variant in lock.variants):
            yield file(name, path.read_bytes(), mode=0o755 if name in _PROGRAMS else 0o644)


def _shims(lock: Lock) -> Iterator[Entry]:
    # Python 3.10 has no TOML reader of its own: tomli, which Stoker brings for it, lies in every stack.
    folders = [_LIBRARY] + ([f"/{_site_packages(lock, lock.stacks[0])}"] if lock.python == "3.10" else [])
    yield file(f"{_BIN}/stoker-start", _START.format(python=lock.python, folders=folders).encode(), mode=0o755)
    wheels = {wheel.name for stack in lock.stacks for wheel in stack.wheels}
    scripts = (script for name, scripts in _SCRIPTS.items() if name in wheels for script in scripts)
    for name in sorted({"stoker", "python", "python3", f"python{lock.python}", *scripts}):
        yield symlink(f"{_BIN}/{name}", _DISPATCH)


def _told(lock: Lock) -> Iterator[Entry]:
    """Yield what the image says about itself: for `stoker.start`, `stoker verify` and people."""
    newest = lock.stacks[0].wheels
    yield file("etc/stoker/image.json", _json(_image(lock)))
    yield file("etc/stoker/lock.txt", "".join(f"{wheel.name}=={wheel.version}\n" for wheel in sorted(newest, key=lambda one: one.name)).encode())
    yield file("etc/stoker/lock.toml", lock_text(lock).encode())
    yield file("etc/stoker/image-created", f"{created_text(lock)}\n".encode())


def _image(lock: Lock) -> dict[str, object]:
    return {
        "name": lock.name,
        "lock": lock.digest,
        "created": created_text(lock),
        "machine": lock.machine,
        "python": lock.python_full,
        "variants": list(lock.variants),
        "stacks": [
            {
                "name": stack.name,
                "torch": stack.torch,
                "cuda": stack.cuda,
                "driver_min": stack.driver_min,
                "driver_full": stack.driver_full,
                "architectures": list(stack.architectures),
                "ptx": stack.ptx,
            }
            for stack in lock.stacks
        ],
    }


def _stacks(lock: Lock) -> Iterator[Entry]:
    """Yield the frame of each stack: a virtual environment (PEP 405) of Debian's Python, with Stoker in sight."""
    python = f"/usr/bin/python{lock.python}"
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {lock.python_full}\nexecutable = {python}\n"
    for stack in lock.stacks:
        yield file(f"opt/stoker/{stack.name}/pyvenv.cfg", settings.encode())
        yield symlink(f"opt/stoker/{stack.name}/bin/python", python)
        for name in ("python3", f"python{lock.python}"):
            yield symlink(f"opt/stoker/{stack.name}/bin/{name}", "python")
        yield file(f"{_site_packages(lock, stack)}/stoker.pth", f"{_LIBRARY}\n".encode())


def _kernels(lock: Lock) -> Iterator[Entry]:
    """Yield the notebook kernels: one for each stack, and `python3`, which nearly all saved notebooks name, for the chosen one."""
    yield _kernel("python3", "Python 3 (the chosen stack)", f"/{_BIN}/python", {})
    for stack in lock.stacks:
        parts = [f"Python {lock.python}", *([f"torch {stack.torch}"] if stack.torch else []), f"CUDA {stack.cuda}" if stack.cuda else "CPU"]
        # The variable makes `!python` in the notebook the kernel's own stack.
        yield _kernel(stack.name, f"{stack.name}: {', '.join(parts)}", f"/opt/stoker/{stack.name}/bin/python", {"STOKER_STACK": stack.name})


def _kernel(name: str, title: str, python: str, environment: dict[str, str]) -> Entry:
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    told = {"argv": argv, "display_name": title, "env": environment, "language": "python", "metadata": {"debugger": True}}
    return file(f"{_KERNELS}/{name}/kernel.json", _json(told))


def _home(lock: Lock) -> Iterator[Entry]:
    if "dev" in lock.variants:
        # The folder is named here, or it would become root's.
        yield folder(_HOME, uid=_USER, gid=_USER)
        yield file(f"{_HOME}/.zshrc", _ZSHRC.encode(), uid=_USER, gid=_USER)
        # For homes without a .zshrc, by ZDOTDIR. Made here: a dot file among the data would not be packaged.
        yield symlink("opt/stoker/share/zsh/.zshrc", "zshrc")


def _site_packages(lock: Lock, stack: LockedStack) -> str:
    return f"opt/stoker/{stack.name}/lib/python{lock.python}/site-packages"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
