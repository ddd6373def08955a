"""A user's transform as a list of steps."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import FunctionType, MethodType
from typing import Any

import torch

from stoker.boost.replay.glance import Glance
from stoker.boost.replay.steps.choices import Choice, Kind
from stoker.boost.replay.steps.colours import Blur, ColorJitter, Convert, Sometimes, converts
from stoker.boost.replay.steps.geometry import Flip
from stoker.boost.replay.steps.known import is_own, is_read
from stoker.boost.replay.steps.makers import MAKERS
from stoker.boost.replay.steps.resampling import Rotation
from stoker.boost.replay.steps.step import Family, Known, Step
from stoker.boost.replay.steps.timm import timm_step
from stoker.boost.replay.steps.timm_policies import TimmPolicy
from stoker.boost.replay.steps.unknown import Unknown, as_it_is, unlike, user_code
from stoker.boost.replay.steps.values import ToArray
from stoker.boost.replay.steps.watch import Watch
from stoker.boost.replay.steps.wrapper import handed_on
from stoker.boost.replay.unfit import Unfit

_SIZE_FREE = (Flip, ColorJitter, Rotation, Sometimes, Blur, TimmPolicy)
"""Steps whose draws do not depend on the image."""
FUNCTIONS = ("__call__", "forward", "get_params", "make_params", "_get_params", "transform", "_transform")
_FAMILIES: dict[str, Family] = {
    "torchvision.transforms": "v1",
    "torchvision.transforms.v2": "v2",
    "torchvision.transforms._presets": "v1",
}
_STILL = ("FiveCrop", "Identity", "ImageClassification", "LinearTransformation", "TenCrop")
"""Transforms that are not taken apart, and draw nothing. The `transforms()` of torchvision's pretrained weights are `ImageClassification`."""
AROUND = ("Compose", "Lambda", "RandomApply", "RandomChoice", "RandomOrder")
"""Transforms around other callables: these may be the user's."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Steps(list[Step]):
    """The steps of a pipeline, in order; a list that also knows the containers (`Compose`) they stood in."""

    def __init__(self, steps: Iterable[Step] = (), watches: Iterable[Watch] = ()) -> None:
        super().__init__(steps)
        self.watches = tuple(watches)

    def current(self) -> bool:
        """Return whether the user's pipeline still is what was recognised: containers, objects, and torch's defaults."""
        same = all(watch.same() for watch in self.watches) and all(step.current() for step in self)
        return same and _odd_defaults() is None

    def look_at(self, glance: Glance) -> None:
        """Have `glance` find out what `current` does."""
        for watch in self.watches:
            glance.joins(watch.glance)
        for step in self:
            if isinstance(step, Known) and type(step).current is Known.current:
                glance.joins(step.watch.glance)
            else:
                glance.asks(step.current)
        glance.asks(lambda: _odd_defaults() is None)

    @property
    def draws(self) -> bool:
        return any(step.draws for step in self)

    @property
    def serial(self) -> bool:
        return any(step.serial for step in self)

    def named(self) -> str:
        """Return the names, joined by commas."""
        return ", ".join(step.name for step in self)


def recognise_transform(transform: Any) -> Steps:
    """Return the steps of `transform`: None, a callable, or a container of callables (`Compose`, `nn.Sequential`) however deep.

    Raises `Unfit` where no step could be replayed: another default dtype or default device, something that cannot be called.
    """
    if (odd := _odd_defaults()) is not None:
        raise Unfit(odd)
    watches: list[Watch] = []
    steps = [] if transform is None else _steps(transform, watches)
    if any(isinstance(step, ToArray) for step in steps[:-1]):
        raise Unfit("a transform stands behind ToNumpy")
    return Steps(_in_order(steps), watches)


def _odd_defaults() -> str | None:
    """Return what makes `torch.rand(1)` another number than the steps draw."""
    if torch.get_default_dtype() is not torch.float32:
        return f"the default dtype is {torch.get_default_dtype()}"
    # A default device is a function mode, and without any mode the device is the CPU: asked in 0.03 us.
    if torch._C._len_torch_function_stack() == 0:
        return None
    device = torch.empty(0).device
    return None if device.type == "cpu" else f"the default device is {device}"


def _steps(transform: Any, watches: list[Watch]) -> list[Step]:
    family = _family(transform)
    if family is None and (step := timm_step(transform)) is not None and not _changed(transform):
        return [step]
    if family is None or type(transform).__name__ == "Lambda":
        return _own(transform, family, watches)
    title = type(transform).__name__
    if title == "Sequential" or (title == "Compose" and (family == "v1" or transform.transforms)):
        watches.append(Watch(transform, FUNCTIONS))
        inner = transform.transforms if title == "Compose" else transform
        return [step for part in inner for step in _steps(part, watches)]
    if title in ("RandomApply", "RandomChoice", "RandomOrder"):
        return [_choice(transform, family)]
    return [_library(transform, family)]


def _own(transform: Any, family: Family | None, watches: list[Watch]) -> list[Step]:
    """Return the steps of a callable of the user's: of what it hands its argument on to, or itself as it is."""
    inner = handed_on(transform) if family is None and not _changed(transform) else None
    if inner is None:
        return [_own_code(transform, family)]
    watches.append(Watch(transform, FUNCTIONS))
    return _steps(*inner, watches)


def _own_code(transform: Any, family: Family | None) -> Step:
    """Return the step of a callable of the user's, bare or in a `Lambda` of torchvision's."""
    code = transform if family is None else transform.lambd
    if not callable(code):
        raise Unfit(f"{code!r} cannot be called")
    title = type(code).__name__
    if _changed(code):
        return unlike(transform, f"{title} has hooks, or functions of its own in place of its class's")
    if _family(code) is None and type(code).__module__.startswith("torchvision."):
        version = getattr(sys.modules.get("torchvision"), "__version__", "")
        return unlike(transform, f"{title} is not one that is known in torchvision {version}".rstrip())
    if converts(code) and getattr(transform, "types", (object,)) == (object,):
        return Convert(of=transform, twin=transform, watch=Watch(transform), family=family or "own", name='convert("RGB")')
    return user_code(transform, None if family is None else code)


def _family(transform: Any) -> Family | None:
    """Return which of torchvision's two families of transforms an object is of: the very class, with torchvision's own functions, and
    nothing changed in the object; "own" for `nn.Sequential`."""
    kind = type(transform)
    if _changed(transform):
        return None
    if kind is torch.nn.Sequential:
        return "own"
    found: Family | None = None
    for module, family in _FAMILIES.items():
        place = sys.modules.get(module)
        if place is not None and vars(place).get(kind.__name__) is kind and kind.__module__.startswith("torchvision.transforms"):
            found = family
    if found is None or not is_own(kind) or (kind.__name__ in AROUND and not is_read(kind, found)):
        return None
    return found


def _changed(transform: Any) -> bool:
    """Return whether functions of the object itself hide those of its class, or hooks are set."""
    if isinstance(transform, (FunctionType, MethodType, type)):
        return False
    own = getattr(transform, "__dict__", {})
    return any(callable(getattr(type(transform), name, None)) for name in own) or any(own.get(name) for name in _HOOKS)


def _library(transform: Any, family: Family) -> Step:
    """Return the step of an unchanged object of torchvision's."""
    maker = MAKERS.get(type(transform).__name__)
    if maker is None or not is_read(type(transform), family):
        return as_it_is(transform, draws=type(transform).__name__ not in _STILL)
    try:
        shared = {"of": transform, "twin": copy.deepcopy(transform), "watch": Watch(transform, FUNCTIONS), "family": family}
        return maker(transform, shared)
    except (TypeError, ValueError, AttributeError):
        return as_it_is(transform)


def _choice(transform: Any, family: Family) -> Step:
    """Return the step of a container that draws; one with user code that must run in order runs as it is, as a whole."""
    title, p = type(transform).__name__, getattr(transform, "p", None)
    kind: Kind = {"RandomApply": "apply", "RandomChoice": "choice", "RandomOrder": "order"}[title]  # type: ignore[assignment]
    watches = [Watch(transform, FUNCTIONS)]
    parts = [_steps(part, watches) for part in transform.transforms]
    chains = [tuple(step for part in parts for step in part)] if kind == "apply" else [tuple(part) for part in parts]
    inner = [step for chain in chains for step in chain]
    name = f"{title}([{', '.join(step.name for step in inner)}]{'' if p is None else f', p={p}'})"
    waiting = waits([*inner, *inner]) if kind == "order" else any(waits(chain) for chain in chains)
    # v2 raises where there is nothing to choose from.
    if waiting or not transform.transforms or any(step.serial for step in inner) or not _plain_p(p, kind, len(chains)):
        reasons = [step.reason for step in inner if isinstance(step, Unknown) and step.reason is not None]
        return replace(as_it_is(transform), name=name, reason=reasons[0] if reasons else None, watches=tuple(watches), inner=tuple(inner))
    return Choice(
        of=transform,
        watches=tuple(watches),
        family=family,
        name=name,
        kind=kind,
        chains=tuple(chains),
        p=p if kind == "apply" else None,
        weights=None if kind != "choice" or p is None else tuple(p),
    )


def _plain_p(p: Any, kind: Kind, many: int) -> bool:
    """Return whether the probability, or the weights, are plain numbers."""
    if kind == "apply":
        return isinstance(p, (int, float))
    return many > 0 and (p is None or (isinstance(p, (list, tuple)) and len(p) == many and all(isinstance(weight, (int, float)) for weight in p)))


def waits(steps: Sequence[Step]) -> bool:
    """Return whether a step behind code of the user's own draws numbers that hang on the size of what that code makes."""
    unknown = False
    for step in steps:
        if unknown and needs_look(step):
            return True
        unknown = unknown or isinstance(step, Unknown) or (isinstance(step, Choice) and any(isinstance(part, Unknown) for part in step.inner()))
    return False


def needs_look(step: Step) -> bool:
    """Return whether what a step draws hangs on the image's size."""
    if isinstance(step, Choice):
        return any(needs_look(part) for part in step.inner())
    return step.draws and not isinstance(step, (*_SIZE_FREE, Unknown))


def _in_order(steps: list[Step]) -> list[Step]:
    """Make code of the user's own serial where a later step waits for the size of what it makes."""
    if not waits(steps):
        return steps
    return [replace(step, serial=True) if isinstance(step, Unknown) else step for step in steps]
