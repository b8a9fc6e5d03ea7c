"""The codec's vectors follow what moves in the world: the ground on which everything learnt from them stands."""

from __future__ import annotations

import pytest

from cope_cli.cache.store import Cache
from cope_cli.world.config import WorldConfig
from cope_cli.world.write import draw_world, world_batch
from tools.scene_vectors import run


@pytest.mark.slow
def test_the_fused_motion_on_things_is_how_far_they_went(tmp_path):
    config = WorldConfig(seed=1, two_gops=0, objects="1")
    clips, items = draw_world(config, 16)
    assert all(outcome.error is None for outcome in world_batch(config, clips, items, tmp_path, workers=1).run())
    rows = {row.px_per_second: row for row in run(tmp_path, 12, 128, Cache(tmp_path / "cache"))}
    every = rows["all"]
    assert every.num_slots >= 20
    assert every.wrong_sign_share == 0
    assert every.along_px == pytest.approx(every.went_px, rel=0.1)
    assert every.error_px < 0.1 * every.went_px
    assert every.background_px < 0.05 * every.went_px
