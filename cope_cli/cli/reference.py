"""The command reference of the docs, from the commands' own help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

_WIDTH = 100


def command_reference() -> str:
    """Return Markdown with the help of every command and subcommand."""
    from cope_cli.cli.main import app

    sections = [f"## {name}\n\n```\n{text}\n```\n" for name, text in _helps(get_command(app), "cope", None)]
    return "\n" + "\n".join(sections) + "\n"


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name.split()[-1], parent=parent, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    lines = (line.rstrip() for line in command.get_help(context).strip().splitlines())
    yield name, "\n".join(lines)
    for sub_name, sub_command in getattr(command, "commands", {}).items():
        yield from _helps(sub_command, f"{name} {sub_name}", context)
