"""The codec's own prediction of a P-frame, exactly as MPEG-4 Part 2 makes it (ISO 14496-2, 7.6), and its residual.

Covered: half-pixel vectors of 16x16 macroblocks and 8x8 blocks, bilinear samples with the VOP's rounding type, vectors
that point outside the picture. Where a macroblock has no vector (intra, skipped) the previous frame is copied.
Not covered: quarter-pixels, overlapped block compensation, global motion; `cope encode` uses none of them.

    frame[t] = prediction + residual        and the residual of a block without coefficients is exactly zero

This is Eq. 1 from one frame to the next. Fused windows cannot have it: see `fusion`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cope_cli.codec import kernels
from cope_cli.codec.colour import Picture
from cope_cli.types import Int16, UInt8

#: Sum of a macroblock's four vectors modulo 16 -> half-pixels of chroma to add (ISO 14496-2, table 7-6).
_CHROMA_ROUNDING = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2], np.int16)


@dataclass(frozen=True, kw_only=True)
class Planes:
    """A decoded picture in whole macroblocks, beyond its right and lower edge: what vectors may point at.

    Attributes:
        luma: (16 R, 16 C) uint8 of R x C macroblocks.
        cb: (8 R, 8 C) uint8.
        cr: (8 R, 8 C) uint8.
    """

    luma: UInt8
    cb: UInt8
    cr: UInt8

    def cropped(self, like: Picture) -> Picture:
        """Return the part that is shown, of the size of another picture."""
        return Picture(
            luma=self.luma[: like.luma.shape[0], : like.luma.shape[1]],
            cb=self.cb[: like.cb.shape[0], : like.cb.shape[1]],
            cr=self.cr[: like.cr.shape[0], : like.cr.shape[1]],
        )


def predict(previous: Planes, blocks: Int16, rounding_type: int) -> Planes:
    """Predict a P-frame from the previous frame.

    Args:
        previous: the previous frame.
        blocks: (2 R, 2 C, 2) int16, the P-frame's block grid: displacement (x, y) in half-pixels.
        rounding_type: 0 or 1, from the P-frame's VOP header.
    """
    rows, cols = blocks.shape[0] // 2, blocks.shape[1] // 2
    total = blocks.reshape(rows, 2, cols, 2, 2).sum(axis=(1, 3), dtype=np.int16)
    vectors = -total  # the standard's rule is stated for vectors; it is not odd
    chroma = -(_CHROMA_ROUNDING[vectors & 15] + ((vectors >> 3) & ~1)).astype(np.int16)
    planes = []
    for plane, displacements in ((previous.luma, blocks), (previous.cb, chroma), (previous.cr, chroma)):
        out = np.empty(
            (displacements.shape[0] * kernels.BLOCK_CELL_PX, displacements.shape[1] * kernels.BLOCK_CELL_PX), np.uint8
        )
        kernels.compensate(plane, displacements, rounding_type, out)
        planes.append(out)
    return Planes(luma=planes[0], cb=planes[1], cr=planes[2])
