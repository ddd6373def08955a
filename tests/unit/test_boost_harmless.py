"""Tests of the judge of user code: what everybody writes is let through, and nothing that somebody else could see."""

from __future__ import annotations

import builtins
import copy
import functools
import math
import os
import random
import sys
import time
import types
from argparse import Namespace
from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torch import nn
from torch.utils.data import get_worker_info
from torchvision import transforms
from torchvision.transforms import functional as TF
from torchvision.transforms import v2

from stoker.boost.replay.harmless import Harmless, judge

SCALE = 0.5
MEAN = torch.tensor([0.1, 0.2, 0.3])
WEIGHTS = np.ones(3)
COLOURS = [0.299, 0.587, 0.114]
TABLE = {0: 3, 1: 4}
HISTORY: list[Any] = []
CACHE: dict[Any, Any] = {}
LAZY: defaultdict[int, list[int]] = defaultdict(list)
COUNTER = iter(range(10**9))
GENERATOR = torch.Generator()
RNG = np.random.default_rng(3)
CONFIG = Namespace(size=4, folder="x")
FILE = sys.stderr


class Settings:
    scale = 2.0
    seen: ClassVar[list[int]] = []

    @staticmethod
    def double(x: Any) -> Any:
        return x * 2

    @classmethod
    def scaled(cls, x: Any) -> Any:
        return x * cls.scale

    @classmethod
    def counting(cls, x: Any) -> Any:
        cls.seen.append(1)
        return x


# --- harmless ---------------------------------------------------------------------------------------------------------


def seed_worker(worker_id: int) -> None:
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)
    random.seed(worker_seed)


def seed_by_info(worker_id: int) -> None:
    info = get_worker_info()
    np.random.seed((info.seed + worker_id) % 2**32)


def grey(image: Any) -> Any:
    if image.mode != "L":
        image = ImageOps.grayscale(image)
    return image


def blur(image: Any) -> Any:
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def erase(x: torch.Tensor) -> torch.Tensor:
    """A docstring."""
    h, w = x.shape[-2:]
    top, left = np.random.randint(h), np.random.randint(w)
    x[:, top : top + 4, left : left + 4] = 0.0
    return x


def collected(x: Any) -> Any:
    parts = []
    for weight in COLOURS:
        parts.append(x * weight)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def tried(x: Any) -> Any:
    try:
        return x / x.max()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"no image: {error}") from error


def helped(x: Any) -> Any:
    def half(y: Any) -> Any:
        return y / 2

    with torch.no_grad():
        return half(x) + grown(x)


def grown(x: Any, by: float = 1.0, *rest: Any, **named: Any) -> Any:
    return x + by


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return wrapper


@decorated
def wrapped(x: Any) -> Any:
    return x.flip(0)


def recursive(x: Any, depth: int = 3) -> Any:
    return x if depth == 0 else recursive(x * SCALE, depth - 1)


class Cutout:
    """As it is found in the wild."""

    def __init__(self, holes: int, length: int) -> None:
        self.holes, self.length = holes, length

    def __call__(self, image: Any) -> Any:
        h, w = image.size(1), image.size(2)
        mask = np.ones((h, w), np.float32)
        for _ in range(self.holes):
            y, x = np.random.randint(h), np.random.randint(w)
            y1, y2 = np.clip(y - self.length // 2, 0, h), np.clip(y + self.length // 2, 0, h)
            x1, x2 = np.clip(x - self.length // 2, 0, w), np.clip(x + self.length // 2, 0, w)
            mask[y1:y2, x1:x2] = 0.0
        mask = torch.from_numpy(mask)
        mask = mask.expand_as(image)
        return image * mask


class Noise:
    def __init__(self, std: float = 0.1) -> None:
        self.std = std
        self.__mean = torch.zeros(1)

    @property
    def spread(self) -> float:
        return self.std * 2

    def mean(self) -> Any:
        return self.__mean

    def __call__(self, tensor: Any) -> Any:
        return tensor + torch.randn(tensor.size()) * self.spread + self.mean()

    def __repr__(self) -> str:
        return f"Noise({self.std})"


class Either:
    def __init__(self, *ways: Any) -> None:
        self.ways, self.first = list(ways), None

    def __call__(self, image: Any) -> Any:
        if self.first is not None:
            image = self.first(image)
        for way in self.ways:
            image = way(image)
        return random.choice(self.ways)(image)


class Invert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(1)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Any) -> Any:
        return self.pad(1 - x) * self.scale


STILL = {
    "repeat": lambda x: x.repeat(3, 1, 1),
    "view": lambda x: x.view(-1),
    "threshold": lambda x: (x > 0.5).float(),
    "label": lambda y: int(y == 3),
    "rgb": lambda image: image.convert("RGB"),
    "global number": lambda x: x * SCALE,
    "global tensor": lambda x: (x - MEAN[:, None, None]) / torch.tensor(COLOURS)[:, None, None],
    "global table": lambda y: TABLE[y] if y in TABLE else TABLE.get(y, 0),
    "numpy": lambda image: np.asarray(image, dtype=np.float32) / 255.0,
    "stack": lambda crops: torch.stack([transforms.ToTensor()(crop) for crop in crops]),
    "functional": lambda image: TF.adjust_brightness(TF.rotate(image, 90), SCALE),
    "v2": lambda image: v2.functional.horizontal_flip(image),
    "relu": lambda x: F.relu(x),
    "relu in place": lambda x: F.relu(x, inplace=True),
    "log": lambda x: torch.log(x + math.sqrt(2)),
    "clamp": lambda x: x.clamp_(0, 1),
    "to": lambda x: x.to(torch.float16).to(dtype=torch.float32),
    "namespace": lambda image: image.resize((CONFIG.size, CONFIG.size), Image.BILINEAR),
    "class attribute": lambda x: x * Settings.scale,
    "two on a line": (lambda x: x + 1, lambda x: x + 2)[1],
    "walrus": lambda x: (y := x + 1) * y,
    "static": Settings.double,
    "class method": Settings.scaled,
    "getattr": lambda image: getattr(image, "mode"),  # noqa: B009
    "isinstance": lambda x: x if isinstance(x, torch.Tensor) else torch.tensor(x),
    "numpy type": lambda y: np.int64(y),
    "one-hot": lambda y: F.one_hot(torch.tensor(y), num_classes=10),
    "scatter": lambda y: torch.zeros(10, dtype=torch.float).scatter_(0, torch.tensor(y), value=1),
    "int": int,
    "np.array": np.array,
    "torch.tensor": torch.tensor,
    "Image": Image.fromarray,
    "partial": functools.partial(grown, by=2.0),
    "partial of library": functools.partial(torch.mul, other=2),
    "grey": grey,
    "collected": collected,
    "tried": tried,
    "helped": helped,
    "wrapped": wrapped,
    "recursive": recursive,
    "module": Invert(),
    "sequential": nn.Sequential(Invert(), nn.ReLU()),
    "compose": transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: x * 2)]),
}
DRAWING = {
    "seed_worker": seed_worker,
    "get_worker_info": seed_by_info,
    "manual_seed": lambda worker_id: torch.manual_seed(worker_id),
    "noise": lambda x: x + 0.1 * torch.randn_like(x),
    "random": lambda image: ImageOps.mirror(image) if random.random() < 0.5 else image,
    "uniform_": lambda x: x + torch.empty_like(x).uniform_(-1, 1),
    "numpy": lambda x: x + np.random.normal(0, 1),
    "dropout": lambda x: F.dropout(x, 0.5),
    "crop": lambda image: transforms.RandomCrop(4)(image),
    "blur": blur,
    "erase": erase,
    "cutout": Cutout(1, 4),
    "noise object": Noise(),
    "its method": Noise().__call__,
    "either": Either(transforms.RandomHorizontalFlip(), Noise(), grey),
    "compose": transforms.Compose([transforms.RandomCrop(4), transforms.ToTensor()]),
    "apply": transforms.RandomApply([transforms.Lambda(lambda x: x * 2)]),
    "dropout module": nn.Sequential(nn.Dropout(0.5)),
    "own generator": lambda x: x + np.random.default_rng(0).random(),
    "partial": functools.partial(random.uniform, 3),
}


@pytest.mark.parametrize("name", STILL)
def test_harmless(name: str) -> None:
    assert judge(STILL[name]) == Harmless(draws=False)


@pytest.mark.parametrize("name", DRAWING)
def test_harmless_but_drawing(name: str) -> None:
    assert judge(DRAWING[name]) == Harmless(draws=True)


# --- not harmless -----------------------------------------------------------------------------------------------------

total = 0
log = HISTORY


def count(x: Any) -> Any:
    global total
    total += 1
    return x


def closure_count() -> Any:
    seen = 0

    def inner(x: Any) -> Any:
        nonlocal seen
        seen += 1
        return x

    return inner


def closure_list() -> Any:
    seen: list[Any] = []
    return lambda x: (seen.append(x), x)[1]


def cached(x: Any) -> Any:
    if x not in CACHE:
        CACHE[x] = x * 2
    return CACHE[x]


def augmented_list(x: Any) -> Any:
    mine = HISTORY
    mine += [x]
    return x


def augmented_tensor(x: Any) -> Any:
    mean = MEAN
    mean -= 1
    return x


def view_of_global(x: Any) -> Any:
    view = MEAN.view(-1)
    view[0] = 3.0
    return x


def in_a_loop(x: Any) -> Any:
    mine: list[Any] = []
    for _ in range(2):
        mine.append(x)
        mine = HISTORY
    return x


def through_a_list(x: Any) -> Any:
    holder = [HISTORY]
    holder[0].append(x)
    return x


def through_a_dict(x: Any) -> Any:
    holder = {}
    holder["a"] = HISTORY
    holder["a"].append(x)
    return x


def through_a_constructor(x: Any) -> Any:
    dict(a=COLOURS)["a"].append(x)  # noqa: C408
    return x


def through_a_bound_method(x: Any) -> Any:
    mine: list[Any] = []
    for _ in map(mine.append, [COLOURS]):
        mine[0].append(x)
    return x


def through_varargs(x: Any) -> Any:
    def first(*rest: Any) -> Any:
        return rest[0]

    first(COLOURS).append(x)
    return x


def first_of(*rest: Any) -> Any:
    return rest[0]


def through_a_global(x: Any) -> Any:
    first_of(COLOURS).append(x)
    return x


def by_unpacking(x: Any) -> Any:
    mine, *_ = [COLOURS, x]
    mine.clear()
    return x


def by_deleting(x: Any) -> Any:
    del COLOURS[0]
    return x


def as_loop_target(x: Any) -> Any:
    for COLOURS[0] in x:
        pass
    return x


def by_conditional(x: Any) -> Any:
    (x if x is None else COLOURS).append(1)
    return x


def by_alias(x: Any) -> Any:
    mine: list[Any] = []
    same = mine
    same.append(HISTORY)
    mine[0].append(x)
    return x


def by_augmented_alias(x: Any) -> Any:
    mine: list[Any] = []
    same = mine
    same += [HISTORY]
    mine[0].append(x)
    return x


def by_hidden_holder(x: Any) -> Any:
    mine: list[Any] = []
    (mine if x is None else mine).append(HISTORY)  # noqa: RUF034
    mine[0].append(x)
    return x


def put(place: Any, what: Any) -> None:
    place.append(what)


def by_callee(x: Any) -> Any:
    mine: list[Any] = []
    put(mine, HISTORY)
    mine[0].append(x)
    return x


def shadowed_by_comprehension(x: Any) -> Any:
    _ = [log for log in [[1]]]  # noqa: C416
    log.append(x)
    return x


def inner_function(x: Any) -> Any:
    def keep(place: Any) -> None:
        place.append(x)

    keep(HISTORY)
    return x


def inner_result(x: Any) -> Any:
    def everybody() -> Any:
        return MEAN

    everybody().add_(1)
    return x


def mutable_default(x: Any, seen: list[Any] = []) -> Any:  # noqa: B006
    seen.append(x)
    return x


def generator(x: Any) -> Any:
    yield x


async def waits(x: Any) -> Any:
    return x


def imports(x: Any) -> Any:
    import json

    return json.dumps(x)


def opens(x: Any) -> Any:
    with open("log.txt", "a") as file:
        file.write(str(x))
    return x


def caller(function: Any, x: Any) -> Any:
    return function(x)


def counted(function: Any) -> Any:
    wrapper_calls = [0]

    @functools.wraps(function)
    def wrapper(x: Any) -> Any:
        wrapper_calls[0] += 1
        return function(x)

    return wrapper


@counted
def looks_innocent(x: Any) -> Any:
    return x


@functools.lru_cache
def remembered(x: Any) -> Any:
    return x


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        return x


class Keeper:
    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    def __call__(self, x: Any) -> Any:
        return self.kept.setdefault(0, x)


class Sneaky:
    def __getattr__(self, name: str) -> Any:
        HISTORY.append(name)
        return 1.0

    def __call__(self, x: Any) -> Any:
        return x * self.scale


class Watching:
    def __getattribute__(self, name: str) -> Any:
        HISTORY.append(name)
        return object.__getattribute__(self, name)

    def __call__(self, x: Any) -> Any:
        return x * self.scale


class Prop:
    @property
    def scale(self) -> float:
        HISTORY.append(1)
        return 1.0

    def __call__(self, x: Any) -> Any:
        return x * self.scale


class Descriptor:
    def __get__(self, obj: Any, kind: Any) -> float:
        HISTORY.append(1)
        return 1.0


class Described:
    scale = Descriptor()

    def __call__(self, x: Any) -> Any:
        return x * self.scale


class Operator:
    def __rmul__(self, other: Any) -> Any:
        HISTORY.append(1)
        return other


OPERATOR = Operator()


class Iterable:
    def __iter__(self) -> Any:
        HISTORY.append(1)
        return iter(())

    def keys(self) -> Any:
        HISTORY.append(1)
        return ()


ITERABLE = Iterable()


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Any) -> Any:
        return self.norm(x)


class Super(transforms.ToTensor):
    def __call__(self, x: Any) -> Any:
        HISTORY.append(1)
        return super().__call__(x)


HOOKED = Invert()
HOOKED.register_forward_hook(lambda *_: HISTORY.append(1))
EXECUTED: dict[str, Any] = {}
exec("def nowhere(x): return x", EXECUTED)
MOVED = types.FunctionType(count.__code__.replace(co_firstlineno=grey.__code__.co_firstlineno, co_name="grey"), globals())

SEEN = {
    "count": count,
    "closure_count": closure_count(),
    "closure_list": closure_list(),
    "cached": cached,
    "append": lambda x: HISTORY.append(x) or x,
    "append by name": lambda x: getattr(HISTORY, "append")(x),  # noqa: B009
    "append by made name": lambda x: getattr(HISTORY, "app" + "end")(x),
    "bound append": HISTORY.append,
    "alias": lambda x: (mine := HISTORY) and mine.append(x),
    "comprehension": lambda x: [HISTORY.append(one) for one in x],
    "map": lambda x: list(map(HISTORY.append, x)),
    "sort by": lambda x: sorted(x, key=HISTORY.append),
    "print": lambda x: print(x) or x,
    "print by another name": functools.partial(caller, print),
    "print in a list": lambda x: [print][0](x),
    "print in a dict": lambda x: {"p": print}["p"](x),
    "print as default": lambda x, p=print: p(x),
    "print through inner": lambda x: (lambda f: f(x))(print),
    "print by builtins": lambda x: builtins.print(x),
    "vars": lambda x: vars(Settings),
    "globals": lambda x: globals().update(total=1),
    "setattr": lambda x: setattr(Settings, "scale", 3),
    "class attribute": lambda x: Settings.seen.append(1),
    "class method": Settings.counting,
    "dunder": lambda x: x.__class__.__init__(x),
    "dunder dict": lambda x: Settings.__dict__["seen"].append(1),
    "eval": lambda x: eval("x"),
    "import": lambda x: __import__("os").getpid(),
    "os": lambda x: os.getpid(),
    "environ": lambda x: os.environ["HOME"],
    "time": lambda x: time.time(),
    "file": lambda x: FILE.write(str(x)),
    "save": lambda image: image.save("x.png"),
    "torch.save": lambda x: torch.save(x, "x.pt"),
    "np.load": lambda x: np.load("x.npy"),
    "np.save": lambda x: np.save("x.npy", x),
    "tofile": lambda x: x.tofile("x"),
    "Image.open": lambda x: Image.open(x),
    "cuda": lambda x: x.cuda(),
    "to device": lambda x: x.to("cuda"),
    "device=": lambda x: torch.zeros(3, device="cuda"),
    "share": lambda x: x.share_memory_(),
    "backward": lambda x: x.sum().backward(),
    "hook": lambda x: x.register_hook(print),
    "set threads": lambda worker_id: torch.set_num_threads(2),
    "default dtype": lambda x: torch.set_default_dtype(torch.float64),
    "grad mode": lambda x: torch.set_grad_enabled(False),
    "out": lambda x: torch.add(x, 1, out=MEAN),
    "out by position": lambda x: np.add(x, 1, WEIGHTS),
    "out of a method": lambda x: x.sum(0, None, WEIGHTS),
    "out of clip": lambda x: np.clip(x, 0, 1, WEIGHTS),
    "in place on a global": lambda x: MEAN.mul_(2),
    "in place by flag": lambda x: F.relu(MEAN, True),
    "in place by keyword": lambda x: F.relu(MEAN, inplace=True),
    "in place by partial": functools.partial(F.relu, MEAN, True),
    "in place by name": lambda x: torch.relu_(MEAN),
    "shuffle a global": lambda x: random.shuffle(COLOURS),
    "numpy view": lambda x: MEAN.numpy().fill(0),
    "pop": lambda x: TABLE.pop(0),
    "default dict": lambda x: LAZY[0],
    "iterator": lambda x: next(COUNTER),
    "its generator": lambda x: torch.rand(1, generator=GENERATOR),
    "numpy generator": lambda x: RNG.random(),
    "deepcopy": lambda x: copy.deepcopy(x),
    "dataset of a worker": lambda worker_id: get_worker_info().dataset.shuffle(),
    "augmented_list": augmented_list,
    "augmented_tensor": augmented_tensor,
    "view_of_global": view_of_global,
    "in_a_loop": in_a_loop,
    "through_a_list": through_a_list,
    "through_a_dict": through_a_dict,
    "constructor": through_a_constructor,
    "bound method": through_a_bound_method,
    "varargs": through_varargs,
    "varargs of a global": through_a_global,
    "unpacking": by_unpacking,
    "deleting": by_deleting,
    "loop target": as_loop_target,
    "conditional": by_conditional,
    "from keys": lambda x: {}.fromkeys([1], COLOURS)[1].append(x),
    "either of two": lambda x: (HISTORY or COLOURS).append(x),
    "alias of a list": by_alias,
    "augmented alias": by_augmented_alias,
    "hidden holder": by_hidden_holder,
    "callee": by_callee,
    "starred": lambda x: [*ITERABLE],
    "starred call": lambda x: max(*ITERABLE),
    "double starred": lambda x: {**ITERABLE},
    "in": lambda x: x in ITERABLE,
    "len": lambda x: len(ITERABLE),
    "format": lambda x: f"{ITERABLE}",
    "private module": lambda x: random._os.getpid(),
    "shadowed": shadowed_by_comprehension,
    "inner_function": inner_function,
    "inner_result": inner_result,
    "mutable_default": mutable_default,
    "generator": generator,
    "async": waits,
    "imports": imports,
    "opens": opens,
    "looks_innocent": looks_innocent,
    "remembered": remembered,
    "partial": functools.partial(mutable_default, seen=HISTORY),
    "Counter": Counter(),
    "Keeper": Keeper(),
    "Sneaky": Sneaky(),
    "Watching": Watching(),
    "Prop": Prop(),
    "Described": Described(),
    "Operator": lambda x: x * OPERATOR,
    "Norm": Norm(),
    "Super": Super(),
    "hooked": HOOKED,
    "compose": transforms.Compose([transforms.ToTensor(), Counter()]),
    "lambda": transforms.Lambda(count),
    "nested lambda": lambda x: transforms.Lambda(lambda y: HISTORY.append(y))(x),
    "no source": EXECUTED["nowhere"],
    "another's source": MOVED,
    "either": Either(Counter()),
    "a class of the user's": Counter,
    "type": lambda x: type("New", (), {}),
    "mixed": lambda x: (x * 2 if SCALE else CONFIG).folder("f"),
}


@pytest.mark.parametrize("name", SEEN)
def test_seen_by_somebody(name: str) -> None:
    reason = judge(SEEN[name])
    assert isinstance(reason, str), reason
    assert "cannot be read (" not in reason  # an error of the judge's own


def test_reasons_are_for_users() -> None:
    line = count.__code__.co_firstlineno
    assert judge(count) == f"count (test_boost_harmless.py:{line}) has `global` in it"
    assert str(judge(SEEN["append"])).endswith("changes HISTORY, which others hold")
    assert str(judge(Counter())).startswith("Counter.__call__ (test_boost_harmless.py:")


def test_what_it_reads_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = judge(STILL["global number"])
    assert isinstance(verdict, Harmless)
    assert verdict.current()
    monkeypatch.setitem(globals(), "SCALE", 0.7)
    assert not verdict.current()


def test_a_replaced_library_function_is_no_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "relu", lambda x: HISTORY.append(x))
    assert isinstance(judge(STILL["relu"]), str)
    monkeypatch.setattr(math, "sqrt", print)
    assert isinstance(judge(STILL["log"]), str)
