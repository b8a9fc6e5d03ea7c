"""Schema 1 of the primitives: the Zarr v3 arrays, their chunks, shards and codecs.

One chunk is one slot: blosc (zstd level 1, bit shuffle), then a CRC-32C that every read checks. A shard holds up to
16 GOPs and is written once. Zarr reads a missing chunk as zeros, so empty chunks are written too, and a reader
compares the files with the manifest before it trusts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

SHARD_GOPS = 16
#: A shard is buffered in memory before it is written; this bounds it where windows are short or grids large.
SHARD_BYTES = 16 * 2**20

blosc.use_threads = False  # cope scales with processes; blosc would add threads of its own to each


def slots_per_shard(slot_bytes: int, slots_per_gop: int) -> int:
    """Return how many slots share a shard: those of 16 GOPs, fewer if they pass `SHARD_BYTES`."""
    return max(1, min(SHARD_GOPS * max(1, slots_per_gop), SHARD_BYTES // slot_bytes))


def create_group(path: Path, attributes: dict[str, Any]) -> zarr.Group:
    """Create an empty Zarr v3 group."""
    return zarr.create_group(str(path), zarr_format=3, attributes=attributes)


def create_slots(
    group: zarr.Group, name: str, num: int, shape: tuple[int, ...], dtype: str, shard: int
) -> zarr.Array[Any]:
    """Create an array of `num` slots of `shape`, one chunk a slot, `shard` slots a file."""
    return group.create_array(
        name,
        shape=(num, *shape),
        chunks=(1, *shape),
        shards=(shard, *shape),
        dtype=dtype,
        serializer=BytesCodec(endian="little"),
        compressors=[
            BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize),
            Crc32cCodec(),
        ],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )


def create_table(group: zarr.Group, name: str, values: np.ndarray[Any, Any]) -> None:
    """Create and fill a one-dimensional array, one chunk."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(max(1, len(values)),),
        dtype=values.dtype,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    array[:] = values
