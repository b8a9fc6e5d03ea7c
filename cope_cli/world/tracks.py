"""Where a thing is in every frame: from its record to arrays, frame by frame.

Places are rounded to whole pixels when they are drawn, as sprites are, not here: see `render`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cope_cli.types import Float64
from cope_cli.world.records import FPS, STEPS, Part, Shot, Thing

#: Share of a move's mean speed with which one that gets faster begins, and one that gets slower ends.
SLOW_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Track:
    """A thing in every frame of its shot, each array of that many values.

    Attributes:
        x_px: its centre.
        y_px: the same, down.
        scale: its size over its size at the start.
        degrees: how it is turned, clockwise.
        is_there: whether it shows.
    """

    x_px: Float64
    y_px: Float64
    scale: Float64
    degrees: Float64
    is_there: NDArray[np.bool_]


def track_of(thing: Thing, num_frames: int) -> Track:
    """Return where a thing is in each frame of a shot of that many frames."""
    seconds = np.arange(num_frames) / FPS
    x_px, y_px = np.full(num_frames, float(thing.x_px)), np.full(num_frames, float(thing.y_px))
    scale, degrees = np.ones(num_frames), np.full(num_frames, float(thing.degrees))
    is_there = np.full(num_frames, thing.is_there)
    for part in thing.parts:
        done = _done(part, seconds)
        if part.kind == "move" and part.direction:
            step_x, step_y = STEPS[part.direction]
            x_px += step_x * part.length_px * done
            y_px += step_y * part.length_px * done
        elif part.kind in ("grow", "shrink"):
            scale *= 1 + (part.factor - 1) * done
        elif part.kind == "spin":
            degrees += part.degrees * done
        else:
            is_there[seconds >= part.from_seconds] = part.kind == "appear"
    return Track(x_px=x_px, y_px=y_px, scale=scale, degrees=degrees, is_there=is_there)


def camera_of(shot: Shot) -> tuple[Float64, Float64]:
    """Return how far (x, y) the camera has gone in each frame of a shot, in pixels."""
    done = np.zeros(shot.num_frames)
    step_x, step_y = 0, 0
    if shot.pan and shot.pan.direction:
        done = shot.pan.length_px * _done(shot.pan, np.arange(shot.num_frames) / FPS)
        step_x, step_y = STEPS[shot.pan.direction]
    return step_x * done, step_y * done


def _done(part: Part, seconds: Float64) -> Float64:
    """Return the share of a part that is done at each time, 0 to 1."""
    length = part.until_seconds - part.from_seconds
    if length <= 0:
        return (seconds >= part.from_seconds).astype(np.float64)
    share = np.clip((seconds - part.from_seconds) / length, 0, 1)
    if part.easing == "faster":
        return SLOW_SHARE * share + (1 - SLOW_SHARE) * share**2
    if part.easing == "slower":
        rest = 1 - share
        return 1 - SLOW_SHARE * rest - (1 - SLOW_SHARE) * rest**2
    return share
