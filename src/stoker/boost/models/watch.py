"""Sees which modules are called and which optimizers step, and so finds what is trained in this process."""

from __future__ import annotations

import functools
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from stoker.boost.guard import complain
from stoker.boost.models.compiled import compiled_by_user
from stoker.boost.models.entry import Call, Entry, unwrapped
from stoker.boost.models.fused import Fused
from stoker.boost.models.layout import Layout
from stoker.boost.models.plan import plan
from stoker.boost.models.training import Training
from stoker.boost.notes import user_line

if TYPE_CHECKING:
    from stoker.boost.session import Session

_PATIENCE_STEPS = 50
"""Steps of others after which a training that does not step any more has had its turn."""


class _Here(threading.local):
    busy = False
    """Whether this thread is inside a module's call."""


class _Known(NamedTuple):
    """An optimizer that has stepped."""

    ref: weakref.ref[Optimizer]
    training: Training | None
    noticed: int


class Watch:
    """Everything that is known of this process's models."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._here = _Here()
        self._lock = threading.RLock()
        self._entries: dict[int, Entry] = {}
        self._seen: dict[int, tuple[weakref.ref[nn.Module], str]] = {}
        self._noticed = 0
        """Modules with parameters that were noticed so far: an optimizer is matched anew when there are more."""
        self._known: dict[int, _Known] = {}
        self._trainings: list[Training] = []
        self._count = 0
        self._turn: Training | None = None
        self._impatience = 0

    def wrapped(self, original: Call) -> Call:
        """Return what stands for `torch.nn.Module.__call__`: it looks only at the outermost module that a thread calls."""
        here, session, outermost = self._here, self._session, self._outermost

        @functools.wraps(original)
        def _wrapped_call_impl(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if here.busy or not session.live:
                return original(self, *args, **kwargs)
            here.busy = True
            try:
                return outermost(original, self, args, kwargs)
            finally:
                here.busy = False

        return _wrapped_call_impl

    def aside(self, original: Call) -> Call:
        """Return what stands for a function during which every module is called as the user wrote it."""
        here = self._here

        @functools.wraps(original)
        def standing_aside(*args: Any, **kwargs: Any) -> Any:
            before, here.busy = here.busy, True
            try:
                return original(*args, **kwargs)
            finally:
                here.busy = before

        return standing_aside

    def _outermost(self, original: Call, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch._C._current_graph_task_id() != -1:
            # Within a backward: a checkpoint is computed again, as part of a call that was seen.
            return original(module, *args, **kwargs)
        entry = self._entries.get(id(module))
        if entry is not None and entry.module is module:
            return entry.call(original, module, args, kwargs)
        if id(module) not in self._seen and torch.is_grad_enabled():
            self._notice(module)
        return original(module, *args, **kwargs)

    def _notice(self, module: nn.Module) -> None:
        """Remember a module that was called with gradients: an optimizer may step for it later."""
        try:
            key = id(module)
            trained = any(parameter.requires_grad for parameter in module.parameters())
            forget = functools.partial(_forget, self._seen, key)
            self._seen[key] = (weakref.ref(module, forget), user_line(2) if trained else "")
            self._noticed += trained
        except Exception as error:
            complain("models", error)

    def stepping(self, optimizer: Optimizer, *_: Any) -> None:
        """Before a step of any optimizer."""
        try:
            known = self._known.get(id(optimizer))
            training = known.training if known is not None else None
            way = training.on.get("fused") if training is not None else None
            if isinstance(way, Fused):
                way.before_step(optimizer)
        except Exception as error:
            complain("models.fused", error)

    def stepped(self, optimizer: Optimizer, *_: Any) -> None:
        """After a step of any optimizer."""
        try:
            with self._lock:
                self._stepped(optimizer)
        except Exception as error:
            complain("models", error)

    def _stepped(self, optimizer: Optimizer) -> None:
        known = self._known.get(id(optimizer))
        if known is None or known.ref() is not optimizer or known.noticed != self._noticed:
            known = self._match(optimizer)
        training = known.training
        if training is None:
            return
        turn = self._has_turn(training)
        if training.stepped(optimizer, turn=turn) and turn and training.waits_for_plan:
            parts = self._session.parts
            training.begin(plan(training, parts, process=training.number == 0))

    def _match(self, optimizer: Optimizer) -> _Known:
        """Find the modules whose parameters an optimizer steps, and the training that they belong to."""
        before = self._known.get(id(optimizer))
        old = before.training if before is not None and before.ref() is optimizer else None
        theirs = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        entries = self._found(theirs)
        training = old or next((other for other in self._trainings if any(entry in other.entries for entry in entries)), None)
        if training is None and entries and not self._here.busy:
            training = Training(self._count)
            self._count += 1
            self._trainings = [other for other in self._trainings if other.alive()] + [training]
        for entry in entries:
            if training is not None and entry.training is None:
                self._admit(entry, training)
        if training is not None and old is None:
            training.join(optimizer)
        forget = functools.partial(_forget, self._known, id(optimizer))
        known = _Known(weakref.ref(optimizer, forget), training, self._noticed)
        self._known[id(optimizer)] = known
        return known

    def _found(self, theirs: set[int]) -> list[Entry]:
        """Return the entries of modules with any of these parameters; modules that were only seen become entries."""
        found = [entry for entry in self._entries.values() if entry.module is not None and not theirs.isdisjoint(map(id, entry.module.parameters()))]
        for ref, where in list(self._seen.values()):
            module = ref()
            if module is None or id(module) in self._entries or theirs.isdisjoint(map(id, module.parameters())):
                continue
            found.append(Entry(module, where))
        return found

    def _admit(self, entry: Entry, training: Training) -> None:
        module = entry.module
        assert module is not None
        entry.training = training
        training.entries.append(entry)
        why = _not_ours(module, entry)
        if why is not None:
            for part in sorted(self._session.parts & {"autocast", "layout", "fused", "compile"}):
                training.note(part, "declined", why)
            training.stop()
        key = id(module)
        self._seen.pop(key, None)
        self._entries[key] = entry
        weakref.finalize(module, _forget, self._entries, key)

    def _has_turn(self, training: Training) -> bool:
        """Trainings try things one after the other, so that they do not time each other's trials."""
        turn = self._turn
        if turn is None or turn.finished or turn.resting or not turn.alive():
            self._turn, self._impatience = training, 0
            return not training.finished
        if turn is training:
            self._impatience = 0
            return True
        self._impatience += 1
        if self._impatience > _PATIENCE_STEPS:
            turn.stop("other models were trained for too long in between")
        return False

    def mended(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return what `tensor.view` can be taken of, when it cannot because of the layout that we have given it; None when that is not ours.

        Inside a model's own call the entry does the whole call again. Outside, weights get back the layout that the script expects.
        """
        if self._here.busy or tensor.dim() != 4 or tensor.is_contiguous():
            return None
        for training in list(self._trainings):
            way = training.on.get("layout")
            if not isinstance(way, Layout):
                continue
            owner = way.owner(tensor)
            if owner is None:
                continue
            weight, of_gradient = owner
            training.withdraw("layout", "the script looks at the weights' memory in its own order")
            laid_out = weight.grad if of_gradient else weight
            return tensor if tensor is laid_out or laid_out is None else laid_out.detach()
        return tensor.contiguous() if any("layout" in training.on for training in self._trainings) else None

    def hooked(self, module: nn.Module) -> None:
        """A hook is being put on a module: it must not see bfloat16, nor run inside compiled code."""
        for training in list(self._trainings):
            for part in ("compile", "autocast"):
                if part in training.on and any(entry.root is not None and module in set(entry.root.modules()) for entry in training.entries):
                    training.withdraw(part, f"the script has put a hook on {type(module).__name__}")

    def end(self) -> None:
        """Everything as it was."""
        with self._lock:
            for training in self._trainings:
                training.stop()
            self._trainings = []
            self._entries.clear()
            self._seen.clear()
            self._known.clear()


def _not_ours(module: nn.Module, entry: Entry) -> str | None:
    if isinstance(module, torch.jit.ScriptModule) or isinstance(unwrapped(module), torch.jit.ScriptModule):
        return "it is TorchScript"
    if compiled_by_user(module):
        return "the script compiles the model itself"
    if type(module).__name__ == "FullyShardedDataParallel" or any(type(parameter) is not nn.Parameter for parameter in module.parameters()):
        return "its parameters are sharded, or of a kind of their own"
    devices = {parameter.device for parameter in module.parameters()}
    return None if len(devices) == 1 else "its parameters are on several devices"


def _forget(table: dict[int, Any], key: int, _: object = None) -> None:
    table.pop(key, None)
