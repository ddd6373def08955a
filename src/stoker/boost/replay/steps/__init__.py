"""The transforms of a user's pipeline, taken apart into steps that can be drawn first and applied later."""

from __future__ import annotations

from stoker.boost.replay.steps.looks import look_of
from stoker.boost.replay.steps.pipeline import Steps, recognise_transform
from stoker.boost.replay.steps.step import Step

__all__ = ["Step", "Steps", "look_of", "recognise_transform"]
