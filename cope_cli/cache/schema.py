"""Schema of the primitives: the Zarr v3 arrays, their chunks, shards and codecs, and how they are written.

One chunk is one slot: blosc (zstd level 1, bit shuffle), then a CRC-32C that every read checks. A shard holds up to
16 GOPs. Zarr reads a missing chunk as zeros, so empty chunks are written too, and a reader compares the files with the
manifest before it trusts them.

The zarr package can read all of it. Writing is done here, because slots come one at a time and must go to the disk so:
a `ShardWriter` holds no more than one slot, and can join chunks that other processes compressed. Slots are read by
`chunks.ShardReader`, which is faster.
Tests hold its files, byte for byte, against those that the zarr package writes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

SHARD_GOPS = 16
#: Raw bytes of a shard at most: bounds what is lost to one bad file, and its index, where windows are short.
SHARD_BYTES = 16 * 2**20

INDEX_ENTRY = struct.Struct("<QQ")  # offset and size of a chunk in its shard
NO_CHUNK = INDEX_ENTRY.pack(2**64 - 1, 2**64 - 1)
_CRC32C = {"name": "crc32c"}

blosc.use_threads = False  # cope scales with processes; blosc would add threads of its own to each


def slots_per_shard(slot_bytes: int, slots_per_gop: int) -> int:
    """Return how many slots share a shard: those of 16 GOPs, fewer if they pass `SHARD_BYTES`."""
    return max(1, min(SHARD_GOPS * max(1, slots_per_gop), SHARD_BYTES // slot_bytes))


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Make the folder of a Zarr v3 group."""
    folder.mkdir(parents=True)
    _write_document(folder, {"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def write_table(group: Path, name: str, values: NDArray[Any]) -> None:
    """Write a one-dimensional array as one chunk with a checksum."""
    folder = group / name
    folder.mkdir()
    _write_document(folder, table_document(len(values), values.dtype))
    if len(values):
        (folder / "c.0").write_bytes(_with_crc32c(values.tobytes()))


def compress(values: NDArray[Any]) -> bytes:
    """Return one slot's chunk as it stands in a shard: compressed, with its checksum."""
    codec = blosc.Blosc(cname="zstd", clevel=1, shuffle=blosc.BITSHUFFLE, typesize=values.itemsize)
    return _with_crc32c(codec.encode(np.ascontiguousarray(values).view(np.uint8).reshape(-1)))


class ShardWriter:
    """Writes an array of slots, chunk by chunk, in order.

    Args:
        group: folder of the Zarr group.
        name: the array's name.
        num: slots in all.
        shape: shape of one slot.
        dtype: element type.
        slots_per_gop: slots that a GOP adds to the array, for the size of a shard.
    """

    def __init__(
        self, group: Path, name: str, num: int, shape: tuple[int, ...], dtype: str, slots_per_gop: int
    ) -> None:
        self.folder = group / name
        self.folder.mkdir()
        self._suffix = ".0" * len(shape)
        self._per_shard = slots_per_shard(int(np.prod(shape)) * np.dtype(dtype).itemsize, slots_per_gop)
        self._num_shards = 0
        self._index: list[bytes] = []
        self._offset = 0
        self._file: BinaryIO | None = None
        _write_document(self.folder, sharded_document((num, *shape), np.dtype(dtype), self._per_shard))

    def append(self, chunk: bytes) -> None:
        """Write the next slot, as `compress` gave it."""
        if self._file is None:
            self._file = (self.folder / f"c.{self._num_shards}{self._suffix}").open("wb")
        self._file.write(chunk)
        self._index.append(INDEX_ENTRY.pack(self._offset, len(chunk)))
        self._offset += len(chunk)
        if len(self._index) == self._per_shard:
            self.close()

    def close(self) -> None:
        """Finish the open shard, if there is one, with its index."""
        if self._file is None:
            return
        missing = self._per_shard - len(self._index)
        with self._file:
            self._file.write(_with_crc32c(b"".join(self._index) + NO_CHUNK * missing))
        self._file = None
        self._index, self._offset = [], 0
        self._num_shards += 1


def _with_crc32c(data: bytes) -> bytes:
    return data + struct.pack("<I", google_crc32c.value(data))


def _bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"name": "bytes"} | ({"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {})


def _array_document(
    shape: tuple[int, ...], dtype: np.dtype[Any], chunk: list[int], codecs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if dtype == np.bool_ else 0.0 if dtype.kind == "f" else 0,
        "codecs": codecs,
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def table_document(num: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the metadata of a one-dimensional array."""
    return _array_document((num,), dtype, [max(1, num)], [_bytes_codec(dtype), _CRC32C])


def sharded_document(shape: tuple[int, ...], dtype: np.dtype[Any], slots_per_file: int) -> dict[str, Any]:
    """Return the metadata of an array of slots."""
    blosc_codec = {
        "typesize": dtype.itemsize,
        "cname": "zstd",
        "clevel": 1,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }
    sharding = {
        "chunk_shape": [1, *shape[1:]],
        "codecs": [_bytes_codec(dtype), {"name": "blosc", "configuration": blosc_codec}, _CRC32C],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, _CRC32C],
        "index_location": "end",
    }
    codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    return _array_document(shape, dtype, [slots_per_file, *shape[1:]], codecs)


def _write_document(folder: Path, document: dict[str, Any]) -> None:
    (folder / "zarr.json").write_text(json.dumps(document, indent=2), encoding="ascii")
