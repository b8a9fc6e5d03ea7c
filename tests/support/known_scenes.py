"""Renders scenes whose motion is known to parts of a pixel, for tests: textures move exactly, by their spectrum.

`cope_cli.world.render` moves things by whole pixels; the golden clip and the tests of motion need more than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cope_cli.types import Float64
from cope_cli.world.records import COLOURS
from cope_cli.world.render import band_noise
from cope_cli.world.scenes import MAX_HEIGHT_PX, MAX_WIDTH_PX, RIM_PX, Scene, SceneShot, Shape


def render(scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """Render every frame of a scene, (H, W, 3) uint8 RGB; the same record gives the same pixels."""
    for shot, num_frames in zip(scene.shots, scene.shot_num_frames, strict=True):
        world = np.pad(_world(shot), ((0, scene.height), (0, scene.width), (0, 0)), mode="wrap")
        sprites = [_Sprite(shape) for shape in shot.shapes]
        for frame in range(num_frames):
            camera_x, camera_y = shot.camera_at(frame, scene.fps)
            top, left = camera_y % MAX_HEIGHT_PX, camera_x % MAX_WIDTH_PX
            picture = world[top : top + scene.height, left : left + scene.width].copy()
            for sprite in sprites:
                sprite.draw(picture, frame / scene.fps, camera_x, camera_y)
            yield picture


def _world(shot: SceneShot) -> NDArray[np.uint8]:
    """Paint a shot's background, (world height, world width, 3): two tints flowing into each other, with grain."""
    assert shot.tints is not None
    rng = np.random.Generator(np.random.PCG64(shot.background_seed))
    size = (MAX_HEIGHT_PX, MAX_WIDTH_PX)
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

    def _paint(self, x_part_px: float, y_part_px: float) -> tuple[Float64, Float64]:
        """Return colour (N, N, 3) and coverage (N, N) in 0..1 for a centre that far right of and below its pixel."""
        size = len(self.offsets_px)
        turns = np.fft.fftfreq(size)[:, None] * y_part_px + np.fft.rfftfreq(size) * x_part_px
        texture = np.fft.irfft2(self.spectrum * np.exp(-2j * np.pi * turns), s=(size, size))
        x_px, y_px = self.offsets_px - x_part_px, (self.offsets_px - y_part_px)[:, None]
        outside_px = self._distance_px(x_px, y_px)
        coverage = np.clip(0.5 - outside_px, 0, 1)
        rim = np.clip(0.5 + RIM_PX + outside_px, 0, 1)
        shade = (1 + 0.2 * texture) * (1 - 0.55 * rim)
        return np.clip(self.colour * shade[..., None], 0, 255), coverage

    def _distance_px(self, x_px: Float64, y_px: Float64) -> Float64:
        """Return how far outside the nearest side points relative to the centre lie; negative inside."""
        radius_px = self.shape.radius_px
        if self.shape.kind == "circle":
            return np.hypot(x_px, y_px) - radius_px
        if self.shape.kind == "square":
            return np.maximum(abs(x_px), abs(y_px)) - radius_px
        slanted = abs(x_px) * math.cos(math.pi / 6) - y_px * 0.5
        return np.maximum(slanted, y_px) - radius_px / 2
