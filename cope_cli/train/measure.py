"""`cope train check --measure N`: run N real steps of a finetuning, and say what the whole run takes at that rate."""

from __future__ import annotations

import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cope_cli.cache.frames import frames_folder
from cope_cli.cache.store import Cache
from cope_cli.files import tree_bytes
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.loop.ranks import join_ranks
from cope_cli.train.loop.setup import OnStep
from cope_cli.types import OnItem


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """What one part of the cache takes on disk, in bytes, for the videos of a run."""

    what: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What some steps took, and what a whole run takes at that rate.

    Attributes:
        device: where the steps ran.
        num_ranks: processes that shared each step.
        num_steps_measured: steps that were run; the first warms up and is left out of the mean if there are others.
        seconds_per_step: median.
        peak_bytes: most memory in use on this rank.
        peak_kind: what memory that is.
        num_steps_total: steps of the whole run.
        seconds_total: of the whole run.
        disk: what the cache takes for the run's videos.
    """

    device: str
    num_ranks: int
    num_steps_measured: int
    seconds_per_step: float
    peak_bytes: int
    peak_kind: str
    num_steps_total: int
    seconds_total: float
    disk: list[DiskUse]


def measure_steps(
    cache: Cache,
    config: FinetuneConfig,
    runs_root: Path,
    *,
    num_steps: int,
    on_progress: OnStep = lambda step, total, metrics: None,
    on_frames: OnItem = lambda entry, done, total: None,
) -> Measured:
    """Run the first steps of a finetuning on the machine at hand. Only missing RGB slots stay in the cache.

    Args:
        cache: holds the primitives.
        config: the run's settings.
        runs_root: where pretrain runs are looked for; the run goes to a folder here that is removed.
        num_steps: how many steps to run.
        on_progress: called with (step, steps to measure, logged values).
        on_frames: called with (entry, seconds done, seconds in all) while RGB slots are added.

    Raises:
        CopeError: as `finetune`.
    """
    ranks = join_ranks(cpu=config.is_cpu, timeout_minutes=config.rank_timeout_minutes)
    seconds: list[float] = []
    totals: list[int] = []
    entries: list[str] = []

    def note(step: int, total: int, metrics: Mapping[str, float]) -> None:
        seconds.append(metrics["seconds_per_step"])
        totals.append(total)
        on_progress(step, min(num_steps, total), metrics)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    folder = Path(ranks.from_main(lambda: _make_folder(runs_root), "while a folder is made"))
    try:
        finetune(
            cache,
            replace(config, log_steps=1),
            folder / "run",
            runs_root=runs_root,
            stop_after=num_steps,
            on_begin=lambda record: entries.extend(record["cache_entries"]),
            on_progress=note,
            on_frames=on_frames,
        )
    finally:
        if ranks.is_main:
            shutil.rmtree(folder, ignore_errors=True)
    per_step = statistics.median(seconds[1:] or seconds or [0.0])  # only rank 0 logs
    device, peak_bytes, peak_kind = _peak_memory(config)
    return Measured(
        device=device,
        num_ranks=ranks.count,
        num_steps_measured=len(seconds),
        seconds_per_step=per_step,
        peak_bytes=peak_bytes,
        peak_kind=peak_kind,
        num_steps_total=max(totals, default=0),
        seconds_total=per_step * max(totals, default=0),
        disk=_disk(cache, entries),
    )


def _make_folder(runs_root: Path) -> str:
    runs_root.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(dir=runs_root, prefix=".measure-")


def _peak_memory(config: FinetuneConfig) -> tuple[str, int, str]:
    """Return the device, the most memory that was in use on it, and what that is."""
    if torch.cuda.is_available() and not config.is_cpu:
        return torch.cuda.get_device_name(), torch.cuda.max_memory_allocated(), "allocated on the GPU"
    unit = 1 if sys.platform == "darwin" else 1024
    return "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of the process, with the interpreter"


def _disk(cache: Cache, names: Iterable[str]) -> list[DiskUse]:
    """Return what the cache holds of some primitives entries."""
    totals = {"encoded videos": 0, "primitives": 0, "RGB slots": 0}
    for name in names:
        entry = cache.primitives_entry(name)
        if entry is None:
            continue
        encoded = None if entry.is_direct else cache.encoded_entry(entry.encoded_name)
        totals["encoded videos"] += encoded.video.stat().st_size if encoded is not None else 0
        totals["RGB slots"] += tree_bytes(frames_folder(entry.folder))
        totals["primitives"] += sum(record.size_bytes for record in entry.manifest.files.values())
    return [DiskUse(what=what, bytes=size) for what, size in totals.items()]
