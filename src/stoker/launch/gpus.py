"""Which GPUs a container gets: all, none, or a list of indices, MIG slices and UUIDs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from stoker.errors import BadValue

# Kept as texts: few starts need them, and each would wait for their compiling.
_HEX = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_INDEX = r"[0-9]{1,3}(?::[0-9]{1,2})?"
_UUID = rf"(?ia)(GPU|MIG)-({_HEX})"
_OLD_MIG = rf"(?ia)MIG-GPU-{_HEX}/\d+/\d+"
_KINDS = "all, none, or a list of indices (0,2), MIG slices (0:1) and UUIDs (GPU-..., MIG-...), as `nvidia-smi -L` lists them"


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """The GPUs that were asked for, in no engine's syntax."""

    what: Literal["all", "none", "some"]
    devices: tuple[str, ...] = ()
    """For `some`: indices (`0`), MIG slices (`0:1`: GPU and slice) and UUIDs (`GPU-...`, `MIG-...`), each once, in the order given."""

    @property
    def text(self) -> str:
        """As it is written on the command line and in the label."""
        return ",".join(self.devices) if self.what == "some" else self.what


ALL = Gpus(what="all")
NONE = Gpus(what="none")


def read_gpus(text: str) -> Gpus:
    """Read `all`, `none`, `0`, `0,2`, `0:1`, `GPU-...` or `MIG-...`. Raises BadValue."""
    word = text.strip().lower()
    if word in ("all", "none"):
        return ALL if word == "all" else NONE
    devices = tuple(_device(part.strip(), text) for part in text.split(","))
    twice = next((device for number, device in enumerate(devices) if device in devices[:number]), None)
    if twice is not None:
        raise BadValue(f"--gpus {text}: {twice} is named twice", hint=f"name each GPU once: --gpus {','.join(dict.fromkeys(devices))}")
    return Gpus(what="some", devices=devices)


def _device(part: str, text: str) -> str:
    if re.fullmatch(_INDEX, part):
        return ":".join(str(int(number)) for number in part.split(":"))
    if uuid := re.fullmatch(_UUID, part):
        # Container runtimes compare letter by letter with what nvidia-smi prints.
        return f"{uuid[1].upper()}-{uuid[2].lower()}"
    if re.fullmatch(_OLD_MIG, part):
        raise BadValue(f"--gpus {text}: {part} is the form of drivers before 470", hint="name the slice as `nvidia-smi -L` does: MIG-..., or 0:1")
    if part.lower().startswith("device="):
        raise BadValue(f"--gpus {text}: that is Docker's own syntax", hint=f"leave out `device=` and the quotes: --gpus {part[7:] or '0'}")
    raise BadValue(f"--gpus {text}: {part!r} is no GPU" if part else f"--gpus {text!r}: a GPU's name is empty", hint=f"it is {_KINDS}")
