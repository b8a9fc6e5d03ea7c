"""Scenes: shapes that follow waypoints, before a camera that pans; the records of the sample videos.

A scene is simpler than a clip of the world (`records`): it has no twins and no acts, and its picture may be wide.
Positions are world pixels: x to the right, y down, pixel centres at whole numbers. The camera starts with the world's
(0, 0) at the top left of the picture, so a shape's place in the picture is its place in the world minus the camera's.
`render.render_scene` draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from cope_cli.world.records import COLOURS, Direction
from cope_cli.world.tracks import Track

MAX_HEIGHT_PX, MAX_WIDTH_PX = 512, 1024
#: Width of a shape's dark rim.
RIM_PX = 3.0

Tints = tuple[tuple[int, int, int], tuple[int, int, int]]


class Waypoint(NamedTuple):
    """A shape's centre at a time; between waypoints it moves in a straight line at constant speed."""

    seconds: float
    x_px: float
    y_px: float


class Move(NamedTuple):
    """One straight stretch of a path; its direction is that of the longer axis."""

    direction: Direction
    from_seconds: float
    until_seconds: float
    px_per_second: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A textured shape and its path. Before its first waypoint and after its last it stands still.

    `radius_px` is a circle's radius; the other shapes are about as large.
    Times are seconds from the start of the shot; the shape shows in frames with
    ``visible_from_seconds <= t < visible_until_seconds``.
    """

    kind: Literal["circle", "square", "triangle"]
    colour: str
    radius_px: float
    path: tuple[Waypoint, ...]
    seed: int
    visible_from_seconds: float = 0.0
    visible_until_seconds: float = math.inf

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise ValueError(f"colour must be one of {', '.join(COLOURS)}, found {self.colour!r}")
        if self.radius_px < 2 * RIM_PX:
            raise ValueError(f"radius_px must be at least {2 * RIM_PX}, found {self.radius_px}")
        if not self.path or any(b.seconds <= a.seconds for a, b in pairwise(self.path)):
            raise ValueError(f"path needs waypoints with growing times, found {self.path}")

    @property
    def name(self) -> str:
        """Its name in questions, such as ``red circle``."""
        return f"{self.colour} {self.kind}"

    @property
    def moves(self) -> tuple[Move, ...]:
        """The stretches of the path on which it moves, in order."""
        return tuple(_move(a, b) for a, b in pairwise(self.path) if a[1:] != b[1:])

    def position_at(self, seconds: float) -> tuple[float, float]:
        """Return the centre (x, y) in world pixels, `seconds` after the start of the shot."""
        times, xs, ys = zip(*self.path, strict=True)
        return float(np.interp(seconds, times, xs)), float(np.interp(seconds, times, ys))

    def track(self, num_frames: int, fps: int) -> Track:
        """Return the whole pixels of its centre in each frame of a shot; a pan then moves the picture exactly."""
        seconds = np.arange(num_frames) / fps
        places = np.floor(np.array([self.position_at(second) for second in seconds]) + 0.5)
        return Track(
            x_px=places[:, 0],
            y_px=places[:, 1],
            scale=np.ones(num_frames),
            degrees=np.zeros(num_frames),
            is_there=(seconds >= self.visible_from_seconds) & (seconds < self.visible_until_seconds),
        )


@dataclass(frozen=True, kw_only=True)
class Pan:
    """The camera moves by a whole number of pixels per frame; times are seconds from the start of the shot."""

    from_seconds: float
    until_seconds: float
    x_px_per_frame: int = 0
    y_px_per_frame: int = 0

    @property
    def direction(self) -> Direction:
        """Direction of the camera; still things move the other way in the picture."""
        return _direction(self.x_px_per_frame, self.y_px_per_frame)

    def offset_px(self, frame: int, fps: int) -> tuple[int, int]:
        """Return how far (x, y) this pan has moved the camera at a frame of the shot."""
        start, end = round(self.from_seconds * fps), round(self.until_seconds * fps)
        num_steps = min(max(frame - start, 0), end - start)
        return num_steps * self.x_px_per_frame, num_steps * self.y_px_per_frame


@dataclass(frozen=True, kw_only=True)
class SceneShot:
    """What is filmed between two cuts. Later shapes are drawn over earlier ones.

    Attributes:
        seconds: its length.
        background_seed: seed of the background's texture.
        tints: the two colours of the background, RGB; None lets the seed choose them.
        shapes: what stands in it.
        pans: how the camera moves.
    """

    seconds: float
    background_seed: int
    tints: Tints | None = None
    shapes: tuple[Shape, ...] = ()
    pans: tuple[Pan, ...] = ()

    def camera_at(self, frame: int, fps: int) -> tuple[int, int]:
        """Return the world position (x, y) of the picture's top left pixel at a frame of the shot."""
        offsets = [pan.offset_px(frame, fps) for pan in self.pans]
        return sum(x for x, _ in offsets), sum(y for _, y in offsets)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Shots in order, joined by hard cuts."""

    name: str
    shots: tuple[SceneShot, ...]
    width: int = 640
    height: int = 360
    fps: int = 30

    def __post_init__(self) -> None:
        if not (2 <= self.width <= MAX_WIDTH_PX and 2 <= self.height <= MAX_HEIGHT_PX):
            limit = f"{MAX_WIDTH_PX} x {MAX_HEIGHT_PX}"
            raise ValueError(f"width x height must be at most {limit}, found {self.width} x {self.height}")
        if not self.shots or min(self.shot_num_frames) < 1:
            raise ValueError(f"{self.name}: every shot needs at least one frame, found {self.shot_num_frames}")

    @property
    def shot_num_frames(self) -> tuple[int, ...]:
        """Frames of each shot."""
        return tuple(round(shot.seconds * self.fps) for shot in self.shots)

    @property
    def num_frames(self) -> int:
        """Frames of the whole scene."""
        return sum(self.shot_num_frames)


def _direction(x_px: float, y_px: float) -> Direction:
    """Name the axis and sense along which a displacement is larger."""
    along_x: Direction = "right" if x_px > 0 else "left"
    along_y: Direction = "down" if y_px > 0 else "up"
    return along_x if abs(x_px) >= abs(y_px) else along_y


def _move(start: Waypoint, end: Waypoint) -> Move:
    """Describe the straight line between two waypoints."""
    x_px, y_px = end.x_px - start.x_px, end.y_px - start.y_px
    px_per_second = math.hypot(x_px, y_px) / (end.seconds - start.seconds)
    return Move(_direction(x_px, y_px), start.seconds, end.seconds, px_per_second)
