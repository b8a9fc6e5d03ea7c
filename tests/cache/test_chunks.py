"""Our reader of slots and tables against the zarr package's, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from cope_cli.cache.chunks import ShardReader, TableReader, reader_of
from cope_cli.cache.schema import ShardWriter, compress, write_group, write_table

SHAPE = (2, 6, 5)
NUM = 7


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Seven slots, three to a file: two whole shards and one with a single slot; and two tables."""
    random = np.random.default_rng(3)
    folder = tmp_path / "group"
    write_group(folder, {})
    writer = ShardWriter(folder, "slots", NUM, SHAPE, "<i2", 1)
    writer._per_shard = 3
    document = json.loads((folder / "slots" / "zarr.json").read_text())
    document["chunk_grid"]["configuration"]["chunk_shape"][0] = 3
    (folder / "slots" / "zarr.json").write_text(json.dumps(document))
    for _ in range(NUM):
        writer.append(compress(random.integers(-999, 999, SHAPE, dtype=np.int16)))
    writer.close()
    write_table(folder, "seconds", random.random(NUM))
    write_table(folder, "flags", random.random(NUM) < 0.5)
    write_table(folder, "none", np.zeros(0, "<i4"))
    return folder


def test_every_slot_and_every_range_is_what_the_zarr_package_reads(group: Path) -> None:
    reader, expected = reader_of(group / "slots"), zarr.open_array(str(group / "slots"), mode="r")[:]
    assert isinstance(reader, ShardReader)
    for start in range(NUM):
        for stop in range(start, NUM + 1):
            found = reader.read(range(start, stop))
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected[start:stop])
    assert np.array_equal(reader.read(range(0, NUM, 3)), expected[::3])
    with pytest.raises(IndexError, match="slot 7 of 7"):
        reader.read(range(7, 8))


@pytest.mark.parametrize("name", ["seconds", "flags", "none"])
def test_tables_are_what_the_zarr_package_reads(group: Path, name: str) -> None:
    reader, expected = reader_of(group / name), zarr.open_array(str(group / name), mode="r")[:]
    assert isinstance(reader, TableReader)
    found = reader.read(range(len(expected)))
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_another_layout_is_left_to_the_zarr_package(group: Path) -> None:
    zarr.create_array(str(group / "other"), data=np.arange(12).reshape(3, 4))
    assert reader_of(group / "other") is None


@pytest.mark.parametrize("position", range(0, 400, 7))
def test_a_flipped_bit_is_noticed_when_its_slot_is_read(group: Path, position: int) -> None:
    shard = group / "slots" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[position % len(data)] ^= 4
    shard.write_bytes(data)
    reader = reader_of(group / "slots")
    assert reader is not None
    with pytest.raises((ValueError, RuntimeError)):
        for row in range(3):
            reader.read(range(row, row + 1))


def test_a_shard_cut_short_and_a_slot_never_written_are_noticed(group: Path) -> None:
    shard = group / "slots" / "c.0.0.0.0"
    data = shard.read_bytes()
    for length in (0, 3, len(data) - 1):
        shard.write_bytes(data[:length])
        reader = reader_of(group / "slots")
        assert reader is not None
        with pytest.raises(ValueError, match=r"shorter than its index|checksum"):
            reader.read(range(1))
    reader = ShardReader(group / "slots", (9, *SHAPE), np.dtype("<i2"), 3)  # claims two slots that no one wrote
    with pytest.raises(ValueError, match="missing from its shard"):
        reader.read(range(7, 8))
