"""Renders scenes whose motion is known.

A scene is a record: shots, and in each a textured background, a camera that pans by whole pixels, and textured shapes
that follow waypoints. Positions are world pixels: x to the right, y down, pixel centres at whole numbers. The camera
starts with the world's (0, 0) at the top left of the picture, so a shape's place in the picture is its place in the
world minus the camera's.

Textures are band-limited noise, smooth enough for a codec to follow and detailed enough to show where things went;
they are moved exactly, also by parts of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44),
    "green": (46, 170, 84),
    "blue": (48, 104, 222),
    "yellow": (242, 204, 48),
    "orange": (242, 132, 32),
    "purple": (150, 76, 204),
}
"""What a shape's colour name means, RGB."""

_WORLD_HEIGHT_PX, _WORLD_WIDTH_PX = 512, 1024  # the background repeats after these
_RIM_PX = 3.0  # width of a shape's dark rim

Floats = NDArray[np.float64]
Direction = Literal["right", "left", "up", "down"]


class Waypoint(NamedTuple):
    """Where a shape's centre is at a time; in between it moves in a straight line at constant speed."""

    seconds: float
    x_px: float
    y_px: float


class Move(NamedTuple):
    """One straight stretch of a path, named by the axis along which it goes further."""

    direction: Direction
    from_seconds: float
    until_seconds: float
    px_per_second: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A textured shape, and where it is when. Before its first waypoint and after its last it stands still.

    `radius_px` is a circle's radius, half of a square's side, or the distance from a triangle's centre to its corners.
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
        if self.radius_px < 2 * _RIM_PX:
            raise ValueError(f"radius_px must be at least {2 * _RIM_PX}, found {self.radius_px}")
        if not self.path or any(b.seconds <= a.seconds for a, b in pairwise(self.path)):
            raise ValueError(f"path needs waypoints with growing times, found {self.path}")

    @property
    def name(self) -> str:
        """What one would call it, such as ``red circle``."""
        return f"{self.colour} {self.kind}"

    @property
    def moves(self) -> tuple[Move, ...]:
        """The stretches of the path on which it really moves, in order."""
        return tuple(_move(a, b) for a, b in pairwise(self.path) if a[1:] != b[1:])

    def position_at(self, seconds: float) -> tuple[float, float]:
        """Return the centre (x, y) in world pixels, `seconds` after the start of the shot."""
        times, xs, ys = zip(*self.path, strict=True)
        return float(np.interp(seconds, times, xs)), float(np.interp(seconds, times, ys))


@dataclass(frozen=True, kw_only=True)
class Pan:
    """The camera moves by a whole number of pixels per frame; times are seconds from the start of the shot."""

    from_seconds: float
    until_seconds: float
    x_px_per_frame: int = 0
    y_px_per_frame: int = 0

    @property
    def direction(self) -> Direction:
        """Where the camera goes; what stands still goes the other way in the picture."""
        return _direction(self.x_px_per_frame, self.y_px_per_frame)

    def offset_px(self, frame: int, fps: int) -> tuple[int, int]:
        """Return how far (x, y) this pan has brought the camera at a frame of the shot."""
        start, end = round(self.from_seconds * fps), round(self.until_seconds * fps)
        num_steps = min(max(frame - start, 0), end - start)
        return num_steps * self.x_px_per_frame, num_steps * self.y_px_per_frame


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What is filmed between two cuts. Later shapes are drawn over earlier ones."""

    seconds: float
    background_seed: int
    tints: tuple[tuple[int, int, int], tuple[int, int, int]]
    shapes: tuple[Shape, ...] = ()
    pans: tuple[Pan, ...] = ()

    def camera_at(self, frame: int, fps: int) -> tuple[int, int]:
        """Return the world position (x, y) of the picture's top left pixel at a frame of the shot."""
        offsets = [pan.offset_px(frame, fps) for pan in self.pans]
        return sum(x for x, _ in offsets), sum(y for _, y in offsets)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Shots one after the other, joined by hard cuts."""

    name: str
    shots: tuple[Shot, ...]
    width: int = 640
    height: int = 360
    fps: int = 30

    def __post_init__(self) -> None:
        if not (2 <= self.width <= _WORLD_WIDTH_PX and 2 <= self.height <= _WORLD_HEIGHT_PX):
            limit = f"{_WORLD_WIDTH_PX} x {_WORLD_HEIGHT_PX}"
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


def render(scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """Render every frame of a scene, (H, W, 3) uint8 RGB; the same record gives the same pixels."""
    for shot, num_frames in zip(scene.shots, scene.shot_num_frames, strict=True):
        world = np.pad(_world(shot), ((0, scene.height), (0, scene.width), (0, 0)), mode="wrap")
        sprites = [_Sprite(shape) for shape in shot.shapes]
        for frame in range(num_frames):
            camera_x, camera_y = shot.camera_at(frame, scene.fps)
            top, left = camera_y % _WORLD_HEIGHT_PX, camera_x % _WORLD_WIDTH_PX
            picture = world[top : top + scene.height, left : left + scene.width].copy()
            for sprite in sprites:
                sprite.draw(picture, frame / scene.fps, camera_x, camera_y)
            yield picture


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


def band_noise(rng: np.random.Generator, height: int, width: int, shortest_px: float, longest_px: float) -> Floats:
    """Return (height, width) float64 noise of unit variance: a band of 1/f amplitudes, repeating at its edges."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    in_band = (frequency >= 1 / longest_px) & (frequency <= 1 / shortest_px)
    spectrum *= np.where(in_band, 1 / np.maximum(frequency, 1 / longest_px), 0.0)
    noise: Floats = np.fft.irfft2(spectrum, s=(height, width))
    noise /= noise.std()
    return noise


def _world(shot: Shot) -> NDArray[np.uint8]:
    """Paint a shot's background, (world height, world width, 3): two tints flowing into each other, with grain."""
    rng = np.random.Generator(np.random.PCG64(shot.background_seed))
    size = (_WORLD_HEIGHT_PX, _WORLD_WIDTH_PX)
    blend = 0.5 + 0.5 * np.tanh(1.2 * band_noise(rng, *size, 120, 500))[..., None]
    grain = 13.0 * band_noise(rng, *size, 9, 90)[..., None]
    first, second = (np.array(tint, dtype=np.float64) for tint in shot.tints)
    return np.rint(np.clip(first + (second - first) * blend + grain, 0, 255)).astype(np.uint8)


def _overlap(start: int, size: int, length: int) -> range:
    """Return which indices of a piece of `size`, laid at `start`, fall into 0..length - 1."""
    return range(max(0, -start), min(size, length - start))


class _Sprite:
    """A shape ready to be drawn: its colour and its texture as a spectrum, which moves by parts of a pixel exactly."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.reach_px = math.ceil(shape.radius_px) + 1
        size = 2 * self.reach_px + 2
        rng = np.random.Generator(np.random.PCG64(shape.seed))
        self.spectrum = np.fft.rfft2(band_noise(rng, size, size, 9, size))
        self.offsets_px = np.arange(size, dtype=np.float64) - self.reach_px
        self.colour = np.array(COLOURS[shape.colour], dtype=np.float64)

    def draw(self, picture: NDArray[np.uint8], seconds: float, camera_x: int, camera_y: int) -> None:
        """Draw the shape into `picture` (H, W, 3), where it is at `seconds`; what is outside is cut off."""
        if not self.shape.visible_from_seconds <= seconds < self.shape.visible_until_seconds:
            return
        x_px, y_px = self.shape.position_at(seconds)
        left, top = math.floor(x_px) - camera_x - self.reach_px, math.floor(y_px) - camera_y - self.reach_px
        size = len(self.offsets_px)
        rows, columns = _overlap(top, size, picture.shape[0]), _overlap(left, size, picture.shape[1])
        if not (rows and columns):
            return
        colour, coverage = self._paint(x_px - math.floor(x_px), y_px - math.floor(y_px))
        place = picture[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
        seen = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        place[:] = np.rint(place + (colour[seen] - place) * coverage[seen][..., None]).astype(np.uint8)

    def _paint(self, x_part_px: float, y_part_px: float) -> tuple[Floats, Floats]:
        """Return colour (N, N, 3) and coverage (N, N) in 0..1 for a centre that far right of and below its pixel."""
        size = len(self.offsets_px)
        turns = np.fft.fftfreq(size)[:, None] * y_part_px + np.fft.rfftfreq(size) * x_part_px
        texture = np.fft.irfft2(self.spectrum * np.exp(-2j * np.pi * turns), s=(size, size))
        x_px, y_px = self.offsets_px - x_part_px, (self.offsets_px - y_part_px)[:, None]
        outside_px = self._distance_px(x_px, y_px)
        coverage = np.clip(0.5 - outside_px, 0, 1)
        rim = np.clip(0.5 + _RIM_PX + outside_px, 0, 1)
        shade = (1 + 0.2 * texture) * (1 - 0.55 * rim)
        return np.clip(self.colour * shade[..., None], 0, 255), coverage

    def _distance_px(self, x_px: Floats, y_px: Floats) -> Floats:
        """Return how far outside the nearest side points relative to the centre lie; negative inside."""
        radius_px = self.shape.radius_px
        if self.shape.kind == "circle":
            return np.hypot(x_px, y_px) - radius_px
        if self.shape.kind == "square":
            return np.maximum(abs(x_px), abs(y_px)) - radius_px
        slanted = abs(x_px) * math.cos(math.pi / 6) - y_px * 0.5
        return np.maximum(slanted, y_px) - radius_px / 2
