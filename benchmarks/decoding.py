"""Decoding an encoded video by PyAV alone: the limit that benchmarks compare with, and pictures at reduced size.

Covered: files written by `cope encode`. One thread, the bit-exact flag and the portable inverse DCT, as in `cope`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.sidedata.sidedata import SideDataContainer


def decoded(path: Path, *, with_vectors: bool = False, lowres: int = 0) -> Iterator[av.VideoFrame]:
    """Decode a whole stream.

    Args:
        path: a file written by `cope encode`.
        with_vectors: let FFmpeg export the motion vectors too.
        lowres: 1 decodes at half the size, 2 at a quarter; such pictures drift from the true ones over a GOP.
    """
    options = {"flags": "+bitexact", "idct": "simpleauto"}
    options |= {"flags2": "+export_mvs"} if with_vectors else {}
    options |= {"lowres": str(lowres)} if lowres else {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.options = options
        yield from container.decode(stream)


def decode_with_vectors(path: Path) -> None:
    """Decode a whole stream and copy its motion vectors to arrays."""
    for frame in decoded(path, with_vectors=True):
        # `frame.side_data` would be the usual way; it makes a reference cycle per frame and is slower.
        vectors = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]  # stub: no __init__
        if vectors is not None:
            vectors.to_ndarray()
