"""What a video stream spends on its pictures: bytes, and blocks coded without a vector.

Covered: what `direct.read_stream` covers, and so what `cope encode` writes too: one way of counting for all codecs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from cope_cli.codec.direct.stream import DirectFrame, SourceStream, read_direct_frames, read_stream
from cope_cli.codec.source import open_source

_MACROBLOCK_PX = 16


@dataclass(frozen=True, kw_only=True)
class StreamCoding:
    """What one video stream is made of.

    Attributes:
        codec: FFmpeg's name.
        num_bytes: of its packets; neither container nor sound.
        seconds: its length.
        intra_share: area of P- and B-frames that no vector covers, over their area; 0 if there are no such frames.
    """

    codec: str
    num_bytes: int
    seconds: float
    intra_share: float


def read_coding(path: Path, stream_index: int = 0) -> StreamCoding:
    """Count a stream's bytes and intra blocks.

    Raises:
        VideoError: the video cannot be read directly (`direct.read_stream`).
    """
    stream = read_stream(path, stream_index)
    with open_source(path, stream_index) as source:
        num_bytes = sum(packet.size for packet in source.packets())
    frames = read_direct_frames(stream, range(len(stream.frames)), [], with_vectors=True)
    shares = [_intra_share(frame, stream) for frame in frames if _is_predicted(frame, stream)]
    return StreamCoding(
        codec=stream.codec,
        num_bytes=num_bytes,
        seconds=stream.video_seconds,
        intra_share=float(np.mean(shares)) if shares else 0.0,
    )


def _is_predicted(frame: DirectFrame, stream: SourceStream) -> bool:
    return frame.decoded.pict_type != av.video.frame.PictureType.I and stream.has_vectors(frame.index)


def _intra_share(frame: DirectFrame, stream: SourceStream) -> float:
    """Return the share of a frame's macroblocks that is under no vector; a block with two vectors counts once."""
    size, records = stream.stored_size, frame.vectors
    if records is None:
        return 1.0
    num_macroblocks = -(-size.width // _MACROBLOCK_PX) * -(-size.height // _MACROBLOCK_PX)
    centres = records["dst_y"].astype(np.int64) << 16 | records["dst_x"].astype(np.int64)
    first = np.unique(centres, return_index=True)[1]
    area = int((records["w"][first].astype(np.int64) * records["h"][first]).sum())
    return 1.0 - area / (num_macroblocks * _MACROBLOCK_PX**2)
