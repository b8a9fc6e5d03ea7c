"""Aliases that many modules share: arrays by their element type, and functions that report progress."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
Int16 = NDArray[np.int16]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

#: Called with (done, total), in units that the function names: seconds, frames, steps. A total of 0 is unknown.
OnProgress = Callable[[float, float], None]
#: Called with (item, done, total): the same for one item of several, such as a video or a stage.
OnItem = Callable[[str, float, float], None]
#: Called with a line for the user, or with a piece of an answer.
OnText = Callable[[str], None]
