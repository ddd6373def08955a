"""Batches of image files: in order with any number of threads, and no thread is left behind, whatever happens."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from stoker.data import stream
from stoker.data.decode import decode_crop
from stoker.data.draws import resized_crop
from stoker.data.finish import OnDevice
from stoker.data.normalise import Normalise
from stoker.data.sets import Files
from stoker.data.stream import Stream
from stoker.errors import BadValue, BrokenImage, DataInvalid

IMAGES = 22


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (20 + k, 45 - k, 3), dtype=np.uint8)).save(folder / f"{k:02}.png")
    return Files(paths=tuple(str(folder / f"{k:02}.png") for k in range(IMAGES)), labels_N=np.arange(IMAGES, dtype=np.int64))


@pytest.fixture
def broken(files, tmp_path) -> Files:
    """The same with images 3, 4 and 21 broken."""
    paths = list(files.paths)
    for k in (3, 4, 21):
        paths[k] = str(tmp_path / f"{k:02}.png")
        (tmp_path / f"{k:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return Files(paths=tuple(paths), labels_N=files.labels_N)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert decoding_threads() == []


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stoker-decode")]


def streamed(files: Files, **settings) -> Stream:
    usual = {
        **{
            "files": files,
            "size": 16,
            "train": True,
            "batch_size": 5,
            "device": "cpu",
            "dtype": torch.float32,
            "channels_last": True,
            "mean": (0.5,),
        },
        **{"std": (0.25,), "flip": "random", "seed": 1, "shuffle": True, "drop_last": True, "threads": 2},
    }
    return Stream(**{**usual, **settings})


def evaluation(files: Files, **settings) -> Stream:
    return streamed(files, **{"train": False, "flip": "none", "shuffle": False, "drop_last": False, **settings})


def copies(batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), labels.clone()) for images, labels in batches]


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) and torch.equal(k, m) for (x, k), (y, m) in zip(a, b, strict=True))


def test_order_and_pixels_do_not_depend_on_threads_and_speed(files, monkeypatch):
    one = copies(streamed(files, threads=1).epoch(2))

    def at_times_slow(*arguments):
        time.sleep(0.01 * (hash(arguments[0]) % 3))
        decode_crop(*arguments)

    monkeypatch.setattr(stream, "decode_crop", at_times_slow)
    for ahead in (1, 3):
        assert same(copies(streamed(files, threads=8, ahead=ahead).epoch(2)), one)
    assert [len(labels) for _, labels in one] == [5, 5, 5, 5]


def test_pixels_are_those_of_the_decoder(files):
    images, labels = next(iter(copies(streamed(files, flip="none").epoch(0))))
    out = np.empty((16, 16, 3), dtype=np.uint8)
    decode_crop(files.paths[labels[2]], out, resized_crop(1, 0, int(labels[2])).box, False)
    expected = (torch.from_numpy(out).permute(2, 0, 1).float() / 255 - 0.5) / 0.25
    assert (images[2] - expected).abs().max() < 1e-6


def test_any_batch_can_be_made_without_those_before(files):
    whole = copies(streamed(files).epoch(4))
    for start in range(5):
        assert same(copies(streamed(files).epoch(4, start=start)), whole[start:])
    with pytest.raises(BadValue):
        streamed(files).epoch(4, start=5)


def test_evaluation_sees_every_image_once(files):
    batches = copies(evaluation(files).epoch(0))
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(IMAGES))
    assert batches[-1][0].shape == (2, 3, 16, 16)


def test_ranks_together_see_the_batch_of_one(files):
    alone = copies(streamed(files, batch_size=6).epoch(1))
    ranks = [copies(streamed(files, batch_size=6, rank=rank, world_size=3).epoch(1)) for rank in range(3)]
    assert same([tuple(torch.cat(parts) for parts in zip(*batch, strict=True)) for batch in zip(*ranks, strict=True)], alone)


def test_a_share_may_be_empty(files):
    batches = copies(evaluation(files, batch_size=20, rank=0, world_size=4).epoch(0))
    assert [len(labels) for _, labels in batches] == [5, 0]


def test_held_batches_are_never_written_over(files):
    held = list(streamed(files).epoch(0))
    assert same(held, copies(streamed(files).epoch(0)))


def test_two_epochs_at_once(files):
    made = streamed(files)
    for (a, _), (b, _), (want_a, _), (want_b, _) in zip(
        made.epoch(0), made.epoch(1), copies(streamed(files).epoch(0)), copies(streamed(files).epoch(1)), strict=True
    ):
        assert torch.equal(a, want_a)
        assert torch.equal(b, want_b)


def test_the_threads_end_when_the_consumer_breaks_off(files):
    for _images, _labels in streamed(files, threads=8).epoch(0):
        assert len(decoding_threads()) <= 8
        break
    batches = streamed(files, threads=8).epoch(0)
    next(batches)
    assert decoding_threads()
    batches.close()
    assert decoding_threads() == []


def test_an_epoch_that_is_never_begun_starts_no_thread(files):
    unused = streamed(files).epoch(0)
    assert decoding_threads() == []
    del unused


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_the_threads_end_with_an_error_of_the_consumer(files, kind):
    def training():
        for _ in streamed(files, threads=8).epoch(0):
            raise kind("stop")

    with pytest.raises(kind):
        training()
    assert decoding_threads() == []


def test_ctrl_c_while_waiting_for_a_batch(files, monkeypatch):
    monkeypatch.setattr(stream, "decode_crop", lambda *arguments: time.sleep(0.3))
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(streamed(files).epoch(0))
    timer.join()
    assert decoding_threads() == []


def test_decoding_does_not_run_away(files, monkeypatch):
    decoded = []
    monkeypatch.setattr(stream, "decode_crop", lambda *arguments: decoded.append(1))
    batches = streamed(files, batch_size=2, ahead=2, threads=4).epoch(0)
    next(batches)
    time.sleep(0.2)
    assert len(decoded) <= 2 * 3
    batches.close()


@pytest.mark.parametrize("threads", [1, 8])
def test_a_broken_image_is_an_error_of_its_own_batch(broken, threads):
    batches = evaluation(broken, threads=threads, batch_size=2).epoch(0)
    assert [next(batches)[1].tolist()] == [[0, 1]]
    with pytest.raises(BrokenImage, match=r"03\.png"):
        next(batches)
    assert decoding_threads() == []


@pytest.mark.parametrize("raised", [MemoryError, SystemExit])
def test_any_error_in_a_thread_reaches_the_consumer(files, monkeypatch, raised):
    def failing(*arguments):
        raise raised

    monkeypatch.setattr(stream, "decode_crop", failing)
    with pytest.raises(raised):
        list(streamed(files).epoch(0))


@pytest.mark.parametrize("threads", [1, 8])
def test_a_broken_image_is_replaced_by_the_next_in_training(broken, threads):
    made = streamed(broken, skip_broken=True, shuffle=False, drop_last=False, threads=threads)
    expected = list(range(IMAGES))
    expected[3] = expected[4] = 5
    expected[21] = 0
    for epoch in range(2):
        assert torch.cat([labels for _, labels in copies(made.epoch(epoch))]).tolist() == expected
    assert made.broken == tuple(broken.paths[k] for k in (3, 4, 21))


def test_a_broken_image_is_left_out_of_evaluation(broken):
    made = evaluation(broken, skip_broken=True, batch_size=2)
    assert [labels.tolist() for _, labels in copies(made.epoch(0))][:4] == [[0, 1], [2], [5], [6, 7]]
    assert len(made.broken) == 3


def test_nothing_but_broken_images_is_an_error(broken):
    only = Files(paths=(broken.paths[3],) * 6, labels_N=np.zeros(6, dtype=np.int64))
    with pytest.raises(DataInvalid):
        list(streamed(only, skip_broken=True).epoch(0))


def test_the_path_of_a_gpu_gives_the_same_batches(broken):
    """Run on the CPU: the same operation, whole buffers, slices of them."""
    settings = {"skip_broken": True, "dtype": torch.bfloat16}
    host, device = evaluation(broken, **settings), evaluation(broken, **settings)
    table = Normalise.of((0.5,), (0.25,), 3).table(torch.bfloat16)
    device._finish = OnDevice(torch.device("cpu"), (5, 16, 16, 3), table, channels_last=True, compiled=False)
    assert same(copies(device.epoch(0)), copies(host.epoch(0)))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"batch_size": 23}, {"flip": "up"}, {"dtype": torch.float64}, {"mean": (0.1, 0.2)}], ids=str)
def test_impossible_settings_are_refused(files, wrong):
    with pytest.raises(BadValue):
        streamed(files, **wrong)
