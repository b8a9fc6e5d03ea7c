"""A crash in native code, in a real stage: SIGSEGV reaches a worker from outside while it works.

Covered: it costs at most the video the worker had; the others are done, and a rerun completes.
Not covered: a real decoder's crash (tools/fuzz.py looks for one); tests/stages/test_batch.py has the batch itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from running import ENCODE, all_fine, encode, leftovers, verify

from cope_cli.errors import WorkerDiedError
from cope_cli.stages.batch import Outcome
from cope_cli.stages.encode import EncodeRecord, encode_batch

pytestmark = pytest.mark.slow


def workers_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z" and b"resource_tracker" not in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def descendants_of(parent: int) -> list[int]:
    """All workers below a process, those of workers last."""
    children = workers_of(parent)
    return children + [below for child in children for below in descendants_of(child)]


def crash_at(victim: Path, videos: list[Path], root: Path, workers: int) -> dict[str, Outcome[EncodeRecord]]:
    """Encode, and let a worker crash as soon as this video is worked on; returns the outcomes by file name."""
    killed: list[int] = []
    before = set(descendants_of(os.getpid()))

    def on_progress(item: str, done: float, total: float) -> None:
        if not killed and item == str(victim.resolve()):
            killed.extend(pid for pid in descendants_of(os.getpid()) if pid not in before)
            for pid in killed[-1:]:
                os.kill(pid, signal.SIGSEGV)

    batch = encode_batch(videos, root, ENCODE, workers=workers)
    outcomes = {Path(outcome.item).name: outcome for outcome in batch.run(on_progress)}
    assert killed
    return outcomes


@pytest.mark.parametrize("workers", [1, 2])
def test_a_segmentation_fault_costs_one_video_at_most(
    short_videos: list[Path], long_video: Path, tmp_path: Path, workers: int
):
    """With two workers the long video is encoded in parts, and a worker on one of them crashes."""
    root, videos = tmp_path / "cache", [*short_videos, long_video]
    outcomes = crash_at(long_video, videos, root, workers)
    assert set(outcomes) == {path.name for path in videos}
    failed = [name for name, outcome in outcomes.items() if outcome.error is not None]
    assert len(failed) <= 1
    assert all(isinstance(outcomes[name].error, WorkerDiedError) for name in failed)
    assert all_fine(verify(root), 3 - len(failed))
    assert all_fine(encode(videos, root), 3)
    assert leftovers(root) == []


def test_a_part_that_crashes_is_reported_under_its_videos_name(
    short_videos: list[Path], long_video: Path, tmp_path: Path
):
    error = crash_at(long_video, [*short_videos, long_video], tmp_path / "cache", workers=2)["long.mp4"].error
    assert error is None or "long.mp4" in error.message
