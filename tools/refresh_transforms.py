"""Make the table of torchvision's transforms anew: which sources of them were read, by digest, for `stoker boost`.

    python tools/refresh_transforms.py                     # all releases from 0.20 on; says what is new and leaves the table
    python tools/refresh_transforms.py --write             # writes src/stoker/boost/replay/steps/readings.py
    python tools/refresh_transforms.py --folder FOLDER     # where the sources are kept between runs, to be compared by hand

Read the differences (`diff -r FOLDER/0.28.0 FOLDER/0.29.0`) before a new digest is written: a digest in the table says that a person has seen that
these sources draw the same numbers in the same order as the steps do. It asks the index that uv or pip are configured for.
Exit status: 0 nothing new, 1 something is, 2 the packages could not be read.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import tempfile
from pathlib import Path
from types import CellType, CodeType, FunctionType

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.packages import Wheel, index_address, member, wheels

from stoker.boost.replay.order import source_hash
from stoker.boost.replay.steps.known import digest, functions
from stoker.boost.replay.steps.makers import MAKERS
from stoker.boost.replay.steps.pipeline import AROUND
from stoker.boost.replay.steps.readings import CLASSES
from stoker.catalog import version_numbers
from stoker.files import write_text_atomically

TABLE = Path(__file__).resolve().parents[1] / "src" / "stoker" / "boost" / "replay" / "steps" / "readings.py"
FILES = {
    "v1": ("transforms.py", "autoaugment.py"),
    "v2": ("_transform.py", "_container.py", "_geometry.py", "_color.py", "_augment.py", "_misc.py", "_type_conversion.py", "_deprecated.py"),
}
BELOW = ("Transform", "_RandomApplyTransform", "RandomTransforms")
"""Classes that others are made from."""

Table = dict[str, dict[str, list[str]]]
"""Family and class, `v1.RandomCrop` -> digest -> versions."""


def releases(index: str) -> dict[str, Wheel]:
    """Return one wheel of each release from 0.20 on, oldest first."""
    found = {wheel.version: wheel for wheel in wheels(index, "torchvision") if re.fullmatch(r"[\d.]+", wheel.version)}
    return {version: found[version] for version in sorted(found, key=version_numbers) if version_numbers(version) >= (0, 20)}


def sources(wheel: Wheel, folder: Path) -> dict[str, list[Path]]:
    """Return the files of both families, read out of the wheel unless they are in `folder` already."""
    found: dict[str, list[Path]] = {}
    for family, names in FILES.items():
        for name in names:
            inside = f"torchvision/transforms/{'v2/' if family == 'v2' else ''}{name}"
            path = folder / wheel.version / inside
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"".join(member(wheel.url, inside)))
            found.setdefault(family, []).append(path)
    return found


def digests(path: Path) -> dict[str, str]:
    """Return the digest of every class of a file that the steps know. The file is compiled, not run."""
    inner = [part for part in compile(path.read_text(), str(path), "exec", dont_inherit=True).co_consts if isinstance(part, CodeType)]
    known = {*MAKERS, *AROUND, *BELOW}
    return {body.co_name: digest({name: source_hash(one) for name, one in _functions(body).items()}) for body in inner if body.co_name in known}


def _functions(body: CodeType) -> dict[str, FunctionType]:
    codes = [part for part in body.co_consts if isinstance(part, CodeType)]
    made = {code.co_name: FunctionType(code, {}, code.co_name, None, tuple(CellType() for _ in code.co_freevars)) for code in codes}
    return functions(made)  # type: ignore[return-value]


def table(folder: Path) -> Table:
    """Return the digests of all releases."""
    found: Table = {}
    for version, wheel in releases(index_address()).items():
        for family, paths in sources(wheel, folder).items():
            for path in paths:
                for name, one in digests(path).items():
                    found.setdefault(f"{family}.{name}", {}).setdefault(one, []).append(version)
    return found


def written(found: Table) -> str:
    """Return the table as a Python file."""
    head = '"""Sources of torchvision\'s transforms that were read, by digest of each class\'s functions. Made by tools/refresh_transforms.py."""'
    lines = [head, "", "from __future__ import annotations", "", "CLASSES: dict[str, dict[str, str]] = {"]
    for title in sorted(found):
        lines.append(f'    "{title}": {{')
        lines += [f'        "{one}": "{versions[0]} to {versions[-1]}",' for one, versions in found[title].items()]
        lines.append("    },")
    today = datetime.datetime.now(datetime.timezone.utc).date()
    lines += ["}", f'"""By family and class: digest, and the releases that have it. Source: the wheels on the package index, {today}."""', ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as aside:
            found = table(arguments.folder or Path(aside))
    except (OSError, RuntimeError) as error:
        print(f"refresh_transforms: {error}", file=sys.stderr)
        return 2
    new = [(title, one, versions) for title, ones in found.items() for one, versions in ones.items() if one not in CLASSES.get(title, {})]
    for title, one, versions in new:
        print(f"{title}: {one} in {versions[0]} to {versions[-1]} is new")
    if arguments.write:
        write_text_atomically(TABLE, written(found))
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
