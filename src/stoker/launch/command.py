"""An engine's command as data: run as it is, printed ready to paste, or explained option by option."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

_COLUMN = 44
"""Options up to this width have their reason beside them, wider ones below."""
_WIDEST = 110
_MARK = "EXPLAINED"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a command with its reason."""

    words: tuple[str, ...]
    """`("--memory", "8g")`"""
    why: str
    """One line, no full stop."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that starts a container."""

    program: tuple[str, ...]
    """`("podman", "run")`"""
    options: tuple[Option, ...]
    image: str
    words: tuple[str, ...]
    """What runs inside; empty: the image's own command."""
    home: tuple[Option, ...] = ()
    """The command that makes the home folder (its `words` are a whole one), for those who paste; `starting` makes it itself. It can be run again."""
    before: tuple[Option, ...] = ()
    """Further commands that must have run before: they write the files with the account and the like, and can be run again."""

    @property
    def argv(self) -> list[str]:
        """The command as the words of a process."""
        return [*self.program, *(word for option in self.options for word in option.words), self.image, *self.words]

    def text(self) -> str:
        """The command ready to paste, an option a line."""
        first = [f"{_joined(one.words)} &&" for one in (*self.home, *self.before)]
        lines = [_joined(self.program), *(_joined(option.words) for option in self.options), _joined((self.image, *self.words))]
        return "\n".join([*first, " \\\n  ".join(lines)])

    def explained(self) -> str:
        """The command ready to paste, below a comment for each option.

        The comments stand above, since within a command of several lines no shell allows them. They are a document for `:`, which does nothing:
        zsh does not know comments on its command line, and would run what stands behind a `;` in one.
        """
        rows = [(_joined(one.words), one.why) for one in (*self.home, *self.before, *self.options)]
        rows.append((_quoted(self.image), "the image"))
        if self.words:
            rows.append((_joined(self.words), "what runs inside"))
        comments = [line for option, why in rows for line in _comment(option, why)]
        return "\n".join([f": <<'{_MARK}'", *comments, _MARK, self.text()])


def _comment(option: str, why: str) -> list[str]:
    """Return an option and its reason as lines of comment, whatever characters are in it."""
    shown = " ".join(option.split())
    shown = shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 3]}..."
    return [f"# {shown:<{_COLUMN}} {why}"] if len(shown) <= _COLUMN else [f"# {shown}", f"# {'':<{_COLUMN}} {why}"]


def _joined(words: tuple[str, ...]) -> str:
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """Return a word as shells read it. Lines of a program stay lines; other control characters, and bytes that are no text, are written as numbers:
    printed as they are, they would move the terminal's cursor, or end the program that prints them."""
    if all(letter.isprintable() or letter == "\n" for letter in word):
        return shlex.quote(word)
    return "$'" + "".join(_escaped(letter) for letter in word) + "'"


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return f"\\{letter}" if letter in "\\'" else letter
    # Three octal digits, which end by themselves: after \x41 bash would read on.
    return "".join(f"\\{byte:03o}" for byte in letter.encode(errors="surrogateescape"))
