"""Which stack of the image a container uses: the newest that the driver and the GPUs run, or the one that the person named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stoker.catalog import Card, NoStack, Question, answer, find_release
from stoker.catalog.fit import Build, called, driver_floor, objections
from stoker.errors import StackUnfit, UnknownName, nearest
from stoker.start.driver import Seen
from stoker.start.image import Image, ImageStack


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A stack that the person named."""

    name: str
    by: str
    """How: `STOKER_STACK` or `stoker stack use`."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The stack that is used."""

    stack: ImageStack
    why: str
    """One line for people, without a full stop."""
    warnings: tuple[str, ...] = ()
    """What they should not miss: it cannot run here, or only on some of the GPUs."""
    without_gpu: str | None = None
    """Why programs of this stack can use no GPU, one sentence without a full stop; None: they can, or nothing speaks against it."""


def choose(image: Image, seen: Seen, wanted: Wanted | None = None) -> Choice:
    """Return the stack to use.

    The stacks are tried in the image's order, the newest first. One fits when the catalogue has no objection for any of the GPUs; where none
    fits all of them, one that fits some is taken with a warning. Without a GPU that can be used the newest one runs on the CPU.
    Raises StackUnfit when there are GPUs and no stack runs on any, UnknownName when the person named a stack that the image lacks.
    """
    choice = _by_hand(image, seen, wanted) if wanted else _by_itself(image, seen)
    return replace(choice, without_gpu=no_card(seen) or _no_use_of_cards(choice, seen, image.machine))


def no_card(seen: Seen) -> str | None:
    """Return why there is no GPU that a program could use, one sentence without a full stop; None: there is one."""
    if seen.unknown:
        return f"the GPUs could not be asked: {seen.trouble}"
    return None if seen.cards else _without_gpu(seen)


def _by_itself(image: Image, seen: Seen) -> Choice:
    if image.stacks[0].torch is None:
        return Choice(stack=image.stacks[0], why="nothing in it needs a GPU")
    if not seen.cards and not seen.unknown:
        return Choice(stack=image.stacks[0], why=f"on the CPU: {_without_gpu(seen)}")
    against = {stack.name: stack_objections(stack, seen.driver, seen.cards, image.machine) for stack in image.stacks}
    newest = next((stack for stack in image.stacks if not against[stack.name]), None)
    if newest is not None:
        passed = image.stacks[: image.stacks.index(newest)]
        return Choice(stack=newest, why=_fits(newest, seen, [(stack, against[stack.name]) for stack in passed]), warnings=_trouble(seen))
    partly = _fits_some(image, seen)
    if partly is not None:
        return partly
    raise _unfit(image, seen, against)


def stack_objections(stack: ImageStack, driver: str | None, cards: Sequence[Card], machine: str) -> tuple[str, ...]:
    """Return why a stack does not run with a driver on some GPUs; nothing: it does, or nothing is known that speaks against it."""
    build = _build(stack)
    return tuple(reason.text for reason in objections(build, _question(driver, cards, machine))) if build else ()


def _by_hand(image: Image, seen: Seen, wanted: Wanted) -> Choice:
    named = next((stack for stack in image.stacks if stack.name == wanted.name), None)
    if named is None:
        names = [stack.name for stack in image.stacks]
        like = nearest(wanted.name, names)
        raise UnknownName(
            f"this image has no stack {wanted.name!r} (asked for by {wanted.by})" + (f"; the nearest is {like!r}" if like else ""),
            hint=f"there are: {', '.join(names)}; `stoker stack use auto` leaves the choice to the start",
        )
    against = stack_objections(named, seen.driver, seen.cards, image.machine) if seen.cards or seen.unknown else ()
    warned = (f"the stack {named.name} cannot use this machine's GPUs: {against[0]}",) if against else ()
    return Choice(stack=named, why=f"as {wanted.by} says", warnings=(*warned, *_trouble(seen)))


def _fits(stack: ImageStack, seen: Seen, passed: Sequence[tuple[ImageStack, Sequence[str]]]) -> str:
    if stack.cuda is None:
        why = f"on the CPU, although there is {_gpus(seen.cards)}" if seen.cards else "on the CPU"
    else:
        why = f"driver {seen.driver or 'unknown'}, {_gpus(seen.cards)}"
    return "; ".join([why, *(f"not {other.name}: {against[0]}" for other, against in passed)])


def _fits_some(image: Image, seen: Seen) -> Choice | None:
    for stack in image.stacks:
        kinds = tuple(dict.fromkeys(seen.cards))
        against = {card: stack_objections(stack, seen.driver, (card,), image.machine) for card in kinds}
        if any(not texts for texts in against.values()):
            why = f"driver {seen.driver}, and no stack runs on all of {_gpus(seen.cards)}"
            return Choice(stack=stack, why=why, warnings=tuple(texts[0] for texts in against.values() if texts))
    return None


def _unfit(image: Image, seen: Seen, against: dict[str, tuple[str, ...]]) -> StackUnfit:
    reasons = "".join(f"\n  - {stack.says}: {'; '.join(against[stack.name])}" for stack in image.stacks)
    would = [*_drivers_that_would(image, seen), *_other_image(image, seen)]
    return StackUnfit(
        f"no stack of this image runs with driver {seen.driver or 'unknown'} on {_gpus(seen.cards)}{reasons}",
        hint="; or ".join([*would, f"set STOKER_STACK={image.stacks[0].name} to start it all the same, without these GPUs"]),
    )


def _drivers_that_would(image: Image, seen: Seen) -> list[str]:
    """Return the oldest driver with which a stack of the image would run, where a driver is all that is in the way."""
    found = []
    for stack in image.stacks:
        build = _build(stack)
        floor = driver_floor(build.variant, seen.cards) if build and build.variant else None
        if floor and not stack_objections(stack, floor, seen.cards, image.machine):
            found.append(f"driver {floor} or newer on the host runs {stack.says}")
    return found[-1:]


def _other_image(image: Image, seen: Seen) -> list[str]:
    fitting = answer(_question(seen.driver, seen.cards, image.machine))
    if isinstance(fitting, NoStack) or fitting.cuda is None:
        return []
    return [f"build an image with torch {fitting.torch} for CUDA {fitting.cuda}, which does run here"]


def _no_use_of_cards(choice: Choice, seen: Seen, machine: str) -> str | None:
    """Return why the chosen stack leaves the GPUs idle that are there; without PyTorch in it nobody knows."""
    if choice.stack.torch and choice.stack.cuda is None:
        return f"the stack in use is {choice.stack.says}: {choice.why}"
    against = [stack_objections(choice.stack, seen.driver, (card,), machine) for card in dict.fromkeys(seen.cards)]
    return against[0][0] if all(against) else None


def _build(stack: ImageStack) -> Build | None:
    """Return the build that a stack holds; None: not in the catalogue, and so nothing is known against it."""
    release = find_release(stack.torch) if stack.torch else None
    if release is None:
        return None
    variant = release.variant(stack.cuda) if stack.cuda else None
    return None if stack.cuda and variant is None else Build(release=release, variant=variant)


def _question(driver: str | None, cards: Sequence[Card], machine: str) -> Question:
    return Question(torch=None, cuda=None, python=None, driver=driver, cards=tuple(cards), machine=machine)


def _without_gpu(seen: Seen) -> str:
    if seen.hidden:
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    if seen.driver:
        return f"driver {seen.driver} is there, but no GPU is given to what runs here"
    if seen.boards:
        return f"{seen.boards} NVIDIA card{'s' * (seen.boards > 1)} here, but no driver is loaded"
    return "there is no NVIDIA driver or GPU here"


def _trouble(seen: Seen) -> tuple[str, ...]:
    return (f"the GPUs could not be asked in full: {seen.trouble}",) if seen.trouble else ()


def _gpus(cards: Sequence[Card]) -> str:
    counts = {card: list(cards).count(card) for card in cards}
    return ", ".join(f"{count} x {called(card)}" if count > 1 else called(card) for card, count in counts.items()) or "GPUs that could not be asked"
