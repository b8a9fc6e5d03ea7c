"""The benchmarks measure what they say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.extract import measure_extract
from benchmarks.warp import measure_warp, nearest_warp
from cope_cli.codec.fusion import FrameSize
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import EntryNotFoundError
from cope_cli.evaluate.tokens import PAPER_WITH_DELTA, token_tables
from cope_cli.model.token_plan import TokenCosts


def test_on_a_panning_scene_motion_predicts_better_than_copying(shared_cache):
    (record,) = measure_warp([], shared_cache.root)
    assert record.name == shared_cache.primitives
    assert record.num_p_slots == 5  # GOPs of 30, 30 and 15 frames, windows of 10
    assert record.bilinear_mae < record.nearest_mae < record.copy_mae


def test_warp_is_measured_for_the_videos_that_are_named(shared_cache):
    (record,) = measure_warp([shared_cache.source.name], shared_cache.root)
    assert record.name == shared_cache.primitives
    with pytest.raises(EntryNotFoundError, match="nothing"):
        measure_warp(["nothing.mp4"], shared_cache.root)


def test_the_nearest_warp_moves_whole_cells_with_the_sign_of_eq_1():
    previous = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    motion = np.zeros((2, 32, 32), np.int16)
    motion[0] = 2 * 3  # half-pixels: things moved 3 pixels to the right; here a pixel is a cell
    moved = nearest_warp(previous, motion, FrameSize(width=32, height=32))
    np.testing.assert_array_equal(moved[:, 3:], previous[:, :-3])


def test_extraction_costs_are_measured_against_the_limit(clip):
    seen = []
    (cost,) = measure_extract(
        [clip],
        EncodeConfig(gop_frames=30),
        ExtractConfig(fusion_frames=10, grid_px=32),
        rounds=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (cost.width_px, cost.height_px, cost.num_frames) == (96, 64, 75)
    assert min(cost.limit_ms, cost.in_memory_ms, cost.stored_ms) > 0
    assert cost.stored_ratio == cost.stored_ms / cost.limit_ms
    assert seen == [(1, 2), (2, 2)]


def test_table_1_is_computed_from_the_papers_own_lengths():
    rows = {(row["benchmark"], row["keyframes_per_gop"]): row for row in token_tables().table_1}
    assert set(rows) == {(name, k) for name in PAPER_WITH_DELTA for k in (1, 2, 4)}
    assert rows["PerceptionTest", 1]["mean_gops"] == pytest.approx(3.39, abs=0.01)
    for row in rows.values():
        assert row["difference_points"] == pytest.approx(row["ours_percent"] - row["paper_percent"])
        assert abs(row["difference_points"]) < 2.5


def test_tables_follow_the_model_that_is_given():
    rows = token_tables(TokenCosts(grid_rows=7, grid_cols=7)).per_gop
    assert [row["tokens_per_gop"] for row in rows] == [126, 172, 264]  # 56 an RGB slot, 10 a P slot
