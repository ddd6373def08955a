"""The pages about starting: every command in them is one, every option in them exists and none is left out, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from stoker import cli
from stoker.launch.asked import with_defaults
from stoker.launch.engine import Engine, EngineName
from stoker.launch.engines import render
from stoker.launch.gpus import read_gpus
from stoker.launch.request import Account, Limits, Request
from stoker.launch.wanted import Wanted
from tests.cases.test_launch_safety import ITEMS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/launch.md", "docs/guide-notebook.md", "docs/guide-team.md", "docs/guide-proxy.md", "README.md")
OPTIONS_PAGE = "docs/launch.md"
STARTING = (["up", "notebook"], ["up", "ssh"], ["run"])


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def parts(page: str) -> list[tuple[str | None, str]]:
    """A page cut at its fences: None and prose, or the block's language (empty: what is typed at a shell) and its text."""
    cut = re.split(r"^```(\w*)\n", text_of(page), flags=re.MULTILINE)
    # Every second fence opens.
    return [(language if at % 2 else None, text) for at, (language, text) in enumerate(zip([None, *cut[1::2]], cut[::2], strict=True))]


def blocks(page: str, language: str) -> list[str]:
    return [text for kind, text in parts(page) if kind == language]


def commands(page: str) -> Iterator[list[str]]:
    """Every call of Stoker in the blocks and in the prose, as words."""
    lines = [line for block in blocks(page, "") for line in block.replace("\\\n", " ").splitlines()]
    lines += [call for kind, text in parts(page) if kind is None for call in re.findall(r"`((?:\./)?stoker [^`]+)`", text)]
    for part in (part.strip() for line in lines for part in re.split(r" && | \| ", line)):
        if re.match(r"(\./)?stoker ", part):
            yield shlex.split(part, comments=True)[1:]


def found(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and what is left for it."""
    command: click.Command = cli.stoker
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, f"there is no `stoker ... {words[0]}`"
        command, words = inner, words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params if isinstance(parameter, click.Option) for name in (*parameter.opts, *parameter.secondary_opts)}


ALL = [pytest.param(page, words, id=f"{page}: {' '.join(words)}") for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), ALL)
def test_every_command_line_is_understood(page: str, words: list[str]) -> None:
    command, rest = found(words)
    if not rest:
        return  # named in a sentence, or a group
    assert not isinstance(command, click.Group), f"{page}: `stoker {' '.join(words)}`"
    try:
        command.make_context(command.name, list(rest))
    except click.UsageError as error:
        # A path of the reader's that this machine does not have is no mistake of the page.
        if "does not exist" not in error.message:
            pytest.fail(f"{page}: `stoker {' '.join(words)}`: {error.message}")


def test_the_pages_hold_commands_at_all() -> None:
    assert all(sum(1 for _ in commands(page)) >= 5 for page in PAGES)


@pytest.mark.parametrize("words", STARTING, ids=" ".join)
def test_every_option_is_explained(words: list[str]) -> None:
    page = text_of(OPTIONS_PAGE)
    options = [parameter.opts for parameter in found(words)[0].params if isinstance(parameter, click.Option)]
    missing = [names for names in options if not any(re.search(rf"(?<![\w-]){name}(?![\w-])", page) for name in names)]
    assert not missing, f"{OPTIONS_PAGE} says nothing about {missing}"


def test_every_option_in_the_table_is_one_of_all_three() -> None:
    table = re.search(r"^## Options$(.*?)^## ", text_of(OPTIONS_PAGE), re.MULTILINE | re.DOTALL)
    assert table
    named = {option for row in re.findall(r"^\| (.*?) \| ", table[1], re.MULTILINE) for option in re.findall(r"--?[a-z][a-z-]*", row)}
    assert len(named) >= 15
    for words in STARTING:
        assert not named - options_of(found(words)[0]), words


@pytest.mark.parametrize("table", [block for page in PAGES for block in blocks(page, "toml") if "[launch]" in block])
def test_the_tables_for_stoker_toml_are_accepted(table: str, tmp_path: Path) -> None:
    nothing = with_defaults(Wanted(project=tmp_path), {})
    (tmp_path / "stoker.toml").write_text(table, encoding="utf-8")
    said = with_defaults(Wanted(project=tmp_path), dict.fromkeys(re.findall(r"[A-Z_]{4,}", table), "x"))
    keys = re.findall(r"^(\w+) = ", table, re.MULTILINE)
    assert keys
    assert sum(getattr(said, field) != getattr(nothing, field) for field in Wanted.__dataclass_fields__) == len(keys)


def section(title: str) -> str:
    whole = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", text_of(OPTIONS_PAGE), re.MULTILINE | re.DOTALL)
    assert whole, title
    return whole[1]


def argv(engine: EngineName, gpus: str) -> list[str]:
    request = Request(
        name="tryout-run",
        kind="run",
        image="localhost/tryout",
        command=("true",),
        project=Path("/tmp"),
        home=None,
        gpus=read_gpus(gpus),
        limits=Limits(memory_bytes=2**30, cpus=None, shm_bytes=2**30, pids=4096),
        account=Account(uid=1000, gid=1000, name="stoker", keep_id=False, known=True, host_uid=1000, host_gid=1000),
    )
    return render(request, Engine(name=engine, program=engine)).argv


def test_the_table_of_gpus_says_what_the_engines_get() -> None:
    rows = re.findall(r"^\| `([^`]+)`[^|]*\| `([^`]+)`[^|]*\| `([^`]+)`[^|]*\|$", section("GPUs"), re.MULTILINE)
    assert len(rows) == 5
    for asked, docker, podman in rows:
        for engine, written in (("docker", docker), ("podman", podman)):
            asked, written = (text.replace("UUID", "12345678-1234-1234-1234-123456789abc") for text in (asked, written))
            words = shlex.split(written)
            found = argv(engine, asked)
            assert any(found[at : at + len(words)] == words for at in range(len(found))), (engine, asked, written)
        assert "--gpus" not in argv("podman", asked)


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_what_makes_it_safe_is_on_every_command(engine: EngineName) -> None:
    words = argv(engine, "none")
    assert words[(at := words.index("--cap-drop")) : at + 2] == ["--cap-drop", "ALL"]
    assert "no-new-privileges" in words
    assert "--read-only" in words
    assert all(word in section("Safe by default") for word in ("--cap-drop ALL", "no-new-privileges", "read-only root"))
    assert not {"--privileged", "--ipc", "--ipc=host", "--net", "--network", "--pid", "--uts"} & set(words)


def test_every_item_of_cis_that_is_tested_is_named() -> None:
    numbers = {number for item in ITEMS for number in re.findall(r"\d\.\d+", item)}
    assert len(numbers) > 15
    assert not [number for number in sorted(numbers) if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", section("Safe by default"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES)
def test_hosts_in_examples_are_nobodys(page: str) -> None:
    hosts = re.findall(r"https?://(?:[^\s/@`]+@)?([A-Za-z0-9.-]+)", text_of(page))
    assert all(host.endswith("example.org") or host in ("127.0.0.1", "localhost") for host in hosts), hosts
