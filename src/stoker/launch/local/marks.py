"""The variables by which processes on this machine are known to be Stoker's: what labels are for containers."""

from __future__ import annotations

from collections.abc import Mapping

from stoker.launch import labels

ID = "STOKER_LAUNCH_ID"
"""Another one for every start, so that a process left over from an older start of the same name is told apart."""
FOLDER = "STOKER_LAUNCH_FOLDER"
"""Where its log and its records are."""
NAME = "STOKER_LAUNCH_NAME"
EXEC = "STOKER_EXEC_ID"
"""On what `stoker exec` starts: it is no part of the job and does not keep it running."""
_PREFIX = "STOKER_LAUNCH_"


def of_labels(told: Mapping[str, str]) -> dict[str, str]:
    """Return labels as variables: `dev.stoker.launch.name` is `STOKER_LAUNCH_NAME`."""
    return {_PREFIX + name.removeprefix(labels.LAUNCH + ".").upper(): value for name, value in told.items() if name != labels.LAUNCH}


def to_labels(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that a process's environment tells."""
    own = (ID, FOLDER)
    return {labels.LAUNCH: "1"} | {
        f"{labels.LAUNCH}.{name.removeprefix(_PREFIX).lower()}": value
        for name, value in environment.items()
        if name.startswith(_PREFIX) and name not in own
    }


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without marks: what is started from inside of one job belongs to none, or to another one."""
    return {name: value for name, value in environment.items() if name != EXEC and not name.startswith(_PREFIX)}
