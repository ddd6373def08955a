"""Rights: who a container runs as, and files by which an ordinary user gets more than he should."""

from __future__ import annotations

import re

from stoker.image.checks.contents import Contents
from stoker.image.checks.finding import Finding, finding
from stoker.image.checks.subject import Configuration

_SETUID, _SETGID, _STICKY = 0o4000, 0o2000, 0o1000
_EXECUTABLE_BY_GROUP, _WRITABLE_BY_ALL = 0o010, 0o002
# What every container engine makes itself; an exported container has them.
_ENGINES_OWN = re.compile(r"(dev|proc|sys)(/.*)?")
_ROOT = re.compile(r"(root|\+?0+)?(:.*)?")


def judge_permissions(contents: Contents, configuration: Configuration) -> list[Finding]:
    """Look for root as user, setuid and setgid programs, files of everybody, and devices."""
    nodes = [node for node in contents.nodes.values() if not _ENGINES_OWN.fullmatch(node.path)]
    root = [f"User: {configuration.user or 'not set, that is root'}"] if _is_root(configuration.user, contents) else []
    raised = [f"/{node.path} (mode {node.mode:04o})" for node in nodes if node.kind == "file" and _raises(node.mode)]
    capable = [f"/{node.path} (file capabilities)" for node in nodes if node.capabilities]
    # Everybody may write into /tmp; the sticky bit keeps them from each other's files.
    open_to_all = [
        f"/{node.path} (mode {node.mode:04o})"
        for node in nodes
        if node.kind in ("file", "folder") and node.mode & _WRITABLE_BY_ALL and not (node.kind == "folder" and node.mode & _STICKY)
    ]
    devices = [f"/{node.path}" for node in nodes if node.kind == "device"]
    foreign = [
        f"/{node.path} (uid {node.uid})"
        for node in nodes
        if node.uid != 0 and node.kind in ("file", "folder") and re.match(r"(usr|bin|sbin|lib[^/]*|etc|opt)/", node.path)
    ]
    return [
        *_accounts(contents),
        *finding("root-user", "containers of this image run as root", root, "set the user of the image to an ordinary one; ours is `stoker`"),
        *finding("setuid", "programs give their caller the rights of another user", [*raised, *capable], "remove the bits (chmod ug-s, setcap -r)"),
        *finding("world-writable", "anybody may write to these files", open_to_all, "chmod o-w, or for folders also chmod +t"),
        *finding("device", "device nodes lie in the image", devices, "remove them: the engine makes those that a container may have"),
        *finding("owner", "files of the system belong to an ordinary user, who may change them", foreign, "chown root:root"),
    ]


def _is_root(user: str, contents: Contents) -> bool:
    if _ROOT.fullmatch(user):
        return True
    name = user.partition(":")[0]
    for line in (contents.text("etc/passwd") or "").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 2:
            return fields[2] == "0"
    return False


def _accounts(contents: Contents) -> list[Finding]:
    """Look for accounts by which somebody becomes another user: one more that is root, and any with a password or without need of one."""
    rows = {name: [line.split(":") for line in (contents.text(name) or "").splitlines() if ":" in line] for name in ("etc/passwd", "etc/shadow")}
    roots = [f"/etc/passwd: {row[0]} is user 0" for row in rows["etc/passwd"] if row[0] != "root" and re.fullmatch("0+", "".join(row[2:3]))]
    # `*`, `!` and `x` fit no password; a hash of one has dollar signs (crypt(5)).
    known = [f"/{name}: {row[0]} has a password" for name, lines in rows.items() for row in lines if "$" in row[1]]
    none = [f"/{name}: {row[0]} needs no password" for name, lines in rows.items() for row in lines if not row[1]]
    return finding("account", "accounts of the image let others in", [*roots, *known, *none], "lock them (`passwd -l NAME`); only root is user 0")


def _raises(mode: int) -> bool:
    """Whether a file runs with its owner's or group's rights. Setgid without the group's x is an old sign for locking."""
    return bool(mode & _SETUID) or (mode & (_SETGID | _EXECUTABLE_BY_GROUP)) == _SETGID | _EXECUTABLE_BY_GROUP
