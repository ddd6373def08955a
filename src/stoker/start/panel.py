"""The GPU panel of JupyterLab where programs can use no GPU: it says why, in the place of jupyterlab-nvdashboard's empty charts.

The folder `without_gpu` has a prebuilt extension of JupyterLab, written by hand, which switches nvdashboard's off, and a setting by which Jupyter
Server does not load nvdashboard's half: that one raises for most errors of a driver (0.15.0, apps/gpu.py). What a person has set in a
page_config.json of theirs stays, and goes before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from stoker.errors import StokerError
from stoker.files import write_text_atomically

DATA = Path(__file__).with_name("without_gpu")
OPTION = "stokerWithoutGpu"
"""What `panel.js` reads of JupyterLab's page: the reason."""


def without_gpu(why: str, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which JupyterLab has the panel. `why`: the reason, one sentence; `folder`: where it may be kept.

    Where nothing can be written there the panel comes without its reason.
    """
    told = _told(f"{why[:1].upper()}{why[1:]}.", folder)
    return {
        "JUPYTER_PATH": _last(environment.get("JUPYTER_PATH", ""), DATA),
        "JUPYTER_CONFIG_PATH": _last(environment.get("JUPYTER_CONFIG_PATH", ""), DATA, told),
    }


def _told(sentence: str, folder: Path) -> Path:
    """Return a folder for Jupyter's settings in which the page of JupyterLab is told the reason.

    Its name is made from what is in it: containers that share a home may have different reasons, and must not take each other's away.
    """
    text = json.dumps({OPTION: sentence}) + "\n"
    path = folder / f"without-gpu-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    page = path / "labconfig/page_config.json"
    with contextlib.suppress(OSError, StokerError):
        if not page.exists():
            page.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(page, text, durable=False)
    return path


def _last(given: str, *folders: Path) -> str:
    return ":".join([*filter(None, given.split(":")), *map(str, folders)])
