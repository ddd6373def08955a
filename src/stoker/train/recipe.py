"""A recipe: the whole configuration of a training, frozen, and the one door (`key=value`) to change it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import typing
from dataclasses import dataclass
from typing import Any

from stoker.errors import BadValue, UnknownName, nearest


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a training computes. Two equal recipes on equal data are the same training."""

    name: str
    """What `stoker train NAME` calls it."""

    dataset: str
    """Where images come from when no path is given: digits, cifar10 or folder."""
    resident: bool = True
    """Decode every image once and keep all of them in memory (images of one size only)."""
    test_fraction: float = 0.2
    """Share of each class that is held out when the data has no split of its own."""
    image_size: int
    """Height and width, in pixels, of what the model sees."""
    mean: tuple[float, ...]
    """Per channel, on the scale 0..1; as many as there are channels."""
    std: tuple[float, ...]
    """Per channel, on the scale 0..1."""
    padding: int = 0
    """Pixels added on every side before the random crop; 0 crops nothing. Resident data only."""
    padding_mode: str = "zeros"
    """zeros or reflect."""
    flip: str = "none"
    """Mirror images: none, random, or alternating (every second epoch, each image from its own start)."""

    model: str
    """small, small1, digits, resnet18, speedrun, or any model of timm."""
    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images a step, over all GPUs together."""
    optimizer: str = "sgd"
    """sgd, adam, adamw or muon."""
    learning_rate: float
    """The highest that the schedule reaches."""
    momentum: float = 0.9
    """Of sgd and muon."""
    nesterov: bool = False
    """Of sgd and muon."""
    weight_decay: float = 0.0
    """Of weights; biases and normalisation layers are not decayed."""
    schedule: str = "constant"
    """constant, cosine, linear or onecycle."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises from near 0."""
    final_factor: float = 0.0
    """The learning rate at the end, as a share of the highest."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""

    eval_every: int = 1
    """Epochs between evaluations on the test images; 0: only after the last."""
    eval_batch_size: int = 500
    """Images a step while evaluating."""
    tta: str = "none"
    """Average predictions over variants of a test image, in the final evaluation: none, flip, or flip+shift."""

    precision: str = "auto"
    """auto (bf16 where a probe shows it faster), bf16 or fp32."""
    channels_last: str = "auto"
    """auto (where a probe shows it faster), yes or no."""
    fused: str = "auto"
    """The fused optimizer: auto, yes or no."""
    compile: str = "auto"
    """torch.compile: auto (where it pays within this run), yes or no."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; float32, nothing probed."""
    seed: int = 0
    """Of everything random."""

    checkpoint_every_s: float = 60.0
    """Seconds between checkpoints; one is always written at the end and when the training is stopped."""
    checkpoint_every_steps: int = 0
    """Steps between checkpoints, besides those by time; 0: by time only."""

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                raise BadValue(f"{field}={value} is not one of: {', '.join(choices)}", hint=_did_you_mean(str(value), choices))
        for field, lowest, highest in _RANGES:
            value = getattr(self, field)
            if not lowest <= value <= highest:
                raise BadValue(f"{field}={value} lies outside {lowest:g} .. {highest:g}", hint=f"set it with --set {field}=VALUE")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise BadValue(
                f"mean has {len(self.mean)} values and std {len(self.std)}; both need 1 (grey) or 3 (colour)",
                hint="--set mean=0.5,0.5,0.5 --set std=0.25,0.25,0.25",
            )
        if min(self.std) <= 0:
            raise BadValue(f"std={self.std} holds a value that is not above 0", hint="--set std=0.25,0.25,0.25")

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return len(self.mean)

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON knows it (tuples become lists)."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Return the recipe that `as_dict` gave. Raises BadValue when keys are missing or unknown (a record of another version)."""
        known = {field.name for field in dataclasses.fields(cls)}
        own: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known}
        try:
            return cls(**own)
        except TypeError as error:
            raise BadValue(
                f"the recorded configuration is not one of this version ({error})", hint="use the version of Stoker that made the run"
            ) from error

    def changed(self, assignments: list[str] | tuple[str, ...]) -> Recipe:
        """Return this recipe with `key=value` assignments applied, the last one winning.

        Raises UnknownName (with the nearest key) and BadValue (not key=value, wrong type, out of range).
        """
        types = typing.get_type_hints(type(self))
        values: dict[str, Any] = {}
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            key = key.strip().replace("-", "_")
            if not equals:
                raise BadValue(f"--set {assignment}: there is no `=` in it", hint=f"write --set {assignment}=VALUE")
            if key not in types or key == "name":
                raise UnknownName(f"there is no configuration key `{key}`", hint=_did_you_mean(key, tuple(types)))
            values[key] = _parse(key, text.strip(), types[key])
        return dataclasses.replace(self, **values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "dataset": ("digits", "cifar10", "folder"),
    "padding_mode": ("zeros", "reflect"),
    "flip": ("none", "random", "alternating"),
    "optimizer": ("sgd", "adam", "adamw", "muon"),
    "schedule": ("constant", "cosine", "linear", "onecycle"),
    "tta": ("none", "flip", "flip+shift"),
    "precision": ("auto", "bf16", "fp32"),
    "channels_last": ("auto", "yes", "no"),
    "fused": ("auto", "yes", "no"),
    "compile": ("auto", "yes", "no"),
}

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("test_fraction", 0.001, 0.9),
    ("image_size", 1, 4096),
    ("padding", 0, 127),
    ("epochs", 1, 100_000),
    ("batch_size", 1, 1_000_000),
    ("learning_rate", 0, 1000),
    ("momentum", 0, 1),
    ("weight_decay", 0, 100),
    ("warmup_epochs", 0, 100_000),
    ("final_factor", 0, 1),
    ("label_smoothing", 0, 0.99),
    ("eval_every", 0, 100_000),
    ("eval_batch_size", 1, 1_000_000),
    ("seed", 0, 2**63 - 1),
    ("checkpoint_every_s", 0, 1e9),
    ("checkpoint_every_steps", 0, 2**31),
)


def field_notes() -> dict[str, str]:
    """Return what each key means: the line that stands under it in this file."""
    notes: dict[str, str] = {}
    body = ast.parse(inspect.getsource(Recipe)).body[0].body  # type: ignore[attr-defined]
    for field, note in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
            notes[field.target.id] = str(note.value.value)  # type: ignore[union-attr]
    return notes


def _parse(key: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() in ("yes", "true", "on", "1"):
            return True
        if text.lower() in ("no", "false", "off", "0"):
            return False
        raise BadValue(f"{key}={text} is neither yes nor no", hint=f"write --set {key}=yes or --set {key}=no")
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return _finite(float(text))
        if kind is str:
            return text
        return tuple(_finite(float(part)) for part in text.strip("()[]").split(","))
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}.get(kind, "numbers with commas between them")
        raise BadValue(f"{key}={text} is not {wanted}", hint="`stoker train RECIPE --show` prints every key with its value") from error


def _finite(value: float) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(value)
    return value


def _did_you_mean(name: str, known: tuple[str, ...]) -> str:
    found = nearest(name, known)
    return f"did you mean `{found}`?" if found else f"known are: {', '.join(known)}"
