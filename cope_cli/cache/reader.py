"""Reading the arrays of a Zarr group of the cache: nothing is returned that was not checked."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cope_cli.cache.chunks import ShardReader, TableReader, reader_of
from cope_cli.cache.manifest import Manifest
from cope_cli.errors import CacheCorruptError

#: The hint of errors about damaged primitives.
EXTRACT_AGAIN = "Run `cope extract --force` for this video."


class ArrayReader:
    """The arrays of one group, each opened once.

    An array's metadata is compared with the manifest when it is opened, each chunk with its checksum when it is read.

    Args:
        entry: name of the cache entry, for errors.
        folder: the group's folder.
        manifest: its manifest; the caller has compared the files' sizes with it.
    """

    def __init__(self, entry: str, folder: Path, manifest: Manifest) -> None:
        self.entry = entry
        self.folder = folder
        self.manifest = manifest
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._readers: dict[str, ShardReader | TableReader | None] = {}

    @cached_property
    def _group(self) -> zarr.Group:
        return zarr.open_group(str(self.folder), mode="r", zarr_format=3)

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes.

        Raises:
            CacheCorruptError: they are not what was written.
        """
        try:
            document = json.loads((self.folder / "zarr.json").read_text(encoding="utf-8"))
            return dict(document["attributes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheCorruptError(f"{self.entry}: zarr.json: {error}", EXTRACT_AGAIN) from error

    def open(self, name: str) -> zarr.Array[Any]:
        """Return an array.

        Raises:
            CacheCorruptError: there is no such array, or its metadata is not what was written.
        """
        if name not in self._arrays:
            try:
                array = self._group[name]
            except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
                raise CacheCorruptError(f"{self.entry}: array {name}: {error}", EXTRACT_AGAIN) from error
            if not isinstance(array, zarr.Array):
                raise CacheCorruptError(f"{self.entry}: no array {name}, but a group", EXTRACT_AGAIN)
            self.manifest.check_file(self.folder, f"{name}/zarr.json", hashes=True)  # after it was read: what was read
            self._arrays[name] = array
        return self._arrays[name]

    def _reader(self, name: str) -> ShardReader | TableReader | None:
        """Return the fast reader of an array; None if it has another layout than ours. Raises like `open`."""
        if name not in self._readers:
            path = f"{name}/zarr.json"
            if path not in self.manifest.files:
                raise CacheCorruptError(f"{self.entry}: array {name}: the manifest does not list it", EXTRACT_AGAIN)
            self.manifest.check_file(self.folder, path, hashes=True)
            self._readers[name] = reader_of(self.folder / name)
        return self._readers[name]

    def read(self, name: str, where: int | slice) -> NDArray[Any]:
        """Read one slot, some or all; a failed checksum or decompression names entry, array and chunk.

        Raises:
            CacheCorruptError: the bytes on disk are not those that were written.
        """
        reader = self._reader(name)
        array = self.open(name) if reader is None else None
        try:
            if reader is None:
                values: NDArray[Any] = np.asarray(array[where])  # type: ignore[index]
                return values
            if isinstance(where, slice):
                return reader.read(range(*where.indices(reader.shape[0])))
            slot: NDArray[Any] = reader.read(range(where, where + 1))[0]
            return slot
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
            chunk = f"chunk {where}"
            if isinstance(where, slice):
                chunk = f"chunks {where.start or 0} to {where.stop or 'the end'}"
            raise CacheCorruptError(f"{self.entry}: array {name}, {chunk}: {error}", EXTRACT_AGAIN) from error
