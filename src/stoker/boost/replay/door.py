"""Where replay comes into PyTorch: DataLoader asks for an iterator, and gets ours when its plan holds."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from stoker.boost.guard import complain
from stoker.boost.notes import NOTES, Note, Outcome, user_line
from stoker.boost.replay import library
from stoker.boost.replay.check import Check, forget, refusal
from stoker.boost.replay.iterator import iterator_for
from stoker.boost.replay.order import known_order
from stoker.boost.replay.pixels import PIXELS
from stoker.boost.replay.plan import Plan, generators, plan_for
from stoker.boost.replay.unfit import Unfit
from stoker.boost.session import Session


def apply(session: Session) -> None:
    """Replay loaders from now on, where this PyTorch's inner order is one that is known."""
    reason = known_order()
    if reason is not None:
        NOTES.add(Note(kind="process", part="loader", what=f"torch {torch.__version__}", where="", outcome="declined", why=reason))
        return
    forget()
    library.forget()
    own = DataLoader._get_iterator

    def _get_iterator(self: DataLoader[Any]) -> Any:
        return _replayed(self, own) if session.live else own(self)

    session.at_off(PIXELS.clear)
    session.patches.set(DataLoader, "_get_iterator", _get_iterator)


def _replayed(loader: Any, own: Any) -> Any:
    """Return our iterator, or the loader's own.

    The loader's own is made outside of every `except`: what the user's code raises must not carry an exception of ours as its context.
    """
    plan = _plan(loader)
    found = _begun(loader, plan) if plan is not None else None
    return own(loader) if found is None else found


def _plan(loader: Any) -> Plan | None:
    try:
        plan = plan_for(loader)
        if (earlier := refusal(plan)) is not None:
            raise Unfit(earlier)
        return plan
    except Unfit as reason:
        _note(loader, "declined", str(reason))
    except Exception as error:
        complain("the plan of a loader", error)
    return None


def _begun(loader: Any, plan: Plan) -> Any:
    """Return our iterator; None when it cannot be, and then everything is as if nothing had been."""
    note = _note(loader, "applied", _how(plan))
    states = [(generator, generator.get_state()) for generator in generators(loader)]
    check = Check(plan, note)
    try:
        return iterator_for(loader, plan, note, check)
    except Unfit as reason:
        check.refuse(str(reason), for_good=True)
    except Exception as error:
        if not plan.rewindable:  # it may be the script's own sampler that failed
            raise
        check.refuse(f"replay could not begin ({type(error).__name__}: {error})", for_good=True)
    # The samplers of such plans keep nothing but their generators.
    for generator, state in states:
        generator.set_state(state)
    return None


def _note(loader: Any, outcome: Outcome, why: str) -> Note:
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    what = f"DataLoader({type(loader.dataset).__name__}, batch_size={size}, num_workers={loader.num_workers})"
    return NOTES.add(Note(kind="loader", part="loader", what=what, where=user_line(2), outcome=outcome, why=why))


def _how(plan: Plan) -> str:
    own = "the script's own thread" + (" and one that runs a batch ahead" if plan.guesses else "")
    threads = f"{plan.threads} thread{'s' if plan.threads != 1 else ''}" if plan.threads else own
    return f"{plan.engine.what}, in {threads}"
