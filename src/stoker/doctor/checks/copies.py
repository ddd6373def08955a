"""Whether a module would be imported from another place than the person thinks."""

from __future__ import annotations

import shlex

from stoker.doctor.checks.builds import numbers, reinstall
from stoker.doctor.facts import Facts
from stoker.doctor.facts.python import Copy
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped

_HIDING = ("PYTHONPATH", "user site")
# Files of these names hide a whole package; the others on the list hide a module of Python's own library.
_PACKAGES = ("torch", "torchvision", "torchaudio", "numpy", "PIL", "triton", "sympy", "networkx", "jinja2")


def torch_twice(facts: Facts) -> Outcome:
    """torch is installed twice, and the wrong copy may be the one that is imported.

    The first folder on sys.path wins. A torch in the person's own site-packages (`pip install --user`) or on PYTHONPATH hides the environment's;
    pip over conda in one folder mixes the files of two builds, and each installer believes in its own. To see it: `python -c "import torch;
    print(torch.__version__, torch.__file__)"`, `pip list --path`. A virtual environment that covers the torch of the Python below it is as it
    should be, and nothing is said.
    """
    python = facts.python
    found = [copy for copy in python.copies if copy.name == "torch"]
    if python.version is None or not found:
        return Skipped(reason="no torch, or the Python could not be asked")
    if why := _mixed(facts, found):
        return _twice(facts, found, Severity.ERROR if _fails(facts) else Severity.WARNING, why)
    if len(found) > 1 and found[0].origin in _HIDING and found[1].origin not in _HIDING:
        why = f"torch {found[0].version} from {_called(found[0])} hides torch {found[1].version} of the environment"
        return _twice(facts, found, Severity.ERROR if _fails(facts) else Severity.WARNING, why)
    return Passed(what="torch is there once" if len(found) == 1 else f"the first of {len(found)} copies of torch is the environment's own")


def pip_conda_mixed(facts: Facts) -> Outcome:
    """pip has replaced a package that conda installed.

    Both write into the same folder, and neither knows of the other: conda's next update restores or removes files of pip's version, and packages
    that conda built against its own numpy or torchvision load the other one. To see it: `conda list` shows the package twice or as `pypi`. Install
    with one of the two.
    """
    python = facts.python
    if not python.conda or not python.conda_packages:
        return Skipped(reason="no conda environment")
    mixed = []
    for copy in [one for one in python.copies if one.origin == "environment"]:
        conda = python.conda_packages.get(copy.name, "").partition(" ")[0]
        if copy.name != "torch" and conda and copy.installer in ("pip", "uv") and copy.version and numbers(conda) != numbers(copy.version):
            mixed.append(f"{copy.name}: conda says {conda}, {copy.installer} installed {copy.version} ({copy.location})")
    if not mixed:
        return Passed(what="conda and pip do not hold the same package in two versions")
    return Finding(
        severity=Severity.WARNING,
        what=f"pip has replaced {len(mixed)} package{'s' * (len(mixed) > 1)} of conda",
        evidence=tuple(mixed),
        consequence="the next `conda install` breaks one of the two, and compiled packages may load the wrong one",
        fix="conda create -n NAME python=3.12 && conda run -n NAME pip install -r requirements.txt   # Python from conda, all packages from pip",
    )


def user_site_leaks(facts: Facts) -> Outcome:
    """Packages of the person's own site-packages reach into the environment.

    conda environments, and virtual environments made with system packages, also see what was installed with `pip install --user` for the same version
    of Python, and it comes first. So two people with the same environment get different versions. To see it: `python -m site`. Without an environment
    that folder is the place where pip installs, and nothing is said.
    """
    python = facts.python
    if python.version is None:
        return Skipped(reason="the Python could not be asked")
    isolated = python.conda or (python.base_prefix is not None and python.prefix != python.base_prefix)
    if not isolated or not python.from_user_site:
        return Passed(what="no package that matters comes from the user site")
    if isinstance(torch_twice(facts), Finding):
        return Skipped(reason="see torch-twice")
    return Finding(
        severity=Severity.WARNING,
        what=f"{_counted(len(python.from_user_site))} into the environment from {python.user_site}",
        evidence=tuple(f"{python.user_site}: {package}" for package in python.from_user_site[:6]),
        consequence="what is trained with depends on who starts it",
        fix="export PYTHONNOUSERSITE=1",
    )


def shadowed_module(facts: Facts) -> Outcome:
    """A file in this folder has the name of a module that torch imports.

    Python looks first in the folder of the script. A file `torch.py`, `random.py` or `types.py` there is imported in place of the real module, and
    the error is far from the cause: "partially initialized module 'torch' has no attribute ... (most likely due to a circular import)". To see it:
    `python -c "import torch; print(torch.__file__)"` in this folder. Rename the file, and remove its `.pyc`.
    """
    python = facts.python
    if python.version is None:
        return Skipped(reason="the Python could not be asked")
    if not python.shadows:
        return Passed(what="no file of the working directory hides a module")
    names = [shadow.removesuffix("/__init__.py").removesuffix(".py") for shadow in python.shadows]
    package = next((name for name in names if name in _PACKAGES), None)
    first = python.shadows[names.index(package)] if package else python.shadows[0]
    name = package or names[0]
    old = first.removesuffix("/__init__.py")
    return Finding(
        severity=Severity.ERROR if package else Severity.WARNING,
        what=f"{first} in {python.folder} hides the {'package' if package else 'module of Python'} {name}",
        evidence=tuple(f"{python.folder}/{shadow}" for shadow in python.shadows[:6]),
        consequence=f"a script in this folder that imports {name}, itself or through torch, gets this file",
        fix=f"cd {shlex.quote(python.folder or '.')} && mv {shlex.quote(old)} {shlex.quote('my_' + old)}",
    )


def _mixed(facts: Facts, found: list[Copy]) -> str | None:
    """Return how two installations of torch lie in one folder."""
    together = [copy for copy in found if copy.location == found[0].location]
    if len(together) > 1:
        shown = " and ".join(f"{copy.version or 'an unknown version'}{f' ({copy.installer})' if copy.installer else ''}" for copy in together)
        return f"torch is recorded twice in one folder: {shown}"
    conda = facts.python.conda_packages.get("pytorch", "")
    if conda and found[0].installer in ("pip", "uv") and found[0].origin == "environment":
        return f"{found[0].installer} installed torch {found[0].version} over conda's pytorch {conda.partition(' ')[0]}"
    return None


def _twice(facts: Facts, found: list[Copy], severity: Severity, what: str) -> Finding:
    python = facts.python
    conda = facts.python.conda_packages.get("pytorch")
    shown = [f"{copy.location}: torch {copy.version} ({copy.origin}{', by ' + copy.installer if copy.installer else ''})" for copy in found]
    fixes = {
        "user site": f"export PYTHONNOUSERSITE=1\n# or for good: {python.executable} -m pip uninstall torch   # outside of the environment",
        "PYTHONPATH": f"unset PYTHONPATH   # or take {found[0].location} out of it",
    }
    repair = "conda remove --force pytorch && " + reinstall(facts) if conda else reinstall(facts)
    return Finding(
        severity=severity,
        what=what,
        evidence=(*shown, *((f"conda-meta: pytorch {conda}",) if conda else ())),
        consequence="another torch runs than the one that was installed for this, or a mixture of two",
        fix=fixes.get(found[0].origin, repair) if len({copy.location for copy in found}) > 1 else repair,
    )


def _counted(packages: int) -> str:
    return "1 package reaches" if packages == 1 else f"{packages} packages reach"


def _called(copy: Copy) -> str:
    return "PYTHONPATH" if copy.origin == "PYTHONPATH" else f"the {copy.origin}"


def _fails(facts: Facts) -> bool:
    """Return whether the torch that is found cannot be used: it cannot be imported, or the environment's torchvision was built for the other one."""
    torch, torchvision = facts.python.torch, facts.python.torchvision
    return (torch is not None and torch.import_tried and torch.import_code != 0) or (torchvision is not None and torchvision.runs is False)


CHECKS: tuple[Check, ...] = (torch_twice, shadowed_module, user_site_leaks, pip_conda_mixed)
