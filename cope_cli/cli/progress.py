"""Progress on stderr: tqdm bars on a terminal, plain lines elsewhere, so that a Slurm log says how far a job is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

#: A bar inside one item appears once the item has taken this long.
_DELAY_SECONDS = 1.0
#: Without a terminal, a long item prints at most one line in this time.
_LINE_SECONDS = 60.0
#: Without a terminal, training prints about this many lines.
_TRAINING_LINES = 20


class BatchProgress:
    """How far a batch, and each item of it, has come; this class shows nothing.

    Args:
        title: what is done, such as `encode`.
        num_items: items in the batch; 0 if the work is not a batch.
    """

    def __init__(self, title: str, num_items: int) -> None:
        self.title = title
        self.num_items = num_items
        self.num_finished = 0

    def update(self, item: str, done: float, total: float) -> None:
        """Report how far an item is; a total of 0 is unknown."""

    def step(self, kind: str, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Report a training step and its metrics."""

    def finish(self, item: str, *, is_failed: bool) -> None:
        """Report that an item has succeeded or failed."""
        self.num_finished += 1

    def stop(self) -> None:
        """Remove the bars, so that other text can be printed."""


class Bars(BatchProgress):
    """Bars on a terminal: one over the batch, and one inside each item that takes more than a second."""

    def __init__(self, title: str, num_items: int) -> None:
        super().__init__(title, num_items)
        self.overall = tqdm(total=num_items, desc=title, unit="video", dynamic_ncols=True) if num_items else None
        self.bars: dict[str, tqdm[Any]] = {}

    def update(self, item: str, done: float, total: float) -> None:
        """Move the item's bar."""
        if item not in self.bars:
            self.bars[item] = tqdm(
                total=round(total, 1) or None,
                desc=f"  {Path(item).name}",
                delay=_DELAY_SECONDS,
                leave=False,
                dynamic_ncols=True,
            )
        bar = self.bars[item]
        bar.total = round(total, 1) or None
        bar.update(round(min(done, total) if total else done, 1) - bar.n)

    def step(self, kind: str, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Move the bar over the run, with its loss."""
        if kind not in self.bars:
            self.bars[kind] = tqdm(total=total, desc=kind, unit="step", initial=step - 1, dynamic_ncols=True)
        bar = self.bars[kind]
        bar.update(step - bar.n)
        if "loss" in metrics:
            bar.set_postfix(loss=f"{metrics['loss']:.4f}")

    def finish(self, item: str, *, is_failed: bool) -> None:
        """Remove the item's bar and move that of the batch."""
        super().finish(item, is_failed=is_failed)
        if item in self.bars:
            self.bars.pop(item).close()
        if self.overall is not None:
            self.overall.update()

    def stop(self) -> None:
        """Close all bars."""
        for bar in self.bars.values():
            bar.close()
        self.bars.clear()
        if self.overall is not None:
            self.overall.close()
            self.overall = None


class Lines(BatchProgress):
    """Plain lines: one per finished item, at most one a minute inside a long one, the loss every so many steps."""

    def __init__(self, title: str, num_items: int) -> None:
        super().__init__(title, num_items)
        self._start = time.monotonic()
        self._last: dict[str, float] = {}

    def update(self, item: str, done: float, total: float) -> None:
        """Print a line if the last one about this item is a minute old."""
        if time.monotonic() - self._last.setdefault(item, time.monotonic()) >= _LINE_SECONDS:
            self._last[item] = time.monotonic()
            share = f" ({100 * done / total:.0f} %)" if total else ""
            self._print(f"{Path(item).name}, {done:.0f} of {total:.0f}{share}")

    def step(self, kind: str, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Print the loss at about twenty steps of the run, and once a minute."""
        is_due = time.monotonic() - self._last.setdefault(kind, self._start) >= _LINE_SECONDS
        if step in (1, total) or step % max(1, total // _TRAINING_LINES) == 0 or is_due:
            self._last[kind] = time.monotonic()
            loss = f", loss {metrics['loss']:.4f}" if "loss" in metrics else ""
            self._print(f"step {step} of {total}{loss}, {time.monotonic() - self._start:.0f} s")

    def finish(self, item: str, *, is_failed: bool) -> None:
        """Print that the item is finished."""
        super().finish(item, is_failed=is_failed)
        if self.num_items:
            elapsed = time.monotonic() - self._start
            verb = "failed" if is_failed else "done"
            self._print(f"{Path(item).name} {verb} ({self.num_finished} of {self.num_items}, {elapsed:.0f} s)")

    def _print(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)


@contextmanager
def show_progress(title: str, num_items: int, *, is_shown: bool) -> Iterator[BatchProgress]:
    """Show progress on stderr while the block runs: bars if it is a terminal, plain lines otherwise."""
    kind = BatchProgress if not is_shown else Bars if sys.stderr.isatty() else Lines
    progress = kind(title, num_items)
    try:
        yield progress
    finally:
        progress.stop()
