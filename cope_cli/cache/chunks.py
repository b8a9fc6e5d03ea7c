"""Reading slots out of shards, as `schema.ShardWriter` wrote them: one read, one checksum, one decompression per slot.

The zarr package reads the same files; on single slots and on tables it spends several times as long around the reading
as in it. An array whose metadata is not exactly what our writer writes is left to it.
"""

from __future__ import annotations

import json
import os
import struct
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from cope_cli.cache.schema import INDEX_ENTRY, NO_CHUNK, sharded_document, table_document

_CRC = struct.Struct("<I")
#: In blosc's header of 16 bytes: bytes unpacked, (size of a block), bytes packed.
_BLOSC_SIZES = struct.Struct("<4xI4xI")


def reader_of(folder: Path) -> ShardReader | TableReader | None:
    """Return a reader for an array as our writer lays it out; None for any other.

    Args:
        folder: the array's folder; the caller has compared its zarr.json with the manifest.
    """
    document = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    shape, chunks = tuple(document["shape"]), document["chunk_grid"]["configuration"]["chunk_shape"]
    dtype = np.dtype(document["data_type"])
    if len(shape) == 1 and document == table_document(shape[0], dtype):
        return TableReader(folder, shape[0], dtype.newbyteorder("<"))
    if len(shape) > 1 and document == sharded_document(shape, dtype, chunks[0]):
        return ShardReader(folder, shape, dtype.newbyteorder("<"), chunks[0])
    return None


class TableReader:
    """A one-dimensional array, which is one chunk with a checksum.

    Args:
        folder: the array's folder.
        num: its length.
        dtype: its element type.
    """

    def __init__(self, folder: Path, num: int, dtype: np.dtype[Any]) -> None:
        self.folder = folder
        self.shape = (num,)
        self.dtype = dtype

    def read(self, rows: range) -> NDArray[Any]:
        """Return some values; raises like `ShardReader.read`."""
        if not self.shape[0]:
            return np.empty(0, self.dtype)
        data = (self.folder / "c.0").read_bytes()
        values = np.frombuffer(_checked(data, self.shape[0] * self.dtype.itemsize + _CRC.size), self.dtype)
        return values[rows.start : rows.stop : rows.step].copy()


class ShardReader:
    """One array of slots; every read checks its checksums.

    Args:
        folder: the array's folder.
        shape: of the whole array, slots first.
        dtype: its element type.
        slots_per_file: slots that share a file.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any], slots_per_file: int) -> None:
        self.folder = folder
        self.shape = shape
        self.dtype = dtype
        self._slots_per_file = slots_per_file
        self._suffix = ".0" * (len(shape) - 1)
        self._slot_bytes = prod(shape[1:]) * dtype.itemsize
        self._indexes: dict[int, NDArray[np.uint64]] = {}

    def read(self, rows: range) -> NDArray[Any]:
        """Return some slots, (len(rows), ...).

        Raises:
            ValueError: a checksum fails, or a size is not what it must be.
            IndexError: there is no such slot.
            OSError: a file cannot be read.
        """
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for target, row in zip(out, rows, strict=True):
            if not 0 <= row < self.shape[0]:
                raise IndexError(f"slot {row} of {self.shape[0]}")
            blosc.decompress(self._chunk(row), target)
        return out

    def _chunk(self, row: int) -> bytes:
        """Return a slot's compressed bytes, checked."""
        number, position = divmod(row, self._slots_per_file)
        descriptor = os.open(self.folder / f"c.{number}{self._suffix}", os.O_RDONLY)
        try:
            if number not in self._indexes:
                self._indexes[number] = self._read_index(descriptor)
            offset, size = (int(value) for value in self._indexes[number][position])
            if (offset, size) == INDEX_ENTRY.unpack(NO_CHUNK):
                raise ValueError("missing from its shard's index")
            chunk = _checked(os.pread(descriptor, size, offset), size)
        finally:
            os.close(descriptor)
        if len(chunk) < _BLOSC_SIZES.size:
            raise ValueError(f"{len(chunk)} bytes found, fewer than blosc's header has")
        num_bytes, num_compressed = _BLOSC_SIZES.unpack_from(chunk)
        if (num_bytes, num_compressed) != (self._slot_bytes, len(chunk)):
            raise ValueError(
                f"{num_bytes} bytes in {num_compressed} found, {self._slot_bytes} bytes in {len(chunk)} expected"
            )
        return chunk

    def _read_index(self, descriptor: int) -> NDArray[np.uint64]:
        """Return offset and size of each slot of a shard; they stand at its end."""
        size = self._slots_per_file * INDEX_ENTRY.size + _CRC.size
        start = os.fstat(descriptor).st_size - size
        if start < 0:
            raise ValueError("the shard is shorter than its index")
        return np.frombuffer(_checked(os.pread(descriptor, size, start), size), "<u8").reshape(-1, 2)


def _checked(data: bytes, size: int) -> bytes:
    """Return data without the CRC-32C behind it, which must fit."""
    if len(data) != size or size < _CRC.size:
        raise ValueError(f"{len(data)} bytes found, {size} expected")
    content, (stored,) = data[: -_CRC.size], _CRC.unpack(data[-_CRC.size :])
    found = google_crc32c.value(content)
    if found != stored:
        raise ValueError(f"Stored and computed checksum do not match. Stored: {stored:#010x}. Computed: {found:#010x}.")
    return content
