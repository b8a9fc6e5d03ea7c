"""Renders clips of the world: textured shapes over a textured background, moved by whole pixels.

A thing stands at the whole pixel nearest to its place, as sprites do: the codec's vectors, which count half pixels,
then follow it also where it is slow (docs/scenes.md); between pixels, an encoder takes slow motion for none. Turned
and growing things are interpolated bilinearly, and edges are smooth in every case.

Covered: square pictures of an even side. Not covered: light, shadow, blur.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cope_cli.stages.scenes import COLOURS, band_noise
from cope_cli.world import kernels
from cope_cli.world.records import Clip, Shot, Thing
from cope_cli.world.tracks import Track, camera_of, track_of

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
_RIM_PX = 2.0  # width of a shape's dark rim
_WORLD_SHARE = 1.5  # side of the background, which repeats, over that of the picture


def render(clip: Clip, painter: Painter | None = None) -> Iterator[NDArray[np.uint8]]:
    """Render every frame of a clip, (size, size, 3) uint8 RGB; the same record gives the same pixels.

    Args:
        clip: what to draw.
        painter: backgrounds and sprites painted for its twins, to be used again.
    """
    painter = painter or Painter()
    for shot in clip.shots:
        yield from _render_shot(shot, clip.size_px, painter)


class Painter:
    """Backgrounds and sprites, each painted once."""

    def __init__(self) -> None:
        self._backgrounds: dict[tuple[int, int], Floats32] = {}
        self._sprites: dict[tuple[str, str, float, int], Floats32] = {}

    def background(self, seed: int, size_px: int) -> Floats32:
        """Return a background, (H', W', 3): two dull tints flowing into each other, with grain."""
        key = seed, size_px
        if key not in self._backgrounds:
            self._backgrounds[key] = _background(seed, size_px)
        return self._backgrounds[key]

    def sprite(self, thing: Thing) -> Floats32:
        """Return a thing's picture, (N, N, 4): colour times coverage, and coverage."""
        key = thing.shape, thing.colour, thing.radius_px, thing.seed
        if key not in self._sprites:
            self._sprites[key] = _sprite(*key)
        return self._sprites[key]

    def forget_sprites(self) -> None:
        """Keep backgrounds alone: sprites that do not come again would fill the memory."""
        self._sprites.clear()


def _render_shot(shot: Shot, size_px: int, painter: Painter) -> Iterator[NDArray[np.uint8]]:
    world = painter.background(shot.background_seed, size_px)
    camera_x, camera_y = (np.rint(offset) for offset in camera_of(shot))
    things = sorted(shot.things, key=lambda thing: -thing.depth)
    layers = [(painter.sprite(thing), track_of(thing, shot.num_frames)) for thing in things]
    bare, full = (np.empty((size_px, size_px, 3), np.float32) for _ in range(2))
    bare_bytes = np.empty((size_px, size_px, 3), np.uint8)
    for frame in range(shot.num_frames):
        if frame == 0 or (camera_x[frame], camera_y[frame]) != (camera_x[frame - 1], camera_y[frame - 1]):
            kernels.crop(world, camera_x[frame], camera_y[frame], bare)
            kernels.to_bytes(bare, bare_bytes, 0, size_px, 0, size_px)
        picture = bare_bytes.copy()
        shown = [
            _Placed(sprite, track, frame, camera_x[frame], camera_y[frame])
            for sprite, track in layers
            if track.is_there[frame]
        ]
        boxes = [placed.box(size_px) for placed in shown]
        for top, bottom, left, right in boxes:  # all of them first: they may overlap
            full[top:bottom, left:right] = bare[top:bottom, left:right]
        for placed in shown:
            placed.lay(full)
        for box in boxes:
            kernels.to_bytes(full, picture, *box)
        yield picture


class _Placed:
    """A sprite at its place in one frame."""

    def __init__(self, sprite: Floats32, track: Track, frame: int, camera_x: float, camera_y: float) -> None:
        self.sprite = sprite
        self.x_px, self.y_px = round(float(track.x_px[frame]) - camera_x), round(float(track.y_px[frame]) - camera_y)
        turn = math.radians(track.degrees[frame])
        self.cosine, self.sine = math.cos(turn), math.sin(turn)
        self.scale = float(track.scale[frame])

    def box(self, size_px: int) -> tuple[int, int, int, int]:
        """Return the rows and columns (top, bottom, left, right) outside of which nothing of it can be."""
        reach = math.ceil(0.5 * len(self.sprite) * self.scale * (abs(self.cosine) + abs(self.sine)))
        rows = max(0, self.y_px - reach), min(size_px, self.y_px + reach + 1)
        columns = max(0, self.x_px - reach), min(size_px, self.x_px + reach + 1)
        return rows[0], max(rows), columns[0], max(columns)

    def lay(self, picture: Floats32) -> None:
        """Lay it over a picture."""
        kernels.lay(picture, self.sprite, self.x_px, self.y_px, self.cosine, self.sine, self.scale)


def _background(seed: int, size_px: int) -> Floats32:
    rng = np.random.Generator(np.random.PCG64(seed))
    side = round(size_px * _WORLD_SHARE)
    middle = rng.uniform(90, 170)
    first, second = (np.clip(middle + rng.uniform(-28, 28, 3) + change, 60, 200) for change in (-14, 14))
    blend = 0.5 + 0.5 * np.tanh(1.2 * band_noise(rng, side, side, side / 5, side))[..., None]
    grain = 11.0 * band_noise(rng, side, side, 5, 40)[..., None]
    return np.clip(first + (second - first) * blend + grain, 0, 255).astype(np.float32)


def _sprite(shape: str, colour: str, radius_px: float, seed: int) -> Floats32:
    rng = np.random.Generator(np.random.PCG64(seed))
    reach = math.ceil(radius_px * 1.3) + 2
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    outside_px = _distance_px(shape, offsets, offsets[:, None], radius_px)
    coverage = np.clip(0.5 - outside_px, 0, 1)
    side = 2 * reach + 2
    texture = 0.22 * band_noise(rng, side, side, 5, side)[:-1, :-1]
    shade = (1 + np.clip(texture, -0.6, 0.6)) * (1 - 0.5 * np.clip(0.5 + _RIM_PX + outside_px, 0, 1))
    painted = np.clip(np.array(COLOURS[colour], np.float64) * shade[..., None], 0, 255)
    return np.concatenate([painted * coverage[..., None], coverage[..., None]], axis=2).astype(np.float32)


def _distance_px(shape: str, x_px: Floats, y_px: Floats, radius_px: float) -> Floats:
    """Return how far outside a shape points relative to its centre lie, roughly; negative inside."""
    if shape == "circle":
        return np.hypot(x_px, y_px) - radius_px
    if shape == "square":
        return np.maximum(abs(x_px), abs(y_px)) - 0.85 * radius_px
    if shape == "triangle":
        slanted = abs(x_px) * math.cos(math.pi / 6) - y_px * 0.5
        return np.maximum(slanted, y_px) - 0.6 * radius_px
    if shape == "cross":
        thin_px, long_px = 0.38 * radius_px, 1.05 * radius_px
        upright = np.maximum(abs(x_px) - thin_px, abs(y_px) - long_px)
        return np.minimum(upright, np.maximum(abs(x_px) - long_px, abs(y_px) - thin_px))
    raise ValueError(f"no shape {shape!r}")
