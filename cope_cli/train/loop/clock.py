"""Where a training step's time goes, by part, without making a GPU wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Parts of a pre-training step. `backward` is all of the passes through the model that the parts before it are not:
#: the backward pass, and moving the batch to the device.
PARTS = ("data", "vision", "delta_encoder", "alignment", "backward", "optimiser")
_WITHIN_BACKWARD = ("vision", "delta_encoder", "alignment")


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class StepClock:
    """Adds up the seconds that blocks of a step take; on a GPU by events in its stream, read when `take` is called."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._is_running = True

    @contextmanager
    def part(self, name: str, device: torch.device | str = "cpu") -> Iterator[None]:
        """Time a block as part of `name`; `device` is whose work it is."""
        if not self._is_running:
            yield
            return
        if torch.device(device).type == "cuda":
            start, end = _event(), _event()
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        began = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time nothing in a block: an evaluation is no part of a step."""
        self._is_running = False
        try:
            yield
        finally:
            self._is_running = True

    def take(self, num_steps: int) -> dict[str, float]:
        """Return `<part>_seconds` per step since the last call, and start afresh; waits for the GPU."""
        for name, start, end in self._events:
            end.synchronize()
            self._seconds[name] += start.elapsed_time(end) / 1000
        seconds, self._seconds, self._events = self._seconds, dict.fromkeys(PARTS, 0.0), []
        seconds["backward"] -= sum(seconds[name] for name in _WITHIN_BACKWARD)
        return {f"{name}_seconds": value / num_steps for name, value in seconds.items()}
