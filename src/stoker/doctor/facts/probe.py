"""The script that runs inside the Python that is examined: says on stdout what is installed there, and what torch says.

It stands alone: no other file of Stoker is there, and that Python may be 3.6. Called as `python probe.py installed|torch LIMIT`,
it prints a line of JSON after each stage, so that what was known before a crash is not lost. After LIMIT seconds it prints where it hangs, and
ends.
"""

import faulthandler
import importlib
import importlib.util
import json
import mmap
import os
import re
import shutil
import site
import sys
import sysconfig
import time
import types
import warnings
from typing import Any

MARK = "STOKER-PROBE "
_MOST = 2000

# Modules of the standard library that torch, torchvision and torch.compile import (seen in sys.modules, torch 2.13), whose names a person's own
# file is likely to have, and what a training imports besides.
_IMPORTED = """
argparse array ast asyncio base64 bisect calendar cmath code collections colorsys concurrent contextlib copy csv ctypes
dataclasses datetime decimal difflib dis email enum fractions functools getpass glob gzip hashlib heapq html http importlib
inspect ipaddress json keyword linecache locale logging math multiprocessing numbers opcode operator pathlib pdb pickle
pickletools pkgutil platform pprint profile queue random re runpy secrets select selectors shlex shutil signal socket ssl
statistics string struct subprocess sysconfig tarfile tempfile textwrap threading timeit token tokenize traceback types
typing unittest urllib uuid warnings weakref xml zipfile numpy PIL sympy networkx jinja2 torch torchaudio torchvision triton
typing_extensions
""".split()  # noqa: SIM905 (a list would take a hundred lines)
_COPIED = ("torch", "torchvision", "torchaudio", "numpy", "triton")
_CONDA = re.compile(
    r"^(pytorch.*|libtorch|torch.*|cudatoolkit|cuda-.*|cudnn|nccl|numpy|pillow|mkl|intel-openmp|llvm-openmp|libgomp|_openmp_mutex|tensorflow.*)$"
)
LIBRARY = re.compile(
    r"^(lib(?:cudart|cudnn|cublas|cufft|curand|cusolver|cusparse|nccl|nvrtc-builtins|nvrtc|nvJitLink|cupti|cuda|nvidia-ml|gomp|iomp5|omp)[A-Za-z_]*)[-.]"
)


def say(**stage: Any) -> None:
    """Print what one stage found."""
    sys.stdout.write("\n" + MARK + json.dumps(stage) + "\n")
    sys.stdout.flush()


def text_of(error: BaseException) -> str:
    """Return an error as `Type: text`, bounded."""
    return f"{type(error).__name__}: {error}"[:_MOST]


# --- installed: what lies on sys.path, without importing any of it ---------------------------------------------------------------


def installed() -> None:
    """Print what this Python is and what is installed in it."""
    folders = []  # type: list
    for folder in sys.path:
        if os.path.isdir(folder) and os.path.realpath(folder) not in [os.path.realpath(other) for other in folders]:
            folders.append(folder)
    distributions = [one for folder in folders for one in distributions_in(folder)]
    packages = {}  # type: dict
    for one in distributions:
        packages.setdefault(one["name"], one["version"])
    say(
        stage="installed",
        executable=sys.executable,
        version=list(sys.version_info[:2]),
        version_text="{}.{}.{}".format(*sys.version_info[:3]),
        prefix=sys.prefix,
        base_prefix=getattr(sys, "base_prefix", sys.prefix),
        conda=os.path.isdir(os.path.join(sys.prefix, "conda-meta")),
        folder=os.getcwd(),
        user_site=user_site(),
        path=folders,
        packages=packages,
        conda_packages=conda_packages(),
        copies=[copy for folder in folders for copy in copies_in(folder, distributions)],
        from_user_site=[one["name"] + " " + one["version"] for one in distributions if one["location"] == user_site() and matters(one["name"])],
        leftovers=[os.path.join(folder, name) for folder in folders for name in names_in(folder) if name.startswith("~")][:20],
        shadows=shadows(),
        own_libraries=own_libraries(folders),
        torch=torch_on_disk(folders, distributions),
        compiler=first_program([os.environ.get("CXX"), "g++", "gcc", "clang++"]),
        c_compiler=first_program([os.environ.get("CC"), "gcc", "clang"]),
        headers=headers(),
    )


def matters(name: str) -> bool:
    """Return whether a package from a wrong place would change a training."""
    return name in _COPIED or name.startswith("nvidia-")


def names_in(folder: str) -> list:
    """Return the names in a folder; none when it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def read(path: str, most: int = 4_000_000) -> str:
    """Return a file's text; empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(most)
    except OSError:
        return ""


def distributions_in(folder: str) -> list:
    """Return the distributions whose metadata lie in a folder: name, version, location, installer."""
    found = []
    for entry in names_in(folder):
        match = re.match(r"^([^~-][^-]*)-([^-]+)(?:-py[\d.]+)?\.(dist-info|egg-info)$", entry)
        if match:
            name = re.sub(r"[-_.]+", "-", match.group(1)).lower()
            installer = read(os.path.join(folder, entry, "INSTALLER")).strip() or None if name in _COPIED else None
            found.append(
                {"name": name, "version": match.group(2), "location": folder, "installer": installer, "metadata": os.path.join(folder, entry)}
            )
    return found


def conda_packages() -> dict:
    """Return the packages that conda says it installed, of those that matter."""
    found = {}
    for entry in names_in(os.path.join(sys.prefix, "conda-meta")):
        parts = entry[: -len(".json")].rsplit("-", 2) if entry.endswith(".json") else []
        if len(parts) == 3 and _CONDA.match(parts[0]):
            found[parts[0]] = parts[1] + " " + parts[2]
    return found


def user_site() -> Any:
    """Return the person's own site-packages if it is on sys.path."""
    try:
        folder = site.getusersitepackages()
    except Exception:
        return None
    return folder if folder in sys.path else None


def origin_of(folder: str) -> str:
    """Return why a folder is on sys.path."""
    real = os.path.realpath(folder)
    given = [os.path.realpath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if real in given:
        return "PYTHONPATH"
    if folder == user_site():
        return "user site"
    if real.startswith(os.path.realpath(sys.prefix) + os.sep):
        return "environment"
    if real.startswith(os.path.realpath(getattr(sys, "base_prefix", sys.prefix)) + os.sep) or "dist-packages" in real:
        return "base Python"
    return "other"


def copies_in(folder: str, distributions: list) -> list:
    """Return the copies of the watched packages that a folder holds; two records of one package are two copies."""
    found = []
    for name in _COPIED:
        records = [one for one in distributions if one["location"] == folder and one["name"] == name]
        there = os.path.isfile(os.path.join(folder, name, "__init__.py"))
        if there and not records:
            records = [{"version": version_file(os.path.join(folder, name)).get("version"), "installer": None}]
        for one in records if there or len(records) > 1 else []:
            found.append({"name": name, "version": one["version"], "location": folder, "installer": one["installer"], "origin": origin_of(folder)})
    return found


def shadows() -> list:
    """Return the files of the working directory that would be imported in place of a module that torch needs.

    A folder without __init__.py hides nothing. Inside of a package or of the libraries themselves nobody starts a script.
    """
    here = os.getcwd()
    names = names_in(here)
    if "__init__.py" in names or {"site.py", "os.py"} <= set(names) or any(name.endswith(".dist-info") for name in names):
        return []
    found = []
    for entry in names:
        stem = entry[:-3] if entry.endswith(".py") else entry
        path = os.path.join(here, entry)
        if stem in _IMPORTED and (os.path.isfile(path) if entry.endswith(".py") else os.path.isfile(os.path.join(path, "__init__.py"))):
            found.append(entry if entry.endswith(".py") else entry + "/__init__.py")
    return found


def first_program(names: list) -> Any:
    """Return the first of some programs that exists; a CXX or CC that is set is the only one that counts."""
    if names[0]:
        return shutil.which(names[0].split()[0])
    return next((found for found in map(shutil.which, names[1:]) if found), None)


def headers() -> Any:
    """Return where Python.h stands."""
    path = os.path.join(sysconfig.get_paths().get("include") or "", "Python.h")
    return path if os.path.isfile(path) else None


def library(path: str) -> dict:
    """Return a shared library's name, path, size, and version as its file's name (after links) says it."""
    name = LIBRARY.match(os.path.basename(path))
    number = re.search(r"\.so\.([\d.]+)$", os.path.basename(os.path.realpath(path)))
    try:
        size_bytes = os.path.getsize(path)
    except OSError:
        size_bytes = None
    return {
        "name": name.group(1) if name else os.path.basename(path),
        "path": path,
        "real": os.path.realpath(path),
        "version": number.group(1) if number else None,
        "size_bytes": size_bytes,
    }


def own_libraries(folders: list) -> list:
    """Return the CUDA libraries in torch's own folder and in the nvidia packages beside it."""
    found = []
    for folder in folders:
        packages = os.path.join(folder, "nvidia")
        places = [os.path.join(folder, "torch", "lib")] + [os.path.join(packages, name, "lib") for name in names_in(packages)]
        found += [library(os.path.join(place, name)) for place in places for name in names_in(place) if ".so" in name and LIBRARY.match(name)]
    return found[:200]


def torch_on_disk(folders: list, distributions: list) -> Any:
    """Return what the files of torch say, without importing it; None when there is no such package."""
    for folder in folders:
        location = os.path.join(folder, "torch")
        record = next((one for one in distributions if one["name"] == "torch" and one["location"] == folder), None)
        if os.path.isdir(location) and (record or os.path.isfile(os.path.join(location, "__init__.py"))):
            found = version_file(location)
            missing = missing_files(record["metadata"]) if record else []
            found.update(location=location, installer=record["installer"] if record else None, missing_files=missing[:20], missing_count=len(missing))
            found.update(pins=pins(record["metadata"]) if record else {})
            found.update(architectures=architectures(os.path.join(location, "lib", "libtorch_python.so")))
            if record and not found["version"]:
                found["version"] = record["version"]
            return found
    try:
        elsewhere = importlib.util.find_spec("torch")  # an editable installation
    except Exception:
        elsewhere = None
    return version_file(os.path.dirname(elsewhere.origin)) if elsewhere is not None and elsewhere.origin else None


def version_file(location: str) -> dict:
    """Return what torch/version.py says."""
    text = read(os.path.join(location, "version.py"))
    values = dict(re.findall(r"^(__version__|cuda|hip|git_version)\b[^=\n]*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE))
    return {
        "version": values.get("__version__"),
        "cuda": values.get("cuda"),
        "hip": values.get("hip"),
        "git": values.get("git_version"),
        "location": location,
    }


def missing_files(metadata: str) -> list:
    """Return the Python files and shared libraries of a distribution that are gone, and the libraries that have another size than RECORD says."""
    folder, missing = os.path.dirname(metadata), []
    seen = {}  # type: dict
    end = time.time() + 1.5  # a cold network disk: better an answer about the first files than none
    for line in read(os.path.join(metadata, "RECORD")).splitlines():
        path, _, size = [*line.rsplit(",", 2), "", ""][:3]
        if not (path.endswith(".py") or ".so" in os.path.basename(path)) or path.startswith("..") or time.time() > end:
            continue
        inside, name = os.path.split(path)
        if inside not in seen:
            seen[inside] = set(names_in(os.path.join(folder, inside)))
        if name not in seen[inside]:
            missing.append(path + ": missing")
        elif ".so" in name and size.isdigit() and os.path.getsize(os.path.join(folder, path)) != int(size):
            missing.append(f"{path}: {os.path.getsize(os.path.join(folder, path))} bytes, should be {size}")
    # The libraries first: they are what an import stumbles over.
    return sorted(missing, key=lambda one: ".so" not in one)


def pins(metadata: str) -> dict:
    """Return the exact versions that a distribution demands of nvidia packages and triton on this system."""
    found = {}
    for name, version, marker in re.findall(
        r"^Requires-Dist: ([\w.-]+)\s*\(?==\s*([\w.]+)\)?\s*(;.*)?$", read(os.path.join(metadata, "METADATA"), 200_000), re.MULTILINE
    ):
        if (name.startswith("nvidia-") or name == "triton") and "extra" not in marker and applies(marker):
            found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return found


def applies(marker: str) -> bool:
    """Return whether a dependency's marker holds here, for the markers that torch uses; whatever is not one of them does not."""
    values = {"platform_system": "Linux", "platform_machine": os.uname().machine, "sys_platform": "linux"}
    for part in marker.lstrip("; ").replace("(", "").replace(")", "").split(" and ") if marker else []:
        match = re.match(r"^\s*(\w+)\s*(==|<|>=)\s*[\"']([^\"']*)[\"']\s*$", part)
        if not match:
            return False
        name, operator, value = match.groups()
        if name == "python_version":
            wanted, ours = tuple(int(number) for number in value.split(".")), tuple(sys.version_info[:2])
            if not {"<": ours < wanted, ">=": ours >= wanted, "==": ours == wanted}[operator]:
                return False
        elif values.get(name) != value or operator != "==":
            return False
    return True


def architectures(path: str) -> list:
    """Return the GPU architectures that torch was built for, from the text that stands in its library."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = re.search(rb"\0((?:sm|compute)_\d+[af]?(?: (?:sm|compute)_\d+[af]?)*)\0", content)
            return found.group(1).decode().split() if found else []
    except (OSError, ValueError):
        return []


# --- torch: imported -------------------------------------------------------------------------------------------------------------


def torch_imported() -> None:
    """Import torch, then ask it about CUDA."""
    if not exists("torch"):
        return say(stage="missing")
    begin = time.time()
    torch = importlib.import_module("torch")
    version = getattr(torch, "version", None)
    say(
        stage="import",
        import_s=round(time.time() - begin, 3),
        version=getattr(torch, "__version__", None) and str(torch.__version__),
        cuda=getattr(version, "cuda", None),
        hip=getattr(version, "hip", None),
        file=getattr(torch, "__file__", None),
        **about_cpu(torch),
    )
    say(stage="loaded", loaded=loaded())
    say(stage="cuda", **about_cuda(torch))
    say(stage="cudnn", **about_cudnn(torch))
    say(stage="loaded", loaded=loaded())
    if exists("triton") and getattr(version, "cuda", None):
        say(stage="triton", triton_error=error_of("triton"))
    if exists("torchvision"):
        say(stage="torchvision begins")
        say(stage="torchvision", **about_torchvision(torch))
    say(stage="end")


def exists(name: str) -> bool:
    """Return whether a module can be found, broken or not."""
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return True


def error_of(name: str) -> Any:
    """Return what importing a module raises, or None."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return text_of(error)
    return None


def asked(question: Any) -> Any:
    """Return an answer, or None where there is none."""
    try:
        return question()
    except Exception:
        return None


def about_cpu(torch: Any) -> dict:
    """Return the architectures, threads and runtimes that torch names."""
    flags = asked(lambda: torch._C._cuda_getArchFlags())  # torch.cuda.get_arch_list() says nothing without a GPU
    parallel = asked(lambda: torch.__config__.parallel_info()) or ""
    kept = [line.strip() for line in parallel.splitlines() if "OpenMP" in line or "Math Kernel" in line]
    return {
        "architectures": flags.split() if flags else [],
        "threads": asked(lambda: torch.get_num_threads()),
        "parallel": "\n".join(kept)[:500] or None,
    }


def about_cuda(torch: Any) -> dict:
    """Return what torch says of CUDA. Nothing is put on a GPU."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        available = asked(lambda: bool(torch.cuda.is_available()))
        count = asked(lambda: int(torch.cuda.device_count()))
    text = "\n".join(str(warning.message) for warning in seen)[:_MOST]
    error = None
    if getattr(torch.version, "cuda", None) or getattr(torch.version, "hip", None):
        try:
            torch.cuda.init()
        except Exception as caught:
            error = text_of(caught)
    nccl = asked(lambda: torch.cuda.nccl.version())
    return {
        "available": available,
        "available_text": text,
        "device_count": count,
        "cuda_error": error,
        "nccl": ".".join(map(str, nccl)) if isinstance(nccl, tuple) else str(nccl) if nccl else None,
    }


def about_cudnn(torch: Any) -> dict:
    """Return the version of the cuDNN that is loaded, or why torch refuses it."""
    try:
        return {"cudnn": torch.backends.cudnn.version(), "cudnn_text": ""}
    except Exception as error:
        return {"cudnn": None, "cudnn_text": text_of(error)}


def loaded() -> list:
    """Return the libraries of CUDA and OpenMP in this process."""
    paths = {line.split(None, 5)[5].strip() for line in read("/proc/self/maps").splitlines() if len(line.split(None, 5)) == 6}
    return [library(path) for path in sorted(paths) if LIBRARY.match(os.path.basename(path)) and ".so" in path]


# --- torchvision -------------------------------------------------------------------------------------------------------------------


def about_torchvision(torch: Any) -> dict:
    """Load torchvision's compiled operators and run one.

    Of the package only the two files that do so are imported: the whole takes a second more (it imports torch._dynamo, 0.28) and tells no more.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("torchvision is no package")
    package = types.ModuleType("torchvision")
    package.__path__, package.__file__ = list(spec.submodule_search_locations), spec.origin
    sys.modules["torchvision"] = package
    found = {"version": version_file(package.__path__[0])["version"], "location": package.__path__[0], "error": None}
    try:
        importlib.import_module("torchvision.extension")
        importlib.import_module("torchvision._meta_registrations")
        torch.ops.torchvision.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:
        found["error"] = "\n".join(part for part in (text_of(error), why_not_loaded(torch, package.__path__[0])) if part)
    return found


def why_not_loaded(torch: Any, location: str) -> Any:
    """Return what the loader says of torchvision's library: torchvision itself swallows it."""
    for name in names_in(location):
        if name.startswith("_C.") and name.endswith(".so"):
            try:
                torch.ops.load_library(os.path.join(location, name))
            except Exception as error:
                return text_of(error)
    return None


def main(what: str, limit_s: float) -> None:
    """Run one probe."""
    # A script's own folder stands first on sys.path; files there must not be taken for modules of the examined Python.
    own = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0] or ".") == own:
        del sys.path[0]
    faulthandler.enable()
    faulthandler.dump_traceback_later(limit_s, exit=True)
    {"installed": installed, "torch": torch_imported}[what]()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
