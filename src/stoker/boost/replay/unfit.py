"""Why something cannot be replayed: raised while a loader is recognised, caught where the plan is made, told by --explain."""

from __future__ import annotations


class Unfit(Exception):
    """One sentence with the reason, in words that a user understands: names of classes and values as the script has them."""
