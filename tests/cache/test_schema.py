"""What we write is what the zarr package writes, byte for byte; and the format does not change unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from cope_cli.cache.schema import ShardWriter, compress, slots_per_shard, write_group, write_table
from cope_cli.cache.store import Cache
from cope_cli.errors import CacheVersionError
from cope_cli.stages.verify import verify_encoded, verify_primitives

DATA = Path(__file__).with_name("data")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_zarr(folder: Path, name: str, values: np.ndarray, shard: int | None) -> None:
    """Let the zarr package write the same array."""
    blosc = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=values.dtype.itemsize)
    array = zarr.open_group(str(folder), mode="a", zarr_format=3).create_array(
        name,
        shape=values.shape,
        chunks=(1, *values.shape[1:]) if shard else (max(1, len(values)),),
        shards=(shard, *values.shape[1:]) if shard else None,
        dtype=values.dtype,
        serializer=BytesCodec(endian="little"),
        compressors=[blosc, Crc32cCodec()] if shard else [Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    if len(values):
        array[:] = values


@pytest.mark.parametrize("dtype", ["<i2", "|u1"])
@pytest.mark.parametrize("num", [0, 1, 5, 6, 11])
def test_shards_are_those_of_the_zarr_package(tmp_path: Path, dtype: str, num: int):
    shape = (2, 16, 16)
    values = np.random.default_rng(num).integers(0, 5, (num, *shape)).astype(dtype)
    values[num // 2 : num // 2 + 1] = 0  # an empty chunk is written too
    slots_per_gop = 3 * 2**20 // (512 * np.dtype(dtype).itemsize * 16)
    shard = slots_per_shard(512 * np.dtype(dtype).itemsize, slots_per_gop)

    write_group(tmp_path / "ours", {"cope_schema": 2, "fps": 30})
    writer = ShardWriter(tmp_path / "ours", "a", num, shape, dtype, slots_per_gop)
    for slot in values:
        writer.append(compress(slot))
    writer.close()

    zarr.create_group(str(tmp_path / "theirs"), zarr_format=3, attributes={"cope_schema": 2, "fps": 30})
    by_zarr(tmp_path / "theirs", "a", values, shard)
    assert files_of(tmp_path / "ours") == files_of(tmp_path / "theirs")


def test_several_shards_are_those_of_the_zarr_package(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("cope_cli.cache.schema.SHARD_BYTES", 4 * 512)
    values = np.random.default_rng(1).integers(-9, 9, (10, 16, 16)).astype("<i2")
    write_group(tmp_path / "ours", {})
    writer = ShardWriter(tmp_path / "ours", "a", 10, (16, 16), "<i2", 100)
    for slot in values:
        writer.append(compress(slot))
    writer.close()
    zarr.create_group(str(tmp_path / "theirs"), zarr_format=3, attributes={})
    by_zarr(tmp_path / "theirs", "a", values, 4)
    assert files_of(tmp_path / "ours") == files_of(tmp_path / "theirs")
    assert sorted(path.name for path in (tmp_path / "ours" / "a").glob("c.*")) == ["c.0.0.0", "c.1.0.0", "c.2.0.0"]


@pytest.mark.parametrize(
    "values",
    [np.arange(5, dtype="<i4"), np.arange(3) / 3, np.array([True, False]), np.empty(0, "<i4"), np.zeros(4, "<i4")],
)
def test_tables_are_those_of_the_zarr_package(tmp_path: Path, values: np.ndarray):
    write_group(tmp_path / "ours", {})
    write_table(tmp_path / "ours", "t", values)
    zarr.create_group(str(tmp_path / "theirs"), zarr_format=3, attributes={})
    by_zarr(tmp_path / "theirs", "t", values, None)
    assert files_of(tmp_path / "ours") == files_of(tmp_path / "theirs")


def test_the_format_is_the_committed_one():
    """`python tests/cache/make_golden.py` prints the digest; a change of it needs a new schema version."""
    golden = json.loads((DATA / "golden.json").read_text())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = Path(__file__).with_name("make_golden.py")
    found = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True, env=environment)
    assert json.loads(found.stdout) == golden


def test_an_old_cache_is_refused_by_its_version_and_its_encoded_videos_are_still_read():
    """`data/schema_1` was written by version 0.1.0 with primitives of schema 1 and encoded videos of schema 1."""
    cache = Cache(DATA / "schema_1")
    (encoded,), (primitives,) = cache.encoded_names(), cache.primitives_names()
    verify_encoded(encoded, cache)
    with pytest.raises(CacheVersionError, match="schema version 1 found, version 2 expected") as caught:
        verify_primitives(primitives, cache)
    assert "run its stage again" in caught.value.hint


def test_the_old_cache_is_the_one_that_was_committed():
    digest = hashlib.sha256()
    for name, data in sorted(files_of(DATA / "schema_1").items()):
        digest.update(name.encode() + data)
    assert digest.hexdigest() == json.loads((DATA / "schema_1.json").read_text())["sha256"]
