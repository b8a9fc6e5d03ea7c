"""The side group `features/<model>`: vision tokens of slots, rounded to bfloat16, outside the fingerprint.

It only grows, like `frames/<V>`: each request for slots that are not there yet adds a part, `part-<n>` with `tokens`,
`slot` and a manifest of its own, committed by one rename. Zarr has no bfloat16: the upper 16 bits of each float32 are
stored as uint16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cope_cli.cache.frames import commit_numbered, numbered_parts, rows_by_slot
from cope_cli.cache.manifest import Manifest, record_tree
from cope_cli.cache.schema import ShardWriter, compress, write_group, write_table
from cope_cli.cache.store import MANIFEST, PrimitivesEntry
from cope_cli.config import PRIMITIVES_SCHEMA
from cope_cli.types import UInt16

#: Slots that share a file at most: 13 MB of tokens of SigLIP so400m.
SLOTS_PER_SHARD_GOP = 1


def features_folder(entry_folder: Path, model: str) -> Path:
    """Return the folder of an entry's parts for one vision encoder."""
    return entry_folder / "features" / model


class FeaturesWriter:
    """Fills one part.

    Args:
        folder: where to create the part's group; the caller commits it.
        slots: the slots it will hold, ascending.
        shape: (M, D), vision tokens of a slot and their width.
        source: which vision encoder, in full; goes into the manifest.
    """

    def __init__(self, folder: Path, slots: Sequence[int], shape: tuple[int, int], source: dict[str, Any]) -> None:
        self.folder = folder
        self.slots = list(slots)
        self.shape = shape
        self.source = source
        write_group(folder, {"cope_schema": PRIMITIVES_SCHEMA, "value_type": "bfloat16"})
        write_table(folder, "slot", np.array(self.slots, "<i4"))
        self._tokens = ShardWriter(folder, "tokens", len(slots), shape, "<u2", SLOTS_PER_SHARD_GOP)

    def append(self, tokens: UInt16) -> None:
        """Write the next slot's (M, D) tokens."""
        self._tokens.append(compress(tokens))

    def commit(self, entry: PrimitivesEntry, model: str, versions: dict[str, str]) -> None:
        """Finish the last shard, write the part's manifest and give the part the next free number."""
        self._tokens.close()
        Manifest(
            kind="features",
            schema=PRIMITIVES_SCHEMA,
            fingerprint=entry.manifest.fingerprint,
            upstream=entry.manifest.fingerprint,
            source=self.source,
            config={"num_tokens": self.shape[0], "token_width": self.shape[1]},
            info={"num_slots": len(self.slots)},
            versions=versions,
            files=record_tree(self.folder),
        ).write(self.folder / MANIFEST)
        commit_numbered(self.folder, features_folder(entry.folder, model))


class Features:
    """The stored vision tokens of one entry and one vision encoder.

    Args:
        entry: the primitives entry.
        model: the encoder's name in the cache.

    Raises:
        CacheCorruptError, CacheVersionError: a part is not what its manifest says.
    """

    def __init__(self, entry: PrimitivesEntry, model: str) -> None:
        self.name = entry.name
        self.model = model
        self._where = rows_by_slot(entry.name, numbered_parts(features_folder(entry.folder, model)), "features")

    @property
    def slots(self) -> set[int]:
        """The slots that are there."""
        return set(self._where)

    def tokens(self, slot: int) -> UInt16:
        """Return a slot's vision tokens, (M, D) uint16 holding bfloat16.

        Raises:
            LookupError: they were never stored.
            CacheCorruptError: their checksum fails.
        """
        if slot not in self._where:
            raise LookupError(f"{self.name}: no vision tokens of slot {slot} under {self.model}")
        reader, row = self._where[slot]
        return reader.read("tokens", row)


def check_features(entry: PrimitivesEntry, *, hashes: bool) -> int:
    """Compare every part of every encoder with its manifest; returns how many parts there are."""
    parts = [part for model in sorted((entry.folder / "features").glob("*")) for part in numbered_parts(model)]
    for part in parts:
        Manifest.read(part / MANIFEST, kind="features", schema=PRIMITIVES_SCHEMA).check_files(part, hashes=hashes)
    return len(parts)
