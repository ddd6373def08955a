"""sshd for an ordinary user: keys only, host keys of its own, and logins that have the container's environment."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from stoker import console, shell
from stoker.errors import ServiceUnfit
from stoker.files import write_text_atomically
from stoker.start.choice import Choice
from stoker.start.home import Person, own_folder, put_once, temporary_folder
from stoker.start.services import Service
from stoker.start.threads import OURS, VARIABLES

PORT = 2222
PROGRAM = "/usr/sbin/sshd"
KEYS = Path("/run/stoker/authorized_keys")
KEYS_VARIABLE = "STOKER_AUTHORIZED_KEYS_FILE"
MORE_VARIABLE = "STOKER_SSH_ENVIRONMENT"
"""Names of further variables that logins get, separated by spaces."""
STATE = ".stoker/ssh"

HARDENED = (
    # Without root there is no PAM session, and no password could be checked.
    ("UsePAM", "no"),
    ("AuthenticationMethods", "publickey"),
    ("PubkeyAuthentication", "yes"),
    ("PasswordAuthentication", "no"),
    ("KbdInteractiveAuthentication", "no"),
    ("PermitRootLogin", "no"),
    ("StrictModes", "yes"),
    # The environment is the container's and not the client's; of the client only the language.
    ("PermitUserEnvironment", "no"),
    ("PermitUserRC", "no"),
    ("AcceptEnv", "LANG LC_*"),
    ("X11Forwarding", "no"),
    ("AllowAgentForwarding", "no"),
    # VS Code and notebooks behind `ssh -L` need it; nothing may be forwarded from the outside in.
    ("AllowTcpForwarding", "local"),
    ("GatewayPorts", "no"),
    ("PermitTunnel", "no"),
    ("MaxAuthTries", "3"),
    ("LoginGraceTime", "20"),
    ("ClientAliveInterval", "60"),
    ("LogLevel", "VERBOSE"),
    ("HostKeyAlgorithms", "ssh-ed25519"),
    ("KexAlgorithms", "sntrup761x25519-sha512@openssh.com,curve25519-sha256"),
    ("Ciphers", "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com"),
    ("MACs", "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com"),
    ("RequiredRSASize", "3072"),
    ("PrintMotd", "no"),
    ("Subsystem", "sftp internal-sftp"),
    ("PidFile", "none"),
)
"""What of OpenSSH's settings an SSH box for one person needs, tested with OpenSSH 9.2 as an ordinary user (facts "SSH dev box", 5.2)."""

_PASSED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "ZDOTDIR", "JUPYTER_PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("STOKER_STACK", "STOKER_STACK_CHOSEN", "STOKER_BOOST", "STOKER_CACHE", "STOKER_RUNS", "STOKER_DATA", "STOKER_IMAGE_DIGEST"),
    *(
        "TORCH_HOME",
        "TORCH_CUDA_ARCH_LIST",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF",
        "HF_HOME",
        "XDG_CACHE_HOME",
    ),
    *(OURS, *VARIABLES),
)
_PASSED_FAMILIES = ("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSW|CREDENTIAL|APIKEY|(^|_)KEY)")
"""Names that are never passed on, whatever family they are of: whoever logs in gets them by another way or not at all."""


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of the container's environment logins get: a list of names, so that no secret is among them, and what the person added."""
    added = set(environment.get(MORE_VARIABLE, "").split())
    return {
        name: value
        for name, value in sorted(environment.items())
        if name in added or ((name in _PASSED or name.startswith(_PASSED_FAMILIES)) and not _SECRET.search(name))
    }


def configuration(*, user: str, host_key: Path, keys: Path, environment: Mapping[str, str], port: int = PORT) -> str:
    """Return the text of sshd_config. Keys are read by `cat`, at each login: a mounted file belongs to whom the host says, and volumes of
    Kubernetes are writable for their group, both of which sshd refuses in files that it opens itself."""
    own = (
        ("Port", str(port)),
        ("HostKey", _quoted(str(host_key))),
        ("AllowUsers", user),
        ("AuthorizedKeysFile", "none"),
        ("AuthorizedKeysCommand", f"/usr/bin/cat {_quoted(str(keys))}"),
        ("AuthorizedKeysCommandUser", user),
    )
    # One line: of several, sshd takes the first only. A line break cannot be written there at all.
    variables = [_quoted(f"{name}={value}") for name, value in environment.items() if value.isprintable()]
    lines = [f"{name} {value}" for name, value in (*own, *HARDENED)]
    return "\n".join([*lines, *([f"SetEnv {' '.join(variables)}"] if variables else [])]) + "\n"


def service(environment: Mapping[str, str], who: Person, choice: Choice, *, port: int = PORT) -> Service:
    """Make what sshd needs and return its command line. Raises ServiceUnfit, RunFolderUnwritable, DiskFull."""
    if not os.access(PROGRAM, os.X_OK):
        raise ServiceUnfit("this image has no sshd", hint='build it with the variant "ssh": `variants = ["cli", "ssh"]` in stoker.toml')
    if who.uid == 0 or who.name is None:
        told = "root" if who.uid == 0 else f"uid {who.uid}, for which the image has no account"
        raise ServiceUnfit(
            f"sshd of this image serves the user that it runs as, and the container was started as {told}",
            hint="start it as the image's own user (leave out --user), or give the uid a name with podman's --passwd-entry",
        )
    keys = _keys(environment, who)
    host_key = _host_key(own_folder(who.home / STATE))
    # Of its own for each container: two that share a home have different environments.
    path = temporary_folder("ssh") / "sshd_config"
    write_text_atomically(path, configuration(user=who.name, host_key=host_key, keys=keys, environment=passed_on(environment), port=port))
    command = [PROGRAM, "-f", str(path)]
    checked = shell.run([*command, "-t"], timeout_s=20)
    if not checked.ok:
        raise ServiceUnfit(
            f"sshd does not accept its configuration: {checked.err.strip()}", hint="please report this: the file was written by Stoker"
        )
    console.say(f"sshd: port {port}, user {who.name}, host key {_fingerprints(host_key.with_suffix('.pub'))}; keys from {keys}")
    return Service(command=[*command, "-D", "-e"], environment=environment)


def _keys(environment: Mapping[str, str], who: Person) -> Path:
    named = environment.get(KEYS_VARIABLE)
    candidates = [Path(named)] if named else [KEYS, who.home / ".ssh/authorized_keys"]
    path = next((one for one in candidates if one.exists()), None)
    if path is None:
        raise ServiceUnfit(
            f"nobody could log in: there is no {' and no '.join(map(str, candidates))}",
            hint=f"mount your public key: `-v ~/.ssh/id_ed25519.pub:{KEYS}:ro`",
        )
    if not os.access(path, os.R_OK):
        raise ServiceUnfit(f"{path} cannot be read by uid {who.uid}", hint="it holds public keys only: `chmod 644` it on the host")
    if b"PRIVATE KEY" in path.read_bytes():
        raise ServiceUnfit(f"{path} is a private key, which belongs in no container", hint="mount its public half, the file that ends with .pub")
    if _fingerprints(path) is None:
        raise ServiceUnfit(f"{path} holds no public key", hint="a line of it looks like `ssh-ed25519 AAAA... name`")
    return path


def _host_key(folder: Path) -> Path:
    """Return the host key, made now where there is none. Two containers that start at once on one volume end with the same key."""
    path = folder / "ssh_host_ed25519_key"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / path.name
            done = shell.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(made)], timeout_s=20)
            if not done.ok:
                raise ServiceUnfit(f"no host key can be made in {folder}: {done.err.strip() or done.out.strip()}", hint="is the disk full?")
            put_once(made, path)
    # Kubernetes (fsGroup) opens the files of a volume for their group at each mount; sshd refuses such a key.
    path.chmod(0o600)
    public = shell.run(["ssh-keygen", "-y", "-P", "", "-f", str(path)], timeout_s=20)
    if not public.ok:
        raise ServiceUnfit(f"the host key {path} cannot be used: {public.err.strip()}", hint="remove it: the next start makes a new one")
    write_text_atomically(path.with_suffix(".pub"), public.out)
    return path


def _fingerprints(path: Path) -> str | None:
    """Return the fingerprints of the public keys in a file, None where there is none."""
    told = shell.run(["ssh-keygen", "-l", "-f", str(path)], timeout_s=20)
    found = [word for line in told.out.splitlines() for word in line.split() if word.startswith("SHA256:")]
    return ", ".join(found) or None


def _quoted(text: str) -> str:
    """Return a text as one word of sshd_config, which knows \\" and \\\\ inside of quotes (sshd_config(5), misc.c argv_split)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
