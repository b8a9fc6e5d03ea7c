"""Renders clips of the world and scenes: textured shapes over a textured background, moved by whole pixels.

A thing stands at the whole pixel nearest to its place, as sprites do: the codec's vectors, which count half pixels,
then follow slow things too (docs/scenes.md); an encoder takes slow motion between pixels for none. Turned and growing
things are interpolated bilinearly, and all edges are smooth.

Covered: pictures of even sides. Not covered: light, shadow, blur.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from cope_cli.types import Float32, Float64, UInt8
from cope_cli.world import kernels
from cope_cli.world.records import COLOURS, Clip
from cope_cli.world.scenes import Scene, Tints
from cope_cli.world.tracks import Track, camera_of, track_of

_RIM_PX = 2.0  # width of a shape's dark rim
_WORLD_SHARE = 1.5  # side of the background, which repeats, over that of the picture


def render(clip: Clip, painter: Painter | None = None) -> Iterator[UInt8]:
    """Render every frame of a clip, (size, size, 3) uint8 RGB; the same record gives the same pixels.

    Args:
        clip: what to draw.
        painter: holds backgrounds and sprites that its twins share.
    """
    painter = painter or Painter()
    for shot in clip.shots:
        layers = [
            (painter.sprite(thing.shape, thing.colour, thing.radius_px, thing.seed), track_of(thing, shot.num_frames))
            for thing in sorted(shot.things, key=lambda thing: -thing.depth)
        ]
        camera_x, camera_y = (np.rint(offset) for offset in camera_of(shot))
        background = painter.background(shot.background_seed, clip.size_px)
        yield from _render_shot(background, camera_x, camera_y, layers, clip.size_px, clip.size_px)


def render_scene(scene: Scene) -> Iterator[UInt8]:
    """Render every frame of a scene, (H, W, 3) uint8 RGB; the same record gives the same pixels."""
    painter = Painter()
    for shot, num_frames in zip(scene.shots, scene.shot_num_frames, strict=True):
        layers = [
            (painter.sprite(shape.kind, shape.colour, shape.radius_px, shape.seed), shape.track(num_frames, scene.fps))
            for shape in shot.shapes
        ]
        camera = np.array([shot.camera_at(frame, scene.fps) for frame in range(num_frames)], np.float64)
        background = painter.background(shot.background_seed, scene.width, shot.tints)
        yield from _render_shot(background, camera[:, 0], camera[:, 1], layers, scene.height, scene.width)


class Painter:
    """Backgrounds and sprites, each painted once."""

    def __init__(self) -> None:
        self._backgrounds: dict[tuple[int, int, Tints | None], Float32] = {}
        self._sprites: dict[tuple[str, str, float, int], Float32] = {}

    def background(self, seed: int, size_px: int, tints: Tints | None = None) -> Float32:
        """Return a background, (H', W', 3): two tints that flow into each other, with grain; dull ones by default."""
        key = seed, size_px, tints
        if key not in self._backgrounds:
            self._backgrounds[key] = _background(*key)
        return self._backgrounds[key]

    def sprite(self, shape: str, colour: str, radius_px: float, seed: int) -> Float32:
        """Return the picture of a thing, (N, N, 4): colour times coverage, and coverage."""
        key = shape, colour, radius_px, seed
        if key not in self._sprites:
            self._sprites[key] = _sprite(*key)
        return self._sprites[key]

    def forget_sprites(self) -> None:
        """Drop all sprites: those of finished clips would fill the memory."""
        self._sprites.clear()


def _render_shot(
    world: Float32,
    camera_x: Float64,
    camera_y: Float64,
    layers: Sequence[tuple[Float32, Track]],
    height: int,
    width: int,
) -> Iterator[UInt8]:
    """Render a shot: a background, the camera's place in each frame, and sprites with tracks, the nearest last."""
    bare, full = (np.empty((height, width, 3), np.float32) for _ in range(2))
    bare_bytes = np.empty((height, width, 3), np.uint8)
    for frame in range(len(camera_x)):
        if frame == 0 or (camera_x[frame], camera_y[frame]) != (camera_x[frame - 1], camera_y[frame - 1]):
            kernels.crop(world, camera_x[frame], camera_y[frame], bare)
            kernels.to_bytes(bare, bare_bytes, 0, height, 0, width)
        picture = bare_bytes.copy()
        shown = [
            _Placed(sprite, track, frame, camera_x[frame], camera_y[frame])
            for sprite, track in layers
            if track.is_there[frame]
        ]
        boxes = [placed.box(height, width) for placed in shown]
        for top, bottom, left, right in boxes:  # all of them first: they may overlap
            full[top:bottom, left:right] = bare[top:bottom, left:right]
        for placed in shown:
            placed.lay(full)
        for box in boxes:
            kernels.to_bytes(full, picture, *box)
        yield picture


class _Placed:
    """A sprite at its place in one frame."""

    def __init__(self, sprite: Float32, track: Track, frame: int, camera_x: float, camera_y: float) -> None:
        self.sprite = sprite
        self.x_px, self.y_px = round(float(track.x_px[frame]) - camera_x), round(float(track.y_px[frame]) - camera_y)
        turn = math.radians(track.degrees[frame])
        self.cosine, self.sine = math.cos(turn), math.sin(turn)
        self.scale = float(track.scale[frame])

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return rows and columns (top, bottom, left, right) that contain it in a picture of this size."""
        reach = math.ceil(0.5 * len(self.sprite) * self.scale * (abs(self.cosine) + abs(self.sine)))
        rows = max(0, self.y_px - reach), min(height, self.y_px + reach + 1)
        columns = max(0, self.x_px - reach), min(width, self.x_px + reach + 1)
        return rows[0], max(rows), columns[0], max(columns)

    def lay(self, picture: Float32) -> None:
        """Lay it over a picture."""
        kernels.lay(picture, self.sprite, self.x_px, self.y_px, self.cosine, self.sine, self.scale)


def band_noise(rng: np.random.Generator, height: int, width: int, shortest_px: float, longest_px: float) -> Float64:
    """Return (height, width) float64 noise of unit variance: a band of 1/f amplitudes that repeats at its edges."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    in_band = (frequency >= 1 / longest_px) & (frequency <= 1 / shortest_px)
    spectrum *= np.where(in_band, 1 / np.maximum(frequency, 1 / longest_px), 0.0)
    noise: Float64 = np.fft.irfft2(spectrum, s=(height, width))
    noise /= noise.std()
    return noise


def _background(seed: int, size_px: int, tints: Tints | None) -> Float32:
    rng = np.random.Generator(np.random.PCG64(seed))
    side = round(size_px * _WORLD_SHARE)
    middle = rng.uniform(90, 170)
    first, second = (np.clip(middle + rng.uniform(-28, 28, 3) + change, 60, 200) for change in (-14, 14))
    if tints is not None:
        first, second = (np.array(tint, np.float64) for tint in tints)
    blend = 0.5 + 0.5 * np.tanh(1.2 * band_noise(rng, side, side, side / 5, side))[..., None]
    grain = 11.0 * band_noise(rng, side, side, 5, 40)[..., None]
    return np.clip(first + (second - first) * blend + grain, 0, 255).astype(np.float32)


def _sprite(shape: str, colour: str, radius_px: float, seed: int) -> Float32:
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


def _distance_px(shape: str, x_px: Float64, y_px: Float64, radius_px: float) -> Float64:
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
