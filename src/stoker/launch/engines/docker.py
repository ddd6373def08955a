"""Docker's syntax."""

from __future__ import annotations

from stoker.launch.command import Command, Option
from stoker.launch.engine import Engine
from stoker.launch.engines import options
from stoker.launch.engines.folders import folders, made_account, made_home
from stoker.launch.engines.options import option
from stoker.launch.gpus import Gpus
from stoker.launch.request import Account, Mount, Request

_WRITABLE = ("/run", "/var/tmp")
"""What podman gives a read-only container by itself."""


def command(request: Request, engine: Engine) -> Command:
    """The command that starts `request` with docker. Raises MountRefused."""
    account = request.account
    found = [
        *options.start(request),
        *_restart(request),
        *options.stop(request),
        *_user(account, engine),
        *_gpus(request.gpus),
        *options.limits(request),
        *options.safety(request, engine),
        *options.scratch(request, *_WRITABLE, owner=f",uid={account.uid},gid={account.gid}"),
        *(_mounted(mount, why) for mount, why in folders(request)),
        *options.working_folder(request),
        *options.ports(request),
        *options.environment(request),
        *options.labels(request),
    ]
    return Command(
        program=(engine.program, "run"),
        options=tuple(found),
        image=request.image,
        words=request.command,
        home=made_home(request),
        before=made_account(request),
    )


def _restart(request: Request) -> list[Option]:
    return [option("comes back after a reboot, unless it was stopped", "--restart", "unless-stopped")] if request.restart else []


def _user(account: Account, engine: Engine) -> list[Option]:
    found = []
    if "userns" in engine.security:
        why = "this daemon gives everybody another number outside (userns-remap): files would not be yours"
        found.append(option(why, "--userns", "host"))
    why = "the owner of the files that it writes, and not root"
    if account.uid == 0:
        why = "root inside is you outside: docker runs without root here" if engine.rootless else "root, as you asked"
    return [*found, option(why, "--user", f"{account.uid}:{account.gid}")]


def _gpus(gpus: Gpus) -> list[Option]:
    """Return one option. Its value is a line of CSV: a list needs quotes of its own, inside of those of the shell."""
    if gpus.what == "none":
        return [options.hidden_gpus()]
    if gpus.what == "all":
        return [option("every GPU", "--gpus", "all")]
    if len(gpus.devices) == 1:
        return [option("one GPU", "--gpus", f"device={gpus.devices[0]}")]
    return [option("these GPUs; the inner quotes belong to it, docker would split the list without them", "--gpus", f'"device={gpus.text}"')]


def _mounted(mount: Mount, why: str) -> Option:
    """Return a mount. Not `--volume`, which makes a folder of root's where the source is missing, and splits at colons."""
    fields = [f"source={mount.source}", f"target={mount.target}", *([] if mount.writable else ["readonly"])]
    return option(why, "--mount", ",".join(["type=bind", *(_field(one) for one in fields)]))


def _field(text: str) -> str:
    """Return a field of CSV."""
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text
