"""Slots as they are shown: pictures that obey Eq. 1, tokens that add up, ranges that keep to their limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cope_cli.cache.primitives import Primitives
from cope_cli.codec.fusion import warp
from cope_cli.errors import UsageError
from cope_cli.inspect.entry import find_entry
from cope_cli.inspect.slots import plans_of, slot_pictures, slot_range, slot_rows, typical_slot


@pytest.fixture(scope="module")
def primitives(shared_cache) -> Primitives:
    entry = shared_cache.cache.primitives_entry(shared_cache.primitives)
    assert entry is not None
    return Primitives(entry)


def test_moved_plus_residual_is_the_frame(primitives):
    shown = list(slot_pictures(primitives, range(len(primitives.slots))))
    assert [pictures.slot for pictures in shown] == list(range(8))
    for before, pictures in zip([None, *shown], shown, strict=False):
        if primitives.slots.is_iframe[pictures.slot]:
            assert pictures.motion is None
            assert np.array_equal(pictures.frame, primitives.grid_iframe(pictures.slot))
            continue
        assert before is not None
        assert np.array_equal(pictures.previous, before.frame)
        moved = warp(pictures.previous, pictures.motion, primitives.size)
        assert np.array_equal(pictures.compensated, moved)
        assert np.array_equal(moved + pictures.residual, pictures.frame)


@pytest.mark.parametrize("slots", [range(1, 3), range(4, 6), range(5, 6), range(7, 8)])
def test_a_run_from_inside_a_gop_is_the_same_as_from_the_start(primitives, slots):
    every = list(slot_pictures(primitives, range(8)))
    for pictures in slot_pictures(primitives, slots):
        whole = every[pictures.slot]
        assert np.array_equal(pictures.frame, whole.frame)
        assert (pictures.previous is None) == (whole.previous is None)
        assert pictures.previous is None or np.array_equal(pictures.previous, whole.previous)


def test_the_tokens_of_all_slots_are_those_of_the_plan(primitives):
    plans = plans_of(primitives)
    rows = slot_rows(primitives, range(8), plans)
    for index, plan in enumerate(plans):
        assert sum(row.tokens[index] for row in rows) == plan.num_tokens
    assert [row.tokens[0] for row in rows] == [210, 10, 10] * 2 + [210, 10]
    assert [row.is_iframe for row in rows] == [True, False, False] * 2 + [True, False]
    assert [row.energy is None for row in rows] == [row.is_iframe for row in rows]


def test_only_p_slots_of_adaptive_windows_have_a_length_of_their_own(primitives, filled_cache):
    assert {row.window_frames for row in slot_rows(primitives, range(8), plans_of(primitives))} == {None}
    entry = find_entry(str(filled_cache.source), filled_cache.cache, fusion_frames=12, adaptive=True).entry
    adaptive = Primitives(entry)
    rows = slot_rows(adaptive, range(len(adaptive.slots)), plans_of(adaptive))
    for before, row in zip([None, *rows], rows, strict=False):
        assert row.window_frames == (None if row.is_iframe else row.frame - before.frame)
    assert {row.window_frames for row in rows} - {None, 12}


def test_a_pan_by_two_pixels_a_frame_moves_twenty_in_a_window_of_ten(primitives):
    """The camera goes right by (2, 0), so most of the picture goes left; disc and borders differ."""
    rows = slot_rows(primitives, range(8), plans_of(primitives))
    assert 14 < rows[1].energy.motion_mean_px < 24
    assert rows[1].energy.moved_share > 0.8


def test_slots_between_two_times(primitives):
    def of(*args):
        return slot_range(primitives, from_seconds=args[0], to_seconds=args[1], max_slots=args[2])

    third = 1 / 3
    assert of(0.0, None, None) == (range(8), "")
    assert of(third, 1.0, None) == (range(1, 3), "")
    assert of(third + 1e-6, None, None)[0] == range(2, 8)
    shown, note = of(0.0, None, 5)
    assert shown == range(5)
    assert "slots 0 to 4 of 8" in note
    assert "--from 1.66667" in note
    assert of(0.0, 100.0, 5) == (range(8), "")  # an end that is given is kept


@pytest.mark.parametrize("times", [(99.0, None), (0.1, 0.2)])
def test_no_slot_between_two_times_says_where_they_are(primitives, times):
    with pytest.raises(UsageError, match=r"slots are at 0 to 2\.33333 s"):
        slot_range(primitives, from_seconds=times[0], to_seconds=times[1], max_slots=None)


def test_the_typical_slot_has_the_most_motion_and_is_no_cut(primitives):
    rows = slot_rows(primitives, range(8), plans_of(primitives))
    moving = next(row for row in rows if row.energy)
    cut = replace(
        moving,
        slot=9,
        energy=replace(
            moving.energy, motion_mean_px=99.0, residual_mean_levels=3 * moving.energy.residual_mean_levels + 20
        ),
    )
    chosen = rows[typical_slot([*rows, cut])]
    assert chosen.energy.motion_mean_px == max(row.energy.motion_mean_px for row in rows if row.energy)
    assert typical_slot(rows[:1]) == 0
