"""apt, asked what has to be installed: with a folder of its own in place of `/etc/apt`, `/var/lib/apt` and `/var/lib/dpkg`.

Of the host's configuration it takes the way to the mirrors (proxies, certificates, logins) and nothing else. It knows no installed package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from stoker.errors import BuildFailed, DiskFull, DownloadFailed, PackageGone, ProgramMissing, StokerError
from stoker.image.archives import Archives
from stoker.shell import Outcome, run

# apt-get --print-uris: 'ADDRESS' FILE SIZE SHA256:HASH
_ROW = re.compile(r"'([^']+)' (\S+)\.deb (\d+) SHA256:([0-9a-f]{64})", re.MULTILINE)
# What the person told apt about the way to its mirrors; hooks, suites and pins of the host are none of ours.
_WAY_TO_MIRRORS = re.compile(r"Acquire::(https?(::.*)?|ftp(::.*)?|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|Queue-Mode) .*;")
_SLOW_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """A package as apt would fetch it."""

    version: str
    architecture: str
    file: str
    sha256: str
    size: int
    archive: str


@dataclass(frozen=True, kw_only=True)
class Apt:
    """apt with a folder in place of `/etc/apt`, `/var/lib/apt` and `/var/lib/dpkg`: it knows no installed package."""

    folder: Path
    archives: Archives
    suite: str
    architecture: str

    def prepare(self) -> None:
        """Lay out the folder."""
        for name in (
            "etc/apt",
            "etc/apt/preferences.d",
            "var/lib/apt/lists/partial",
            "var/lib/dpkg",
            "var/cache/apt/archives/partial",
            "var/log/apt",
            "tmp",
        ):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "var/lib/dpkg/status").write_text("")
        (self.folder / "apt.conf").write_text(self._configuration())
        options = f"[arch={self.architecture} signed-by={self.archives.keyring}]"
        debian, security = (address.replace("copy:", "file:", 1) for address in (self.archives.debian, self.archives.security))
        (self.folder / "etc/apt/sources.list").write_text(
            f"deb {options} {debian} {self.suite} main\n"
            f"deb {options} {debian} {self.suite}-updates main\n"
            f"deb {options} {security} {self.suite}-security main\n"
        )

    def _configuration(self) -> str:
        host = run(["apt-config", "dump"], timeout_s=30)
        if host.code is None:
            raise ProgramMissing("apt is not there: it resolves and verifies Debian's packages", hint="install apt and debian-archive-keyring")
        way = [line for line in host.out.splitlines() if _WAY_TO_MIRRORS.fullmatch(line)]
        own = [
            f'Dir "{self.folder}";',
            f'Dir::State::status "{self.folder}/var/lib/dpkg/status";',
            'Dir::Etc::netrc "/etc/apt/auth.conf";',
            'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
            f'APT::Architecture "{self.architecture}";',
            f'APT::Architectures "{self.architecture}";',
            'APT::Install-Recommends "false";',
            'APT::Install-Suggests "false";',
            # A list that could not be fetched is no list: without it security fixes would be missing unnoticed.
            'APT::Update::Error-Mode "any";',
            # The folder belongs to whoever runs this; the user _apt could not write to it.
            'APT::Sandbox::User "";',
            'Acquire::Languages "none";',
            'Acquire::AllowInsecureRepositories "false";',
            'Acquire::AllowDowngradeToInsecureRepositories "false";',
            'Acquire::ForceHash "SHA256";',
            # apt takes itself for essential; an image is built from outside.
            'pkgCacheGen::ForceEssential ",";',
        ]
        return "\n".join([*way, *own]) + "\n"

    def update(self) -> None:
        """Fetch the lists of packages and check their signatures."""
        done = self._run("apt-get", "-q", "update")
        if not done.ok:
            raise _update_refused(done, self)

    def pin(self, pins: Mapping[str, tuple[str, int]]) -> None:
        """Prefer these versions (name -> version, priority) from now on; an empty version stands for all of them."""
        rows = [
            f"Package: {name}\nPin: {f'version {version}' if version else 'release *'}\nPin-Priority: {level}\n"
            for name, (version, level) in pins.items()
        ]
        (self.folder / "etc/apt/preferences").write_text("\n".join(rows))

    def resolve(self, names: Sequence[str]) -> dict[str, Found]:
        """Return what has to be installed for these packages, the essential ones included, by name."""
        essential = f"?narrow(?architecture({self.architecture}),?essential)"
        done = self._run("apt-get", "-q", "-y", "--print-uris", "install", essential, *names)
        if not done.ok:
            raise _resolve_refused(done, self.suite)
        found: dict[str, Found] = {}
        for address, label, size, sha256 in _ROW.findall(done.out):
            name, version, architecture = label.split("_")
            archive, file = self._place(address)
            found[name] = Found(version=unquote(version), architecture=architecture, file=file, sha256=sha256, size=int(size), archive=archive)
        if done.out.count(".deb ") != len(found) or not found:
            raise BuildFailed(f"apt answered in words that Stoker does not know: {done.out[-300:]!r}", hint="install apt 2.2 or newer")
        return found

    def _place(self, address: str) -> tuple[str, str]:
        """Return the archive of an address, and the path in it."""
        # The security archive may lie below the other one's address (`.../debian` and `.../debian-security`): the longer one first.
        for archive, base in sorted((("debian", self.archives.debian), ("security", self.archives.security)), key=lambda row: -len(row[1])):
            for form in (base, _without_slashes(base)):
                if address.startswith(f"{form}/"):
                    return archive, unquote(address.removeprefix(f"{form}/"))
        raise BuildFailed("apt would fetch a package from neither archive", hint="say which mirror this is: its answers cannot be locked")

    def _run(self, *arguments: str) -> Outcome:
        done = run(
            [
                "env",
                "-u",
                "APT_LISTCHANGES_FRONTEND",
                f"APT_CONFIG={self.folder}/apt.conf",
                "LC_ALL=C.UTF-8",
                f"TMPDIR={self.folder}/tmp",
                *arguments,
            ],
            timeout_s=_SLOW_S,
        )
        if done.code in (None, 127):
            raise ProgramMissing(f"{arguments[0]} did not answer: {done.err.strip()}", hint="install apt and debian-archive-keyring")
        return done


def _without_slashes(address: str) -> str:
    """Return `file:///a` as `file:/a`, which is how apt writes it back."""
    return "file:" + address.removeprefix("file://") if address.startswith("file:///") else address


def _complaints(done: Outcome) -> str:
    """Return what apt has to say, without addresses' credentials."""
    lines = [line for line in (done.err + "\n" + done.out).splitlines() if line.startswith(("E:", "W:", "Err:", " ", "The following"))]
    # Its folder is ours, made for this call: what it misses in there nobody else does.
    lines = [line for line in lines if "- DirectoryExists (2: " not in line]
    text = "\n".join(lines[-12:]) or (done.err or done.out)[-500:]
    return re.sub(r"//[^/@\s]+@", "//", text)


def _update_refused(done: Outcome, apt: Apt) -> StokerError:
    said = _complaints(done)
    if "No space left" in said:
        return DiskFull(
            f"no space left on the disk for the lists of Debian's packages:\n{said}", hint="free space in the folder for temporary files (TMPDIR)"
        )
    if any(
        word in said
        for word in ("NO_PUBKEY", "is not signed", "not available", "signatures couldn't be verified", "BADSIG", "EXPKEYSIG", "INRELEASE")
    ):
        return BuildFailed(
            f"Debian {apt.suite} is not signed by a key of {apt.archives.keyring}:\n{said}",
            hint="update the package debian-archive-keyring; if it is new, the mirror is not to be trusted",
        )
    if "404" in said or "does not have a Release file" in said:
        return DownloadFailed(
            f"the mirror has no Debian {apt.suite}:\n{said}", hint="name another one in stoker.toml: [image.mirrors] debian = ..., security = ..."
        )
    return DownloadFailed(
        f"the lists of Debian's packages could not be fetched:\n{said}", hint="check the network and the mirrors of apt, then try again"
    )


def _resolve_refused(done: Outcome, suite: str) -> StokerError:
    said = _complaints(done)
    if missing := re.findall(r"Unable to locate package (\S+)|Package '(\S+)' has no installation candidate", said):
        names = ", ".join(sorted({name for pair in missing for name in pair if name}))
        return PackageGone(
            f"Debian {suite} has no package {names}", hint="look for its name in Debian's package search and mend `debs` in stoker.toml"
        )
    return BuildFailed(
        f"apt finds no way to install the packages of the image together:\n{said}", hint="leave out the package that it names from `debs`"
    )
