"""`stoker image check` on images that are spoilt in one way each: every one is found, and the healthy one is left in peace."""

from __future__ import annotations

import dataclasses
import json
import tarfile
import zipfile
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from stoker.cli.image.check import check as command
from stoker.errors import ImageBroken, LockMissing, ProgramMissing, UsageError
from stoker.image.check import check
from stoker.image.checks.contents import read_contents
from stoker.image.checks.secrets import secret_variables, signs_of
from stoker.image.checks.subject import lock_inside, open_layers, read_lock_of, read_subject
from stoker.image.compression import compressed
from stoker.image.lock import Lock, write_lock
from stoker.image.names import layer_names
from stoker.image.own import HOME, own, own_files
from stoker.image.rootfs import rootfs_entries
from stoker.image.store import Store
from tests.image_layouts import TinyImage
from tests.image_locks import deb, hashed, lock, stack, wheel

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\nAAAAAAAAABAAAAMwAAAAtzc2gtZWQ\n"
SITE = "opt/stoker/cu130/lib/python3.13/site-packages"
# Put together here, so that this file holds none.
TOKEN = "hf_" + "aB3" * 11 + "x"


def wanted() -> Lock:
    """A lock with two Debian packages and three wheels."""
    wheels = (wheel("numpy", "2.4.6"), wheel("nvidia-cuda-runtime", "13.0.96"), wheel("torch", "2.13.0"))
    return lock(stack("cu130", *wheels, torch="2.13.0", cuda="13.0"), debs=(deb("catatonit", "0.2.1-2"), deb("openssl", "3.5.1-1")))


def healthy() -> TinyImage:
    """An image of that lock with nothing wrong in it."""
    image = TinyImage(wanted())
    library = {"nvidia/cu13/lib/libcudart.so.13": b"\x7fELF a library"}
    image.add_wheel("cu130", "nvidia-cuda-runtime", "13.0.96", library)
    image.add_wheel("cu130", "torch", "2.13.0", {"torch/__init__.py": b"version = 1\n", "torch/testing/key.pem": KEY})
    image.add(f"{SITE}/torch/__pycache__/__init__.cpython-313.pyc", b"\xf3\x0d\r\n\x03\x00\x00\x00" + b"12345678" + b"code")
    return image


def edited_config(**changes: object) -> Callable[[TinyImage], None]:
    """Change fields of the configuration."""
    return lambda image: image.config.update(changes)


def added(path: str, content: bytes | str = b"something", **more: object) -> Callable[[TinyImage], None]:
    """Add a file."""
    return lambda image: image.add(path, content, **more)


def appended(path: str, text: str) -> Callable[[TinyImage], None]:
    """Add lines to a file."""
    return lambda image: image.add(path, image.files[path].content + text.encode())


def covered(path: str, content: str) -> Callable[[TinyImage], None]:
    """A secret in one layer, and `path` in the next."""

    def spoil(image: TinyImage) -> None:
        image.add("home/stoker/notes.txt", f"my token: {TOKEN}\n")
        image.add(path, content, layer=1)

    return spoil


def removed(path: str) -> Callable[[TinyImage], None]:
    """Remove a file."""
    return lambda image: image.files.pop(path) and None


def other_deb(image: TinyImage) -> None:
    """Another version of a Debian package."""
    status = image.files["var/lib/dpkg/status"]
    status.content = status.content.replace(b"Version: 3.5.1-1", b"Version: 3.5.0-9")


def removed_deb(image: TinyImage) -> None:
    """A Debian package removed, its settings kept."""
    status = image.files["var/lib/dpkg/status"]
    status.content = status.content.replace(b"Package: openssl\nStatus: install ok installed", b"Package: openssl\nStatus: deinstall ok config-files")


def second_stack_cuda(image: TinyImage) -> None:
    """A wheel of the lock that brings CUDA 12 beside CUDA 13."""
    image.add_wheel("cu130", "numpy", "2.4.6", {"numpy/__init__.py": b"", "nvidia/cuda_runtime/lib/libcudart.so.12": b"\x7fELF another"})


def root_by_another_name(image: TinyImage) -> None:
    """A user who is root and is not called so."""
    image.add("etc/passwd", "toor:x:0:0::/:/bin/sh\n")
    image.config["User"] = "toor"


SPOILT = {
    "other deb": (other_deb, "packages-differ"),
    "removed deb": (removed_deb, "package-missing"),
    "additional deb": (added("var/lib/dpkg/status.d/nmap", "Package: nmap\nArchitecture: amd64\nVersion: 7\n"), "package-extra"),
    "no dpkg status": (removed("var/lib/dpkg/status"), "packages-differ"),
    "other wheel": (added(f"{SITE}/numpy-2.4.6.dist-info/METADATA", "Name: numpy\nVersion: 2.4.5\n\n"), "packages-differ"),
    "missing wheel": (removed(f"{SITE}/numpy-2.4.6.dist-info/METADATA"), "package-missing"),
    "additional wheel": (lambda image: image.add_wheel("cu130", "evil", "1.0"), "package-extra"),
    "package beside the stacks": (
        added("usr/local/lib/python3.13/dist-packages/evil-1.dist-info/METADATA", "Name: evil\nVersion: 1\n\n"),
        "package-extra",
    ),
    "altered file": (added(f"{SITE}/numpy/__init__.py", b"import evil\n"), "altered-file"),
    "missing file": (removed(f"{SITE}/numpy/__init__.py"), "missing-file"),
    "missing record": (removed(f"{SITE}/numpy-2.4.6.dist-info/RECORD"), "missing-file"),
    "altered program of Debian": (added("usr/bin/openssl", b"#!/bin/sh\n", mode=0o755), "altered-file"),
    "missing program of Debian": (removed("usr/bin/openssl"), "missing-file"),
    "module that nobody brought": (added(f"{SITE}/sitecustomize.py"), "unknown-file"),
    "pth that nobody brought": (added(f"{SITE}/evil.pth", "import evil"), "unknown-file"),
    "bytecode without source": (added(f"{SITE}/numpy/__pycache__/evil.cpython-313.pyc", b"\xf3\x0d\r\n\x01\x00\x00\x0012345678"), "unknown-file"),
    "bytecode by time": (added(f"{SITE}/numpy/__pycache__/__init__.cpython-313.pyc", b"\xf3\x0d\r\n\x00\x00\x00\x0012345678"), "unknown-file"),
    "program that nobody brought": (added("usr/local/bin/miner", mode=0o755), "unknown-program"),
    "second CUDA of the toolkit": (added("usr/local/cuda-12.6/lib64/libcudart.so.12.6.77"), "second-cuda"),
    "second CUDA among the packages": (added(f"{SITE}/evil.libs/libcublasLt-1a2b3c4d.so.12"), "second-cuda"),
    "two CUDAs in one stack": (second_stack_cuda, "second-cuda"),
    "driver": (added("srv/libcuda.so.535.104.05"), "driver-inside"),
    "setuid": (added("usr/bin/openssl", "program openssl", mode=0o4755), "setuid"),
    "setgid": (added("usr/bin/openssl", "program openssl", mode=0o2755), "setuid"),
    "file capabilities": (added("usr/bin/openssl", "program openssl", mode=0o755, pax={"SCHILY.xattr.security.capability": "x"}), "setuid"),
    "world-writable file": (added("etc/hosts.allow", mode=0o666), "world-writable"),
    "world-writable folder": (lambda image: image.folder("srv/open", 0o777), "world-writable"),
    "device": (added("srv/disk", b"", kind=tarfile.BLKTYPE), "device"),
    "user's file in the system": (added("opt/stoker/share/theirs", uid=1000), "owner"),
    "no user": (edited_config(User=""), "root-user"),
    "root": (edited_config(User="root"), "root-user"),
    "0 with a group": (edited_config(User="0:1000"), "root-user"),
    "root by another name": (root_by_another_name, "root-user"),
    "00": (edited_config(User="00"), "root-user"),
    "another root": (appended("etc/passwd", "toor:x:0:0::/root:/bin/sh\n"), "account"),
    "account without password": (added("etc/shadow", "root::19000:0:99999:7:::\n"), "account"),
    "account with a password": (added("etc/shadow", "root:$y$j9T$salt$hash:19000:0:99999:7:::\n"), "account"),
    "module of Debian's Python that nobody brought": (added("usr/lib/python3.13/usercustomize.py"), "unknown-program"),
    "path of Debian's Python that nobody brought": (added("usr/lib/python3/dist-packages/evil.pth"), "unknown-program"),
    "library that nobody brought": (added("usr/lib/x86_64-linux-gnu/libevil.so.1"), "unknown-program"),
    "library by a link that nobody brought": (lambda image: image.link("usr/lib/libz.so.1", "/srv/libz.so.1"), "unknown-program"),
    "library for every program": (added("etc/ld.so.preload", "/srv/evil.so"), "unknown-program"),
    "folder of libraries": (added("etc/ld.so.conf.d/evil.conf", "/srv"), "unknown-program"),
    "folder in place of a program": (lambda image: image.folder("usr/bin/openssl"), "altered-file"),
    "private key": (added("workspace/server.key", KEY), "secret"),
    "private key in JSON": (added("home/stoker/account.json", json.dumps({"private_key": KEY.decode()})), "secret"),
    "private key of one line": (
        added("home/stoker/key.pem", f"-----BEGIN PRIVATE KEY-----\n{'MC4CAQAwBQYDK2Vw' * 4}\n-----END PRIVATE KEY-----"),
        "secret",
    ),
    "key of PuTTY": (added("home/stoker/key.ppk", "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n"), "secret"),
    "secret of AWS": (added("home/stoker/aws.ini", f"aws_secret_access_key = {'aB3/' * 10}\n"), "secret"),
    "key of kaggle": (added("home/stoker/.config/kaggle/kaggle.json"), "secret"),
    "token of a notebook": (added("home/stoker/.stoker/notebook/token"), "secret"),
    "token in a large notebook": (added("workspace/book.ipynb", b"picture " * 300_000 + TOKEN.encode()), "secret"),
    "secret that a higher layer replaces": (covered("home/stoker/notes.txt", "nothing"), "secret"),
    "secret that a higher layer deletes": (covered("home/stoker/.wh.notes.txt", ""), "secret"),
    "secret in a folder that a higher layer deletes": (covered("home/.wh.stoker", ""), "secret"),
    "password of a database": (edited_config(Env=["PGPASSWORD=x"]), "secret"),
    "token in the command": (edited_config(Cmd=["notebook", f"--token={TOKEN}"]), "secret"),
    "token": (added("home/stoker/notes.txt", f"my token: {TOKEN}\n"), "secret"),
    "netrc": (added("root/.netrc"), "secret"),
    "password of an index": (added("etc/pip.conf", "[global]\nindex-url = https://me:secret@index.example/simple\n"), "secret"),
    "git": (added("workspace/project/.git/config"), "secret"),
    "authorized keys": (added("home/stoker/.ssh/authorized_keys"), "secret"),
    "history": (added("root/.bash_history", "export TOKEN=1"), "secret"),
    "host key": (added("etc/ssh/ssh_host_ed25519_key"), "secret"),
    "registry login": (added("root/.docker/config.json", '{"auths": {"r.example": {"auth": "bWU6c2VjcmV0"}}}'), "secret"),
    "variable": (edited_config(Env=["WANDB_API_KEY=0123456789abcdef"]), "secret"),
    "token in the history": (lambda image: image.history.append({"created_by": f"RUN login {TOKEN}"}), "secret"),
    "secret that a higher layer covers": (added(".env", layer=1), "secret"),
    "apt lists": (added("var/lib/apt/lists/mirror.example_debian_dists_trixie_InRelease"), "leftover"),
    "pip's cache": (added("root/.cache/pip/http/abc"), "leftover"),
    "log": (added("var/log/dpkg.log"), "leftover"),
    "other lock": (edited_config(Labels={"dev.stoker.lock": f"sha256:{hashed('other')}"}), "other-lock"),
    "no label": (edited_config(Labels=None), "other-lock"),
}


def rules(image: TinyImage, folder, **more) -> set[str]:
    """Check an image, without running it, and return the rules that it breaks."""
    return {one.rule for one in check(str(image.write(folder / "image.oci")), try_it=False, **more).findings}


def test_a_healthy_image_is_left_in_peace(tmp_path):
    found = check(str(healthy().write(tmp_path / "image.oci")), try_it=False)
    assert found.findings == ()
    assert (found.packages, found.proven, found.tried, found.own_lock) == (5, 0, False, True)
    assert found.lock == wanted().digest


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_is_found(name, tmp_path):
    spoil, rule = SPOILT[name]
    image = healthy()
    spoil(image)
    assert rule in rules(image, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (_, rule) in SPOILT.items()
        if rule in ("secret", "world-writable", "driver-inside", "leftover", "root-user", "other-lock") and name != "root by another name"
    ],
)
def test_nothing_else_is_found(name, tmp_path):
    spoil, rule = SPOILT[name]
    image = healthy()
    spoil(image)
    assert rules(image, tmp_path) == {rule}


def test_a_secret_is_told_by_place_and_kind_only(tmp_path):
    image = healthy()
    image.add("home/stoker/notes.txt", f"my token: {TOKEN}\n")
    image.config["Env"] = ["API_KEY=verysecretvalue"]
    told = json.dumps(check(str(image.write(tmp_path / "image.oci")), try_it=False).as_dict())
    assert "/home/stoker/notes.txt: a Hugging Face token" in told
    assert "variable API_KEY" in told
    assert TOKEN not in told
    assert "verysecretvalue" not in told


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("usr/share/doc/ssh.txt", b"-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n"),
        ("x.py", b"PREFIX = '-----BEGIN RSA PRIVATE KEY-----'\n"),
        ("x.py", b"hf_hub_download(repo)"),
        ("home/stoker/.ssh/id_ed25519.pub", b"ssh-ed25519 AAAA"),
        ("etc/pip.conf", b"[global]\nindex-url = https://index.example/simple\n"),
        ("etc/pip.conf", b"[global]\nindex-url = https://${USER}:${PASSWORD}@index.example/simple\n"),
        ("usr/share/zsh/functions/_history", b""),
        (".environment", b""),
    ],
)
def test_what_only_looks_like_a_secret_is_none(path, text):
    assert signs_of(path, text) == ()


def test_variables_that_only_look_secret_are_none():
    harmless = {
        "TOKENIZERS_PARALLELISM": "false",
        "JUPYTER_TOKEN_FILE": "/run/secrets/token",
        "API_KEY": "",
        "KEYMAP": "us",
        "SECRET": "/run/secrets/x",
        "SSH_AUTH_SOCK": "/x",
    }
    assert secret_variables(harmless) == []
    assert secret_variables({"DB_PASSWORD": "x", "URL": "http://me:pw@host/", "T": TOKEN}) == ["DB_PASSWORD", "T", "URL"]


def test_a_file_of_a_wheel_may_look_like_a_secret_while_it_is_as_published(tmp_path):
    image = healthy()
    assert rules(image, tmp_path / "1") == set()
    image.add(f"{SITE}/torch/testing/key.pem", KEY + b"another\n")
    assert {"secret", "altered-file"} <= rules(image, tmp_path / "2")


def test_a_list_in_the_image_vouches_for_nothing_outside_of_its_stack(tmp_path):
    image = healthy()
    image.add("usr/local/cuda/libcudart.so.12", b"other")
    image.add("workspace/key", KEY)
    record = image.files[f"{SITE}/numpy-2.4.6.dist-info/RECORD"]
    for path in ("usr/local/cuda/libcudart.so.12", "workspace/key"):
        content = image.files[path].content
        record.content += f"../../../../../../{path},sha256={_digest(content)},{len(content)}\n".encode()
    assert {"second-cuda", "secret"} <= rules(image, tmp_path)


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    image = healthy()
    image.files[f"{SITE}/numpy-2.4.6.dist-info/RECORD"].content = b'"' + b"x" * 200_000
    assert "missing-file" in rules(image, tmp_path)


@pytest.mark.parametrize("changes", [{"Labels": [1]}, {"Env": [1]}, {"Env": 3}, {"Entrypoint": 3}, {"Labels": "x"}])
def test_a_configuration_of_garbage_is_no_image(changes, tmp_path):
    image = healthy()
    image.config.update(changes)
    with pytest.raises(ImageBroken, match="configuration"):
        check(str(image.write(tmp_path / "image.oci")), try_it=False)


def test_stokers_own_files_are_compared(tmp_path):
    image = of_this_stoker()
    image.add(f"{HOME}/stoker/boost/replay/_replay.so", b"kernel")
    image.add(f"{HOME}/stoker/__pycache__/door.cpython-313.pyc", b"bytecode")
    found = check(str(image.write(tmp_path / "1")), try_it=False)
    assert (found.findings, found.own_compared) == ((), True)
    image.add("opt/stoker/bin/stoker-start", "#!/bin/sh\n", mode=0o755)
    image.add(f"{HOME}/stoker/evil.pyc", b"bytecode")
    image.files.pop(f"{HOME}/stoker/door.py")
    assert {"altered-file", "unknown-file", "missing-file"} == rules(image, tmp_path / "2")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda image: image.link("opt/stoker/cu130/bin/python", "/srv/evil"), "altered-file"),
        (removed("opt/stoker/bin/torchrun"), "altered-file"),
        (lambda image: image.link("opt/stoker/bin/pip", "/srv/evil"), "unknown-file"),
        (lambda image: setattr(image.files["opt/stoker/bin/stoker-start"], "mode", 0o644), "altered-file"),
        (edited_config(Entrypoint=["/bin/sh", "-c", "evil"]), "other-configuration"),
        (edited_config(Cmd=["evil"]), "other-configuration"),
        (edited_config(WorkingDir="/srv"), "other-configuration"),
        (edited_config(User="nobody"), "other-configuration"),
        (lambda image: image.config["Env"].append("LD_PRELOAD=/srv/evil.so"), "other-configuration"),
        (lambda image: image.config["Env"].remove("HOME=/home/stoker"), "other-configuration"),
        (lambda image: image.config["Labels"].update({"dev.stoker.version": "9"}), "other-configuration"),
    ],
)
def test_what_starts_is_compared(spoil, rule, tmp_path):
    image = of_this_stoker()
    spoil(image)
    assert rules(image, tmp_path) == {rule}


def test_what_an_image_says_besides_is_its_own_affair(tmp_path):
    image = of_this_stoker()
    image.config["Labels"]["org.opencontainers.image.revision"] = "abc"
    assert rules(image, tmp_path) == set()


def test_layers_that_were_made_here_are_compared(tmp_path):
    image, store = healthy(), Store(tmp_path / "store")
    count = made_here(image, store)
    same = check(str(image.write(tmp_path / "1")), try_it=False, store=store)
    assert (same.findings, same.same_layers, same.layers) == ((), count, count)
    image.add(f"workspace/{count - 1}", "something else", layer=count - 1)
    image.add("workspace/more", "something", layer=count)
    (found,) = check(str(image.write(tmp_path / "2")), try_it=False, store=store).findings
    assert found.rule == "other-layer"
    assert [line.partition(":")[0] for line in found.evidence] == [f"layer {count + 1}, on top", "settings"]
    image.layers = image.layers[:2]
    (found,) = check(str(image.write(tmp_path / "3")), try_it=False, store=store).findings
    assert "settings: it is missing" in found.evidence


def test_layers_of_another_lock_and_those_made_nowhere_are_not_compared(tmp_path):
    image, store = healthy(), Store(tmp_path / "store")
    found = check(str(image.write(tmp_path / "1")), try_it=False, store=store)
    assert (found.findings, found.same_layers) == ((), 0)
    count = made_here(image, store)
    image.add("workspace/more", "something", layer=count - 1)
    other = dataclasses.replace(wanted(), name="another")
    assert rules(image, tmp_path / "2", store=store, lock=other) == {"other-lock"}


def made_here(image: TinyImage, store: Store) -> int:
    """Give an image as many layers as its lock has, put them into a store, and return their number."""
    names = [name for _, name in layer_names(image.lock, "gzip").all()]
    for number in range(1, len(names)):
        image.add(f"workspace/{number}", "something", layer=number)
    for name, tar in zip(names, image.tars(), strict=True):
        with store.scratch() as folder:
            store.add_layer(name, compressed(lambda out, tar=tar: out.write(tar), folder / "blob", kind="gzip"))
    return len(names)


def of_this_stoker() -> TinyImage:
    """An image of a lock of the Stoker that runs, with all that it puts above its own files."""
    image = TinyImage(dataclasses.replace(wanted(), own=own()))
    for path, content in own_files().items():
        image.add(f"{HOME}/{path}", content)
    for entry in rootfs_entries(image.lock):
        if entry.kind == "symlink":
            image.link(entry.path, entry.target)
        else:
            image.add(entry.path, entry.content, mode=entry.mode)
    return image


def test_what_dpkg_is_told_to_leave_out_may_be_missing(tmp_path):
    image = healthy()
    image.files["var/lib/dpkg/info/openssl.md5sums"].content += b"0" * 32 + b"  usr/lib/gcc/x/libasan.a\n" + b"0" * 32 + b"  usr/lib/gcc/x/kept.a\n"
    assert rules(image, tmp_path / "1") == {"missing-file"}
    image.add("etc/dpkg/dpkg.cfg.d/stoker", "# a comment\npath-exclude=/usr/lib/gcc/*\npath-include=/usr/lib/gcc/*/kept.a\n")
    (found,) = check(str(image.write(tmp_path / "2")), try_it=False).findings
    assert found.evidence == ("/usr/lib/gcc/x/kept.a (openssl)",)


def test_what_a_higher_layer_deletes_is_not_there(tmp_path):
    image = healthy()
    image.add("srv/a", "1")
    image.add("srv/b/c", "1")
    image.add("srv/.wh.a", layer=1)
    image.add("srv/b/.wh..wh..opq", layer=1)
    image.add("srv/b/d", "2", layer=1)
    contents = read_subject(str(image.write(tmp_path / "image.oci")), None).contents
    assert [path for path in contents.nodes if path.startswith("srv")] == ["srv/b/d"]


def test_a_link_is_followed_as_in_the_image(tmp_path):
    image = healthy()
    contents = read_subject(str(image.write(tmp_path / "image.oci")), None).contents
    assert contents.find("bin/openssl") is contents.nodes["usr/bin/openssl"]
    image.link("loop", "loop")
    image.link("out", "../../../../etc")
    contents = read_subject(str(image.write(tmp_path / "image2.oci")), None).contents
    assert contents.find("loop/x") is None
    assert contents.find("out/passwd") is contents.nodes["etc/passwd"]


@pytest.mark.parametrize("path", ["../etc/passwd", "usr/../../etc/passwd", ".."])
def test_a_path_that_leads_out_is_refused(path, tmp_path):
    image = healthy()
    image.add(path)
    with pytest.raises(ImageBroken, match="outside"):
        check(str(image.write(tmp_path / "image.oci")), try_it=False)


def test_a_layer_with_other_bytes_is_refused(tmp_path):
    folder = healthy().write(tmp_path / "image.oci")
    manifest = read_subject(str(folder), None).layout.manifest
    blob = folder / "blobs/sha256" / manifest["layers"][0]["digest"].partition(":")[2]
    data = bytearray(blob.read_bytes())
    # In gzip's head: the tar is the same, the blob is not what its name says.
    data[9] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ImageBroken, match="other bytes"):
        check(str(folder), try_it=False)


def test_a_layer_that_goes_away_meanwhile_is_said(tmp_path):
    layout = read_subject(str(healthy().write(tmp_path / "image.oci")), None).layout
    layout.blob(layout.manifest["layers"][0]["digest"]).unlink()
    with pytest.raises(ImageBroken, match="cannot be read"):
        next(iter(open_layers(layout)))


@pytest.mark.parametrize("cut", [10, 100, 1000])
def test_a_layer_that_is_cut_short_or_garbage_is_refused(cut, tmp_path):
    folder = healthy().write(tmp_path / "image.oci")
    manifest = read_subject(str(folder), None).layout.manifest
    blob = folder / "blobs/sha256" / manifest["layers"][0]["digest"].partition(":")[2]
    data = blob.read_bytes()
    blob.write_bytes(data[:-cut] + bytes(cut))
    with pytest.raises(ImageBroken):
        check(str(folder), try_it=False)


def test_a_part_of_a_lock_is_compared_with_that_part(tmp_path):
    whole = dataclasses.replace(wanted(), variants=("cli", "dev"))
    whole = dataclasses.replace(whole, base=dataclasses.replace(whole.base, debs=(*whole.base.debs, deb("vim", "2:9.1-1", variants=("dev",)))))
    image = TinyImage(whole.part(["cli"]))
    assert check(str(image.write(tmp_path / "image.oci")), lock=whole, try_it=False).findings == ()
    image.config["Labels"] = {"dev.stoker.lock": whole.digest, "dev.stoker.variants": "cli dev"}
    assert {"package-missing"} == rules(image, tmp_path / "2", lock=whole)


def test_another_lock_than_the_image_carries_is_noticed(tmp_path):
    other = dataclasses.replace(wanted(), created=wanted().created + 1)
    assert rules(healthy(), tmp_path, lock=other) == {"other-lock"}


def test_an_image_without_lock_needs_one(tmp_path):
    image = healthy()
    image.files.pop("etc/stoker/lock.toml")
    folder = image.write(tmp_path / "image.oci")
    with pytest.raises(ImageBroken, match=r"holds no /etc/stoker/lock.toml"):
        check(str(folder), try_it=False)
    assert check(str(folder), lock=wanted(), try_it=False).findings == ()


def test_a_lock_is_found_in_a_file_a_project_and_an_image(tmp_path, monkeypatch):
    write_lock(tmp_path / "stoker.lock", wanted())
    layout = healthy().write(tmp_path / "image.oci")
    for place in (tmp_path / "stoker.lock", tmp_path, layout):
        assert read_lock_of(str(place)) == wanted()
    for missing in (tmp_path / "other.lock", "stoker.lock"):
        with pytest.raises(LockMissing):
            read_lock_of(str(missing))


def test_the_lock_is_read_from_the_image(tmp_path):
    assert lock_inside(read_subject(str(healthy().write(tmp_path / "image.oci")), None)) == wanted()


def test_files_that_are_pruned_may_be_missing(tmp_path):
    library = {"nvidia/cu13/lib/libcudart.so.13": b"\x7fELF", "nvidia/cu13/lib/libcudart_static.a": b"!<arch>"}
    for prune, missing in (((), {"missing-file"}), (("static",), set())):
        image = TinyImage(dataclasses.replace(wanted(), prune=prune))
        image.add_wheel("cu130", "nvidia-cuda-runtime", "13.0.96", library)
        image.files.pop(f"{SITE}/nvidia/cu13/lib/libcudart_static.a")
        assert rules(image, tmp_path / str(len(prune))) == missing


def test_a_wheel_in_the_store_is_compared_instead_of_the_list_in_the_image(tmp_path):
    """Somebody alters a file and the RECORD beside it: only the wheel itself tells."""
    image = healthy()
    path = tmp_path / "numpy-2.4.6-py3-none-any.whl"
    content = image.files[f"{SITE}/numpy/__init__.py"].content
    _write_wheel(path, {"numpy/__init__.py": content})
    row = dataclasses.replace(wheel("numpy", "2.4.6"), sha256=_sha256(path), size=path.stat().st_size)
    old = wanted()
    wheels = tuple(row if one.name == "numpy" else one for one in old.stacks[0].wheels)
    new = dataclasses.replace(old, stacks=(dataclasses.replace(old.stacks[0], wheels=wheels),))
    store = Store(tmp_path / "store")
    store.add_file(path, sha256=row.sha256, name=path.name)
    image = TinyImage(new)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            image.add(f"{SITE}/{name}", archive.read(name))
    assert check(str(image.write(tmp_path / "1")), try_it=False, store=store).findings == ()
    image.add_wheel("cu130", "numpy", "2.4.6", {"numpy/__init__.py": b"evil = 1\n"})
    assert check(str(image.write(tmp_path / "2")), try_it=False, store=Store(tmp_path / "empty")).findings == ()
    found = check(str(image.write(tmp_path / "3")), try_it=False, store=store)
    assert "altered-file" in {one.rule for one in found.findings}
    assert found.proven == 1


def test_a_tar_of_many_layers_reads_in_order():
    first, second = TinyImage(lock()), TinyImage(lock())
    second.layers = [{}]
    second.add("etc/passwd", "changed")
    import io

    contents = read_contents([io.BytesIO(tar) for tar in (first.tars()[0], second.tars()[0])])
    assert contents.text("etc/passwd") == "changed"


def test_what_is_no_image(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing):
        check("nothing/of/the:kind")
    with pytest.raises(ImageBroken):
        check(str(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError):
        check(str(tmp_path / "file"))


def test_the_command_lists_what_is_wrong_and_ends_with_67(tmp_path):
    image = healthy()
    image.add("root/.netrc")
    folder = str(image.write(tmp_path / "image.oci"))
    done = CliRunner().invoke(command, [folder, "--no-run"])
    assert isinstance(done.exception, ImageBroken)
    assert done.exception.exit_code == 67
    assert "/root/.netrc: passwords of servers" in done.stdout
    done = CliRunner().invoke(command, [folder, "--no-run", "--json"])
    assert [one["rule"] for one in json.loads(done.stdout)["findings"]] == ["secret"]
    done = CliRunner().invoke(command, [str(healthy().write(tmp_path / "2")), "--no-run"])
    assert done.exit_code == 0
    assert "no findings" in done.stdout


def _write_wheel(path, files):
    import base64
    import hashlib

    said = {
        **files,
        "numpy-2.4.6.dist-info/METADATA": b"Metadata-Version: 2.1\nName: numpy\nVersion: 2.4.6\n",
        "numpy-2.4.6.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}" for name, data in said.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**said, "numpy-2.4.6.dist-info/RECORD": "\n".join([*rows, "numpy-2.4.6.dist-info/RECORD,,", ""]).encode()}.items():
            archive.writestr(name, data)


def _digest(data):
    import base64
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _sha256(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
