"""Podman's syntax, with and without root."""

from __future__ import annotations

from stoker.errors import LaunchUnfit, MountRefused
from stoker.launch.account import IMAGE_UID, KEEP_ID_UID, passwd_entry
from stoker.launch.command import Command, Option
from stoker.launch.engine import Engine
from stoker.launch.engines import options
from stoker.launch.engines.folders import folders, made_account, made_home
from stoker.launch.engines.options import option
from stoker.launch.gpus import Gpus
from stoker.launch.request import Account, Mount, Request

_CDI, _PASSWD_ENTRY, _CHOWN = (4, 1), (4, 1), (4, 1)
"""The podman that brought them (its release notes and sources)."""


def command(request: Request, engine: Engine) -> Command:
    """The command that starts `request` with podman. Raises LaunchUnfit, MountRefused."""
    found = [
        *options.start(request),
        *_restart(request),
        *options.stop(request),
        *_user(request, engine),
        *_gpus(request.gpus, engine),
        *options.limits(request),
        *options.safety(request, engine),
        # --read-only gives further places that can be written to by itself: /run and /var/tmp.
        *options.scratch(request, empty=",notmpcopyup", owner="" if _older(engine, _CHOWN) else ",U"),
        *(_mounted(mount, why) for mount, why in folders(request)),
        *options.working_folder(request),
        *options.ports(request),
        option("a proxy's address may hold a password, which `inspect` would show; `-e HTTPS_PROXY` hands it on", "--http-proxy=false"),
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
    # podman-restart.service starts no others: not those with `unless-stopped`.
    return [option("comes back after a reboot (podman-restart.service does it)", "--restart", "always")] if request.restart else []


def _user(request: Request, engine: Engine) -> list[Option]:
    """Return who it runs as. keep-id maps the caller to a number inside: 1000 is the account that images have."""
    account, found = request.account, []
    if account.keep_id and _older(engine, KEEP_ID_UID):
        found.append(option("you are yourself inside, so that files are yours", "--userns", "keep-id"))
    elif account.keep_id:
        why = f"you outside are {account.uid} inside, so that files are yours"
        found.append(option(why, "--userns", f"keep-id:uid={account.uid},gid={account.gid}"))
    found.append(option(_user_reason(account), "--user", f"{account.uid}:{account.gid}"))
    return found if account.known else [*found, *_entry(request, engine)]


def _entry(request: Request, engine: Engine) -> list[Option]:
    """Return the account that the image lacks. Older podmans write one by themselves: under your name with keep-id, else the number is the name."""
    account = request.account
    if not _older(engine, _PASSWD_ENTRY):
        return [option("the image has no account with your number; shells and sshd need one", "--passwd-entry", passwd_entry(account))]
    if request.kind == "ssh" and not account.keep_id:
        raise LaunchUnfit(
            f"podman {_written(engine)} cannot give uid {account.uid} a name inside, under which ssh logs in; 4.1 and newer can",
            hint="update podman, or run as the image's own account: --user 1000",
        )
    return []


def _user_reason(account: Account) -> str:
    if account.uid == 0:
        return "root, as you asked"
    return "the image's own account" if account.uid == IMAGE_UID and account.keep_id else "the owner of the files that it writes, and not root"


def _gpus(gpus: Gpus, engine: Engine) -> list[Option]:
    """Return a device a GPU, by the names of the Container Device Interface. Never `--gpus`: before podman 5 that is silently nothing."""
    if gpus.what == "none":
        return [options.hidden_gpus()]
    if _older(engine, _CDI):
        raise LaunchUnfit(
            f"podman {_written(engine)} cannot give GPUs to containers by name (CDI), 4.1 and newer can",
            hint="update podman, take docker (`--engine docker`), or start without a GPU: `--gpus none`",
        )
    if gpus.what == "all":
        return [option("every GPU, through CDI", "--device", "nvidia.com/gpu=all")]
    return [option("a GPU, through CDI", "--device", f"nvidia.com/gpu={device}") for device in gpus.devices]


def _mounted(mount: Mount, why: str) -> Option:
    """Return a mount. `--volume` splits at colons, `--mount` at commas (before 4.1 without a way to quote them)."""
    source, target = str(mount.source), mount.target
    if ":" not in source + target:
        return option(why, "--volume", f"{source}:{target}" + ("" if mount.writable else ":ro"))
    if '"' in source + target or "," in source + target:
        raise MountRefused(f"{source} has a colon and a comma or a quotation mark in its name, which podman cannot mount", hint="rename it")
    return option(why, "--mount", f"type=bind,source={source},target={target}" + ("" if mount.writable else ",readonly"))


def _older(engine: Engine, version: tuple[int, ...]) -> bool:
    """Whether it is known to be older."""
    return bool(engine.version) and engine.version < version


def _written(engine: Engine) -> str:
    return ".".join(map(str, engine.version))
