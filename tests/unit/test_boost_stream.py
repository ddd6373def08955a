"""Tests of the random streams: the same numbers and the same states as PyTorch, Python and numpy have in a worker and in this process."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, get_worker_info

from stoker.boost.replay import words
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.twister import same_state
from stoker.boost.replay.unfit import Unfit

DRAWS: dict[str, Callable[[torch.Generator], torch.Tensor]] = {
    "rand": lambda g: torch.rand(1, generator=g),
    "rand17": lambda g: torch.rand(17, generator=g),
    "rand64": lambda g: torch.rand(3, generator=g, dtype=torch.float64),
    "randint": lambda g: torch.randint(0, 9, (1,), generator=g),
    "randint_big": lambda g: torch.randint(0, 1 << 40, (2,), generator=g),
    "randn": lambda g: torch.randn(1, generator=g),
    "randn3": lambda g: torch.randn(3, generator=g),
    "randn16": lambda g: torch.randn(16, generator=g),
    "normal64": lambda g: torch.randn(1, generator=g, dtype=torch.float64),
    "randperm": lambda g: torch.randperm(100, generator=g),
    "multinomial": lambda g: torch.multinomial(torch.tensor([0.2, 0.3, 0.5]), 2, generator=g),
    "bernoulli": lambda g: torch.empty(5).bernoulli_(0.3, generator=g),
    "uniform": lambda g: torch.empty(1).uniform_(-3, 5, generator=g),
}


def raw(generator: torch.Generator, n: int) -> np.ndarray:
    """Return the lower halves of n words, as PyTorch draws them: a number below 2**16 is that."""
    return torch.randint(0, 1 << 16, (n,), generator=generator).numpy()


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**63), steps=st.lists(st.one_of(st.integers(0, 1300), st.sampled_from(sorted(DRAWS))), max_size=12))
@pytest.mark.parametrize("kind", ["worker", "process"])
def test_words_and_draws_in_any_alternation(kind: str, seed: int, steps: list[int | str]) -> None:
    theirs = torch.Generator().manual_seed(seed)
    outer = torch.get_rng_state()
    try:
        if kind == "process":
            torch.manual_seed(seed)
        stream = Stream.of_process() if kind == "process" else Stream.of_worker(seed - 1, 1, 2, None)
        for step in steps:
            if isinstance(step, int):
                expected = raw(theirs, step)
                ours = stream.torch_words(step)
                assert ours.dtype == np.uint32
                assert np.array_equal(ours & 0xFFFF, expected)
            else:
                assert torch.equal(DRAWS[step](stream.generator), DRAWS[step](theirs))
            if kind == "process":
                assert same_state(torch.get_rng_state(), theirs.get_state())
        assert same_state(stream.generator.get_state(), theirs.get_state())
        assert stream.generator.initial_seed() == theirs.initial_seed()
    finally:
        torch.set_rng_state(outer)


def test_words_are_pytorchs_numbers() -> None:
    stream, theirs = Stream.of_worker(7, 0, 1, None), torch.Generator().manual_seed(7)
    drawn = stream.torch_words(4000)
    start = theirs.get_state()
    expected = torch.cat([torch.rand(1, generator=theirs) for _ in range(4000)])
    assert np.array_equal(words.unit(drawn), expected.numpy())
    for p in (0.0, 0.1, 0.5, 0.7, 1.0):
        assert np.array_equal(words.below(drawn, p), (expected < p).numpy())
    for n in (1, 2, 9, 225, 1 << 20, words.LARGEST - 1):
        theirs.set_state(start)
        numbers = [torch.randint(0, n, (1,), generator=theirs).item() for _ in range(4000)]
        assert words.integers(drawn, n).tolist() == numbers
        theirs.set_state(start)
        assert [torch.randint(0, n, size=(), generator=theirs).item() for _ in range(50)] == numbers[:50]
    with pytest.raises(ValueError):
        words.integers(drawn, words.LARGEST)


@pytest.mark.parametrize("p", [0.7, 0.1, 0.5 + 1e-12, 5 * 2**-24 + 1e-13])
def test_below_rounds_as_pytorch_does(p: float) -> None:
    near = np.arange(int(p * 2**24) - 3, int(p * 2**24) + 4).astype(np.uint32)
    assert words.below(near, p).tolist() == (torch.tensor(near.astype(np.float64) * 2**-24, dtype=torch.float32) < p).tolist()


class Draws(Dataset):
    """What a worker process draws, and what it knows of itself."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[float, ...]:
        info = get_worker_info()
        who = (-1, -1, -1) if info is None else (info.id, info.num_workers, info.seed)
        return (torch.rand(1).item(), random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.initial_seed(), *who)


def test_as_in_a_worker_process() -> None:
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Draws(), batch_size=2, num_workers=2, generator=generator, collate_fn=list)
    theirs = list(loader)
    base_seed = torch.empty((), dtype=torch.int64).random_(generator=generator.manual_seed(3)).item()
    streams = [Stream.of_worker(int(base_seed), worker, 2, loader.dataset) for worker in range(2)]
    ours = []
    for batch in range(4):
        with streams[batch % 2].made_global():
            ours.append([loader.dataset[index] for index in (0, 1)])
    assert ours == theirs
    assert get_worker_info() is None


def everything() -> tuple[object, ...]:
    """The user's own states."""
    kind, key, *rest = np.random.get_state()
    return torch.get_rng_state()[:5040].tolist(), random.getstate(), kind, key.tolist(), rest, torch.initial_seed(), get_worker_info()


def seed_inside(stream: Stream) -> None:
    with stream.made_global():
        info = get_worker_info()
        assert info is not None
        assert (info.id, info.num_workers, info.seed, info.dataset) == (3, 4, 14, "data")
        torch.manual_seed(5)
        random.seed(6)
        np.random.seed(7)
        torch.randn(1)
        random.gauss(0, 1)
        np.random.randn()
        raise KeyboardInterrupt


def test_the_users_states_come_back() -> None:
    torch.manual_seed(1)
    torch.randn(1)
    random.seed(2)
    random.gauss(0, 1)
    np.random.seed(3)
    np.random.randn()
    before = everything()
    stream = Stream.of_worker(11, 3, 4, "data")
    with pytest.raises(KeyboardInterrupt):
        seed_inside(stream)
    assert everything() == before
    torch.manual_seed(5)
    random.seed(6)
    np.random.seed(7)
    torch.randn(1)
    random.gauss(0, 1)
    np.random.randn()
    expected = torch.randn(1), random.gauss(0, 1), np.random.randn()
    with stream.made_global():
        assert (torch.randn(1), random.gauss(0, 1), np.random.randn()) == expected


def test_inside_the_stream_is_the_global_one() -> None:
    stream, other = Stream.of_worker(1, 0, 1, None), Stream.of_worker(1, 0, 1, None)
    with stream.made_global():
        drawn = [*stream.torch_words(2) & 0xFFFF, torch.randint(0, 1 << 16, (1,)).item(), *stream.torch_words(1) & 0xFFFF]
        assert stream.python is random._inst
        assert stream.generator is torch.default_generator
        with stream.made_global():
            drawn.append(torch.randint(0, 1 << 16, (1,)).item())
    drawn += (stream.torch_words(1) & 0xFFFF).tolist()
    assert drawn == (other.torch_words(6) & 0xFFFF).tolist()


def test_one_stream_inside_another() -> None:
    one, two = Stream.of_worker(1, 0, 2, None), Stream.of_worker(1, 1, 2, None)
    before = everything()
    with one.made_global():
        first = torch.rand(1).item()
        with two.made_global():
            torch.rand(5)
        second = torch.rand(1).item()
    assert everything() == before
    assert [first, second] == words.unit(Stream.of_worker(1, 0, 2, None).torch_words(2)).tolist()
    assert two.torch_words(1) == Stream.of_worker(1, 1, 2, None).torch_words(6)[5]


def test_seeding_leaves_no_device_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    original = torch.cuda.manual_seed_all
    queued = len(torch.cuda._queued_calls)
    elsewhere = threading.Thread(target=lambda: torch.cuda.manual_seed_all(4))
    with Stream.of_worker(1, 0, 1, None).made_global():
        torch.manual_seed(9)
        torch.cuda.manual_seed(9)
        elsewhere.start()
        elsewhere.join()
    assert seeded == [4]
    assert torch.cuda.manual_seed_all is original
    assert len(torch.cuda._queued_calls) == queued


@pytest.mark.parametrize("kind", ["worker", "process"])
def test_snapshot_and_restore(kind: str) -> None:
    stream = Stream.of_process() if kind == "process" else Stream.of_worker(5, 1, 2, None)
    start = stream.snapshot()
    assert stream.stands_at(start)
    for draw in (
        lambda: stream.torch_words(3).tolist(),
        lambda: torch.rand(1, generator=stream.generator).item(),
        lambda: stream.python.gauss(0, 1),
        lambda: stream.numpy.randn(),
        lambda: torch.randn(1, generator=stream.generator).item(),
    ):
        first = draw()
        assert not stream.stands_at(start)
        stream.restore(start)
        assert stream.stands_at(start)
        assert draw() == first
        stream.restore(start)


def test_untouched_generators_stand_where_their_seed_puts_them() -> None:
    stream = Stream.of_worker(5, 1, 2, None)
    start = stream.snapshot()
    with stream.made_global():
        pass
    assert stream.stands_at(start)
    after = stream.snapshot()
    stream.restore(start)
    assert stream.stands_at(after)


def test_a_numpy_generator_of_another_kind_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random.mtrand, "_rand", np.random.RandomState(np.random.PCG64(1)))
    with pytest.raises(Unfit, match="Mersenne"):
        Stream.of_worker(1, 0, 1, None)
