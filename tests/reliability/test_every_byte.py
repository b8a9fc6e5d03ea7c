"""One flipped bit anywhere in a cache, or any file gone: `verify` finds it, and no reader returns it as data.

Covered: positions all over every file of an encoded and a primitives entry and its RGB frames, each reader on its own,
readers that were open before the damage, every file missing.
Not covered: two errors that cancel each other in a CRC-32C and keep the file's size (verify's SHA-256 finds those).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.errors import CacheCorruptError, CacheVersionError, CopeError, EntryNotFoundError
from cope_cli.stages.verify import verify_batch

STRIDE_BYTES = 97
NUM_POSITIONS = 300
NUM_SHARES = 10
REFUSED = (CacheCorruptError, CacheVersionError)

Arrays = list[np.ndarray]


class Reader:
    """An open entry, and everything that can be read of it, one kind at a time."""

    def __init__(self, root: Path, name: str) -> None:
        entry = Cache(root).primitives_entry(name)
        if entry is None:
            raise EntryNotFoundError(name)
        self.primitives, self.frames = Primitives(entry), Frames(entry, 32)

    def read(self, kind: str) -> Arrays:
        primitives = self.primitives
        if kind == "slots":
            table = primitives.slots
            return [table.frame, table.seconds, table.is_iframe, table.gop]
        if kind == "grid_frames":
            return list(primitives.grid_frames())
        if kind == "rgb":
            return [self.frames.rgb(slot) for slot in sorted(self.frames.slots)]
        is_iframe = primitives.slots.is_iframe
        wanted = np.flatnonzero(is_iframe if kind == "grid_iframe" else ~is_iframe).tolist()
        if kind == "p_slots":
            return list(primitives.p_slots(wanted))
        return [getattr(primitives, kind)(slot) for slot in wanted]


KINDS = ("slots", "motion", "residual", "p_slots", "grid_iframe", "grid_frames", "rgb")


@pytest.fixture(scope="module")
def sound(shared_cache) -> dict[str, Arrays]:
    reader = Reader(shared_cache.root, shared_cache.primitives)
    return {kind: reader.read(kind) for kind in KINDS}


def files_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def positions(root: Path) -> list[tuple[str, int]]:
    """Every 97th byte of every file, first and last included."""
    found = []
    for file in files_of(root):
        size = (root / file).stat().st_size
        found += [(file, at) for at in sorted({*range(0, size, STRIDE_BYTES), size - 1})]
    return found


@contextmanager
def changed(path: Path, data: bytes | None) -> Iterator[None]:
    """Another content for a while, or none."""
    before = path.read_bytes()
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def flipped(path: Path, at: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << at % 8
    return bytes(data)


def problems(root: Path, names: list[str]) -> list[CopeError | None]:
    """What verify says of each entry; one that is not listed any more is missing."""
    found: list[CopeError | None] = []
    for name in names:
        try:
            found += [outcome.error for outcome in verify_batch([name], root, workers=1).run()]
        except EntryNotFoundError as error:
            found.append(error)
    return found


def read_or_refused(read: Callable[[str], Arrays], expected: dict[str, Arrays]) -> None:
    """Read everything: what is not refused must be right."""
    for kind in KINDS:
        try:
            found = read(kind)
        except REFUSED:
            continue
        assert len(found) == len(expected[kind]), kind
        assert all(np.array_equal(a, b) for a, b in zip(found, expected[kind], strict=True)), kind


def check_readers(root: Path, name: str, opened: Reader, file: str, expected: dict[str, Arrays]) -> None:
    """Read with a reader that was open before the damage and with a new one."""
    if not file.endswith("zarr.json"):  # test_known_defects.py
        read_or_refused(opened.read, expected)
    with contextlib.suppress(*REFUSED):
        read_or_refused(Reader(root, name).read, expected)


def check_flips(shared_cache, expected: dict[str, Arrays], root: Path, where: list[tuple[str, int]]) -> None:
    shutil.copytree(shared_cache.root, root)
    names = [shared_cache.encoded, shared_cache.primitives]
    for file, at in where:
        path, is_primitives = root / file, file.startswith("primitives")
        opened = Reader(root, shared_cache.primitives)
        with changed(path, flipped(path, at)):
            assert problems(root, names)[is_primitives] is not None, f"{file}, byte {at}: verify finds nothing"
            if is_primitives:
                check_readers(root, shared_cache.primitives, opened, file, expected)
    assert problems(root, names) == [None, None]


def test_a_flipped_bit_anywhere_is_found(shared_cache, sound: dict[str, Arrays], tmp_path: Path):
    """Some 15 of the positions below."""
    every = positions(shared_cache.root)
    check_flips(shared_cache, sound, tmp_path / "cache", every[:: max(1, len(every) // 15)])


@pytest.mark.slow
@pytest.mark.parametrize("share", range(NUM_SHARES))
def test_a_flipped_bit_at_every_stride_is_found(shared_cache, sound: dict[str, Arrays], tmp_path: Path, share: int):
    every = positions(shared_cache.root)
    assert len(every) >= NUM_POSITIONS
    check_flips(shared_cache, sound, tmp_path / "cache", every[share::NUM_SHARES])


def test_any_missing_file_is_found_and_nothing_is_made_up_for_it(shared_cache, sound, tmp_path: Path):
    root = tmp_path / "cache"
    shutil.copytree(shared_cache.root, root)
    names = [shared_cache.encoded, shared_cache.primitives]
    for file in files_of(root):
        is_primitives = file.startswith("primitives")
        with changed(root / file, None):
            assert problems(root, names)[is_primitives] is not None, file
            if is_primitives:
                with pytest.raises(CacheCorruptError, match=Path(file).name):
                    Reader(root, shared_cache.primitives)
    assert problems(root, names) == [None, None]


@pytest.mark.parametrize(("array", "kind"), [("motion", "motion"), ("residual", "residual"), ("grid_iframe",) * 2])
def test_the_error_names_entry_array_and_chunk(filled_cache, array: str, kind: str):
    (shard,) = filled_cache.group.glob(f"{array}/c.*")
    data = bytearray(shard.read_bytes())
    data[20] ^= 1  # in the first chunk
    reader = Reader(filled_cache.root, filled_cache.primitives)
    shard.write_bytes(data)
    with pytest.raises(CacheCorruptError, match=rf"{filled_cache.primitives}: array {array}, chunk 0"):
        reader.read(kind)
