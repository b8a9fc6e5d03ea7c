"""How much moves in a slot, and how much of it motion leaves unexplained: pure arithmetic on its primitives.

Legend: G grid side, C patches along a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cope_cli.types import Float64, Int16


@dataclass(frozen=True, kw_only=True)
class SlotEnergy:
    """What happened between the previous slot and a P-frame slot.

    Attributes:
        motion_mean_px: mean length of the displacement over all grid points, in pixels of the encoded stream.
        motion_max_px: the longest.
        moved_share: share of the grid points whose displacement is not zero, 0..1.
        residual_mean_levels: mean absolute residual over all colour values, in levels of 0..255.
        residual_rms_levels: root of the mean squared residual, in levels.
    """

    motion_mean_px: float
    motion_max_px: float
    moved_share: float
    residual_mean_levels: float
    residual_rms_levels: float


def slot_energy(motion: Int16, residual: Int16) -> SlotEnergy:
    """Measure one P-frame slot.

    Args:
        motion: (2, G, G) displacement (x, y) in half-pixels of the encoded stream.
        residual: (G, G, 3) in -255..255.
    """
    x, y = motion.astype(np.float64) / 2
    length_px = np.hypot(x, y)
    values = residual.astype(np.float64)
    return SlotEnergy(
        motion_mean_px=float(length_px.mean()),
        motion_max_px=float(length_px.max()),
        moved_share=float((motion != 0).any(axis=0).mean()),
        residual_mean_levels=float(np.abs(values).mean()),
        residual_rms_levels=float(np.sqrt(np.square(values).mean())),
    )


def patch_motion_px(motion: Int16, patch_px: int) -> Float64:
    """Return the mean displacement of each patch: (C, C, 2), (x, y) in pixels of the encoded stream.

    Args:
        motion: (2, G, G) in half-pixels.
        patch_px: side of a patch in grid points; it divides G.

    Raises:
        ValueError: it does not.
    """
    grid = motion.shape[1]
    if grid % patch_px:
        raise ValueError(f"patches of {patch_px} do not divide a grid of {grid}")
    cells = grid // patch_px
    patches = motion.astype(np.float64).reshape(2, cells, patch_px, cells, patch_px)
    mean: Float64 = np.moveaxis(patches.mean(axis=(2, 4)) / 2, 0, -1)
    return mean
