"""What a person sees: progress, tables, sizes. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from cope_cli.errors import CopeError

if TYPE_CHECKING:
    from cope_cli.stages.batch import Batch, Outcome

Result = TypeVar("Result")

_PIPE_WIDTH = 200  # a table in a pipe or a file is not folded to fit a screen

out = Console()
err = Console(stderr=True)
if not out.is_terminal:
    out = Console(width=_PIPE_WIDTH)


def as_bytes(size: float) -> str:
    """Return a size as a person reads it: 1.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


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


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, console: Console = out) -> None:
    """Print a table; columns after the first are numbers, to the right."""
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    console.print(f"\n{title}", style="bold", highlight=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


class BatchProgress:
    """A bar over the batch, and one inside each video that is being worked on."""

    def __init__(self, progress: Progress, title: str, num_items: int) -> None:
        self.progress = progress
        self.overall = progress.add_task(title, total=num_items)
        self.tasks: dict[str, TaskID] = {}

    def update(self, item: str, done: float, total: float) -> None:
        """Say how far an item is, in seconds of video."""
        if item not in self.tasks:
            self.tasks[item] = self.progress.add_task(f"  {Path(item).name}", total=total or None)
        self.progress.update(self.tasks[item], completed=min(done, total) if total else done, total=total or None)

    def step(self, item: str, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Say how far training is, with its loss."""
        self.update(item, step, total)
        if "loss" in metrics:
            self.progress.update(self.tasks[item], description=f"  {item}, loss {metrics['loss']:.4f}")

    def stop(self) -> None:
        """Take the bars away for good, so that text can be printed."""
        self.progress.stop()

    def finish(self, item: str) -> None:
        """An item is done or has failed."""
        if item in self.tasks:
            self.progress.remove_task(self.tasks.pop(item))
        self.progress.advance(self.overall)


@contextmanager
def batch_progress(title: str, num_items: int, *, is_shown: bool = True) -> Iterator[BatchProgress]:
    """Show progress on stderr while the block runs, where stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not (is_shown and err.is_terminal)) as progress:
        yield BatchProgress(progress, title, num_items)


def run_batch(title: str, batch: Batch[Result]) -> list[Outcome[Result]]:
    """Run a batch under a progress bar; returns its outcomes, failed paths first, then in the order of its items."""
    found = {}
    with batch_progress(title, len(batch.items) + len(batch.errors)) as progress:
        for outcome in batch.run(progress.update):
            progress.finish(outcome.item)
            found[outcome.item] = outcome
    return [found[item] for item in (*batch.errors, *batch.items)]


def finish(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    outcomes: Sequence[Outcome[Any]],
    *,
    as_json: bool,
) -> None:
    """Print a batch's results, then what failed; exits with 1 if anything did."""
    if as_json:
        print_json(outcomes)
    elif rows:
        print_table(title, columns, rows)
    fail_with([error for outcome in outcomes if (error := outcome.error) is not None], len(outcomes))


def fail_with(errors: Sequence[CopeError], num_items: int = 0) -> None:
    """Print what failed, if anything did, and exit with 1."""
    if errors:
        err.print(f"{len(errors)}{f' of {num_items}' if num_items else ''} failed:", style="bold red")
        for error in errors:
            print_error(error)
        raise typer.Exit(1)


def print_error(error: CopeError) -> None:
    """Print an error and how to go on."""
    err.print(f"  {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
    if error.hint:
        err.print(f"    -> {error.hint}", markup=False, highlight=False, soft_wrap=True)
