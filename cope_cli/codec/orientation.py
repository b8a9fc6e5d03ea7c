"""How a picture is stored and how it is shown: mirrored, and turned by quarter turns.

Pictures on the square grid can be set upright after the area average: cells are halves, quarters, ... of the picture
from either end, so that the grid frame of the turned picture is the turned grid frame, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

from cope_cli.codec.fusion import FrameSize
from cope_cli.types import Int16

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """What sets a stored picture upright: first `flip`, then `turns`.

    Attributes:
        turns: quarter turns counter-clockwise, 0 to 3.
        flip: mirror left-right before turning.
    """

    turns: int = 0
    flip: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """Read a frame's display matrix.

        It maps stored (x, y) to shown (a x + c y, b x + d y), y downwards; angles that are no multiple of 90 degrees
        are rounded to the nearest.
        """
        side_data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # stub: no __init__
        if side_data is None:
            return cls()
        a, b, _, c, d = np.frombuffer(cast(Any, side_data), np.int32)[:5].astype(np.int64)
        flip = bool(a * d - b * c < 0)
        if flip:
            a, b = -a, -b
        return cls(turns=round(float(np.degrees(np.arctan2(-b, a))) / 90) % 4, flip=flip)

    def size(self, stored: FrameSize) -> FrameSize:
        """Return the upright picture's size."""
        return FrameSize(width=stored.height, height=stored.width) if self.turns % 2 else stored

    def picture(self, stored: NDArray[Scalar]) -> NDArray[Scalar]:
        """Set an (H, W, ...) picture upright."""
        mirrored = stored[:, ::-1] if self.flip else stored
        return np.ascontiguousarray(np.rot90(mirrored, self.turns))

    def motion(self, stored: Int16) -> Int16:
        """Set a (2, G, G) motion field upright: its points and its vectors."""
        x, y = stored
        if self.flip:
            x, y = -x[:, ::-1], y[:, ::-1]
        for _ in range(self.turns):  # counter-clockwise: what points down then points right
            x, y = np.rot90(y), -np.rot90(x)
        return np.ascontiguousarray(np.stack([x, y]))
