"""Compare the catalogue's PyTorch rows with the metadata of the packages themselves, and write what is new.

    python tools/refresh_catalog.py                     # what the index has and the tables lack, and the four newest releases
    python tools/refresh_catalog.py 2.8.0 2.10.0        # these releases
    python tools/refresh_catalog.py --all               # all releases from 2.0 on
    python tools/refresh_catalog.py --architectures ... # the machine code in the wheels, too: reads some 10 MB of each
    python tools/refresh_catalog.py --write ...         # write new releases and what differs into src/stoker/catalog/torch.toml

It asks the index that uv or pip are configured for: file names (tags, Pythons, build tags), the METADATA of one wheel a release
(Requires-Dist), and with --architectures the list that is compiled into libtorch_python.so. Exit status: 0 nothing differs, 1 something does,
2 the packages could not be read.
What the tables know of PyTorch's own index (variants other than the default) is not on the default index and is not checked here.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.packages import Wheel, architectures, index_address, metadata, wheels

from stoker.catalog import TorchRelease, find_release, torch_releases, version_numbers
from stoker.files import write_text_atomically

TABLE = Path(__file__).resolve().parents[1] / "src" / "stoker" / "catalog" / "torch.toml"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the packages of one release say."""

    version: str
    pythons: tuple[str, ...]
    builds: tuple[str, ...]
    uploaded: datetime.date | None
    cuda: str | None
    cudnn: str | None
    nccl: str | None
    triton: str | None
    cuda_on_aarch64: bool
    torchvision: tuple[str, ...]
    torchaudio: tuple[str, ...]
    architectures: tuple[str, ...] | None
    """None: not asked for."""
    ptx: bool | None
    architectures_aarch64: tuple[str, ...] | None
    ptx_aarch64: bool | None


# --- what a release says --------------------------------------------------------------------------------------------


def pairs(index: str, project: str) -> dict[str, list[str]]:
    """Return which versions of torchvision or torchaudio ask for a torch, newest first: `==2.13.0` or `>=2.14.0` -> versions."""
    chosen = {wheel.version: wheel for wheel in wheels(index, project) if "x86_64" in wheel.platform or wheel.platform == "any"}
    found: dict[str, list[str]] = {}
    for version in sorted((version for version in chosen if re.fullmatch(r"[\d.]+", version)), key=version_numbers, reverse=True):
        if version_numbers(version) < ((0, 15) if project == "torchvision" else (2, 0)):
            break
        asked = re.search(r"^Requires-Dist: torch ?\(?([=>]=[\d.]+)\)?\s*$", metadata(chosen[version]), re.MULTILINE)
        if asked:
            found.setdefault(asked[1], []).append(version)
    return found


def paired(version: str, asked: dict[str, list[str]]) -> tuple[str, ...]:
    """Return the versions that pair with a torch: those that ask for exactly it, or else those that ask for it or an older one."""
    exact = asked.get(f"=={version}")
    loose = [one for wish, ones in asked.items() if wish.startswith(">=") and version_numbers(wish[2:]) <= version_numbers(version) for one in ones]
    return tuple(exact or loose)


def release_found(version: str, all_wheels: Sequence[Wheel], vision: dict[str, list[str]], audio: dict[str, list[str]], deep: bool) -> Found:
    """Read what the packages of one release say. Raises OSError when they cannot be read."""
    own = [wheel for wheel in all_wheels if wheel.version == version]
    intel = [wheel for wheel in own if wheel.platform.endswith("x86_64")]
    arm = [wheel for wheel in own if wheel.platform.endswith("aarch64")]
    if not intel:
        raise OSError(f"the index has no wheel of torch {version} for Linux x86_64")
    # The wheel that pip takes: the highest build tag.
    one = max(intel, key=lambda wheel: (int(re.match(r"\d*", wheel.build or "0")[0] or 0), wheel.python == "3.11"))  # type: ignore[index]
    asked = metadata(one)
    codes, ptx = architectures(one) if deep else (None, None)
    cuda_on_aarch64 = bool(arm) and "nvidia-cudnn" in _unmarked(metadata(arm[0]))
    codes_aarch64, ptx_aarch64 = architectures(arm[0]) if deep and cuda_on_aarch64 else (None, None)
    cuda = _required(asked, r"cuda-toolkit", r"==") or _required(asked, r"nvidia-cuda-runtime[-\w]*", "==")
    return Found(
        version=version,
        pythons=tuple(sorted({wheel.python for wheel in intel}, key=_python_order)),
        builds=tuple(sorted({wheel.build for wheel in intel if wheel.build})),
        uploaded=min((wheel.uploaded for wheel in intel if wheel.uploaded), default=None),
        cuda=".".join(cuda.split(".")[:2]) if cuda else None,
        cudnn=_required(asked, r"nvidia-cudnn-cu\d+", "=="),
        nccl=_required(asked, r"nvidia-nccl-cu\d+", "=="),
        triton=_required(asked, "triton", "==") or ("~=" + loose if (loose := _required(asked, "triton", "~=")) else None),
        cuda_on_aarch64=cuda_on_aarch64,
        torchvision=paired(version, vision),
        torchaudio=paired(version, audio),
        architectures=codes,
        ptx=ptx,
        architectures_aarch64=codes_aarch64,
        ptx_aarch64=ptx_aarch64,
    )


def _required(text: str, name: str, relation: str) -> str | None:
    found = re.search(rf"^Requires-Dist: {name}(?:\[[^\]]*\])? ?\(?{re.escape(relation)}([\d.]+)", text, re.MULTILINE)
    return found[1] if found else None


def _unmarked(text: str) -> str:
    """Return the requirements that are not for x86_64 only."""
    return "\n".join(line for line in text.splitlines() if line.startswith("Requires-Dist:") and "x86_64" not in line)


def _python_order(python: str) -> tuple[bool, tuple[int, ...]]:
    return python.endswith("t"), version_numbers(python)


# --- the comparison -------------------------------------------------------------------------------------------------


def differences(found: Found, row: TorchRelease) -> dict[str, tuple[object, object]]:
    """Return the fields in which a row of the tables differs from the packages: name -> (in the table, in the packages)."""
    variant = row.variant(row.default)
    assert variant is not None  # releases.py has checked it
    compared: dict[str, tuple[object, object]] = {
        "pythons": (row.pythons, found.pythons),
        "default": (row.default, _variant_name(found.cuda)),
        "default_aarch64": (row.default_aarch64 != "cpu", found.cuda_on_aarch64),
        "cudnn": (variant.cudnn, found.cudnn),
        "nccl": (row.nccl, found.nccl),
        "triton": (row.triton, found.triton),
    }
    if found.torchvision:
        # A row may hold more: torchvision 0.29.1 and 0.29.2 ask for torch 2.14.0 or newer and pair with several.
        compared["torchvision"] = (tuple(version for version in row.torchvision if version in found.torchvision), found.torchvision)
    if found.torchaudio:
        compared["torchaudio"] = (row.torchaudio, found.torchaudio)
    if found.architectures is not None and variant.architectures_evidence == "wheel":
        compared["architectures"] = (variant.architectures, found.architectures)
        compared["ptx"] = (variant.ptx, found.ptx)
    if found.architectures_aarch64 is not None and variant.architectures_evidence == "wheel":
        compared["architectures_aarch64"] = (variant.architectures_aarch64, found.architectures_aarch64)
        compared["ptx_aarch64"] = (variant.ptx_aarch64, found.ptx_aarch64)
    return {name: sides for name, sides in compared.items() if sides[0] != sides[1] and sides[1] is not None}


def _variant_name(cuda: str | None) -> str | None:
    return f"cu{cuda.replace('.', '')}" if cuda else None


# --- writing --------------------------------------------------------------------------------------------------------


def written(text: str, found: Found, today: datetime.date) -> str:
    """Return the table with what a release says: a new row, or the fields that differ. What belongs to several releases is left to a person."""
    row = find_release(found.version)
    if row is None or row.version != found.version:
        return text.rstrip("\n") + "\n\n" + new_rows(found, today)
    blocks = text.split("\n\n")
    place = next(number for number, block in enumerate(blocks) if block.startswith("[[release]]") and f'\nversion = "{found.version}"\n' in block)
    for name in set(differences(found, row)) & {"pythons", "triton", "nccl", "torchaudio"}:
        blocks[place] = re.sub(rf"^{name} = .*$", lambda _, name=name: f"{name} = {_toml(getattr(found, name))}", blocks[place], flags=re.MULTILINE)
    blocks[place] = re.sub(r"^checked = .*$", f"checked = {today}", blocks[place], flags=re.MULTILINE)
    return "\n\n".join(blocks)


def new_rows(found: Found, today: datetime.date) -> str:
    """Return the rows of a release that the table lacks. Raises OSError when its packages do not say enough."""
    missing = [name for name in ("cuda", "nccl", "triton", "architectures", "uploaded") if getattr(found, name) is None]
    if missing or not found.torchvision:
        raise OSError(f"torch {found.version}: not known: {', '.join([*missing, *([] if found.torchvision else ['torchvision'])])}")
    name = _variant_name(found.cuda)
    source = "PyPI: tags and Requires-Dist of the wheels; libtorch_python.so"
    release = {
        "version": found.version,
        "date": found.uploaded,
        "pythons": found.pythons,
        "default": name,
        "default_aarch64": name if found.cuda_on_aarch64 else "cpu",
        "triton": found.triton,
        "nccl": found.nccl,
        "torchvision": found.torchvision,
        "torchaudio": found.torchaudio,
    }
    variant = {
        "torch": (found.version,),
        "name": name,
        "cuda": found.cuda,
        "cudnn": found.cudnn,
        "architectures": found.architectures,
        "ptx": found.ptx,
        "aarch64": found.architectures_aarch64,
        "ptx_aarch64": found.ptx_aarch64,
    }
    proof = {"evidence": "wheel", "source": source, "checked": today}
    return _row("release", {**release, **proof}) + "\n" + _row("variant", {**variant, **proof, "architectures_evidence": "wheel"})


def _row(table: str, fields: dict[str, object]) -> str:
    return f"[[{table}]]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in fields.items() if value is not None)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value)


# --- the command ----------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Compare the catalogue with the packages.")
    parser.add_argument("versions", nargs="*", help="releases of torch, as 2.8.0")
    parser.add_argument("--all", action="store_true", help="all releases from 2.0 on")
    parser.add_argument("--architectures", action="store_true", help="read the machine code in the wheels, too")
    parser.add_argument("--write", action="store_true", help="write new releases and what differs into the table")
    asked = parser.parse_args()
    index = index_address()
    all_wheels = wheels(index, "torch")
    there = {wheel.version for wheel in all_wheels if re.fullmatch(r"\d+\.\d+\.\d+", wheel.version) and version_numbers(wheel.version) >= (2, 0)}
    known = [release.version for release in torch_releases()]
    new = sorted(there - set(known), key=version_numbers)
    versions = asked.versions or (sorted(there, key=version_numbers) if asked.all else [*new, *known[:4]])
    vision, audio = pairs(index, "torchvision"), pairs(index, "torchaudio")
    worst, text = 0, TABLE.read_text(encoding="utf-8")
    for version in versions:
        found = release_found(version, all_wheels, vision, audio, asked.architectures or (asked.write and version in new))
        worst = max(worst, _report(found))
        if asked.write:
            text = written(text, found, datetime.date.today())
    if asked.write:
        write_text_atomically(TABLE, text)
    return worst


def _report(found: Found) -> int:
    row = find_release(found.version)
    again = f" (uploaded again, build tag {', '.join(found.builds)})" if found.builds else ""
    code = f", code for {' '.join(found.architectures)}{' +PTX' if found.ptx else ''}" if found.architectures else ""
    print(f"torch {found.version}{again}: CUDA {found.cuda}, cuDNN {found.cudnn}, NCCL {found.nccl}, Triton {found.triton}{code}")
    if row is None or row.version != found.version:
        print("  not in the table")
        return 1
    differing = differences(found, row)
    for name, (table, packages) in differing.items():
        print(f"  {name}: the table says {table}, the packages say {packages}")
    return int(bool(differing))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
