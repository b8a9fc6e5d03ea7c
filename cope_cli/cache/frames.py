"""The side group `frames/<V>`: RGB slots at a vision encoder's input size, outside the fingerprint.

It only grows: each request for slots that are not there yet adds a part, `frames/<V>/part-<n>/` with `rgb`, `slot`
and a manifest of its own, committed by one rename. Nothing that was written is written again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cope_cli.cache.manifest import Manifest, record_tree
from cope_cli.cache.reader import ArrayReader
from cope_cli.cache.schema import ShardWriter, write_group, write_table
from cope_cli.cache.store import MANIFEST, PrimitivesEntry
from cope_cli.cache.temporary import commit_folder
from cope_cli.config import PRIMITIVES_SCHEMA
from cope_cli.types import UInt8

#: Slots that share a file: 28 MB of raw pictures at V = 384.
FRAMES_PER_SHARD_GOP = 4


def frames_folder(entry_folder: Path) -> Path:
    """Return the folder of an entry's RGB slots."""
    return entry_folder / "frames"


def parts_folder(entry_folder: Path, size_px: int) -> Path:
    """Return the folder of an entry's parts for input size V."""
    return frames_folder(entry_folder) / str(size_px)


class FramesWriter:
    """Fills one part.

    Args:
        folder: where to create the part's group; the caller commits it.
        slots: the slots it will hold, ascending.
        size_px: side V.
    """

    def __init__(self, folder: Path, slots: Sequence[int], size_px: int) -> None:
        self.folder = folder
        self.slots = list(slots)
        self.size_px = size_px
        write_group(folder, {"cope_schema": PRIMITIVES_SCHEMA, "size_px": size_px})
        write_table(folder, "slot", np.array(self.slots, "<i4"))
        self._rgb = ShardWriter(folder, "rgb", len(slots), (size_px, size_px, 3), "|u1", FRAMES_PER_SHARD_GOP)

    def append(self, chunk: bytes) -> None:
        """Write the next slot's (V, V, 3) uint8 picture, as `schema.compress` gave it."""
        self._rgb.append(chunk)

    def close(self, entry_fingerprint: str, versions: dict[str, str]) -> None:
        """Finish the last shard and write the part's manifest."""
        self._rgb.close()
        Manifest(
            kind="frames",
            schema=PRIMITIVES_SCHEMA,
            fingerprint=entry_fingerprint,
            upstream=entry_fingerprint,
            source={},
            config={"size_px": self.size_px},
            info={"num_frames": len(self.slots)},
            versions=versions,
            files=record_tree(self.folder),
        ).write(self.folder / MANIFEST)


def commit_part(folder: Path, entry_folder: Path, size_px: int) -> None:
    """Give a finished part the next free number."""
    commit_numbered(folder, parts_folder(entry_folder, size_px))


def commit_numbered(folder: Path, parent: Path) -> None:
    """Make a finished folder the part of `parent` with the next free number."""
    number = max((_number(path) for path in numbered_parts(parent)), default=-1) + 1
    while not commit_folder(folder, parent / f"part-{number}", replace=False):
        number += 1


def numbered_parts(parent: Path) -> list[Path]:
    """Return the parts in a folder, in the order they were added."""
    return sorted((path for path in parent.glob("part-*") if re.fullmatch(r"part-\d+", path.name)), key=_number)


def rows_by_slot(name: str, parts: Sequence[Path], kind: str) -> dict[int, tuple[ArrayReader, int]]:
    """Return where each slot of an entry's numbered parts stands: its part's reader and its row there.

    Raises:
        CacheCorruptError, CacheVersionError: a part is not what its manifest says.
    """
    where: dict[int, tuple[ArrayReader, int]] = {}
    for part in parts:
        manifest = Manifest.read(part / MANIFEST, kind=kind, schema=PRIMITIVES_SCHEMA)
        manifest.check_files(part, hashes=False)
        reader = ArrayReader(name, part, manifest)
        for row, slot in enumerate(reader.read("slot", slice(None))):
            where.setdefault(int(slot), (reader, row))
    return where


def _number(path: Path) -> int:
    return int(path.name.removeprefix("part-"))


class Frames:
    """The RGB slots of one entry at one size.

    Args:
        entry: the primitives entry.
        size_px: side V.

    Raises:
        CacheCorruptError, CacheVersionError: a part is not what its manifest says.
    """

    def __init__(self, entry: PrimitivesEntry, size_px: int) -> None:
        self.name = entry.name
        self.parts = numbered_parts(parts_folder(entry.folder, size_px))
        self._where = rows_by_slot(entry.name, self.parts, "frames")

    @property
    def slots(self) -> set[int]:
        """The slots that are there."""
        return set(self._where)

    def rgb(self, slot: int) -> UInt8:
        """Return a slot's picture, (V, V, 3) uint8.

        Raises:
            LookupError: it was never stored.
            CacheCorruptError: its checksum fails.
        """
        if slot not in self._where:
            raise LookupError(f"{self.name}: no RGB picture of slot {slot}")
        reader, row = self._where[slot]
        return reader.read("rgb", row)

    def rgbs(self, slots: Sequence[int]) -> UInt8:
        """Return several slots' pictures, at least one, (N, V, V, 3) uint8; raises like `rgb`."""
        where = [self._where.get(slot) for slot in slots]
        first = where[0]
        if first is not None and where == [(first[0], first[1] + number) for number in range(len(slots))]:
            return first[0].read("rgb", slice(first[1], first[1] + len(slots)))  # neighbours: no copy
        return np.stack([self.rgb(slot) for slot in slots])


def check_parts(entry: PrimitivesEntry, *, hashes: bool) -> int:
    """Compare every part of every size with its manifest; returns how many parts there are."""
    parts = [part for size in sorted((entry.folder / "frames").glob("*")) for part in numbered_parts(size)]
    for part in parts:
        Manifest.read(part / MANIFEST, kind="frames", schema=PRIMITIVES_SCHEMA).check_files(part, hashes=hashes)
    return len(parts)
