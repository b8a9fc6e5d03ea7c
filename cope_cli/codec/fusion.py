"""Fused primitives: block vectors and pictures in, motion field and residual out (paper 3.1, Eq. 1).

    frame[t] = warp(frame[t - s], motion) + residual        exactly, in integers, on the grid

`motion` is composed through the window's s P-frames by following each grid point backwards; `residual` is whatever
is then missing, so that the identity above holds for every pixel no matter what the codec did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cope_cli.codec import kernels
from cope_cli.errors import VideoError
from cope_cli.types import Int16, UInt8


@dataclass(frozen=True, kw_only=True)
class FrameSize:
    """Width and height of a stream's pictures, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def block_grid_shape(self) -> tuple[int, int, int]:
        """(rows, cols, 2) of a block grid: cells of 8 pixels, in whole macroblocks of 16."""
        per_macroblock = 16 // kernels.BLOCK_CELL_PX
        return (-(-self.height // 16) * per_macroblock, -(-self.width // 16) * per_macroblock, 2)


def block_grid(records: NDArray[np.void] | None, size: FrameSize, out: Int16 | None = None) -> Int16:
    """Turn one P-frame's motion-vector records into a block grid.

    Args:
        records: FFmpeg's records, or None for a P-frame made of intra macroblocks only.
        size: the stream's picture size.
        out: where to put it; new memory if None.

    Returns:
        (rows, cols, 2) int16, displacement (x, y), current minus reference position, in half-pixels.

    Raises:
        VideoError: the vectors are of a kind this module does not cover.
    """
    grid = np.empty(size.block_grid_shape, np.int16) if out is None else out
    if records is None:
        grid[:] = 0
    elif kernels.fill_blocks(records, grid):
        raise VideoError(
            "motion vectors that are not half-pixel vectors of the picture's blocks into the previous frame "
            "(B-frames, quarter-pixels, damage)",
            "Only streams made by `cope encode` can be extracted.",
        )
    return grid


def fuse_motion(window: Sequence[Int16] | Int16, size: FrameSize, grid_px: int) -> Int16:
    """Compose a window's block grids into one motion field.

    Args:
        window: the block grids of the P-frames since the previous slot, oldest first; best as one array.
        size: the stream's picture size.
        grid_px: grid side G.

    Returns:
        (2, G, G) int16, displacement (x, y) in half-pixels of each grid point since the previous slot.
    """
    motion = np.empty((2, grid_px, grid_px), np.int16)
    kernels.trace(np.asarray(window), size.width, size.height, motion)
    return motion


def warp(previous: UInt8, motion: Int16, size: FrameSize) -> UInt8:
    """Predict a grid frame from the one before: ``out(p) = previous(p - motion(p))``, bilinear.

    Args:
        previous: (G, G, 3) uint8.
        motion: (2, G, G) int16, half-pixels.
        size: the picture size that the half-pixels refer to.
    """
    out = np.empty_like(previous)
    kernels.warp(previous, motion, size.width, size.height, out)
    return out


def residual_of(frame: UInt8, predicted: UInt8) -> Int16:
    """Return `frame - predicted`, int16 in -255..255."""
    return np.subtract(frame, predicted, dtype=np.int16)


def rebuild(previous: UInt8, motion: Int16, residual: Int16, size: FrameSize) -> UInt8:
    """Return the grid frame that Eq. 1 gives back: ``warp(previous, motion) + residual``.

    Raises:
        ValueError: a sum is outside 0..255, so the three arrays do not belong together.
    """
    total = warp(previous, motion, size) + residual
    if total.min() < 0 or total.max() > 255:
        raise ValueError(f"warp + residual gives {total.min()}..{total.max()}, outside 0..255")
    return total.astype(np.uint8)
