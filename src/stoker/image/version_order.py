"""The order of versions: PEP 440 for Python packages, Debian policy 5.6.12 for .debs."""

from __future__ import annotations

import re
from typing import Any

# Source: PEP 440, appendix B (the regular expression of `packaging`, here without the parts that only spell versions otherwise).
_PEP440 = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>alpha|beta|preview|pre|a|b|c|rc)[-_.]?(?P<pre_number>\d*))?"
    r"(?:-(?P<post_implicit>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_number>\d*))?"
    r"(?P<dev>[-_.]?dev[-_.]?(?P<dev_number>\d*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?"
)
_PRE = {"alpha": "a", "a": "a", "beta": "b", "b": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc"}
_FIRST, _LAST = (-1, ""), (2, "")  # before and after every "a", "b", "rc"
_DEBIAN = re.compile(r"(?:(\d+):)?([0-9A-Za-z.+~:-]*?)(?:-([0-9A-Za-z.+~]*))?")
_DEBIAN_PARTS = re.compile(r"(\D*)(\d*)")


def python_key(version: str) -> tuple[Any, ...] | None:
    """Return a key that sorts as PEP 440 says; None for what is no version by it."""
    found = _PEP440.fullmatch(version.strip().lower())
    if not found:
        return None
    release = [int(part) for part in found["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    has_post, has_dev = bool(found["post"] or found["post_implicit"]), bool(found["dev"])
    if found["pre"]:
        pre: tuple[tuple[int, str], int] = ((0, _PRE[found["pre"]]), int(found["pre_number"] or 0))
    else:
        # 1.0.dev1 comes before 1.0a1; 1.0 and 1.0.post1 come after every 1.0rc.
        pre = (_FIRST if has_dev and not has_post else _LAST, 0)
    post = int(found["post_implicit"] or found["post_number"] or 0) if has_post else -1
    dev = int(found["dev_number"] or 0) if has_dev else float("inf")
    return int(found["epoch"] or 0), tuple(release), pre, post, dev, _local_key(found["local"])


def _local_key(local: str | None) -> tuple[tuple[int, int, str], ...]:
    """Numbers come after texts, a longer one after its beginning, and none at all first."""
    parts = re.split(r"[-_.]", local) if local else []
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def without_local(version: str) -> str:
    """Return `2.7.1+cu126` as `2.7.1`: advisories name public versions."""
    return version.partition("+")[0]


def debian_key(version: str) -> tuple[Any, ...]:
    """Return a key that sorts as dpkg does: epoch, upstream version, revision; `~` sorts before the end, letters before other signs."""
    found = _DEBIAN.fullmatch(version.strip())
    epoch, upstream, revision = (found[1], found[2], found[3]) if found else (None, version, None)
    return int(epoch or 0), _debian_part(upstream or ""), _debian_part(revision or "")


def _debian_part(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Signs and numbers in turn. Every run of signs ends with 0, the end's rank, so that `~` (-1) sorts before it and letters after."""
    pairs = [(signs, number) for signs, number in _DEBIAN_PARTS.findall(text) if signs or number]
    # The last pair has an empty continuation of its own: "1" and "1~" differ in what follows the 1.
    return (*(((*map(_rank, signs), 0), int(number or 0)) for signs, number in pairs), ((0,), 0))


def _rank(sign: str) -> int:
    return -1 if sign == "~" else ord(sign) if sign.isalpha() else ord(sign) + 256
