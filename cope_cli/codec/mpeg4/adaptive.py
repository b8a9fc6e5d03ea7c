"""Fusion windows that end when enough has happened: how much happens in each frame, read from the bitstream alone.

The energy of a P-frame is the mean of two parts, each 1 for an average frame of real footage:

- motion: mean displacement of all blocks, as a share of the picture's shorter side;
- residual: what motion does not explain, half by bits per pixel times the quantiser, half by the share of macroblocks
  coded intra.

No pixel is decoded: `bitstream.VopParser` reads vectors and macroblock types. Covered: what `cope encode` writes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cope_cli.codec.gop import Slot, adaptive_slots, slots_of
from cope_cli.codec.mpeg4.bitstream import VolHeader, VopParser
from cope_cli.codec.mpeg4.stream import read_gop_spans, read_vops
from cope_cli.codec.mpeg4.vlc import INTRA
from cope_cli.config import ExtractConfig

#: Figures of an average P-frame of real footage; `python -m benchmarks.adaptive` prints them. They are: displacement
#: over the shorter side, bits per pixel times quantiser, share of intra macroblocks.
MEAN_MOTION, MEAN_BITS, MEAN_INTRA = 0.0025, 0.4, 0.015


def frame_energies(path: Path) -> list[float]:
    """Return the energy of each frame of an encoded stream; 0 for I-frames.

    Raises:
        VideoError: the stream is damaged or of a kind not covered.
    """
    return [motion / 2 + residual / 2 for motion, residual in frame_parts(path)]


def frame_parts(path: Path) -> list[tuple[float, float]]:
    """Return motion and residual of each frame, 1 for an average one; raises like `frame_energies`."""
    parser: VopParser | None = None
    parts = []
    for data, header in read_vops(path):
        if parser is None:
            parser = VopParser(VolHeader.parse(header))
            size = parser.header.size
            blocks = np.empty(size.block_grid_shape, np.int16)
            kinds = np.empty((len(blocks) // 2, blocks.shape[1] // 2), np.uint8)
            patterns = np.empty_like(kinds)
        vop = parser.read_header(data)
        if vop.is_iframe or not vop.is_coded:
            parts.append((0.0, 0.0))
            continue
        parser.macroblocks(data, blocks, kinds, patterns)
        displacement = int(np.abs(blocks, dtype=np.int32).sum()) / (2 * blocks.shape[0] * blocks.shape[1])
        bits = 8 * len(data) * vop.quantiser / (size.width * size.height)
        intra = int(np.count_nonzero(kinds == INTRA)) / kinds.size
        motion = displacement / min(size.width, size.height) / MEAN_MOTION
        parts.append((motion, (bits / MEAN_BITS + intra / MEAN_INTRA) / 2))
    return parts


def slots_of_encoded(path: Path, config: ExtractConfig) -> list[Slot]:
    """Return every slot of an encoded video, with fixed or adaptive windows.

    Raises:
        VideoError: the stream cannot be read.
    """
    spans = read_gop_spans(path)
    if not config.adaptive:
        return slots_of(spans, config.fusion_frames, keep_tail=config.keep_tail)
    return adaptive_slots(
        spans,
        frame_energies(path),
        energy=config.fusion_frames,
        min_frames=config.min_frames,
        max_frames=config.max_frames,
        keep_tail=config.keep_tail,
    )
