"""What somebody asked for, on the command line or in `stoker.toml`, before anything is decided: None and () are "not said"."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from stoker.launch.request import Kind


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The options of `stoker run` and `stoker up`, as they were said."""

    kind: Kind = "run"
    name: str | None = None
    """The user's NAME, without `stoker-`."""
    prefix: str | None = None
    """What a name begins with that nobody chose (`[launch] name`); None: the project folder's name."""
    image: str | None = None
    """As it was named; None: `own_image`."""
    own_image: str | None = None
    """The image that the project's `stoker.toml` describes (`[image] name`), as `team/trainer`."""
    engine: str | None = None
    """auto, podman, docker or local."""
    project: Path | None = None
    """The project's folder; absolute once `with_defaults` was there."""
    home: str | None = None
    """A folder, or `none`."""
    data: tuple[str, ...] = ()
    """Paths that are mounted read-only at /data, or /data/NAME where there are several."""
    volumes: tuple[str, ...] = ()
    """HOST:INSIDE[:ro]."""
    gpus: str | None = None
    """all, none, 0, 0,2, 0:1, GPU-..., MIG-...."""
    memory: str | None = None
    """A size, a share as `50%`, or `none`."""
    cpus: float | None = None
    """0: all of them, whatever `stoker.toml` says."""
    shm: str | None = None
    """A size, or `auto`."""
    batch: int | None = None
    """Images a batch, for the computed size of /dev/shm."""
    workers: int | None = None
    """Loader workers, for the same."""
    pids: int | None = None
    user: str | None = None
    """UID[:GID]."""
    environment: tuple[str, ...] = ()
    """Names of variables whose values go along."""
    env_file: Path | None = None
    listen: str | None = None
    """The address on which ports are published; None: 127.0.0.1."""
    port: int | None = None
    """Of `up`: the port on this machine; None: the first free one."""
    publish: tuple[str, ...] = ()
    """Of `run -p`: INSIDE or HOST:INSIDE."""
    stop_timeout_s: int | None = None
    restart: bool | None = None
    writable: bool | None = None
    """Whether the container's own root may be written to."""
    detach: bool = False

    def over(self, other: Wanted) -> Wanted:
        """Return `other` with what this one says in its place; volumes and variables of both, one for each place or name inside."""
        said = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None and value != ()}
        kept = tuple(volume for volume in other.volumes if _inside(volume) not in map(_inside, self.volumes))
        said["volumes"] = kept + self.volumes
        said["environment"] = tuple(dict.fromkeys(other.environment + self.environment))
        return replace(other, **said)


def _inside(volume: str) -> str:
    """Return the place inside of `HOST:INSIDE[:ro]`."""
    return volume.partition(":")[2].removesuffix(":ro").removesuffix(":rw").rstrip("/")
