"""The answers are true: held against what the tracks show, and against records that a person can check."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from cope_cli.world import facts
from cope_cli.world.records import GOP_FRAMES, Clip, Meeting, Part, Shot, Thing
from cope_cli.world.tracks import track_of


def thing_of(colour: str, shape: str = "circle", *parts: Part, x_px: float = 64, y_px: float = 64, **fields) -> Thing:
    values = {"radius_px": 13.0, "degrees": 0.0, "seed": 1, "depth": 0, **fields}
    return Thing(colour=colour, shape=shape, x_px=x_px, y_px=y_px, parts=parts, **values)


def leg(direction: str, from_seconds: float, until_seconds: float, length_px: float = 30) -> Part:
    return Part(
        kind="move",
        direction=direction,
        from_seconds=from_seconds,
        until_seconds=until_seconds,
        length_px=length_px,
    )


def vanish(at_seconds: float) -> Part:
    return Part(kind="vanish", from_seconds=at_seconds, until_seconds=at_seconds)


def shot_of(*things: Thing, **fields) -> Shot:
    return Shot(num_frames=GOP_FRAMES, background_seed=1, things=things, **fields)


def clip_of(*shots: Shot) -> Clip:
    return Clip(name="c", group="g", twin=0, theme="t", size_px=128, shots=shots)


def steps_of(thing: Thing, num_frames: int) -> list[tuple[int, int]]:
    """The signs of a thing's step (x, y) from each frame to the next."""
    track = track_of(thing, num_frames)
    return [(int(x), int(y)) for x, y in zip(np.sign(np.diff(track.x_px)), np.sign(np.diff(track.y_px)), strict=True)]


def ways_of(thing: Thing, num_frames: int) -> list[str]:
    """The directions in which a thing is seen to go, each stretch once."""
    names = {(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down"}
    ways = [names[step] for step in steps_of(thing, num_frames) if step != (0, 0)]
    return ways[:1] + [b for a, b in pairwise(ways) if a != b]


def things_of(world):
    return [(clip, shot, thing) for clip in world.clips for shot in clip.shots for thing in shot.things]


def test_directions_and_changes_are_what_the_tracks_show(world):
    seen = 0
    for _, shot, thing in things_of(world):
        ways = ways_of(thing, shot.num_frames)
        if not shot.meeting and not shot.pan:
            assert facts.direction(shot, thing.name) == (ways[0] if len(set(ways)) == 1 else None)
        first, last = facts.first_direction(shot, thing.name), facts.last_direction(shot, thing.name)
        if first is not None:
            assert (first, last) == (ways[0], ways[-1])
            seen += 1
        assert facts.changes(shot, thing.name) == (str(len(ways) - 1) if ways else None)
    assert seen > 50


def test_what_stops_moves_early_and_not_late(world):
    seen = set()
    for clip, shot, thing in things_of(world):
        state = facts.state(shot, clip.size_px, thing.name)
        if state is None:
            continue
        moving = [step != (0, 0) for step in steps_of(thing, shot.num_frames)]
        early, late = any(moving[:15]), any(moving[-60:-45])
        expected = {(True, False): "stops", (False, True): "starts", (True, True): "keeps moving"}
        assert state == expected.get((early, late), "stays still")
        assert state != "stays still" or not any(moving)
        seen.add(state)
    assert len(seen) == 4


def test_the_faster_thing_has_gone_further_while_both_move(world):
    asked = 0
    for item in world.items:
        if item["kind"] != "faster" or item["form"] != "open":
            continue
        clip = world.clip(item)
        for shot in clip.shots:
            question = item["conversations"][0]["value"]
            pair = [thing for thing in shot.things if thing.name in question]
            if len(pair) == 2:
                tracks = [track_of(thing, shot.num_frames) for thing in pair]
                gone = [np.hypot(t.x_px - t.x_px[0], t.y_px - t.y_px[0]).max() for t in tracks]
                assert pair[int(gone[1] > gone[0])].name == item["answer"]
                assert max(gone) > 1.7 * min(gone)
                asked += 1
    assert asked > 10


def test_the_end_and_the_count_are_what_the_last_frame_shows(world):
    names = np.array(facts.CELLS).reshape(3, 3)
    seen = 0
    for clip in world.clips:
        for thing in clip.shots[-1].things:
            end = facts.end(clip, thing.name)
            if end is not None:
                track = track_of(thing, clip.shots[-1].num_frames)
                assert names[int(track.y_px[-1] * 3 // 128), int(track.x_px[-1] * 3 // 128)] == end
                seen += 1
        count = facts.count_at_end(clip)
        if count is not None:
            (shot,) = clip.shots
            assert int(count) == sum(track_of(thing, shot.num_frames).is_there[-1] for thing in shot.things)
    assert seen > 300


@pytest.mark.parametrize(
    ("x_px", "y_px", "name"),
    [(20, 20, "top left"), (64, 20, "top"), (100, 64, "right"), (64, 64, "middle"), (30, 100, "bottom left")],
)
def test_cells_are_thirds_of_the_picture(x_px, y_px, name):
    assert facts.cell(x_px, y_px, 128) == name
    assert facts.cell(2 * x_px, 2 * y_px, 256) == name


@pytest.mark.parametrize(("x_px", "is_named"), [(37, True), (39.5, False), (42, False), (46, False), (47, True)])
def test_near_a_line_between_cells_a_place_has_no_name(x_px, is_named):
    assert (facts.cell(x_px, 64, 128) is not None) == is_named


def test_questions_are_left_open_where_a_clip_leaves_them_open():
    red, blue = thing_of("red", "circle", leg("left", 0, 4)), thing_of("blue", "square", leg("up", 0, 5, 28))
    shot = shot_of(red, blue)
    assert facts.faster(shot, "red circle", "blue square") is None  # 7.5 and 5.6 pixels a second: too near
    assert facts.order(shot, "red circle stops moving", "blue square stops moving") is None  # a second apart
    assert facts.which(shot, 128, "moves") is None  # both do
    assert facts.which(shot, 128, "spins") == "none of them"
    assert facts.direction(shot, "green cross") is None
    assert facts.direction(shot_of(red, pan=leg("left", 1, 5)), "red circle") is None
    late = shot_of(red, replace(blue, parts=(leg("up", 0, 6, 10),)))
    assert facts.order(late, "red circle stops moving", "blue square stops moving") == "red circle stops moving"
    assert facts.faster(late, "blue square", "red circle") == "red circle"


def test_captions_of_hand_made_clips():
    red, blue = thing_of("red"), thing_of("blue", "square", x_px=30)

    def told(*things: Thing, **fields) -> str | None:
        return facts.caption(clip_of(shot_of(*things, **fields)))

    def acting(thing: Thing, *parts: Part) -> Thing:
        return replace(thing, parts=parts)

    assert told(red) == "Nothing happens."
    assert told(acting(red, leg("left", 0, 8))) == "At the middle, the red circle keeps moving left."
    assert told(acting(red, leg("left", 0, 4))) == "At the middle, the red circle moves left and stops."
    assert told(acting(red, leg("left", 2, 8))) == "At the middle, the red circle starts moving left."
    turning = acting(red, leg("up", 0, 3), leg("right", 3, 8))
    assert told(turning) == "At the middle, the red circle moves up, then right."
    bounce = acting(red, leg("left", 0, 4, 51), leg("right", 4, 8))
    assert told(bounce) == "At the middle, the red circle moves left, bounces and moves right."
    both = (acting(red, vanish(3)), acting(blue, leg("down", 1, 4)))
    first = "At the left, the blue square starts moving down and stops."
    assert told(*both) == f"{first} At the middle, the red circle vanishes."
    together = (acting(red, leg("up", 0, 8)), acting(blue, leg("down", 0, 8)))
    first = "At the left, the blue square keeps moving down."
    assert told(*together) == f"{first} At the middle, the red circle keeps moving up."  # from the left
    assert told(red, pan=leg("left", 1, 5)) == "The camera pans left."
    met = Meeting(mover="red circle", other="blue square", outcome="behind")
    behind = told(acting(red, leg("left", 0, 5)), blue, meeting=met)
    assert behind == "At the middle, the red circle passes behind the blue square."
    cut = clip_of(shot_of(acting(red, vanish(3))), shot_of(acting(blue, leg("up", 0, 8))))
    second = "Then there is a cut. At the left, the blue square keeps moving up."
    assert facts.caption(cut) == f"At the middle, the red circle vanishes. {second}"


def test_what_is_not_there_at_first_has_no_place():
    shown = Part(kind="appear", from_seconds=2, until_seconds=2)
    shot = shot_of(replace(thing_of("red"), is_there=False, parts=(shown,)))
    assert facts.place(shot, 128, "red circle") is None
    assert facts.caption(clip_of(shot)) == "The red circle appears."


def test_what_is_in_a_cell_is_told_where_it_is_one_thing_and_not_near_a_line():
    red, blue = thing_of("red"), thing_of("blue", "square", x_px=30)
    assert facts.there(clip_of(shot_of(red, blue)), "left") == "blue square"
    assert facts.there(clip_of(shot_of(red, blue)), "top") is None
    assert facts.there(clip_of(shot_of(red, replace(blue, x_px=60))), "middle") is None  # two
    assert facts.there(clip_of(shot_of(red, replace(blue, x_px=41))), "left") is None  # near a line
    assert facts.there(clip_of(shot_of(red, replace(blue, x_px=44))), "middle") is None  # two, one near a line


def test_records_survive_json(world):
    for clip in world.clips[:200]:
        assert Clip.from_dict(clip.to_dict()) == clip
