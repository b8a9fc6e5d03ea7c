"""What a user sees: results on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, is_dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from cope_cli.errors import CopeError

if TYPE_CHECKING:
    from rich.console import Console

    from cope_cli.cli.progress import BatchProgress
    from cope_cli.stages.batch import Batch, Outcome

    out: Console
    err: Console

Result = TypeVar("Result")


class Verbosity(IntEnum):
    """How much is printed on stderr beside errors."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


#: Set by `-q` and `-v`.
verbosity = Verbosity.NORMAL
#: What Ctrl-C prints; a command replaces it with what is kept and how to continue.
interrupted: Callable[[], str] = lambda: "stopped"  # noqa: E731


def __getattr__(name: str) -> Any:
    """Make the consoles `out` and `err` when they are first used: `cope --help` needs no rich."""
    if name not in ("out", "err"):
        raise AttributeError(name)
    from rich.console import Console

    console = Console(stderr=name == "err")
    globals()[name] = console
    return console


def _styled(text: str, **style: Any) -> None:
    """Print a line on stderr; NO_COLOR turns the style off."""
    typer.secho(text, err=True, color=False if os.environ.get("NO_COLOR") else None, **style)


def as_bytes(size: float) -> str:
    """Return a size as people read it, such as 1.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def as_duration(seconds: float) -> str:
    """Return a length of time as people read it, such as 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; records become objects."""
    typer.echo(json.dumps(value, indent=2, default=_jsonable, allow_nan=False))


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    typer.echo(json.dumps(value, default=_jsonable, allow_nan=False))


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, CopeError):
        return {"type": type(value).__name__, "message": value.message, "hint": value.hint}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {type(value).__name__}")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, drop_first: Collection[str] = ()
) -> None:
    """Print a table on stdout that fits the terminal; columns after the first are aligned to the right.

    Args:
        title: printed above the table.
        columns: the headings.
        rows: the cells.
        drop_first: headings of columns to leave out, in this order, while the table is too wide for the terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = [list(row) for row in rows]
    widths = [max(len(cell) for cell in cells) for cells in zip(columns, *rows, strict=True)]
    kept = list(range(len(columns)))
    console = Console()
    for heading in drop_first:
        if console.is_terminal and sum(widths[index] + 3 for index in kept) - 1 > console.width:
            kept.remove(columns.index(heading))
    if not console.is_terminal:  # a pipe or a file has no width to fit
        console = Console(width=max(len(title), sum(widths[index] + 3 for index in kept)) + 2)
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index in kept:
        is_name = index == 0
        table.add_column(columns[index], justify="left" if is_name else "right", no_wrap=is_name, overflow="fold")
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    console.print(f"\n{title}", style="bold", highlight=False, markup=False)
    console.print(table)


def note(text: str) -> None:
    """Print a line for the user on stderr, unless --quiet is given."""
    if verbosity > Verbosity.QUIET:
        _styled(text, dim=True)


def next_step(command: str) -> None:
    """Name the command that usually comes next."""
    note(f"next: {command}")


def settings(title: str, values: Mapping[str, Any]) -> None:
    """Print what the settings resolved to, if --verbose is given."""
    if verbosity == Verbosity.VERBOSE:
        for name, value in values.items():
            note(f"{title}: {name} = {value}")


def batch_progress(title: str, num_items: int, *, is_shown: bool = True) -> AbstractContextManager[BatchProgress]:
    """Show progress on stderr while the block runs; see `cli.progress`."""
    from cope_cli.cli.progress import show_progress

    return show_progress(title, num_items, is_shown=is_shown and verbosity > Verbosity.QUIET)


def run_batch(title: str, batch: Batch[Result]) -> list[Outcome[Result]]:
    """Run a batch and show its progress.

    Returns:
        The outcomes: those of paths that failed before the work began, then those of the items, in order.
    """
    global interrupted
    interrupted = lambda: "stopped; finished videos are kept, run the same command to continue"  # noqa: E731
    found = {}
    with batch_progress(title, len(batch.items) + len(batch.errors)) as progress:
        for outcome in batch.run(progress.update):
            progress.finish(outcome.item, is_failed=outcome.error is not None)
            found[outcome.item] = outcome
    return [found[item] for item in (*batch.errors, *batch.items)]


def finish(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    outcomes: Sequence[Outcome[Any]],
    *,
    as_json: bool,
    drop_first: Collection[str] = (),
) -> None:
    """Print a batch's results, then its failures; exit with 1 if there are any."""
    if as_json:
        print_json(outcomes)
    elif rows:
        print_table(title, columns, rows, drop_first=drop_first)
    fail_with([error for outcome in outcomes if (error := outcome.error) is not None], len(outcomes))


def fail_with(errors: Sequence[CopeError], num_items: int = 0) -> None:
    """Print the failures, if there are any, and exit with 1."""
    if errors:
        _styled(f"{len(errors)}{f' of {num_items}' if num_items else ''} failed:", fg="red", bold=True)
        for error in errors:
            print_error(error, indent="  ")
        raise typer.Exit(1)


def print_error(error: CopeError, *, indent: str = "") -> None:
    """Print an error and its hint."""
    prefix = indent or "error: "
    _styled(f"{prefix}{error.message}", fg="red")
    if error.hint:
        typer.echo(f"{indent}  -> {error.hint}", err=True)


def complain(error: CopeError) -> None:
    """Print the error that ends a command: on stdout as JSON if the command was to print JSON."""
    if "--json" in sys.argv:
        print_json({"error": error})
    else:
        print_error(error)
