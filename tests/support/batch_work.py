"""What the batch tests let workers do: a module of its own, so that a worker starts without loading the stages."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cope_cli.errors import VideoError

Report = Callable[[float, float], None]


class Picky(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("cannot be pickled")


def work(item: str, report: Report) -> str:
    """Does what its item says; here and not inside a test so that a worker can import it."""
    for step in range(3):
        report(step, 3)
    kind = item.partition(" ")[0]
    if kind == "raise-video":
        raise VideoError("the video is bad", "mend it")
    if kind == "raise-value":
        raise ValueError("a value")
    if kind == "raise-picky":
        raise Picky("not", "simple")
    if kind == "raise-memory":
        raise MemoryError
    if kind == "exit":
        sys.exit(3)
    if kind == "die":
        os._exit(1)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "unpicklable":
        return Unpicklable()
    if kind == "pid":
        return str(os.getpid())
    return item.upper()


class CountedWork:
    """Counts how often it is sent to a worker."""

    def __init__(self) -> None:
        self.times_sent = 0

    def __call__(self, item: str, report: Report) -> str:
        return work(item, report)

    def __reduce__(self) -> tuple[type[CountedWork], tuple[()]]:
        self.times_sent += 1
        return CountedWork, ()


def slow(item: str, report: Report, *, folder: Path) -> str:
    for step in range(100):
        report(step, 100)
        (folder / item).write_text(str(step))
        time.sleep(0.02)
    return item


def chatty(item: str, report: Report) -> str:
    if item == "first":
        return item
    end = time.monotonic() + 600
    while time.monotonic() < end:
        report(0, 1)
        time.sleep(0.01)
    return item
