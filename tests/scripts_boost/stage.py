"""What the hostile scripts share: small data sets, printing of batches, and running cases one after the other.

Of Stoker they know nothing, but that the number of batches it replayed in each case goes into the file CASE_COUNTS;
CASE_PACE=any: what would not be faster is replayed all the same. CASE_IMPORTS=few: without torch._dynamo, half of the time of the imports.
CASE_BOOST: the STOKER_BOOST of those forks that are asked for by `each`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# torchvision.ops asks it one question, and nothing here ever compiles.
if os.environ.get("CASE_IMPORTS") == "few" and "torch._dynamo" not in sys.modules:
    sys.modules["torch._dynamo.utils"] = types.ModuleType("torch._dynamo.utils")
    sys.modules["torch._dynamo.utils"].is_compile_supported = lambda device_type: False  # type: ignore[attr-defined]
    import torchvision

    del sys.modules["torch._dynamo.utils"]
import torchvision
from PIL import Image
from torchvision import transforms

warnings.filterwarnings("ignore", message=".*worker processes in total.*")
# How long PyTorch waits for each worker of an iterator that the garbage collector finds, before it ends them: 5 s, some dozens of times here.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 1.0
FOLDER = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()
CASES: dict[str, Callable[[], None]] = {}
LIMIT_S = 300
ABORTED = "terminate called without an active exception"
"""How a daemon thread ends a process now and then, plainly too, when Python's end meets it inside PyTorch's C++."""

CROPPED = transforms.Compose(
    [transforms.RandomCrop(16, padding=2), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
)


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Register a case by its name."""
    CASES[function.__name__] = function
    return function


def cifar(count: int = 96, transform: Any = CROPPED, target_transform: Any = None) -> Any:
    """A CIFAR10 as its own __init__ would leave it, with 16 x 16 pixels."""
    stream = np.random.RandomState(1)
    made = torchvision.datasets.CIFAR10.__new__(torchvision.datasets.CIFAR10)
    torchvision.datasets.VisionDataset.__init__(made, "nowhere", transform=transform, target_transform=target_transform)
    made.train = True
    made.data = stream.randint(0, 256, (count, 3, 16, 16), dtype=np.uint8).transpose(0, 2, 3, 1)
    made.targets = stream.randint(0, 10, count).tolist()
    return made


def pictures(count: int = 36, transform: Any = None, name: str = "pictures") -> Any:
    """An ImageFolder of small PNG files."""
    root = FOLDER / name
    stream = np.random.RandomState(2)
    for i in range(count):
        place = root / f"class{i % 3}" / f"{i:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            Image.fromarray(stream.randint(0, 256, (20 + i % 5, 24, 3), dtype=np.uint8)).save(place)
    steps = transforms.Compose([transforms.RandomResizedCrop(12), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    return torchvision.datasets.ImageFolder(str(root), transform or steps)


def digest(value: Any) -> str:
    """A few letters that stand for every bit of a batch."""
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)}{hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(digest(part) for part in value) + "]"
    return repr(value)


def states() -> str:
    """A few letters for the three random states."""
    numpy = np.random.get_state(legacy=True)
    parts = (torch.get_rng_state().numpy().tobytes(), repr(random.getstate()).encode(), numpy[1].tobytes() + repr(numpy[2:]).encode())
    return " ".join(hashlib.sha256(part).hexdigest()[:8] for part in parts)


def seed(number: int = 3) -> None:
    """Seed everything."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def say(*words: Any) -> None:
    """Print at once: children and dying processes must not lose or repeat what was said."""
    print(*words, flush=True)


def _replayed() -> int:
    """Batches that boost has made so far, when it is there."""
    notes = sys.modules.get("stoker.boost.notes")
    kept = notes.NOTES.kept if notes else []
    return sum(note.numbers.get("batches", 0) - note.numbers.get("plain_batches", 0) for note in kept if note.kind == "loader")


def _attempt(name: str, function: Callable[[], None]) -> None:
    say(f"== {name}")
    seed()
    if check := sys.modules.get("stoker.boost.replay.check"):
        check.forget()
    before = _replayed()
    try:
        function()
    except BaseException as error:
        say("raised", type(error).__name__, error)
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).parent == Path(__file__).parent:
                say("  frame", Path(frame.filename).name, frame.lineno, frame.name)
        say("  cause", repr(error.__cause__), "context", repr(error.__context__))
    say("states", states())
    if os.environ.get("CASE_COUNTS"):
        with open(os.environ["CASE_COUNTS"], "a") as file:
            file.write(f"{name} {_replayed() - before}\n")


def _forked(name: str) -> bool:
    """Fork into a folder of its own: the child is what `python FILE NAME FOLDER` would be after its imports. The parent waits for its end."""
    place = Path(name)
    place.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        (place / "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
        return False
    signal.alarm(LIMIT_S)
    for descriptor, said in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(place)
    sys.argv = [sys.argv[0], name, sys.argv[2]]
    if "CASE_BOOST" in os.environ:
        os.environ["STOKER_BOOST"] = os.environ["CASE_BOOST"]
        importlib.import_module("stoker.door").open_door()
    return True


def _forked_for_each(names: list[str]) -> None:
    """Return in a process of its own for each case, one after the other, and end this one."""
    for name in names:
        for _ in range(25):
            if _forked(name):
                return
            if name != "daemon_thread" or ABORTED not in (Path(name) / "err").read_text():
                break
    sys.exit()


def main() -> None:
    """`python FILE all FOLDER` runs every case and catches what it raises; `python FILE CASE FOLDER` runs one and does not.

    `python FILE each FOLDER CASES...` runs each in a fork, and leaves what it said and its exit status in `CASE/out`, `err` and `code`.
    """
    if sys.argv[1] == "each":
        _forked_for_each(sys.argv[3:])
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell: the cases send themselves Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CASE_PACE") == "any" and (check := sys.modules.get("stoker.boost.replay.check")):
        check.Check._slower = lambda self, at_once: False  # type: ignore[attr-defined]
    if sys.argv[1] == "all":
        for name, function in CASES.items():
            _attempt(name, function)
    else:
        seed()
        CASES[sys.argv[1]]()
