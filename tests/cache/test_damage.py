"""A flipped bit or a missing file, anywhere in an entry: found by verify, and never returned as data."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cope_cli.cache import primitives as primitives_module
from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig
from cope_cli.errors import CacheCorruptError, CopeError, EntryNotFoundError
from cope_cli.stages import extract
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest, ensure_frames
from cope_cli.stages.verify import verify_encoded, verify_primitives

ENTRY = [
    "manifest.json",
    "zarr.json",
    *(
        f"{array}/{file}"
        for array in ("slot_frame", "slot_seconds", "slot_is_iframe", "slot_gop")
        for file in ("zarr.json", "c.0")
    ),
    *(f"{array}/{file}" for array in ("motion", "residual", "grid_iframe") for file in ("zarr.json", "c.0.0.0.0")),
]
PART = ["manifest.json", "zarr.json", "slot/zarr.json", "slot/c.0", "rgb/zarr.json", "rgb/c.0.0.0.0"]
GROUP_FILES = [*ENTRY, *(f"frames/32/part-0/{name}" for name in PART)]
OFFSETS = [0.0, 0.13, 0.35, 0.5, 0.77, 0.9, 1.0]


def test_the_files_below_are_all_there_are(shared_cache):
    assert files_below(shared_cache.group) == set(GROUP_FILES)
    manifest = shared_cache.cache.primitives_entry(shared_cache.primitives).manifest
    assert set(manifest.files) == set(ENTRY) - {"manifest.json"}


@contextmanager
def flipped(path: Path, at: int, bit: int) -> Iterator[None]:
    data = path.read_bytes()
    damaged = bytearray(data)
    damaged[at] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(data)


def everything(cache: Cache, name: str) -> list[np.ndarray]:
    """All that a reader can ask for."""
    entry = cache.primitives_entry(name)
    if entry is None:
        raise EntryNotFoundError("none")
    primitives, frames = Primitives(entry), Frames(entry, 32)
    table = primitives.slots
    arrays = [table.frame, table.seconds, table.is_iframe, table.gop, *primitives.grid_frames()]
    for slot in range(len(table)):
        if table.is_iframe[slot]:
            arrays.append(primitives.grid_iframe(slot))
        else:
            arrays += [primitives.motion(slot), primitives.residual(slot)]
    return arrays + [frames.rgb(slot) for slot in sorted(frames.slots)]


@pytest.mark.parametrize("file", GROUP_FILES)
def test_a_flipped_bit_is_found_by_verify_and_never_read_as_data(filled_cache, file: str):
    cache, name, path = filled_cache.cache, filled_cache.primitives, filled_cache.group / file
    sound = everything(cache, name)
    last = path.stat().st_size - 1
    for number, offset in enumerate(OFFSETS):
        with flipped(path, round(offset * last), number):
            with pytest.raises(CopeError):
                verify_primitives(name, cache)
            try:
                read = everything(cache, name)
            except CopeError:
                continue
            assert len(read) == len(sound)
            assert all(np.array_equal(a, b) for a, b in zip(read, sound, strict=True)), f"offset {offset}"
    assert verify_primitives(name, cache).is_compared


@pytest.mark.parametrize("suffix", [".mp4", ".json"])
def test_a_flipped_bit_in_an_encoded_video_or_its_manifest_is_found(filled_cache, suffix: str):
    cache, path = filled_cache.cache, filled_cache.video.with_suffix(suffix)
    last = path.stat().st_size - 1
    for number, offset in enumerate(OFFSETS):
        with flipped(path, round(offset * last), number):
            with pytest.raises(CopeError):
                verify_encoded(filled_cache.encoded, cache)
            with pytest.raises(CopeError):
                extract_video(filled_cache.encoded, cache, filled_cache.extract_config, force=True)
    assert verify_encoded(filled_cache.encoded, cache)


@pytest.mark.parametrize("file", ["manifest.json", "frames/32/part-0/manifest.json"])
def test_no_bit_of_a_manifest_can_flip_unseen(filled_cache, file: str):
    path = filled_cache.group / file
    for at in range(0, path.stat().st_size, 7):
        with flipped(path, at, at % 8), pytest.raises(CopeError):
            everything(filled_cache.cache, filled_cache.primitives)


@pytest.mark.parametrize("file", GROUP_FILES)
def test_a_missing_file_is_found_and_nothing_is_made_up_for_it(filled_cache, file: str):
    (filled_cache.group / file).unlink()
    for read in (verify_primitives, lambda name, cache: everything(cache, name)):
        with pytest.raises(CacheCorruptError, match=Path(file).name):
            read(filled_cache.primitives, filled_cache.cache)


def test_a_missing_video_is_found(filled_cache):
    filled_cache.video.unlink()
    with pytest.raises(CacheCorruptError, match=r"\.mp4: missing"):
        verify_encoded(filled_cache.encoded, filled_cache.cache)
    with pytest.raises(CacheCorruptError, match=r"\.mp4: missing"):
        extract_video(filled_cache.encoded, filled_cache.cache, filled_cache.extract_config, force=True)


def test_a_video_without_a_manifest_is_no_entry(filled_cache):
    filled_cache.video.with_suffix(".json").unlink()
    with pytest.raises(EntryNotFoundError):
        verify_encoded(filled_cache.encoded, filled_cache.cache)
    assert not verify_primitives(filled_cache.primitives, filled_cache.cache).is_compared


@pytest.mark.parametrize("file", ENTRY)
def test_an_entry_with_a_missing_file_is_made_again_by_the_next_run(filled_cache, file: str):
    (filled_cache.group / file).unlink()
    record = extract_video(filled_cache.encoded, filled_cache.cache, filled_cache.extract_config)
    assert record.is_new
    assert verify_primitives(filled_cache.primitives, filled_cache.cache).is_compared


def test_files_cut_short_are_found(filled_cache):
    for file in GROUP_FILES:
        path = filled_cache.group / file
        data = path.read_bytes()
        path.write_bytes(data[:-2])
        with pytest.raises(CopeError):
            everything(filled_cache.cache, filled_cache.primitives)
        path.write_bytes(data)


def test_arrays_of_another_video_are_found_by_the_identity_even_with_right_hashes(filled_cache, monkeypatch):
    """What hashes cannot see: an extractor that is wrong. Its motion is off by one slot here."""

    original = extract.extract_slots

    def wrong(*args: object, **options: object) -> Iterator[object]:
        for found in original(*args, **options):
            if found.slot.frame == 40:
                found.grid_frame[0, 0, 0] ^= 1
                found.residual[0, 0, 0] ^= 1
            yield found

    monkeypatch.setattr(extract, "extract_slots", wrong)
    extract_video(filled_cache.encoded, filled_cache.cache, filled_cache.extract_config, force=True)
    with pytest.raises(CacheCorruptError, match=r"slot 4: \d+ of 1024 grid points differ from a fresh decode"):
        verify_primitives(filled_cache.primitives, filled_cache.cache)


def test_slots_at_other_frames_are_found_even_with_right_hashes(filled_cache, monkeypatch):
    original = primitives_module.write_table

    def wrong(group: Path, name: str, values: np.ndarray) -> None:
        original(group, name, values + (name == "slot_frame") * (np.arange(len(values)) == 5).astype(values.dtype))

    monkeypatch.setattr(primitives_module, "write_table", wrong)
    extract_video(filled_cache.encoded, filled_cache.cache, filled_cache.extract_config, force=True)
    with pytest.raises(CacheCorruptError, match="slot 5 has a window of 11 frames, the encoded video says 10"):
        verify_primitives(filled_cache.primitives, filled_cache.cache)


# Interrupted, full, forbidden


def files_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_extract_leaves_what_was_there(filled_cache, monkeypatch, error: BaseException):

    before = files_below(filled_cache.root)
    original = extract.extract_slots

    def broken(*args: object, **options: object) -> Iterator[object]:
        for found in original(*args, **options):
            yield found
            if found.slot.frame >= 30:
                raise error

    monkeypatch.setattr(extract, "extract_slots", broken)
    with pytest.raises((type(error), CopeError)):
        extract_video(filled_cache.encoded, filled_cache.cache, filled_cache.extract_config, force=True)
    assert files_below(filled_cache.root) == before
    assert verify_primitives(filled_cache.primitives, filled_cache.cache).is_compared


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "target",
    [
        "cope_cli.cache.schema.ShardWriter.append",
        "cope_cli.cache.primitives.write_table",
        "cope_cli.cache.frames.write_group",
        "cope_cli.cache.temporary.sync_file",
        "cope_cli.files.sync_file",
        "pathlib.Path.rename",
        "pathlib.Path.replace",
    ],
)
def test_a_full_disk_leaves_no_half_entry(shared_cache, tmp_path: Path, monkeypatch, target: str):
    cache = Cache(tmp_path / "cache")
    shutil.copytree(shared_cache.cache.encoded_folder, cache.encoded_folder)
    before = files_below(cache.root)

    with monkeypatch.context() as patch:
        patch.setattr(target, no_space)
        with pytest.raises(CopeError, match="No space left") as caught:
            extract_video(shared_cache.encoded, cache, shared_cache.extract_config, frames=FramesRequest(size_px=32))
    assert str(cache.root) in caught.value.message and isinstance(caught.value, OSError)
    assert files_below(cache.root) == before
    assert extract_video(shared_cache.encoded, cache, shared_cache.extract_config).is_new


@pytest.mark.parametrize(
    "target",
    ["cope_cli.stages.encode.sync_file", "cope_cli.files.sync_file", "pathlib.Path.replace", "pathlib.Path.mkdir"],
)
def test_a_full_disk_leaves_no_half_encoded_video(clip: Path, tmp_path: Path, monkeypatch, target: str):
    cache = Cache(tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(target, no_space)
        with pytest.raises(CopeError, match="No space left") as caught:
            encode_video(clip, cache, EncodeConfig(fps=4))
    assert str(cache.root) in caught.value.message
    assert files_below(cache.root) == set()
    assert encode_video(clip, cache, EncodeConfig(fps=4)).is_new


def test_frames_that_could_not_be_written_leave_no_part(filled_cache, monkeypatch):
    entry = filled_cache.cache.primitives_entry(filled_cache.primitives)
    before = files_below(filled_cache.root)
    with monkeypatch.context() as patch:
        patch.setattr("cope_cli.cache.schema.ShardWriter.append", no_space)
        with pytest.raises(CopeError, match="No space left"):
            ensure_frames(filled_cache.cache, entry, 32, [2])
    assert files_below(filled_cache.root) == before


@contextmanager
def read_only_mount(folder: Path) -> Iterator[None]:
    """Root may write where the mode says no, so make the file system itself say no."""
    source = str(folder)
    steps = (["mount", "--bind", source, source], ["mount", "-o", "remount,bind,ro", source])
    try:
        for step in steps:
            subprocess.run(step, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        subprocess.run(["umount", source], check=False, capture_output=True)
        pytest.skip("as root, modes forbid nothing, and a read-only mount is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", source], check=True, capture_output=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if os.geteuid() == 0:
        with read_only_mount(folder):
            yield
        return
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_cache_that_cannot_be_written_can_be_read_and_says_so_when_written_to(filled_cache):
    cache = filled_cache.cache
    (cache.tmp / "dead").mkdir(parents=True, exist_ok=True)
    (cache.tmp / "dead.lock").touch()
    with read_only(cache.root):
        cache.clean()
        assert everything(cache, filled_cache.primitives)
        assert verify_primitives(filled_cache.primitives, cache).is_compared
        assert not encode_video(filled_cache.source, cache, filled_cache.encode_config).is_new
        assert not extract_video(filled_cache.encoded, cache, filled_cache.extract_config).is_new
        with pytest.raises(CopeError, match=r"cannot be written: (Read-only file system|Permission denied)"):
            extract_video(filled_cache.encoded, cache, filled_cache.extract_config, force=True)


def test_a_dead_writers_folder_that_cannot_be_locked_is_left_alone(filled_cache, monkeypatch):
    cache = filled_cache.cache
    (cache.tmp / "dead").mkdir(parents=True, exist_ok=True)
    (cache.tmp / "dead.lock").touch()

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cope_cli.cache.temporary.FileLock.acquire", forbidden)
    assert cache.clean() == 0
    assert (cache.tmp / "dead").is_dir()


def test_an_entry_that_another_process_finished_first_stays_and_gets_our_frames(filled_cache, monkeypatch):
    """Two processes, one entry: the slower one finds it there when it commits."""

    answers = iter([None])  # it looks before it begins; then the other process commits
    original: Callable[..., object] = extract.finished_entry
    monkeypatch.setattr(extract, "finished_entry", lambda *args: next(answers, original(*args)))
    before = {path: path.stat().st_mtime_ns for path in filled_cache.group.rglob("*") if path.is_file()}
    frames = FramesRequest(size_px=32, keyframes_per_gop=0)
    record = extract_video(filled_cache.encoded, filled_cache.cache, filled_cache.extract_config, frames=frames)
    assert record.num_frames_added == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert verify_primitives(filled_cache.primitives, filled_cache.cache).num_parts == 2
    entry = filled_cache.cache.primitives_entry(filled_cache.primitives)
    assert Frames(entry, 32).slots == set(range(8))
