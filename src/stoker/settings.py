"""Where Stoker keeps things, and the environment variables that say so."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for everything that can be made again: `STOKER_CACHE`, else `$XDG_CACHE_HOME/stoker`, else `~/.cache/stoker`."""
    if own := os.environ.get("STOKER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stoker"


def runs_folder() -> Path:
    """Return the folder that holds the run folders: `STOKER_RUNS`, else `runs` in the working directory."""
    return Path(os.environ.get("STOKER_RUNS") or "runs").expanduser()


def data_folder() -> Path:
    """Return the folder for what cannot be made again and belongs to this person: `$XDG_DATA_HOME/stoker`, else `~/.local/share/stoker`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "stoker"


def home_folder() -> Path:
    """Return the folder that is the home inside of containers: `STOKER_HOME`, else `home` in the data folder."""
    if own := os.environ.get("STOKER_HOME"):
        return Path(own).expanduser()
    return data_folder() / "home"
