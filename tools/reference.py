"""The command reference of the docs: tables made from the commands' own options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from typer.main import get_command

from cope_cli.cli.options import ordered_panels


def command_reference() -> str:
    """Return Markdown with the usage, options and examples of every command and subcommand."""
    from cope_cli.cli.main import app

    return "\n" + "\n".join(_sections(get_command(app), "cope")) + "\n"


def _sections(command: Any, name: str) -> Iterator[str]:
    """Yield the Markdown of a command, then that of its subcommands."""
    subcommands = getattr(command, "commands", {})
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    words = [name, *(_usage(one) for one in arguments), "COMMAND" if subcommands else "[OPTIONS]"]
    rows: Sequence[Sequence[str]]
    yield f"## {name}\n\n```text\n{' '.join(words)}\n```\n\n{_paragraphs(command.help)}\n"
    if subcommands:
        rows = [
            (f"[`{name} {sub}`](#{f'{name} {sub}'.replace(' ', '-')})", one.help) for sub, one in subcommands.items()
        ]
        yield _table(("command", "does"), [(link, _paragraphs(text).partition("\n")[0]) for link, text in rows])
    if arguments:
        yield _table(("argument", "meaning"), [(f"`{_metavar(one)}`", one.help or "") for one in arguments])
    for panel, options in _panels(command).items():
        rows = [(_flags(one), _default(one), (one.help or "").replace("|", "\\|")) for one in options]
        yield f"**{panel}**\n\n" + _table(("option", "default", "meaning"), rows)
    if command.epilog and not subcommands:
        yield f"```\n{command.epilog}\n```\n"
    for sub, one in subcommands.items():
        yield from _sections(one, f"{name} {sub}")


def _panels(command: Any) -> dict[str, list[Any]]:
    """Return a command's options by panel, in the order of the help; `--help` itself is left out."""
    found: dict[str, list[Any]] = {}
    for one in command.params:
        if one.param_type_name == "option" and one.name not in ("help", "install_completion", "show_completion"):
            found.setdefault(str(getattr(one, "rich_help_panel", None) or "Options"), []).append(one)
    return {str(panel): found[str(panel)] for panel in ordered_panels(found)}


def _flags(one: Any) -> str:
    """Return an option's names and the values that it takes."""
    names = ", ".join(f"`{name}`" for name in sorted((*one.opts, *one.secondary_opts), key=len, reverse=True))
    choices = _choices(one)
    if choices:
        return f"{names} {', '.join(choices)}"
    return names if one.is_flag else f"{names} {_metavar(one)}"


def _choices(one: Any) -> list[str]:
    found = getattr(getattr(one, "type_descriptor", None), "choices", None) or ()
    return [str(choice.value if isinstance(choice, Enum) else choice) for choice in found]


def _metavar(one: Any) -> str:
    """Return what stands for an option's value."""
    if one.metavar:
        return str(one.metavar).strip("[]{}").removesuffix("...")
    kind = getattr(getattr(one, "type_descriptor", None), "annotation", str)
    return {int: "N", float: "X"}.get(kind, "TEXT")


def _default(one: Any) -> str:
    if one.required:
        return "required"
    value = one.default
    if one.is_flag or value in (None, [], "") or one.show_default is False:
        return ""
    variable = f" or `${one.envvar}`" if one.envvar else ""
    return f"`{value.value if isinstance(value, Enum) else value}`{variable}"


def _usage(one: Any) -> str:
    text = _metavar(one) + ("..." if one.nargs == -1 else "")
    return text if one.required else f"[{text}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ("---",) * len(heads), *rows)]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str | None) -> str:
    """Return a help text with one line per paragraph."""
    parts = (text or "").strip().split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)
