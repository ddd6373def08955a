"""`stoker resolve`: which PyTorch and CUDA fit this machine or another one; or why none does, and what would."""

from __future__ import annotations

import dataclasses
import platform
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from stoker import console
from stoker.catalog import Card, NoStack, Question, Stack, Wishes, answer, find_gpu, gpu_models, question_of
from stoker.catalog.fit import called
from stoker.catalog.myths import Myth, myths_about
from stoker.errors import NoStackFits, UnknownName, nearest
from stoker.host import Host, facts
from stoker.runs.columns import bold, fold, printable, terminal_width

_INDENT = 10
_MOST_LIKE = 5
_CODE = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)")


@click.command()
@click.option("--torch", metavar="V", help="PyTorch: 2.8 or 2.8.0.")
@click.option("--cuda", metavar="V", help="CUDA: 12.8 or cu128; cpu for a build without CUDA.")
@click.option("--python", metavar="V", help="Python: 3.12, or 3.13t for the free-threaded one.")
@click.option("--gpu", "gpus", metavar="NAME", multiple=True, help="Another machine's GPU, as nvidia-smi names it. May be repeated.")
@click.option("--driver", metavar="V", help="Another machine's NVIDIA driver, as 580.95.05.")
@click.option("--machine", metavar="ARCH", help="Another machine's processor: x86_64 or aarch64.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def resolve(
    torch: str | None, cuda: str | None, python: str | None, gpus: tuple[str, ...], driver: str | None, machine: str | None, as_json: bool
) -> None:
    """Say which PyTorch and CUDA fit this machine, or another one.

    Alone it answers for this machine. With --gpu, --driver or --machine it answers for the machine that they describe; what they leave open
    is not checked. When nothing fits it says every reason and what would fit, and exits with 7.
    """
    wishes = Wishes(torch=torch, cuda=cuda, python=python)
    if gpus or driver or machine:
        cards = tuple(_card(name) for name in gpus)
        question = question_of(wishes, driver=driver, gpus=cards, python=None, machine=machine or platform.machine())
        place = _described(question)
    else:
        host = facts()
        question = _question_here(wishes, host)
        place = _here(host, question)
    found, myths = answer(question), myths_about(question)
    if as_json:
        console.emit(_as_json(question, place, found, myths))
    if isinstance(found, NoStack):
        raise _no_stack(question, place, found, () if as_json else myths)
    if not as_json:
        click.echo("\n".join(_shown(question, place, found, myths)))


def _card(name: str) -> Card:
    code = _CODE.fullmatch(name.strip())
    if code:
        return Card(name=None, compute_capability=(int(code[1]), int(code[2])))
    model = find_gpu(name)
    if model:
        return Card(name=printable(name), compute_capability=model.compute_capability)
    like = _like(name)
    raise UnknownName(
        f"no GPU {name!r} is known" + (f"; like it: {', '.join(like)}" if like else ""),
        hint="write it as `nvidia-smi -L` does, or its compute capability, as 8.6",
    )


def _like(name: str) -> list[str]:
    """Return the known GPUs whose names hold all the words of a name, or else the one that is spelt most like it."""
    known = {model.name.lower(): model.name for model in gpu_models()}
    words = name.lower().replace("nvidia", "").split()
    holding = [real for lowered, real in known.items() if words and all(word in lowered.split() for word in words)]
    # Written without spaces and without the brand, as people do: RTX5091.
    short = {lowered.replace("geforce", "").replace(" ", ""): real for lowered, real in known.items()}
    nearest_one = nearest("".join(words).replace("geforce", ""), list(short))
    return holding[:_MOST_LIKE] or ([short[nearest_one]] if nearest_one else [])


def _question_here(wishes: Wishes, host: Host) -> Question:
    cards = tuple(Card(name=gpu.name, compute_capability=gpu.compute_capability) for gpu in host.gpus)
    return question_of(wishes, driver=host.driver.version, gpus=cards, python=sys.version_info[:2], machine=host.architecture)


def _here(host: Host, question: Question) -> str:
    gpus = _counted(question.cards)
    if host.driver.version:
        gpus = gpus or "no GPU that can be reached from here"
        return f"this machine: driver {host.driver.version}, {gpus}, {question.machine}, Python {question.python}"
    cards = (
        f"{host.driver.cards} NVIDIA card{'s' * (host.driver.cards > 1)}, but no driver is loaded" if host.driver.cards else "no NVIDIA driver or GPU"
    )
    return f"this machine: {cards}, {question.machine}, Python {question.python}"


def _described(question: Question) -> str:
    driver = f"driver {question.driver}" if question.driver else "any driver"
    return f"{_counted(question.cards) or 'any GPU'}, {driver}, {question.machine}" + (f", Python {question.python}" if question.python else "")


def _counted(cards: Sequence[Card]) -> str:
    counts = {card: list(cards).count(card) for card in cards}
    return ", ".join(f"{count} x {called(card)}" if count > 1 else called(card) for card, count in counts.items())


def _shown(question: Question, place: str, stack: Stack, myths: Sequence[Myth]) -> list[str]:
    blocks = [
        ("for", place),
        ("with", _parts(stack)),
        ("driver", stack.driver_says),
        ("install", stack.command),
        *((("notes" if number == 0 else ""), f"- {note}") for number, note in enumerate(stack.notes)),
        *((("wrong" if number == 0 else ""), f'"{myth.says}": {myth.truth}') for number, myth in enumerate(myths)),
        ("source", f"{stack.source} ({stack.evidence}, checked {stack.checked})"),
    ]
    return [bold(_title(stack)), "", *(line for label, text in blocks for line in _block(label, text))]


def _title(stack: Stack) -> str:
    return f"torch {stack.torch} for {f'CUDA {stack.cuda} ({stack.variant})' if stack.cuda else 'the CPU'}"


def _parts(stack: Stack) -> str:
    parts = {"toolkit": stack.toolkit, "cuDNN": stack.cudnn, "torchvision": stack.torchvision, "torchaudio": stack.torchaudio}
    return ", ".join([*(f"{name} {version}" for name, version in parts.items() if version), f"for Python {', '.join(stack.pythons)}"])


def _block(label: str, text: str) -> list[str]:
    # A command is one line, that it may be copied.
    lines = [text] if label == "install" else fold(printable(text), max(30, terminal_width() - _INDENT))
    return [f"{label if number == 0 else '':<{_INDENT}}{line}" for number, line in enumerate(lines)]


def _no_stack(question: Question, place: str, found: NoStack, myths: Sequence[Myth]) -> NoStackFits:
    wanted = " with ".join(part for part in (f"PyTorch {question.torch or ''}".strip(), f"CUDA {question.cuda}" if question.cuda else "") if part)
    reasons = [f"  - {reason.text}\n    source: {reason.source} ({reason.evidence})" for reason in found.reasons]
    wrong = [f'  - said often, and wrong: "{myth.says}". {myth.truth[0].upper()}{myth.truth[1:]}' for myth in myths]
    near = [f"  - {option.change}: {_title(option.stack)}{_needs(option.stack)}\n    {option.stack.command}" for option in found.nearest]
    hint = "\n".join(["what fits:", *near]) if near else "nothing near fits: ask without --torch, --cuda and --python"
    return NoStackFits("\n".join([f"no {wanted} fits {place}", *reasons, *wrong]), hint=hint)


def _needs(stack: Stack) -> str:
    return f", driver {stack.driver_min} or newer" if stack.driver_min else ""


def _as_json(question: Question, place: str, found: Stack | NoStack, myths: Sequence[Myth]) -> dict[str, Any]:
    told = {"fits": isinstance(found, Stack), "place": place, "question": dataclasses.asdict(question)}
    said = {"myths": [{"says": myth.says, "truth": myth.truth, "source": myth.source} for myth in myths]}
    return {**told, **({"stack": dataclasses.asdict(found)} if isinstance(found, Stack) else dataclasses.asdict(found)), **said}
