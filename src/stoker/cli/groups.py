"""A group of commands that imports a command's code when it is called, and answers an unknown name with the nearest."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from stoker.errors import nearest


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a command's code is, and its line in the help: listed without importing it."""

    module: str
    attribute: str
    help: str


class Commands(click.Group):
    """A group whose commands stand in a table."""

    def __init__(self, *, table: Mapping[str, Entry], **settings: Any) -> None:
        super().__init__(**settings)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which one meets them."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        entry = self.table.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.table.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        if args and args[0] not in self.table and not args[0].startswith("-"):
            like = nearest(args[0], list(self.table))
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {like!r}?" if like else f" There are: {', '.join(self.table)}."))
        return super().resolve_command(ctx, args)
