"""benchmarks.loader: what it counts, and a cache that cannot be measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loader import measure_loader
from cope_cli.cache.store import Cache
from cope_cli.errors import EntryNotFoundError
from cope_cli.stages.frames import ensure_frames


def test_every_p_slot_is_read_in_each_round_with_its_rgb_slots(filled_cache) -> None:
    settings = {"fusion_frames": 10, "grid_px": 32}
    with pytest.raises(EntryNotFoundError, match="do not have all RGB slots") as caught:
        measure_loader(filled_cache.root, **settings)
    assert "--store-frames all" in caught.value.hint
    (entry,) = filled_cache.cache.primitives_entries()
    info = entry.manifest.info
    num_slots, num_p = info["num_slots"], info["num_slots"] - info["num_iframe_slots"]
    ensure_frames(filled_cache.cache, entry, 32, range(num_slots))
    found = measure_loader(filled_cache.root, **settings, keyframes=1, rounds=3)
    assert (found.num_entries, found.grid_px, found.size_px) == (1, 32, 32)
    pairs, conversations = found.speeds
    assert (pairs.num_samples, pairs.num_p_slots, pairs.num_rgb_slots) == (3 * num_p, 3 * num_p, 6 * num_p)
    assert conversations.num_samples == 3
    # One keyframe a GOP, the I-frame: every P slot is shown by its Delta-tokens.
    assert (conversations.num_p_slots, conversations.num_rgb_slots) == (3 * num_p, 3 * info["num_iframe_slots"])
    assert pairs.p_slots_per_cpu_second == pytest.approx(3 * num_p / pairs.cpu_seconds)
    assert found.open_cpu_ms > 0


def test_an_empty_cache_is_an_error_that_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError, match="no primitives with fusion window 30 and grid 224") as caught:
        measure_loader(Cache(tmp_path).root, fusion_frames=30, grid_px=224)
    assert "cope extract --fusion 30 --grid 224" in caught.value.hint
