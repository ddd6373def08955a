"""Signatures of images by cosign, if it is installed: of an image in a registry, or of a layout on the disk through its manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker import shell
from stoker.errors import EngineFailed, ImageBroken, ProgramMissing, UsageError
from stoker.image.hashes import sha256_of
from stoker.image.oci import Layout, read_layout

_TIME_LIMIT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signs, or whose signature is wanted."""

    key: str | None = None
    """A file with a key of cosign's, or what cosign takes for one (`k8s://`, `awskms://`, ...); None: by identity (OIDC)."""
    identity: str | None = None
    """Without a key: the identity that must have signed, as an address of mail or of a workflow."""
    issuer: str | None = None
    """Without a key: who vouches for that identity."""
    log: bool = False
    """Whether the signature is entered into (looked up in) the public transparency log. Without a key it must be."""


def sign(target: str, signer: Signer) -> str:
    """Sign a layout's folder or `REGISTRY/NAME@sha256:...`; return where the signature is.

    Raises ProgramMissing without cosign, UsageError for a name without digest, ImageBroken, EngineFailed with cosign's own words.
    """
    layout = _layout(target)
    if layout is None:
        _need_digest(target)
        _run(sign_command(target, signer))
        return target
    bundle = bundle_path(layout.folder)
    _run(sign_blob_command(_manifest(layout), bundle, signer))
    return str(bundle)


def verify(target: str, signer: Signer) -> str:
    """Check the signature of a layout (and that all its blobs are as the signed manifest says) or of an image in a registry; return its digest.

    Raises UsageError for a name without digest, ImageBroken for a layout that is not as it was signed, EngineFailed where cosign does not accept
    the signature, ProgramMissing.
    """
    layout = _layout(target)
    if layout is None:
        _need_digest(target)
        _run(verify_command(target, signer))
        return target.rpartition("@")[2]
    bundle = bundle_path(layout.folder)
    if not bundle.exists():
        raise ImageBroken(f"{target} has no signature: there is no {bundle}", hint=f"`stoker image sign {target}` makes it")
    _run(verify_blob_command(_manifest(layout), bundle, signer))
    _need_whole(layout)
    return layout.digest


def bundle_path(folder: Path) -> Path:
    """Return where the signature of a layout lies: beside it, since what is in it is what was signed."""
    return folder.absolute().with_name(f"{folder.absolute().name}.sigstore.json")


def sign_command(reference: str, signer: Signer) -> list[str]:
    """Return how cosign signs an image in a registry."""
    return ["cosign", "sign", "--yes", *_how(signer), reference]


def sign_blob_command(manifest: Path, bundle: Path, signer: Signer) -> list[str]:
    """Return how cosign signs a file."""
    return ["cosign", "sign-blob", "--yes", *_how(signer), "--bundle", str(bundle), str(manifest)]


def verify_command(reference: str, signer: Signer) -> list[str]:
    """Return how cosign checks an image in a registry."""
    return ["cosign", "verify", *_whose(signer), reference]


def verify_blob_command(manifest: Path, bundle: Path, signer: Signer) -> list[str]:
    """Return how cosign checks a file."""
    return ["cosign", "verify-blob", *_whose(signer), "--bundle", str(bundle), str(manifest)]


def _how(signer: Signer) -> list[str]:
    if signer.key is None:
        return []
    return ["--key", signer.key, *([] if signer.log else ["--tlog-upload=false"])]


def _whose(signer: Signer) -> list[str]:
    if signer.key is not None:
        return ["--key", signer.key, *([] if signer.log else ["--insecure-ignore-tlog=true"])]
    if not signer.identity or not signer.issuer:
        raise UsageError(
            "a signature without a key counts by who made it: neither key nor identity was given",
            hint="give --key FILE.pub, or --identity NAME together with --issuer ADDRESS",
        )
    return ["--certificate-identity", signer.identity, "--certificate-oidc-issuer", signer.issuer]


def _layout(target: str) -> Layout | None:
    return read_layout(Path(target)) if os.path.isdir(target) else None


def _manifest(layout: Layout) -> Path:
    return layout.blob(layout.digest)


def _need_digest(target: str) -> None:
    if "@sha256:" not in target:
        raise UsageError(
            f"{target} names no digest: a tag may mean another image by the time that it is signed, or started",
            hint="name what `stoker image build --push` printed: REGISTRY/NAME@sha256:..., or the folder of a layout",
        )


def _need_whole(layout: Layout) -> None:
    """The signature covers the manifest, and the manifest names the hash of all else: that must be what lies there."""
    for blob in (layout.manifest["config"], *layout.manifest["layers"]):
        if blob["digest"] != f"sha256:{sha256_of(layout.blob(blob['digest']))}":
            raise ImageBroken(f"{layout.folder}: {blob['digest']} has other bytes than were signed", hint="do not use this image; build it again")


def _run(command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None:
        raise ProgramMissing(
            "cosign is not installed, and it makes and checks the signatures", hint="Debian 13 has it as a package: `apt install cosign`"
        )
    done = shell.run(list(command), timeout_s=_TIME_LIMIT_S)
    if not done.ok:
        said = "\n".join((done.err or done.out).strip().splitlines()[-8:])
        raise EngineFailed(
            f"{done.command} failed:\n{said}",
            hint="a key with a password needs COSIGN_PASSWORD (empty for a key without one); `cosign generate-key-pair` makes a pair",
        )
