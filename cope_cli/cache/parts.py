"""Parts of an unfinished entry: compressed slots that one process writes and another joins.

A part is a file of a workspace, a sequence of (name of the array, size, chunk). It is never part of a cache entry, and
is read only by the process that had it made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_HEAD = struct.Struct("<32sQ")


def write_part(path: Path, slots: Iterable[Mapping[str, bytes]]) -> None:
    """Write the chunks of slots, given by array name, in order."""
    with path.open("wb") as file:
        for chunks in slots:
            for name, chunk in chunks.items():
                file.write(_HEAD.pack(name.encode("ascii"), len(chunk)))
                file.write(chunk)


def read_part(path: Path) -> Iterator[dict[str, bytes]]:
    """Yield the chunks of a part, in order, each by its array's name."""
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            name, size = _HEAD.unpack(head)
            yield {name.rstrip(b"\0").decode("ascii"): file.read(size)}
