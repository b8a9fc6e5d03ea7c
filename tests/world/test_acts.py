"""What things do: named as it was drawn, possible from every place and in every direction, over by the last slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cope_cli.world.acts import (
    ACTS,
    LEAST_MOVE_PX,
    Canvas,
    NoRoomError,
    act,
    act_of,
    moment_of,
    num_changes,
    place_after,
    speed_of,
)
from cope_cli.world.records import DIRECTIONS, LAST_SLOT_SECONDS, STEPS, Part, Thing
from cope_cli.world.themes import draw_start
from cope_cli.world.tracks import SLOW_SHARE, track_of

SIZE_PX = 128
WITH_DIRECTION = ("move", "start", "stop", "hop", "speed up", "slow down", "turn")


def canvas_of(seed: int) -> Canvas:
    return Canvas(SIZE_PX, np.random.Generator(np.random.PCG64(seed)))


def thing_at(x_px: float = 64, y_px: float = 64, **fields) -> Thing:
    values = {"shape": "circle", "colour": "red", "radius_px": 14.0, "degrees": 0.0, "seed": 1, "depth": 0}
    return Thing(**{**values, "x_px": x_px, "y_px": y_px, **fields})


def leg(direction: str, from_seconds: float, until_seconds: float, length_px: float = 20, **fields) -> Part:
    return Part(
        kind="move",
        direction=direction,
        from_seconds=from_seconds,
        until_seconds=until_seconds,
        length_px=length_px,
        **fields,
    )


@pytest.mark.parametrize("name", [name for name in ACTS if name != "appear"])
def test_an_act_is_called_by_the_name_it_was_drawn_by(name):
    for seed in range(40):
        canvas = canvas_of(seed)
        (thing,) = draw_start(canvas, 1).things
        try:
            acting = act(canvas, thing, name)
        except NoRoomError:
            assert name in ("turn", "turn back", "bounce")
            continue
        assert act_of(acting, SIZE_PX) == name


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", [name for name in WITH_DIRECTION if name != "turn"])
def test_wherever_a_thing_starts_every_direction_is_possible(name, direction):
    for seed in range(60):
        canvas = canvas_of(seed)
        (thing,) = draw_start(canvas, 1).things
        (part,) = act(canvas, thing, name, direction).parts
        assert part.direction == direction
        assert part.length_px >= LEAST_MOVE_PX


def test_the_centre_of_a_thing_never_leaves_the_picture(one_object_world, world):
    for clip in [*one_object_world.clips, *world.clips]:
        for shot in clip.shots:
            for thing in shot.things:
                track = track_of(thing, shot.num_frames)
                assert min(track.x_px.min(), track.y_px.min()) > 0
                assert max(track.x_px.max(), track.y_px.max()) < clip.size_px - 1


def test_whatever_begins_or_ends_does_so_before_the_last_slot_of_its_gop(world):
    for clip in world.clips:
        for shot in clip.shots:
            parts = [part for thing in shot.things for part in thing.parts] + ([shot.pan] if shot.pan else [])
            for part in parts:
                assert part.from_seconds % 8 < LAST_SLOT_SECONDS
                assert part.until_seconds % 8 <= LAST_SLOT_SECONDS  # 0 is the end of a GOP: it keeps moving


def test_a_bounce_touches_the_rim_and_one_that_turns_back_stays_well_away():
    for seed in range(30):
        for name in ("bounce", "turn back"):
            canvas = canvas_of(seed)
            (thing,) = draw_start(canvas, 1).things
            first = act(canvas, thing, name).parts[0]
            x_px, y_px = place_after(thing, (first,))
            gap_px = {"left": x_px, "up": y_px, "right": 127 - x_px, "down": 127 - y_px}[first.direction]
            gap_px -= thing.radius_px
            assert abs(gap_px) <= 1 if name == "bounce" else gap_px >= 11


def test_hand_made_records_have_the_names_a_person_would_give():
    here = thing_at()

    def name(*parts: Part) -> str | None:
        return act_of(replace(here, parts=parts), SIZE_PX)

    assert name() == "stay"
    assert name(leg("left", 0, 8)) == "move"
    assert name(leg("left", 3, 8)) == "start"
    assert name(leg("left", 0, 4)) == "stop"
    assert name(leg("left", 1, 5)) == "hop"
    assert name(leg("left", 0, 8, easing="faster")) == "speed up"
    assert name(leg("left", 0, 8, easing="slower")) == "slow down"
    assert name(leg("left", 0, 4), leg("up", 4, 8)) == "turn"
    assert name(leg("left", 0, 4), leg("right", 4, 8)) == "turn back"
    assert name(leg("left", 0, 4, 50), leg("right", 4, 8)) == "bounce"
    assert name(leg("left", 0, 4, 44), leg("right", 4, 8)) is None  # nearly at the rim: neither
    assert name(leg("left", 0, 3), leg("up", 4, 8)) is None  # it stops in between
    assert name(leg("left", 0, 2), leg("up", 2, 4), leg("left", 4, 8)) is None
    assert name(Part(kind="vanish", from_seconds=3, until_seconds=3)) == "vanish"


def test_changes_moments_and_speeds():
    zigzag = thing_at(parts=(leg("left", 0, 2), leg("up", 2, 4), leg("up", 4, 5), leg("left", 5, 7)))
    assert num_changes(zigzag) == 2
    assert moment_of(zigzag) is None
    assert speed_of(zigzag) is None
    assert moment_of(thing_at(parts=(leg("left", 3, 8),))) == (3, "starts moving")
    assert moment_of(thing_at(parts=(leg("left", 0, 4),))) == (4, "stops moving")
    assert moment_of(thing_at(parts=(leg("left", 1, 4),))) is None  # it has two
    assert moment_of(thing_at(parts=(leg("left", 0, 4), leg("up", 4, 8)))) == (4, "turns")
    assert moment_of(thing_at()) is None
    assert speed_of(thing_at(parts=(leg("left", 1, 5, 20),))) == 5
    assert speed_of(thing_at()) == 0
    assert speed_of(thing_at(parts=(leg("left", 0, 8, easing="faster"),))) is None


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_track_goes_where_its_part_says(direction):
    track = track_of(thing_at(parts=(leg(direction, 1, 3, 30),)), 240)
    step_x, step_y = STEPS[direction]
    for seconds, done in ((0, 0), (1, 0), (2, 0.5), (3, 1), (7, 1)):
        assert track.x_px[seconds * 30] == pytest.approx(64 + 30 * step_x * done)
        assert track.y_px[seconds * 30] == pytest.approx(64 + 30 * step_y * done)


def test_easing_begins_or_ends_slowly():
    faster, slower = (
        np.diff(track_of(thing_at(parts=(leg("right", 0, 8, 40, easing=easing),)), 241).x_px)
        for easing in ("faster", "slower")
    )
    even_px = 40 / 240
    assert faster[0] == pytest.approx(SLOW_SHARE * even_px, rel=0.05)
    assert (np.diff(faster) > 0).all()
    assert np.allclose(faster, slower[::-1])


def test_vanishing_appearing_growing_and_spinning_tracks():
    gone = track_of(thing_at(parts=(Part(kind="vanish", from_seconds=2, until_seconds=2),)), 240)
    assert gone.is_there[59] and not gone.is_there[60:].any()
    come = track_of(thing_at(is_there=False, parts=(Part(kind="appear", from_seconds=2, until_seconds=2),)), 240)
    assert not come.is_there[:60].any() and come.is_there[60:].all()
    big = track_of(thing_at(parts=(Part(kind="grow", from_seconds=1, until_seconds=3, factor=1.6),)), 240)
    assert (big.scale[30], big.scale[60], big.scale[90]) == pytest.approx((1, 1.3, 1.6))
    spun = track_of(thing_at(parts=(Part(kind="spin", from_seconds=0, until_seconds=8, degrees=240),)), 240)
    assert spun.degrees[60] == pytest.approx(60)
