"""What a lock is made of: its Debian packages, wheels, stacks, base, and Stoker itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Deb:
    """One package of Debian."""

    name: str
    version: str
    architecture: str
    """`amd64`, `arm64` or `all`."""
    file: str
    """Where it lies in an archive, as `Filename` in `Packages` says: `pool/main/...deb`."""
    sha256: str
    size: int
    """In bytes."""
    archive: str
    """`debian` or `security`."""
    variants: tuple[str, ...]
    """Which variants need it, ("cli",) for what is always there."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel."""

    name: str
    """Normalised: lower case, `-` between words."""
    version: str
    file: str
    """As `torch-2.8.0-cp313-cp313-manylinux_2_28_x86_64.whl`."""
    sha256: str
    size: int
    """In bytes."""
    index: str | None
    """PyTorch's own index of that name, as `cu126`; None: the default index."""
    variants: tuple[str, ...]
    """Which variants need it, ("cli",) for what is always there."""
    extra: bool = False
    """Whether it is there for the person's own packages only, and for nothing that Stoker puts into every image."""


@dataclass(frozen=True, kw_only=True)
class LockedStack:
    """One Python environment of the image, under `/opt/stoker/<name>`."""

    name: str
    """`cu130`, `cpu`; `plain` without PyTorch."""
    torch: str | None
    """None: an image without PyTorch."""
    torchvision: str | None
    cuda: str | None
    """As `13.0`; None: for the CPU."""
    toolkit: str | None
    """The toolkit that it was built with; None: not known."""
    cudnn: str | None
    driver_min: str | None
    """The oldest driver that runs it."""
    driver_full: str | None
    """The driver from which on nothing is missing."""
    architectures: tuple[str, ...]
    """The machine code in it, as ("75", "80")."""
    ptx: bool
    """Whether PTX of the newest one is there, too."""
    wheels: tuple[Wheel, ...]
    """Sorted by name."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the layers lie on."""

    kind: str
    """`debian` or `oci`."""
    suite: str | None
    """As `trixie`."""
    digest: str | None
    """Of an OCI base: `sha256:...`."""
    debs: tuple[Deb, ...]
    """Sorted by name."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Stoker's own files in the image."""

    version: str
    sha256: str
