"""stoker.toml: what it may say, and every refusal with its line; the file that `stoker image init` writes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.cli import main
from stoker.errors import NoStackFits, PackageGone, SpecificationBroken, UnknownName
from stoker.host import Driver, Gpu, Host
from stoker.image.presets import find_preset, newest_tried, presets
from stoker.image.specification import IMAGE_NAME, Mirrors, Specification, read_specification
from stoker.image.stacks import choose_stacks
from stoker.image.starter import image_name, starter_text


def read(folder: Path, text: str) -> Specification:
    path = folder / "stoker.toml"
    path.write_text(text)
    return read_specification(path)


def refusal(folder: Path, text: str) -> SpecificationBroken:
    with pytest.raises(SpecificationBroken) as caught:
        read(folder, text)
    assert "Traceback" not in caught.value.message
    assert caught.value.hint
    return caught.value


# --- what it says ---------------------------------------------------------------------------------------------------


def test_a_name_alone_is_enough(tmp_path: Path) -> None:
    found = read(tmp_path, '[image]\nname = "team/trainer"\n')
    assert found == Specification(name="team/trainer", path=tmp_path / "stoker.toml")
    assert (found.torch, found.cuda, found.variants) == ("latest", ("auto",), ("cli",))


def test_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("einops\n")
    found = read(
        tmp_path,
        """
[launch]  # of another command
nodes = 2
[image]
name = "a"
python = "3.11"
torch = "2.5.1"
cuda = ["cu118", "12.1"]
variants = ["dev", "ssh"]
packages = ["einops", "Pandas[excel, plot] >=2,<3", "tomli; python_version < '3.11'", "numpy == 2.*"]
requirements = "more.txt"
debs = ["libgl1", "g++"]
prune = ["amd", "static"]
[image.mirrors]
pypi = "https://user:secret@mirror.test/simple"
torch = "file:///mirror/torch"
""",
    )
    assert found.cuda == ("11.8", "12.1")
    assert found.variants == ("cli", "ssh", "dev")
    assert found.prune == ("static", "amd")
    assert found.packages[1] == "Pandas[excel, plot] >=2,<3"
    assert found.requirements_path == tmp_path / "more.txt"
    assert found.mirrors == Mirrors(pypi="https://user:secret@mirror.test/simple", torch="file:///mirror/torch")


def test_a_torch_for_each_cuda(tmp_path: Path) -> None:
    found = read(tmp_path, '[image]\nname = "a"\ntorch = { "12.6" = "2.7.1", "cu130" = "latest" }\n')
    assert (found.cuda, found.torch_for) == (("12.6", "13.0"), (("12.6", "2.7.1"), ("13.0", "latest")))


def test_the_digest_is_of_the_image_and_not_of_the_mirrors(tmp_path: Path) -> None:
    plain = read(tmp_path, '[image]\nname = "a"\n')
    mirrored = read(tmp_path, '[image]\nname = "a"\nmirrors = { pypi = "https://mirror.test/simple" }\n')
    assert plain.digest == mirrored.digest
    others = ['python = "3.11"', 'torch = "2.8.0"', 'cuda = "12.6"', 'variants = ["ssh"]', 'packages = ["a"]', 'debs = ["aa"]', 'prune = ["amd"]']
    digests = {read(tmp_path, f'[image]\nname = "a"\n{other}\n').digest for other in others} | {read(tmp_path, '[image]\nname = "b"\n').digest}
    assert len(digests) == len(others) + 1
    assert plain.digest not in digests


def test_the_digest_follows_the_requirements_file(tmp_path: Path) -> None:
    text = '[image]\nname = "a"\nrequirements = "r.txt"\n'
    (tmp_path / "r.txt").write_text("a\n")
    before = read(tmp_path, text).digest
    (tmp_path / "r.txt").write_text("b\n")
    assert read(tmp_path, text).digest != before


def test_an_oci_base_counts_by_its_digest(tmp_path: Path) -> None:
    one, other = (read(tmp_path, f'[image]\nname = "a"\nbase = "oci:{folder}@sha256:{"a" * 64}"\n') for folder in ("here", "/there"))
    assert one.base != other.base
    assert one.digest == other.digest


# --- what it may not say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cudda = '12.6'", "stoker.toml, line 3: there is no key 'cudda' in [image]; the nearest is 'cuda'"),
        ("mirors = {}", "the nearest is 'mirrors'"),
        ("python = 3.13", "line 3: python: 3.13 is a number and not a text"),
        ("python = '3.13t'", "line 3: python: '3.13t' is no Python version"),
        ("python = '3.13.5'", "is no Python version"),
        ("torch = 2.8", "2.8 is a number and not a text"),
        ("torch = 'newest'", "line 3: torch: 'newest' is no PyTorch version"),
        ("torch = '2.8.0+cu128'", "names its CUDA, too"),
        ("torch = {}", "a table names the PyTorch of each CUDA once"),
        ("torch = { '12.6' = '2.7.1', 'cu126' = '2.8.0' }", "a table names the PyTorch of each CUDA once"),
        ("torch = { '12.6' = 'none' }", "a table names the PyTorch of each CUDA once"),
        ("torch = { 'twelve' = '2.7.1' }", "'twelve' is no CUDA version"),
        ("torch = { '12.6' = '2.7.1' }\ncuda = '13.0'", "torch names a PyTorch for CUDA 12.6, cuda asks for 13.0"),
        ("torch = 'none'\ncuda = '13.0'", "line 4: cuda: without PyTorch there is no CUDA"),
        ("cuda = 12.6", "12.6 is a number and not a text"),
        ("cuda = [12.6]", "is no list of texts"),
        ("cuda = []", "the list is empty"),
        ("cuda = ['12.6', 'cu126']", "stands twice"),
        ("cuda = ['auto', '12.6']", "'auto' cannot stand beside"),
        ("cuda = 'rocm'", "'rocm' is no CUDA version"),
        ("variants = ['notebok']", "line 3: variants: there is no 'notebok'; the nearest is 'notebook'"),
        ("prune = ['statics']", "the nearest is 'static'"),
        ("packages = ['torch==2.8.0']", "is decided by torch and cuda"),
        ("packages = ['Torch_Vision']\npackages2 = 1", "there is no key 'packages2'"),
        ("packages = ['a @ https://mirror.test/a.whl']", "holds an address"),
        ("packages = ['https://mirror.test/a.whl']", "holds an address"),
        ("packages = ['--index-url=x']", "is no package"),
        ("packages = ['-e .']", "is no package"),
        ("packages = ['a\\nb']", "is no package"),
        ('packages = ["a\\n--pre"]', "is no package"),
        ('packages = ["a; b\\n--pre"]', "is no package"),
        ("packages = [' ']", "is no list of texts"),
        ("packages = 'a b'", "'a b' is no package"),
        ("debs = ['libgl1=1.0']", "is no name of a Debian package"),
        ("debs = ['--yes']", "is no name of a Debian package"),
        ("debs = ['Libgl1']", "is no name of a Debian package"),
        ("requirements = 'gone.txt'", "line 3: requirements: gone.txt cannot be read: No such file"),
        ("requirements = '/etc/hosts'", "is no path relative to stoker.toml"),
        ("requirements = '.'", "cannot be read: Is a directory"),
        ("base = 'debian:13'", "is no image by digest"),
        ("base = 'oci:folder:latest'", "is no image by digest"),
        ("mirrors = 'https://mirror.test'", "mirrors is no table"),
        ("mirrors = { pip = 'https://mirror.test' }", "there is no key 'pip' in [image.mirrors]; the nearest is 'pypi'"),
        ("mirrors = { pypi = 'mirror.test' }", "'mirror.test' is no address"),
        ("mirrors = { pypi = 'https://mirror.test/ --pre' }", "is no address"),
        ("name = 'b'", "is no TOML"),
        ("packages = ['a'", "is no TOML"),
    ],
)
def test_a_refusal_names_the_place(tmp_path: Path, line: str, said: str) -> None:
    assert said in refusal(tmp_path, f'[image]\nname = "a"\n{line}\n').message


@pytest.mark.parametrize("name", ["", "Trainer", "a b", "a//b", "-a", "a_-b", "a" * 300, "a:latest", "a@sha256:1"])
def test_a_name_that_no_registry_takes(tmp_path: Path, name: str) -> None:
    assert "line 2: name" in refusal(tmp_path, f'[image]\nname = "{name}"\n').message


def test_a_misspelt_name_is_told(tmp_path: Path) -> None:
    assert "name is missing; is 'nmae' (stoker.toml, line 2) meant" in refusal(tmp_path, '[image]\nnmae = "a"\n').message


def test_no_file_and_no_table_say_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(SpecificationBroken) as caught:
        read_specification(tmp_path / "stoker.toml")
    assert "stoker image init" in caught.value.hint
    assert "stoker image init" in refusal(tmp_path, "[launch]\n").hint
    assert "image is no table" in refusal(tmp_path, "image = 1\n").message


@pytest.mark.parametrize("content", [b"\xff\xfe[image]", b"[image]\nname = '\xe9'", b"\0", b"[" * 50000, b"a=" + b"[" * 100000, b"\xef\xbb\xbf"])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stoker.toml").write_bytes(content)
    with pytest.raises(SpecificationBroken):
        read_specification(tmp_path / "stoker.toml")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecificationBroken, match="Is a directory"):
        read_specification(tmp_path)


# --- the stacks -----------------------------------------------------------------------------------------------------


def stacks(*, reachable: bool = False, machine: str = "x86_64", held: dict[str, str] | None = None, **said: object) -> list[tuple[str, str | None]]:
    specification = Specification(name="a", **said)  # type: ignore[arg-type]
    found = choose_stacks(specification, machine=machine, reachable=lambda name: reachable, held=held)
    return [(f"{choice.stack.name} {choice.stack.torch}", choice.index) for choice in found]


def test_latest_is_what_stoker_is_tested_with() -> None:
    locked = (Path(__file__).parents[2] / "locks/cu130.txt").read_text()
    assert f"# torch: {newest_tried()}\n" in locked
    assert stacks() == [(f"cu130 {newest_tried()}", None)]
    assert stacks(machine="aarch64") == [(f"cu130 {newest_tried()}", None)]


def test_the_presets() -> None:
    wanted = {
        "torch27": [("cu126 2.7.1", None)],
        "torch28": [("cu128 2.8.0", None)],
        "latest": [("cu130 2.13.0", None)],
        "universal": [("cu130 2.13.0", None), ("cu126 2.7.1", None)],
    }
    assert {preset.name: stacks(python=preset.python, torch=preset.torch, cuda=preset.cuda) for preset in presets()} == wanted


def test_universal_takes_the_newest_where_pytorchs_own_index_answers() -> None:
    assert stacks(cuda=("12.6", "13.0"), reachable=True) == [("cu130 2.13.0", None), ("cu126 2.13.0", "cu126")]


def test_universal_says_why_it_took_the_older_one() -> None:
    specification = Specification(name="a", cuda=("12.6", "13.0"))
    whys = [choice.why for choice in choose_stacks(specification, machine="x86_64", reachable=lambda name: False)]
    assert "cu126: torch 2.7.1" in whys[1]
    assert "cannot be reached from here" in whys[1]


def test_the_pair_for_very_old_drivers_comes_from_pytorchs_own_indexes() -> None:
    assert stacks(torch="2.5.1", cuda=("11.8", "12.1"), reachable=True) == [("cu121 2.5.1", "cu121"), ("cu118 2.5.1", "cu118")]
    with pytest.raises(PackageGone, match="on PyTorch's own index only"):
        stacks(torch="2.5.1", cuda=("11.8", "12.1"))


def test_the_latest_stays_where_the_lock_has_it() -> None:
    assert stacks(cuda=("12.6", "13.0"), held={"cu126": "2.7.0", "cu130": "2.12.1"}) == [("cu130 2.12.1", None), ("cu126 2.7.0", None)]
    assert stacks(held={"cu130": "2.12.1"}) == [("cu130 2.12.1", None)]
    # 2.4.1 had the default index's cu121 and is older than what Stoker needs.
    assert stacks(held={"cu121": "2.4.1"}) == [("cu130 2.13.0", None)]
    assert stacks(torch="2.8.0", held={"cu130": "2.12.1"}) == [("cu128 2.8.0", None)]


def test_cpu_and_plain() -> None:
    assert stacks(cuda=("cpu",), reachable=True) == [("cpu 2.13.0", "cpu")]
    assert stacks(torch="none") == [("plain None", None)]
    assert [name for name, _ in stacks(cuda=("cpu", "13.0"), reachable=True)] == ["cu130 2.13.0", "cpu 2.13.0"]


def test_a_stack_knows_its_drivers_and_architectures() -> None:
    (choice,) = choose_stacks(Specification(name="a", torch="2.7.1", cuda=("12.6",)), machine="x86_64", reachable=lambda name: False)
    stack = choice.stack
    assert (stack.driver_min, stack.driver_full, stack.torchvision, stack.cuda) == ("525.60.13", "560.28.03", "0.22.1", "12.6")
    assert "60" in stack.architectures


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ({"torch": "2.8.0", "cuda": ("11.8",)}, "2.8.0 was never built for CUDA 11.8", "torch 2.8.0 for CUDA 12.8"),
        ({"cuda": ("12.7",)}, "there never was a 12.7", "torch"),
        ({"torch": "3.0"}, "no PyTorch 3.0 is known", "torch"),
        ({"torch": "2.7.1", "python": "3.15"}, "Python 3.15", "torch"),
        ({"torch": "2.4.1"}, "older than 2.5, which Stoker needs", "newer"),
    ],
)
def test_the_impossible_is_refused_with_what_exists(said: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(NoStackFits) as caught:
        stacks(**said, reachable=True)
    assert message in caught.value.message
    assert hint in caught.value.hint


# --- stoker image init ----------------------------------------------------------------------------------------------


def host(driver: str | None = None, *, capability: tuple[int, int] | None = None, name: str = "NVIDIA Test") -> Host:
    fields: dict[str, Any] = {field.name: None for field in dataclasses.fields(Gpu)}
    gpus = (Gpu(**{**fields, "name": name, "compute_capability": capability}),) if capability else ()
    whole: dict[str, Any] = {field.name: None for field in dataclasses.fields(Host)}
    return Host(**{**whole, "architecture": "x86_64", "driver": Driver(version=driver, cards=len(gpus), nodes=0), "gpus": gpus})


def test_the_file_names_the_variants_that_were_asked_for(tmp_path: Path) -> None:
    assert read(tmp_path, starter_text("x", host(), variants=["ssh", "notebook"])).variants == ("cli", "notebook", "ssh")
    assert read(tmp_path, starter_text("x", host(), variants=["cli"])).variants == ("cli",)
    with pytest.raises(UnknownName, match="the nearest is 'notebook'"):
        starter_text("x", host(), variants=["notebok"])


def test_what_init_writes_can_be_read(tmp_path: Path) -> None:
    found = read(tmp_path, starter_text("My Project!", host()))
    assert (found.name, found.torch, found.cuda, found.variants) == ("my-project", "latest", ("auto",), ("cli",))
    for preset in presets():
        found = read(tmp_path, starter_text("x", host(), preset=preset.name))
        assert (found.torch, found.cuda, found.python) == (preset.torch, preset.cuda, preset.python)


def test_every_line_that_is_commented_out_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("")
    lines = starter_text("x", host()).splitlines()
    said = [line[2:] for line in lines if line.startswith("# ") and " = " in line and not line.startswith(("# torch =", "# base ="))]
    assert len(said) == 7
    head = [line for line in lines if line and not line.startswith("#")]
    found = read(tmp_path, "\n".join([*head, *said[:4], "[image.mirrors]", *said[4:]]))
    assert found.packages
    assert found.mirrors.security
    torch = next(line[2:] for line in lines if line.startswith("# torch = {"))
    assert read(tmp_path, f'[image]\nname = "a"\n{torch}\n').cuda == ("12.6", "13.0")


@pytest.mark.parametrize(
    ("driver", "capability", "torch", "cuda"),
    [
        ("580.95.05", (9, 0), "latest", "auto"),
        ("570.86.10", (9, 0), "2.10.0", "12.8"),
        ("535.104.05", (8, 0), "2.10.0", "12.8"),
        ("550.54.14", (6, 1), "2.7.1", "12.6"),
        ("460.32.03", (7, 0), "2.7.1", "11.8"),
        ("390.10", (7, 0), "latest", "auto"),
    ],
)
def test_init_fits_the_machine(tmp_path: Path, driver: str, capability: tuple[int, int], torch: str, cuda: str) -> None:
    text = starter_text("x", host(driver, capability=capability))
    found = read(tmp_path, text)
    assert (found.torch, found.cuda) == (torch, (cuda,))
    assert f"driver {driver}" in text


def test_a_gpu_with_a_hostile_name_stays_in_its_comment(tmp_path: Path) -> None:
    text = starter_text("x", host("580.95.05", capability=(9, 0), name="evil\ntorch = 'none'\x1b[31m"))
    assert read(tmp_path, text).torch == "latest"
    assert "\x1b" not in text


@given(st.text())
def test_a_folder_of_any_name_gives_a_name(folder: str) -> None:
    assert IMAGE_NAME.fullmatch(image_name(folder))
    assert re.fullmatch(r"[a-z0-9-]{1,60}", image_name(folder))


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="the nearest is 'torch28'"):
        find_preset("torch-28")


def ends(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_init_does_not_write_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert ends(["image", "init", "--preset", "universal"]) == 0
    first = (tmp_path / "stoker.toml").read_text()
    assert read_specification(tmp_path / "stoker.toml").cuda == ("13.0", "12.6")
    assert ends(["image", "init"]) == 60
    assert (tmp_path / "stoker.toml").read_text() == first
    assert "--force" in capsys.readouterr().err
    assert ends(["image", "init", "--force", "--preset", "torch28", "--variants", "notebook, ssh"]) == 0
    assert read_specification(tmp_path / "stoker.toml").variants == ("cli", "notebook", "ssh")
    assert read_specification(tmp_path / "stoker.toml").torch == "2.8.0"
    assert (tmp_path / "stoker.toml.old").read_text() == first


def test_init_adds_to_a_file_that_is_about_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stoker.toml").write_text("[launch]\nnodes = 2\n")
    assert ends(["image", "init"]) == 0
    text = (tmp_path / "stoker.toml").read_text()
    assert text.startswith("[launch]\nnodes = 2\n\n#")
    assert read_specification(tmp_path / "stoker.toml").torch == "latest"


def test_init_leaves_what_is_no_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stoker.toml").write_text("[launch\n")
    assert ends(["image", "init"]) == 60
    assert (tmp_path / "stoker.toml").read_text() == "[launch\n"
