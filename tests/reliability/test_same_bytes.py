"""The same videos and settings give the same cache, byte by byte, however it came about.

Covered: one and two workers, a second run into a fresh cache, a run that was killed and resumed; a long video, split
among workers, alone and among others. Source modification times are left out.
Not covered: other machines and other versions of FFmpeg.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from running import ENCODE_WORDS, all_fine, answers, cope, encode, extract, leftovers


def made(root: Path, videos: list[Path], workers: int) -> dict[str, str]:
    """Run both stages and return every file's hash."""
    from tools.kill_cache import tree

    assert all_fine(encode(videos, root, workers=workers), len(videos))
    assert all_fine(extract(root, workers=workers), len(videos))
    assert leftovers(root) == []
    return tree(root)


@pytest.mark.slow  # the fuzz run of test_tools.py has a short form of it
def test_a_long_video_is_the_same_from_one_worker_and_from_two(long_video: Path, tmp_path: Path):
    assert made(tmp_path / "one", [long_video], 1) == made(tmp_path / "two", [long_video], 2)


@pytest.mark.slow
def test_runs_resumed_repeated_and_with_more_workers_give_the_same(
    short_videos: list[Path], very_long_video: Path, tmp_path: Path
):
    videos = [*short_videos, very_long_video]
    expected = made(tmp_path / "first", videos, 1)
    assert made(tmp_path / "again", videos, 1) == expected
    assert made(tmp_path / "two workers", videos, 2) == expected
    root = tmp_path / "killed"
    kill_at_first_entry(root, videos)
    assert made(root, videos, 2) == expected


def kill_at_first_entry(root: Path, videos: list[Path]) -> None:
    """Kill `cope encode` when one video is done and others are not."""
    process = cope("encode", *videos, *ENCODE_WORDS, "--cache", root, "--workers", "1")
    end = time.monotonic() + 60
    while not any((root / "encoded").glob("*.json")) and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= len(list((root / "encoded").glob("*.json"))) < len(videos)


@pytest.mark.slow
def test_the_command_gives_what_the_library_gives(short_videos: list[Path], tmp_path: Path):
    from tools.kill_cache import tree

    ((code, _),) = answers([cope("encode", *short_videos, *ENCODE_WORDS, "--cache", tmp_path / "command")])
    assert code == 0
    assert all_fine(encode(short_videos, tmp_path / "library"), 2)
    assert tree(tmp_path / "command") == tree(tmp_path / "library")
