"""Running a measurement with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from cope_cli.cli import show

if TYPE_CHECKING:
    from cope_cli.types import OnProgress

Result = TypeVar("Result")


def measured(title: str, measure: Callable[[OnProgress], Result]) -> Result:
    """Run a measurement with a progress bar; it is given a function that takes (done, total)."""
    with show.batch_progress(title, 0) as progress:
        return measure(lambda done, total: progress.update("measure", done, total))
