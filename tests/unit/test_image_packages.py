"""The table of packages, and which Debian goes with which Python."""

from __future__ import annotations

import re

import pytest

from stoker.errors import BuildFailed, SpecificationBroken
from stoker.image.debian import RELEASES, python_full, suite_of
from stoker.image.lock import Base, Deb
from stoker.image.packages import debian_packages, needs, python_packages
from stoker.image.specification import VARIANTS


def deb(name: str, version: str) -> Deb:
    return Deb(
        name=name, version=version, architecture="amd64", file=f"pool/{name}.deb", sha256="0" * 64, size=1, archive="debian", variants=("cli",)
    )


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_every_suite_has_what_torch_compile_and_triton_need(release: object) -> None:
    assert hasattr(release, "python")
    packages = debian_packages(release.name, "cli")  # type: ignore[attr-defined]
    assert {"python3", "gcc", "g++", "libc6-dev", f"libpython{release.python}-dev"} <= set(packages)
    assert list(packages) == sorted(set(packages))


def test_the_variants_have_what_their_names_promise() -> None:
    assert {"zsh", "zsh-autosuggestions", "zsh-syntax-highlighting", "git", "tmux", "vim", "rsync", "less"} <= set(debian_packages("trixie", "dev"))
    assert "openssh-server" in debian_packages("trixie", "ssh")
    assert {"jupyterlab-nvdashboard", "ipympl", "ipywidgets"} <= set(python_packages("notebook"))
    for variant in ("notebook", "dev"):
        assert "opencv-python-headless" in python_packages(variant)
    # With its windows it needs libGL, and both packages own the same files.
    assert not [need for need in needs() if need.name.startswith("opencv-python") and "headless" not in need.name]


def test_every_row_is_for_a_variant_and_a_suite_that_exist_once_and_says_why() -> None:
    rows = [(need.archive, need.variant, need.name) for need in needs()]
    assert len(rows) == len(set(rows))
    for need in needs():
        assert need.variant in VARIANTS
        assert set(need.suites) <= {release.name for release in RELEASES}
        assert len(need.why) > 10


def test_what_stoker_itself_needs_is_in_every_image() -> None:
    # The list of pyproject.toml; torch is the stack's own.
    assert {re.split("[>=;]", name)[0] for name in python_packages("cli")} >= {"numpy", "pillow", "rich", "click", "psutil", "nvidia-ml-py", "tomli"}


def test_a_python_without_a_debian_is_refused_with_those_that_have_one() -> None:
    assert suite_of("3.13").name == "trixie"
    assert suite_of("3.11").glibc == (2, 36)
    with pytest.raises(SpecificationBroken) as refusal:
        suite_of("3.12")
    assert "3.13 (Debian 13, trixie)" in refusal.value.hint
    assert "oci:" in refusal.value.hint


def test_the_full_version_of_python_is_read_off_its_package() -> None:
    base = Base(kind="debian", suite="trixie", digest=None, debs=(deb("python3", "3.13.1-1"), deb("python3.13", "3.13.5-2+deb13u1")))
    assert python_full(base) == "3.13.5"
    with pytest.raises(BuildFailed):
        python_full(Base(kind="debian", suite="trixie", digest=None, debs=(deb("python3", "3.13.1-1"),)))
