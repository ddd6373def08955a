"""Versions: the packages that an image says it has, against those of its lock."""

from __future__ import annotations

import re

from stoker.image.checks.contents import Contents
from stoker.image.checks.finding import Finding, finding
from stoker.image.checks.ownership import PREFIX, normalised, site_packages
from stoker.image.checks.subject import Configuration
from stoker.image.configuration import VARIANTS
from stoker.image.lock import Lock
from stoker.image.oci import LOCK

_REBUILD = "build the image again from its stoker.lock, and change nothing in it by hand: `stoker image build`"
_METADATA = re.compile(r"(.+)/[^/]+\.(?:dist|egg)-info/(?:METADATA|PKG-INFO)")


def judge_packages(lock: Lock, contents: Contents) -> list[Finding]:
    """Compare the packages of Debian and those of every Python environment with the lock."""
    return [*_debs(lock, contents), *_wheels(lock, contents), *_strays(lock, contents)]


def judge_labels(lock: Lock, configuration: Configuration) -> list[Finding]:
    """Compare the lock's digest with the one that the image says it was built from."""
    said = configuration.labels.get(LOCK)
    if said == lock.digest:
        return []
    what = "the image was built from another lock" if said else "the image does not say which lock it was built from"
    return finding("other-lock", what, [f"label {LOCK}: {said or 'not there'}", f"digest of the lock: {lock.digest}"], _REBUILD)


def built_part(lock: Lock, configuration: Configuration) -> Lock:
    """Return the part of a lock that the image was built from, as its label says."""
    variants = configuration.labels.get(VARIANTS, "").split()
    return lock.part(variants) if variants and set(variants) < set(lock.variants) else lock


def installed_debs(contents: Contents) -> dict[tuple[str, str], str]:
    """Return the version of every installed package of Debian by name and architecture."""
    found = {}
    for path in contents.texts:
        if not re.fullmatch(r"var/lib/dpkg/(status|status\.d/[^/]+)", path) or path.endswith(".md5sums"):
            continue
        for paragraph in re.split(r"\n\s*\n", contents.text(path) or ""):
            fields = dict(re.findall(r"^(Package|Version|Architecture|Status): *(.*)$", paragraph, re.MULTILINE))
            if "Package" in fields and fields.get("Status", "install ok installed").endswith(" installed"):
                found[fields["Package"], fields.get("Architecture", "")] = fields.get("Version", "")
    return found


def installed_distributions(contents: Contents) -> dict[str, dict[str, str]]:
    """Return the version of every Python distribution by folder (as `.../site-packages`) and name."""
    found: dict[str, dict[str, str]] = {}
    for path in contents.texts:
        place = _METADATA.fullmatch(path)
        if place:
            head = (contents.text(path) or "").partition("\n\n")[0]
            fields = dict(re.findall(r"^(Name|Version): *(.*?)\s*$", head, re.MULTILINE))
            if "Name" in fields:
                found.setdefault(place[1], {})[normalised(fields["Name"])] = fields.get("Version", "")
    return found


def _debs(lock: Lock, contents: Contents) -> list[Finding]:
    if lock.base.kind != "debian":
        return []
    wanted = {(deb.name, deb.architecture): deb.version for deb in lock.base.debs}
    there = installed_debs(contents)
    if not there:
        return finding("packages-differ", "the image has no record of Debian's packages", ["/var/lib/dpkg/status is missing or empty"], _REBUILD)
    return _differences(
        {f"{name}:{arch}": version for (name, arch), version in wanted.items()}, {f"{n}:{a}": v for (n, a), v in there.items()}, "Debian"
    )


def _wheels(lock: Lock, contents: Contents) -> list[Finding]:
    there = installed_distributions(contents)
    found = []
    for stack in lock.stacks:
        wanted = {wheel.name: wheel.version for wheel in stack.wheels}
        found += _differences(wanted, there.get(site_packages(lock, stack), {}), f"the stack {stack.name}")
    return found


def _differences(wanted: dict[str, str], there: dict[str, str], place: str) -> list[Finding]:
    missing = [f"{name} {version}" for name, version in wanted.items() if name not in there]
    extra = [f"{name} {version}" for name, version in there.items() if name not in wanted]
    other = [f"{name}: {there[name]}, the lock has {version}" for name, version in wanted.items() if name in there and there[name] != version]
    return [
        *finding("package-missing", f"packages of the lock are missing from {place}", missing, _REBUILD),
        *finding("package-extra", f"packages that the lock does not have are in {place}", extra, f"put them into stoker.toml, or {_REBUILD}"),
        *finding("packages-differ", f"packages of {place} have other versions than in the lock", other, _REBUILD),
    ]


def _strays(lock: Lock, contents: Contents) -> list[Finding]:
    """Python packages outside of the stacks: those that somebody installed beside them, and that no lock knows. Debian's own are in its list."""
    own = {site_packages(lock, stack) for stack in lock.stacks} | {f"{PREFIX}/lib"}
    strays = [
        f"{name} {version} in /{folder}"
        for folder, there in installed_distributions(contents).items()
        if folder not in own
        and not folder.startswith(("usr/lib/python3/dist-packages", "usr/share/python-wheels"))
        # A distribution inside of another one, as setuptools' _vendor.
        and not any(folder.startswith(site + "/") for site in own)
        for name, version in there.items()
    ]
    return finding("package-extra", "Python packages lie outside of the stacks", strays, f"put them into stoker.toml, or {_REBUILD}")
