"""The content store: whole or not there, whatever ends a process, and cleared only of what nobody uses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from stoker.cli.image.cache import cache
from stoker.errors import CacheUnwritable, DiskFull, HashMismatch, UsageError
from stoker.image.compression import Blob
from stoker.image.holding import held
from stoker.image.store import Store, keeping
from tests.image_server import sha256

CONTENT = b"content" * 1000
SHA = sha256(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, content: bytes, name: str = "thing.whl") -> Path:
    store.partial(sha256(content)).write_bytes(content)
    return store.adopt(sha256(content), name=name)


def put_layer(store: Store, key: str, content: bytes) -> Blob:
    with store.scratch() as folder:
        (folder / "blob").write_bytes(content)
        hashes = {"diff_id": "sha256:" + "1" * 64, "digest": f"sha256:{sha256(content)}"}
        blob = Blob(**hashes, size=len(content), unpacked_size=9, media_type="m", path=folder / "blob")
        return store.add_layer(key, blob, name="a layer")


def set_age(store: Store, days: float) -> None:
    """Make everything in the store look as if it had last been used so long ago."""
    then = time.time() - days * 86400
    for path in store.folder.rglob("*.json"):
        os.utime(path, (then, then))


# --- files --------------------------------------------------------------------------------------------------------------


def test_a_file_that_was_put_in_is_there(store: Store) -> None:
    assert store.file(SHA) is None
    path = put(store, CONTENT)
    assert store.file(SHA) == path
    assert store.file(SHA, size=len(CONTENT)) == path
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o222 == 0, "nobody writes into it by mistake"


def test_a_copy_is_put_in_only_with_its_hash(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(CONTENT)
    with pytest.raises(HashMismatch, match=r"mine is not the thing\.whl"):
        store.add_file(tmp_path / "mine", sha256="0" * 64, name="thing.whl")
    assert store.file("0" * 64) is None
    path = store.add_file(tmp_path / "mine", sha256=SHA, name="thing.whl")
    assert path.read_bytes() == (tmp_path / "mine").read_bytes() == CONTENT
    assert store.add_file(tmp_path / "gone", sha256=SHA, name="thing.whl") == path, "what is there already is not read again"


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"x", b"y" * len(CONTENT), b""], ids=["short", "long", "same length", "empty"])
def test_a_damaged_file_is_found_out_and_removed(store: Store, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(store, CONTENT)
    path.chmod(0o644)
    path.write_bytes(damage)
    assert store.file(SHA) is None
    assert not path.exists()
    assert "thing.whl was damaged" in capsys.readouterr().err


def test_a_file_that_never_reached_the_disk_is_found_out_after_a_power_cut(store: Store) -> None:
    path = put(store, CONTENT)
    changed = path.stat().st_mtime_ns
    path.chmod(0o644)
    path.write_bytes(b"\0" * len(CONTENT))
    os.utime(path, ns=(changed, changed))
    record = path.with_name(f"{SHA}.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot": "another"}))
    assert store.file(SHA) is None


def test_a_good_file_of_another_boot_is_hashed_once(store: Store) -> None:
    path = put(store, CONTENT)
    record = path.with_name(f"{SHA}.json")
    before = record.read_text()
    record.write_text(json.dumps({**json.loads(before), "boot": "another"}))
    assert store.file(SHA) == path
    assert json.loads(record.read_text()) == json.loads(before)


@pytest.mark.parametrize("record", ["", "{", "[]", '{"size": "x"}', None])
def test_a_lost_or_broken_record_costs_a_hash_and_nothing_else(store: Store, record: str | None) -> None:
    path = put(store, CONTENT)
    beside = path.with_name(f"{SHA}.json")
    beside.unlink() if record is None else beside.write_text(record)
    assert store.file(SHA) == path
    assert json.loads(beside.read_text())["size"] == len(CONTENT)


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "a/b", ".hidden", "x" * 200, "a\n"])
def test_a_key_cannot_leave_the_store(store: Store, key: str) -> None:
    for ask in (store.file, store.layer, store.root, store.partial):
        with pytest.raises(ValueError, match="no key"):
            ask(key)


# --- layers and roots ---------------------------------------------------------------------------------------------------


def test_a_layer_comes_back_as_it_was(store: Store) -> None:
    assert store.layer("key") is None
    blob = put_layer(store, "key", CONTENT)
    assert store.layer("key") == blob
    assert blob.path.read_bytes() == CONTENT
    again = put_layer(store, "key", CONTENT)
    assert again == blob


def test_a_damaged_layer_is_made_again(store: Store) -> None:
    blob = put_layer(store, "key", CONTENT)
    blob.path.write_bytes(CONTENT[:-1])
    assert store.layer("key") is None
    assert put_layer(store, "key", CONTENT).path.read_bytes() == CONTENT
    (blob.path.parent / "blob.json").write_text("{}")
    assert store.layer("key") is None
    assert put_layer(store, "key", CONTENT) == store.layer("key")


def test_a_root_is_there_when_it_was_made_whole(store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.new_root("key") as folder:
        (folder / "half").write_text((folder / "other half").read_text())
    assert store.root("key") is None
    with store.new_root("key") as folder:
        (folder / "etc").mkdir(mode=0o555)
        (folder / "etc/file").write_text("x") if os.geteuid() == 0 else None
    root = store.root("key")
    assert root
    assert (root / "etc").is_dir()
    assert not list(root.parent.glob("*.tmp-*"))


def test_two_that_make_the_same_root_do_it_one_after_the_other(store: Store) -> None:
    inside, most = 0, 0

    def make() -> None:
        nonlocal inside, most
        with store.new_root("key") as folder:
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            (folder / "file").write_text("x")
            inside -= 1

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    root = store.root("key")
    assert root
    assert (root / "file").exists()


# --- processes that die -------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from stoker.image.store import Store
store = Store(Path(sys.argv[1]))
with store.lock("thing"), store.using(), store.scratch() as scratch, store.new_root("key") as root:
    (scratch / "file").write_text("x"); (root / "file").write_text("x")
    print(scratch, root, flush=True)
    time.sleep(60)
"""


def start_holder(store: Store) -> tuple[subprocess.Popen[str], list[Path]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, [Path(word) for word in process.stdout.readline().split()]


def test_what_a_killed_process_left_is_cleared_away_and_its_locks_are_free(store: Store) -> None:
    process, (scratch, root) = start_holder(store)
    with store.scratch():
        assert scratch.exists(), "that of a process that lives stays"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert root.exists()
    with store.lock("thing"), store.scratch() as mine:
        assert not scratch.exists()
        assert [path for path in (store.folder / "scratch").iterdir() if path.is_dir()] == [mine]
    with store.new_root("key"):
        assert not root.exists()


def test_prune_waits_for_builds_and_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, CONTENT)
    entered, done = threading.Event(), threading.Event()

    def build() -> None:
        with store.using():
            entered.set()
            time.sleep(0.3)
            assert store.file(SHA), "nothing goes away under a build"
            done.set()

    thread = threading.Thread(target=build)
    thread.start()
    entered.wait()
    store.prune()
    assert done.is_set()
    thread.join()
    assert store.file(SHA) is None
    assert "being built: waiting" in capsys.readouterr().err


def test_a_lock_keeps_others_out_and_is_free_afterwards(store: Store) -> None:
    order: list[str] = []

    def second() -> None:
        with store.lock("thing"):
            order.append("second")

    with store.lock("thing"), contextlib.ExitStack() as stack:
        stack.enter_context(store.lock("another"))
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(timeout=60)
    assert order == ["first", "second"]


def test_a_lock_that_was_removed_while_one_waited_is_the_lock_of_nothing(tmp_path: Path) -> None:
    path, order = tmp_path / "thing.lock", list[str]()
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with held(path):
            order.append("second")

    with contextlib.ExitStack() as first:
        first.enter_context(held(path))
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        time.sleep(0.1)
        path.unlink()
        with held(path):
            first.close()
            time.sleep(0.1)
            order.append("the new first")
    thread.join(timeout=60)
    assert order == ["the new first", "second"]


# --- pruning ------------------------------------------------------------------------------------------------------------


def test_prune_by_age_and_by_size(store: Store) -> None:
    contents = [bytes([number]) * 1000 for number in range(4)]
    for number, content in enumerate(contents):
        path = put(store, content)
        then = time.time() - (4 - number) * 86400
        os.utime(path.with_name(f"{path.name}.json"), (then, then))
    assert [one.size for one in store.prune(older_than_s=3.5 * 86400, dry_run=True)] == [1000]
    assert len(store.kept()) == 4, "a dry run removes nothing"
    assert [one.key for one in store.prune(older_than_s=3.5 * 86400)] == [sha256(contents[0])]
    assert [one.key for one in store.prune(keep_bytes=2000)] == [sha256(contents[1])]
    assert [one.key for one in store.kept()] == [sha256(contents[2]), sha256(contents[3])]
    assert store.prune(keep_bytes=2000) == ()
    assert len(store.prune()) == 2
    assert store.kept() == ()
    assert not [path for path in store.folder.rglob("*") if path.is_file() and path.name != ".using.lock"]


def test_use_keeps_things_young(store: Store) -> None:
    put(store, CONTENT)
    put_layer(store, "key", CONTENT)
    with store.new_root("key"):
        pass
    set_age(store, 10)
    assert store.file(SHA)
    assert store.layer("key")
    assert store.root("key")
    assert store.prune(older_than_s=86400) == ()
    set_age(store, 10)
    assert {one.kind for one in store.prune(older_than_s=86400)} == {"file", "layer", "root"}


def test_prune_takes_broken_off_downloads_and_leftovers(store: Store) -> None:
    store.partial("0" * 64).write_bytes(b"x" * 500)
    (store.folder / "roots").mkdir()
    (store.folder / "roots" / "key.tmp-abc").mkdir()
    half_records = [put(store, CONTENT).with_name(".record-x"), put_layer(store, "key", CONTENT).path.with_name(".record-y")]
    for half in half_records:
        half.write_text("{")
    assert {one.kind for one in store.prune(keep_bytes=10**9)} == set()
    assert not [path for path in [*half_records, *(store.folder / "roots").iterdir()] if path.exists()]
    assert [(one.kind, one.size) for one in store.kept() if one.kind == "partial"] == [("partial", 500)]
    assert {one.kind for one in store.prune()} == {"partial", "file", "layer"}


def test_prune_removes_folders_that_nobody_may_write_to(store: Store) -> None:
    with store.new_root("key") as folder:
        (folder / "a/b").mkdir(parents=True)
        (folder / "a/b/file").write_text("x")
        (folder / "a/link").symlink_to("/nowhere")
        (folder / "a/b").chmod(0o500)
        (folder / "a").chmod(0o000)
    store.prune()
    assert store.root("key") is None
    assert not (store.folder / "roots" / "key").exists()


def test_prune_of_nothing(store: Store) -> None:
    assert store.prune() == ()
    assert store.kept() == ()
    assert not store.folder.exists()


# --- refusals -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_and_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space left"), keeping(tmp_path), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnwritable, match="cannot be written"):
        put(Store(tmp_path / "file"), CONTENT)


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command_lists_and_prunes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_CACHE", str(store.folder.parent))
    mine = Store()
    put(mine, CONTENT, "numpy-1-py3-none-any.whl")
    runner = CliRunner()
    said = runner.invoke(cache, [], standalone_mode=False).output
    assert "wheels and .debs" in said
    assert "7.0 kB" in said
    assert json.loads(runner.invoke(cache, ["--json"]).output)["kinds"]["file"] == {"count": 1, "bytes": 7000}
    assert "numpy-1-py3-none-any.whl" in runner.invoke(cache, ["list"]).output
    assert "nothing to remove" in runner.invoke(cache, ["prune"]).output
    assert mine.file(SHA)
    assert "1 entry, 7.0 kB: would be removed" in runner.invoke(cache, ["prune", "--all", "--dry-run"]).output
    assert mine.file(SHA)
    assert json.loads(runner.invoke(cache, ["prune", "--keep", "1K", "--json"]).output)["bytes"] == 7000
    assert mine.file(SHA) is None


@pytest.mark.parametrize("arguments", [["--keep", "much"], ["--older-than", "3"], ["--all", "--keep", "1G"], ["--keep", "-1"]])
def test_the_command_refuses_amounts_that_are_none(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        CliRunner().invoke(cache, ["prune", *arguments], standalone_mode=False, catch_exceptions=False)
