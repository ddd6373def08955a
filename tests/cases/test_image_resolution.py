"""Requirements to locked wheels with the real uv, from a package index on this machine; then fetched from another one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import BuildFailed, DownloadFailed, HashMismatch, PackageGone, ProgramMissing, SpecificationBroken
from stoker.image.fetching import fetch_wheels
from stoker.image.index import find_indexes
from stoker.image.lock import Wheel
from stoker.image.resolution import Target, resolve_wheels, torch_index_answers
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from stoker.image.uv import find_uv
from tests import image_server as servers
from tests.conftest import find_uv as uv_here
from tests.conftest import need
from tests.image_server import Server, sha256, tiny_wheel

TRIXIE = Target(python="3.13.5", machine="x86_64", glibc=(2, 41))
BOOKWORM = Target(python="3.11.2", machine="x86_64", glibc=(2, 36))
WHEELS = dict(
    [
        tiny_wheel("alpha", "1.0"),
        tiny_wheel("alpha", "2.0", requires=("shared>=1",)),
        tiny_wheel("beta", "1.0", requires=("shared", "only-beta; python_version >= '3.13'", "windows; sys_platform == 'win32'")),
        tiny_wheel("shared", "1.0"),
        tiny_wheel("shared", "1.5"),
        tiny_wheel("only-beta", "3.0"),
        tiny_wheel("built", "1.0", tag="cp313-cp313-manylinux_2_28_x86_64"),
        tiny_wheel("built", "1.0", tag="cp313-cp313-manylinux_2_17_x86_64"),
        tiny_wheel("built", "1.0", tag="cp313-cp313-musllinux_1_2_x86_64"),
        tiny_wheel("built", "1.0", tag="cp311-cp311-manylinux_2_28_x86_64"),
        tiny_wheel("built", "2.0", tag="cp311-cp311-manylinux_2_38_x86_64"),
        tiny_wheel("fussy", "1.0", requires=("alpha<2",)),
        tiny_wheel("torch", "2.7.1", requires=("shared",)),
    ]
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with servers.serving() as one:
        servers.offer_index(one, WHEELS)
        yield one


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of uv's for all tests of this file: in an empty one it looks at each Python anew."""
    return tmp_path_factory.mktemp("uv")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, uv_cache: Path) -> None:
    """No settings of this machine: uv sees the test's index only."""
    need(uv_here() is not None, "uv")
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


def resolved(server: Server | str, requirements: list[str] | dict[str, list[str]], *, target: Target = TRIXIE, **more: object) -> dict[str, Wheel]:
    mirrors = more.pop("mirrors", Mirrors(pypi=server if isinstance(server, str) else f"{server.address}/simple"))
    lines = requirements if isinstance(requirements, dict) else {"cli": list(requirements)}
    found = resolve_wheels(lines, target=target, mirrors=mirrors, environ=os.environ, **more)  # type: ignore[arg-type]
    assert [wheel.name for wheel in found] == sorted(wheel.name for wheel in found)
    return {wheel.name: wheel for wheel in found}


def versions(wheels: dict[str, Wheel]) -> dict[str, str]:
    return {name: wheel.version for name, wheel in wheels.items()}


def test_wheels_come_with_their_hash_and_size(server: Server) -> None:
    found = resolved(server, ["alpha", "shared"])
    for wheel in found.values():
        assert (wheel.sha256, wheel.size) == (sha256(WHEELS[wheel.file]), len(WHEELS[wheel.file]))
        assert wheel.index is None
    assert versions(found) == {"alpha": "2.0", "shared": "1.5"}


@pytest.mark.parametrize("kind", ["json", "html"])
def test_sizes_that_an_index_does_not_tell_are_asked_for(kind: str) -> None:
    with servers.serving() as server:
        address = servers.offer_index(server, WHEELS, kind=kind, wrap=lambda answer: servers.with_login("anna", "s3cret", answer))
        found = resolved(address.replace("://", "://anna:s3cret@"), ["shared"])
        assert found["shared"].size == len(WHEELS["shared-1.5-py3-none-any.whl"])


@pytest.mark.parametrize(
    ("target", "version", "tag"), [(TRIXIE, "1.0", "cp313-cp313-manylinux_2_28_x86_64"), (BOOKWORM, "1.0", "cp311-cp311-manylinux_2_28_x86_64")]
)
def test_the_wheel_fits_python_and_glibc_of_the_image(server: Server, target: Target, version: str, tag: str) -> None:
    assert resolved(server, ["built"], target=target)["built"].file == f"built-{version}-{tag}.whl"


def test_a_glibc_that_is_too_old_is_told(server: Server) -> None:
    with pytest.raises(PackageGone, match="built"):
        resolved(server, ["built==2.0"], target=BOOKWORM)
    assert resolved(server, ["built==2.0"], target=Target(python="3.11.2", machine="x86_64", glibc=(2, 41)))


def test_each_package_knows_the_variants_that_need_it(server: Server) -> None:
    found = resolved(server, {"cli": ["shared"], "notebook": ["beta"], "dev": ["beta", "alpha"], "ssh": []})
    assert {name: wheel.variants for name, wheel in found.items()} == {
        "alpha": ("dev",),
        "beta": ("notebook", "dev"),
        "only-beta": ("notebook", "dev"),
        "shared": ("cli",),
    }


def test_what_only_the_person_asked_for_is_told_apart(server: Server, tmp_path: Path) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_text("built\n")
    found = resolved(server, {"cli": ["shared"], "notebook": ["alpha"]}, extra=["beta", "alpha"], requirements_file=listed)
    assert {name: (wheel.variants, wheel.extra) for name, wheel in found.items()} == {
        "alpha": (("cli",), True),
        "beta": (("cli",), True),
        "built": (("cli",), True),
        "only-beta": (("cli",), True),
        "shared": (("cli",), False),
    }


def test_old_versions_are_kept_where_they_fit_and_never_stand_in_the_way(server: Server) -> None:
    assert versions(resolved(server, ["alpha"], constraints=["alpha==1.0", "gone==9"])) == {"alpha": "1.0"}
    assert versions(resolved(server, ["alpha>1"], constraints=["alpha==1.0", "shared==1.0"])) == {"alpha": "2.0", "shared": "1.0"}


def test_what_cannot_be_is_told_in_uvs_words(server: Server) -> None:
    with pytest.raises(PackageGone, match=r"nowhere-at-all was not found"):
        resolved(server, ["nowhere-at-all"])
    with pytest.raises(PackageGone, match=r"(?s)fussy.*alpha<2"):
        resolved(server, ["fussy", "alpha==2.0"])
    with pytest.raises(BuildFailed, match="parse"):
        resolved(server, ["alpha=="])


def test_an_index_that_is_not_there() -> None:
    with pytest.raises(DownloadFailed) as caught:
        resolved("http://anna:s3cret@127.0.0.1:9/simple", ["alpha"])
    assert "s3cret" not in caught.value.message + repr(caught.value.__cause__)
    assert "refused" in caught.value.message


@pytest.mark.parametrize(("code", "hint"), [(401, "wants a (or another) login"), (403, "login"), (407, "proxy wants a login"), (500, "network")])
def test_an_index_that_refuses(code: int, hint: str) -> None:
    with servers.serving() as server:
        server.answers["/simple/alpha/"] = servers.status(code)
        with pytest.raises(DownloadFailed, match=str(code)) as caught:
            resolved(server.address.replace("://", "://anna:s3cret@") + "/simple", ["alpha"])
        assert hint in caught.value.hint
        assert "s3cret" not in caught.value.message


def test_a_folder_of_wheels_is_enough(tmp_path: Path) -> None:
    folder = servers.write_folder(tmp_path / "my wheels", WHEELS)
    found = resolved(str(folder), ["beta"])
    assert found["beta"].sha256 == sha256(WHEELS[found["beta"].file])
    assert found["beta"].size == len(WHEELS[found["beta"].file])


def test_torch_comes_from_its_own_index_and_the_rest_from_the_default_one(server: Server, tmp_path: Path) -> None:
    own = dict([tiny_wheel("torch", "2.7.1+cu126", requires=("shared",)), tiny_wheel("shared", "9.9"), tiny_wheel("alpha", "9.9")])
    with servers.serving() as torch:
        servers.offer_index(torch, own, under="/whl/cu126")
        mirrors = Mirrors(pypi=f"{server.address}/simple", torch=f"{torch.address}/whl")
        found = resolved(server, {"cli": ["torch==2.7.1", "alpha"], "dev": ["beta"]}, mirrors=mirrors, index="cu126")
        assert versions(found) == {"alpha": "2.0", "beta": "1.0", "only-beta": "3.0", "shared": "1.5", "torch": "2.7.1+cu126"}
        assert {name: wheel.index for name, wheel in found.items() if wheel.index} == {"torch": "cu126"}
        assert found["torch"].file == "torch-2.7.1+cu126-py3-none-any.whl"
        paths = fetch_wheels(list(found.values()), Store(tmp_path / "store"), mirrors=mirrors, environ=os.environ)
        assert paths[found["torch"].sha256].read_bytes() == own[found["torch"].file]
        assert torch_index_answers("cu126", mirrors=mirrors, environ=os.environ)
        assert not torch_index_answers("cu999", mirrors=mirrors, environ=os.environ)


def test_a_lock_from_one_mirror_is_fetched_from_another(server: Server, tmp_path: Path) -> None:
    found = list(resolved(server, ["alpha", "built"]).values())
    folder = servers.write_folder(tmp_path / "wheels", WHEELS)
    paths = fetch_wheels(found, Store(tmp_path / "store"), mirrors=Mirrors(pypi=str(folder)), environ=os.environ)
    assert {path.read_bytes() for path in paths.values()} == {WHEELS[wheel.file] for wheel in found}


def test_uv_tells_how_it_is_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "uv.toml").write_text(
        '[[index]]\nurl = "http://u:p@toml.invalid/simple"\ndefault = true\n[[index]]\nurl = "http://more.invalid/simple"\n'
    )
    monkeypatch.delenv("UV_NO_CONFIG")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://pip.invalid/simple")
    uv = find_uv(os.environ)
    assert [one.address for one in find_indexes(Mirrors(), os.environ, uv)] == [
        "http://u:p@toml.invalid/simple",
        "http://more.invalid/simple",
        "http://pip.invalid/simple",
    ]
    monkeypatch.delenv("UV_CONFIG_FILE")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    built_in = find_indexes(Mirrors(), os.environ, find_uv(os.environ))
    assert built_in[0].address.startswith("https://"), "uv's own default index"


def test_pips_mirror_counts_for_uv(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.address}/simple")
    found = resolved(server, ["shared"], mirrors=Mirrors())
    assert fetch_wheels(list(found.values()), Store(tmp_path / "store"), mirrors=Mirrors(), environ=os.environ)


def test_settings_of_the_persons_own_projects_do_not_count(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("alpha==1.0\n")
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\nconstraint-dependencies = ['alpha==1.0']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_CONSTRAINT", str(tmp_path / "constraints.txt"))
    monkeypatch.setenv("UV_RESOLUTION", "lowest")
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    monkeypatch.setenv("UV_PYTHON", "3.9")
    assert versions(resolved(server, ["alpha"]))["alpha"] == "2.0"


def test_a_login_stands_in_no_argument_list(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    start = subprocess.Popen

    def watch(command: list[str], *arguments: object, **settings: object) -> object:
        seen.append(command)
        return start(command, *arguments, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", watch)
    resolved(server.address.replace("://", "://anna:s3cret@") + "/simple", ["alpha"])
    assert seen
    assert "s3cret" not in str(seen)


def test_no_uv(monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("stoker.image.uv._tree", lambda: None)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(ProgramMissing, match="uv"):
        resolved(server, ["alpha"])


# --- the person's requirements ------------------------------------------------------------------------------------------


def test_a_requirements_file_is_part_of_what_is_always_there(server: Server, tmp_path: Path) -> None:
    digest = sha256(WHEELS["shared-1.0-py3-none-any.whl"])
    path = tmp_path / "requirements.txt"
    path.write_text(
        f"# mine\nshared==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digest}  # comment\n\nalpha>=1 ; python_version > '3'\n"
    )
    found = resolved(server, {"cli": [], "dev": ["shared"]}, requirements_file=path)
    assert versions(found) == {"alpha": "2.0", "shared": "1.0"}
    assert found["shared"].variants == ("cli",)
    path.write_text(f"shared==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(HashMismatch, match="shared"):
        resolved(server, [], requirements_file=path)


def test_a_pylock_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "pylock.toml"
    wheel = 'name = "shared-1.0-py3-none-any.whl", url = "https://x.invalid/y", hashes = {{ sha256 = "{}" }}'
    row = f'[[packages]]\nname = "shared"\nversion = "1.0"\nwheels = [{{{{ {wheel} }}}}]\n'
    head = 'lock-version = "1.0"\ncreated-by = "test"\n'
    path.write_text(head + row.format(sha256(WHEELS["shared-1.0-py3-none-any.whl"])))
    assert versions(resolved(server, ["alpha"], requirements_file=path)) == {"alpha": "2.0", "shared": "1.0"}
    path.write_text(head + row.format("0" * 64))
    with pytest.raises(HashMismatch, match="shared"):
        resolved(server, ["alpha"], requirements_file=path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "--index-url http://u:s3cret@x.invalid/simple\nalpha\n"),
        ("requirements.txt", "-e .\n"),
        ("requirements.txt", "-r other.txt\n"),
        ("requirements.txt", "alpha @ https://u:s3cret@x.invalid/alpha-1.0-py3-none-any.whl\n"),
        ("requirements.txt", "git+https://x.invalid/alpha\n"),
        ("requirements.txt", "./alpha-1.0-py3-none-any.whl\n"),
        ("requirements.txt", "alpha --no-binary\n"),
        ("pylock.toml", "nonsense"),
        ("pylock.toml", '[[packages]]\nname = "a"\nversion = "1"\nvcs = { type = "git", url = "https://x.invalid" }\n'),
        ("pylock.toml", '[[packages]]\nversion = "1"\n'),
        ("none.txt", None),
    ],
)
def test_what_no_lock_can_hold(server: Server, tmp_path: Path, name: str, text: str | None) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecificationBroken) as caught:
        resolved(server, ["alpha"], requirements_file=path)
    assert "s3cret" not in caught.value.message
