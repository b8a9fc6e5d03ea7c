"""A disk that is full: what is written stays, what fails says so and leaves nothing, and a rerun completes.

Covered: a file that may not grow further (RLIMIT_FSIZE), and a real file system without space (a small tmpfs).
Not covered: quotas, network file systems, a disk that fills up while a manifest is renamed (tests/cache/test_damage.py
makes every single call fail).
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Errors, all_fine, encode, extract, leftovers, verify

from cope_cli.errors import StorageError

#: Between the largest file of a short video's entry and that of the long one's.
ENCODE_LIMIT_BYTES, EXTRACT_LIMIT_BYTES = 64_000, 30_000


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond this, in this process and its workers; Python ignores the signal, writing fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "cope-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True, capture_output=True)


def failed(errors: Errors, root: Path) -> list[str]:
    """The items that failed, each as a StorageError that names where it wrote and says what to do."""
    found = {item: error for item, error in errors.items() if error is not None}
    for item, error in found.items():
        assert isinstance(error, StorageError), f"{item}: {error!r}"
        assert str(root) in error.message and error.hint, f"{item}: {error!r}"
    return list(found)


@pytest.mark.slow
def test_encode_over_a_size_limit(short_videos: list[Path], long_video: Path, tmp_path: Path):
    root, videos = tmp_path / "cache", [*short_videos, long_video]
    with file_size_limit(ENCODE_LIMIT_BYTES):
        assert failed(encode(videos, root), root) == ["long.mp4"]
    assert leftovers(root) == []
    assert all_fine(verify(root), 2)
    assert all_fine(encode(videos, root), 3) and all_fine(verify(root), 3)


@pytest.mark.slow
def test_extract_over_a_size_limit(short_videos: list[Path], long_video: Path, tmp_path: Path):
    root = tmp_path / "cache"
    assert all_fine(encode([*short_videos, long_video], root), 3)
    with file_size_limit(EXTRACT_LIMIT_BYTES):
        (name,) = failed(extract(root), root)
    assert name.startswith("long-")
    assert leftovers(root) == []
    assert all_fine(verify(root), 5)
    assert all_fine(extract(root), 3) and all_fine(verify(root), 6)


def fill(disk: Path, free_bytes: int) -> None:
    """Leave only so much space."""
    stat = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize - free_bytes))


def test_encode_on_a_full_disk(short_videos: list[Path], long_video: Path, small_disk: Path):
    root = small_disk / "cache"
    assert all_fine(encode(short_videos, root), 2)
    fill(small_disk, ENCODE_LIMIT_BYTES)
    assert failed(encode([*short_videos, long_video], root), root) == ["long.mp4"]
    assert leftovers(root) == []
    assert all_fine(verify(root), 2)
    enlarge(small_disk)
    assert all_fine(encode([*short_videos, long_video], root), 3) and all_fine(verify(root), 3)


@pytest.mark.slow
def test_extract_on_a_full_disk(short_videos: list[Path], long_video: Path, small_disk: Path):
    root = small_disk / "cache"
    assert all_fine(encode(short_videos, root), 2) and all_fine(extract(root), 2)
    assert all_fine(encode([long_video], root), 1)
    fill(small_disk, EXTRACT_LIMIT_BYTES)
    (name,) = failed(extract(root), root)
    assert name.startswith("long-")
    assert leftovers(root) == []
    assert all_fine(verify(root), 5)
    enlarge(small_disk)
    assert all_fine(extract(root), 3) and all_fine(verify(root), 6)


def test_a_disk_with_no_space_at_all(short_videos: list[Path], small_disk: Path):
    root = small_disk / "cache"
    fill(small_disk, 0)
    assert failed(encode(short_videos[:1], root), root) == ["short-1.mp4"]
    assert leftovers(root) == []
