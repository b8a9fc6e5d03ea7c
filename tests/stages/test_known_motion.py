"""Rendered pans: the fused field must hold the motion that was rendered, with the documented sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from known_scenes import render
from made_videos import cut_scene, pan_scene
from numpy.typing import NDArray

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.codec.clips import write_h264
from cope_cli.codec.fusion import warp
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.world.scenes import Scene

BORDER_PX = 16


def extracted(scene: Scene, folder: Path, encode: EncodeConfig, extract: ExtractConfig) -> Primitives:
    source, cache = folder / "source.mp4", Cache(folder / "cache")
    write_h264(render(scene), source, fps=30, crf=12)
    encoded = encode_video(source, cache, encode)
    entry = cache.primitives_entry(extract_video(encoded.name, cache, extract).name)
    assert entry is not None
    return Primitives(entry)


def errors_px(primitives: Primitives, slot: int, expected_px: tuple[float, float]) -> NDArray[np.float64]:
    """(2, n) errors of a slot's motion in stream pixels, where the reference lies inside the picture."""
    grid, size = primitives.grid_px, primitives.size
    motion_px = primitives.motion(slot) / 2
    centres = (np.arange(grid) + 0.5) / grid
    from_x, from_y = centres * size.width - expected_px[0], (centres * size.height - expected_px[1])[:, None]
    inside = (
        (from_x > BORDER_PX)
        & (from_x < size.width - BORDER_PX)
        & (from_y > BORDER_PX)
        & (from_y < size.height - BORDER_PX)
    )
    assert inside.mean() > 0.3
    return (motion_px - np.array(expected_px)[:, None, None])[:, inside]


# The camera goes one way, so what it sees goes the other: displacement = -(camera's step) x window.


@pytest.mark.parametrize(("x_px", "y_px"), [(2, 0), (-1, 1), (0, -3), (3, 2)])
@pytest.mark.parametrize("window", [10, 30])
def test_a_pan_by_whole_pixels_is_the_fused_motion(tmp_path: Path, x_px: int, y_px: int, window: int):
    scene = pan_scene(31, width=320, height=192, x_px=x_px, y_px=y_px)
    config = ExtractConfig(fusion_frames=window, grid_px=64)
    primitives = extracted(scene, tmp_path, EncodeConfig(short_side_px=0), config)
    for slot in range(1, 30 // window + 1):
        errors = errors_px(primitives, slot, (-x_px * window, -y_px * window))
        assert np.median(np.abs(errors), axis=1).max() < 0.5
        wrong_sign = errors_px(primitives, slot, (x_px * window, y_px * window))
        assert np.median(np.abs(wrong_sign), axis=1).max() > 10  # so that a wrong sign could not pass


@pytest.mark.parametrize(("x_px", "y_px"), [(5, 0), (0, -5)])
def test_motion_is_counted_in_pixels_of_the_encoded_stream(tmp_path: Path, x_px: int, y_px: int):
    scene = pan_scene(31, width=640, height=480, x_px=x_px, y_px=y_px)
    primitives = extracted(scene, tmp_path, EncodeConfig(), ExtractConfig(fusion_frames=15, grid_px=64))
    assert (primitives.size.width, primitives.size.height) == (512, 384)
    for slot in (1, 2):
        errors = errors_px(primitives, slot, (-x_px * 0.8 * 15, -y_px * 0.8 * 15))
        assert np.median(np.abs(errors), axis=1).max() < 0.5


def test_a_pan_is_predicted_far_better_with_its_motion_than_without(tmp_path: Path):
    scene = pan_scene(21, width=320, height=192, x_px=3)
    config = ExtractConfig(fusion_frames=10, grid_px=64)
    primitives = extracted(scene, tmp_path, EncodeConfig(short_side_px=0), config)
    frames = list(primitives.grid_frames())
    inner = (slice(8, -8), slice(8, -16))
    for slot in (1, 2):
        motion = primitives.motion(slot)
        error = {
            name: np.abs(frames[slot].astype(int) - warp(frames[slot - 1], field, primitives.size))[inner].mean()
            for name, field in (("warped", motion), ("plain", 0 * motion), ("wrong sign", -motion))
        }
        assert error["warped"] < 0.25 * error["plain"]
        assert error["warped"] < 0.25 * error["wrong sign"]
        assert np.abs(primitives.residual(slot)[inner]).mean() == error["warped"]


def test_a_still_scene_has_no_motion_and_a_residual_of_coding_noise(tmp_path: Path):
    primitives = extracted(pan_scene(61), tmp_path, EncodeConfig(), ExtractConfig(fusion_frames=20, grid_px=64))
    for slot in (1, 2, 3):
        assert (primitives.motion(slot) == 0).mean() > 0.98
        assert np.abs(primitives.residual(slot)).mean() < 0.5


def test_a_cut_inside_a_gop_leaves_no_trace_of_motion_but_a_large_residual(tmp_path: Path):
    primitives = extracted(cut_scene(15, 16), tmp_path, EncodeConfig(), ExtractConfig(fusion_frames=10, grid_px=32))
    assert np.abs(primitives.residual(1)).mean() < 2
    assert np.abs(primitives.residual(2)).mean() > 50
    assert np.abs(primitives.residual(3)).mean() < 2
