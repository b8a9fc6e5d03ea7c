"""Many videos, each in a worker process, so that a failure of one never reaches another.

If a worker dies (a crash in native code, the out-of-memory killer), its video fails by name, a fresh worker takes its
place, and the batch continues. An exception of any kind is that video's failure.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar, cast

from cope_cli.errors import CopeError, WorkerDiedError
from cope_cli.types import OnItem, OnProgress

Result = TypeVar("Result")
#: A task's function: (item, report) -> result, where report(done, total) tells how far it is.
Work = Callable[[str, OnProgress], Result]
#: Called with (item, done, total), in the calling process.
_REPORT_SECONDS = 0.1
_DIED = "{item}: its worker process died without an answer (a crash in native code, or out of memory)"
_DIED_HINT = "All other videos were still processed."


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Result]):
    """What became of one item: a result or an error."""

    item: str
    result: Result | None = None
    error: CopeError | None = None


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Result]):
    """Work on many items, ready to run.

    Attributes:
        items: names of what to work on; each goes to one call of `work`.
        work: a picklable function; an exception it raises becomes that item's error.
        workers: processes at a time; 0 means one per core.
        wide: items whose work uses all workers by itself; they come first, one after another.
        weights: an estimate of each item's work; the heaviest of the others begin first, so that all end together.
        errors: items that had failed before the work began.
    """

    items: Sequence[str]
    work: Work[Result]
    workers: int
    wide: Collection[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, CopeError] = field(default_factory=dict)

    def run(self, on_progress: OnItem = lambda item, done, total: None) -> Iterator[Outcome[Result]]:
        """Do the work, several items at a time, and yield each outcome as it comes.

        A single item runs in this process; with more, each worker is a process, also when there is only one.
        """
        for item, error in self.errors.items():
            yield Outcome(item=item, error=error)
        if len(self.items) == 1:
            item = self.items[0]
            yield _outcome(item, lambda: self.work(item, lambda done, total: on_progress(item, done, total)))
            return
        wide = [item for item in self.items if item in self.wide]
        narrow = [item for item in self.items if item not in self.wide]
        narrow.sort(key=lambda item: -self.weights.get(item, 0.0))
        for items, workers in ((wide, 1), (narrow, self.workers or default_workers())):
            if items:
                yield from _run_in_processes(items, self.work, min(workers, len(items)), on_progress)


def run_parts(
    item: str, parts: Sequence[str], work: Work[Result], workers: int, on_progress: Callable[[float], None]
) -> list[Result]:
    """Work on the parts of one item in several processes and return the results in the parts' order.

    Args:
        item: its name, for errors.
        parts: names of the parts.
        work: as for a batch.
        workers: processes at a time.
        on_progress: called with how much is done, over all parts.

    Raises:
        CopeError: the first part that failed; those after it are not begun.
    """
    done: dict[str, float] = {}

    def add(part: str, amount: float, total: float) -> None:
        done[part] = amount
        on_progress(sum(done.values()))

    results: dict[str, Result] = {}
    outcomes = _run_in_processes(parts, work, min(workers, len(parts)), add)
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            if isinstance(outcome.error, WorkerDiedError):
                raise WorkerDiedError(_DIED.format(item=item), _DIED_HINT)
            if outcome.error is not None:
                raise outcome.error
            results[outcome.item] = cast(Result, outcome.result)
    return [results[part] for part in parts]


def wide_items(weights: Mapping[str, float], workers: int, least: float) -> list[str]:
    """Return the items so heavy that, one item a worker, the others would wait for them: to be worked on in parts.

    Args:
        weights: an estimate of each item's work.
        workers: processes at a time.
        least: the weight from which parts pay at all; an item that is alone loses nothing by being tried.
    """
    if workers < 2:
        return []
    heavy = max(least, 1.5 * sum(weights.values()) / workers)
    return [item for item, weight in weights.items() if weight >= heavy or len(weights) == 1]


def _outcome(item: str, call: Callable[[], Result]) -> Outcome[Result]:
    try:
        return Outcome(item=item, result=call())
    except CopeError as error:
        return Outcome(item=item, error=error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  one video's failure must not reach the others
        return Outcome(item=item, error=CopeError(f"{item}: {type(error).__name__}: {error}"))


def _answer(item: str, future: Future[Outcome[Result]]) -> Outcome[Result]:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(item=item, error=WorkerDiedError(_DIED.format(item=item), _DIED_HINT))
    except Exception as error:  # noqa: BLE001  such as a result that cannot be pickled
        return Outcome(item=item, error=CopeError(f"{item}: {type(error).__name__}: {error}"))


class _Worker:
    """One process, and the pipe on which it says how far it is.

    Each has a pipe of its own: a queue shared by all would stay locked for ever by a worker that dies while it writes.
    The work is sent once, not with every item: what it knows of all items may be large.
    """

    def __init__(self, work: Work[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.reports, writer = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(writer, work))

    def submit(self, item: str) -> Future[Outcome[Any]]:
        try:
            return self.pool.submit(_call, item)
        except BrokenProcessPool as error:  # it died while it had nothing to do
            future: Future[Outcome[Any]] = Future()
            future.set_exception(error)
            return future

    def close(self) -> None:
        """End the process; what it is still working on fails at its next report, so that this takes no video's time."""
        self.reports.close()
        self.pool.shutdown(wait=True, cancel_futures=True)


def _run_in_processes(
    items: Sequence[str], work: Work[Result], workers: int, on_progress: OnItem
) -> Generator[Outcome[Result], None, None]:
    waiting = list(reversed(items))
    idle = [_Worker(work) for _ in range(workers)]
    running: dict[Future[Outcome[Result]], tuple[str, _Worker]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                item, worker = waiting.pop(), idle.pop()
                running[worker.submit(item)] = (item, worker)
            done, _ = wait(running, timeout=_REPORT_SECONDS, return_when=FIRST_COMPLETED)
            for _, worker in running.values():
                _pass_on(worker, on_progress)
            for future in done:
                item, worker = running.pop(future)
                outcome = _answer(item, future)
                if isinstance(outcome.error, WorkerDiedError):
                    worker.close()
                    worker = _Worker(work)
                idle.append(worker)
                yield outcome
    finally:
        for worker in [*idle, *(worker for _, worker in running.values())]:
            worker.close()


def _pass_on(worker: _Worker, on_progress: OnItem) -> None:
    try:
        while worker.reports.poll():
            on_progress(*worker.reports.recv())
    except (EOFError, OSError):  # the worker died; its future says so
        return


# In the worker process.

_reports: Connection | None = None
_work: Work[Any] | None = None


def _start(reports: Connection, work: Work[Any]) -> None:
    global _reports, _work
    _reports, _work = reports, work
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End at once when the parent was killed: what this worker is making then counts as never begun."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: str) -> Outcome[Any]:
    """Turn an exception into an outcome here: some exceptions do not survive the way to another process."""
    work, last = _work, 0.0
    assert work is not None

    def report(done: float, total: float) -> None:
        nonlocal last
        if _reports is not None and time.monotonic() - last >= _REPORT_SECONDS:
            last = time.monotonic()
            _reports.send((item, done, total))

    return _outcome(item, lambda: work(item, report))
