"""Twin groups: four clips with a common beginning and different events.

A theme makes four scripts for one start, so that each answer to a question is true in equally many twins. If a script
does not fit, the whole group is drawn again with another start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from cope_cli.world.acts import ACTS, LEAST_MOVE_PX, LEAST_SPEED_RATIO, Canvas, NoRoomError, act, place_after
from cope_cli.world.records import (
    COLOURS,
    GOP_FRAMES,
    GOP_SECONDS,
    OPPOSITE,
    STEPS,
    Direction,
    Meeting,
    Part,
    Shot,
    Thing,
)
from cope_cli.world.tracks import track_of

NUM_TWINS = 4
SHAPES = ("circle", "square", "triangle", "cross")
#: Radii in pixels of a 128-pixel picture by the number of things: all at least 20 pixels across.
_RADII_PX = {1: (13.0, 17.0), 2: (12.0, 15.0), 3: (11.0, 13.0), 4: (10.5, 12.0)}
_FREE_PX, _MAX_TRIES = 20.0, 400  # room between a thing and the rim: every direction stays possible

_WHAT = tuple(name for name in ACTS if name not in ("hop", "appear"))
_MANNERS = ("move", "start", "stop", "hop", "speed up", "slow down")
_WHICH = ("hop", "stop", "start", "spin", "grow", "shrink", "vanish")
_ORDERED = ("start", "stop", "vanish", "turn")


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the clips of a group begin."""

    background_seed: int
    things: tuple[Thing, ...]


@dataclass(frozen=True, kw_only=True)
class Script:
    """What happens in one twin: the things with what they do, and what the camera does."""

    things: tuple[Thing, ...]
    pan: Part | None = None
    meeting: Meeting | None = None
    cut_to: tuple[int, Shot] | None = None  # the frame of the cut, and what is seen after it


Theme = Callable[[Canvas, Start], list[Script]]


def draw_start(canvas: Canvas, num_things: int, *, without: frozenset[str] = frozenset()) -> Start:
    """Draw how a group's clips begin.

    Args:
        canvas: the picture and the random stream.
        num_things: things that show.
        without: colours that must not be used.
    """
    rng = canvas.rng
    colours = [str(name) for name in rng.permutation(list(COLOURS)) if name not in without]
    depths = rng.permutation(num_things)
    things: list[Thing] = []
    for number in range(num_things):
        low, high = _RADII_PX[num_things]
        radius_px = float(round(canvas.unit * rng.uniform(low, high), 1))
        x_px, y_px = _place(canvas, radius_px, things)
        things.append(
            Thing(
                shape=SHAPES[rng.integers(len(SHAPES))],
                colour=colours[number],
                radius_px=radius_px,
                x_px=x_px,
                y_px=y_px,
                degrees=float(rng.integers(-12, 13)),
                seed=int(rng.integers(2**31)),
                depth=int(depths[number]),
            )
        )
    canvas.things = tuple(things)
    return Start(background_seed=int(rng.integers(2**31)), things=canvas.things)


def _place(canvas: Canvas, radius_px: float, others: list[Thing]) -> tuple[float, float]:
    """Draw a place (x, y): a third of the picture on each axis, then a place in it, clear of the others."""
    free_px = radius_px + _FREE_PX * canvas.unit
    for _ in range(_MAX_TRIES):
        x_px, y_px = (_coordinate(canvas, free_px) for _ in range(2))
        far = (np.hypot(x_px - other.x_px, y_px - other.y_px) - other.radius_px - radius_px for other in others)
        if all(gap > 4 * canvas.unit for gap in far):
            return x_px, y_px
    raise NoRoomError


def _coordinate(canvas: Canvas, free_px: float) -> float:
    """Draw a coordinate in one of three cells, not near the lines between them."""
    cell, size_px = canvas.rng.integers(3), canvas.size_px
    low = max(free_px, cell * size_px / 3 + 4 * canvas.unit)
    high = min(size_px - 1 - free_px, (cell + 1) * size_px / 3 - 5 * canvas.unit)
    return float(round(canvas.rng.uniform(low, high)))


def _only(start: Start, *acting: Thing) -> tuple[Thing, ...]:
    """Return the things of a start, some of them acting."""
    by_name = {thing.name: thing for thing in acting}
    return tuple(by_name.get(thing.name, thing) for thing in start.things)


def _subjects(canvas: Canvas, start: Start, count: int) -> list[Thing]:
    """Draw whom a group is about."""
    return [start.things[index] for index in canvas.rng.permutation(len(start.things))[:count]]


def _scattered(canvas: Canvas, names: tuple[str, ...], count: int) -> list[str]:
    return [names[index] for index in canvas.rng.permutation(len(names))[:count]]


def direction(canvas: Canvas, start: Start) -> list[Script]:
    """One thing, sometimes two, go all four ways."""
    count = 2 if len(start.things) > 1 and canvas.rng.random() < 0.4 else 1
    subjects = _subjects(canvas, start, count)
    manners = [_MANNERS[index] for index in canvas.rng.integers(len(_MANNERS), size=count)]
    ways = [canvas.directions() for _ in subjects]
    return [
        Script(
            things=_only(
                start,
                *(act(canvas, s, manner, way[twin]) for s, manner, way in zip(subjects, manners, ways, strict=True)),
            )
        )
        for twin in range(NUM_TWINS)
    ]


def two_ways(canvas: Canvas, start: Start) -> list[Script]:
    """One thing goes one way and then another: all four ways first, and all four ways last."""
    (subject,) = _subjects(canvas, start, 1)
    first, last = canvas.directions(), canvas.directions()
    if any(a == b for a, b in zip(first, last, strict=True)):
        raise NoRoomError
    return [Script(things=_only(start, _legs(canvas, subject, [a, b]))) for a, b in zip(first, last, strict=True)]


def _legs(canvas: Canvas, thing: Thing, ways: list[Direction]) -> Thing:
    """Let a thing go several ways, one after the other, about as long as each other, until the end."""
    times = np.linspace(0, GOP_SECONDS, len(ways) + 1)
    times[1:-1] += canvas.rng.uniform(-0.4, 0.4, len(ways) - 1)
    parts: tuple[Part, ...] = ()
    for way, from_seconds, until_seconds in zip(ways, times.round(1), times[1:].round(1), strict=False):
        at_px = place_after(thing, parts)
        parts = (*parts, canvas.move(thing, way, float(from_seconds), float(until_seconds), at_px=at_px))
    return replace(thing, parts=parts)


def what(canvas: Canvas, start: Start) -> list[Script]:
    """One thing does four different things."""
    (subject,) = _subjects(canvas, start, 1)
    names = _scattered(canvas, _WHAT, NUM_TWINS)
    return [Script(things=_only(start, act(canvas, subject, name))) for name in names]


def state(canvas: Canvas, start: Start) -> list[Script]:
    """One thing stops, starts, keeps moving, stays still."""
    (subject,) = _subjects(canvas, start, 1)
    names = _scattered(canvas, ("stop", "start", "move", "stay"), NUM_TWINS)
    return [Script(things=_only(start, act(canvas, subject, name))) for name in names]


def changes(canvas: Canvas, start: Start) -> list[Script]:
    """One thing changes its direction never, once, twice, three times; its first way is another in each twin."""
    (subject,) = _subjects(canvas, start, 1)
    scripts = []
    for number, first in zip(canvas.rng.permutation(NUM_TWINS), canvas.directions(), strict=True):
        ways: list[Direction] = [first]
        for _ in range(number):
            ways.append(canvas.direction(ways[-1]))
        scripts.append(Script(things=_only(start, _legs(canvas, subject, ways))))
    return scripts


def which(canvas: Canvas, start: Start) -> list[Script]:
    """Another thing does the same in each twin; with three things, in one twin none does."""
    name = _WHICH[canvas.rng.integers(len(_WHICH))]
    things = _subjects(canvas, start, len(start.things))
    if len(things) < 2:
        raise NoRoomError
    actors: list[Thing | None] = [*things, None] if len(things) == 3 else [*things, *things]
    return [
        Script(things=_only(start, act(canvas, actor, name)) if actor else start.things) for actor in actors[:NUM_TWINS]
    ]


def faster(canvas: Canvas, start: Start) -> list[Script]:
    """Two things move at the same time; each is the faster one in two twins."""
    if len(start.things) < 2:
        raise NoRoomError
    one, other = _subjects(canvas, start, 2)
    from_seconds, until_seconds = canvas.seconds(0, 2), canvas.seconds(4.5, 5.8)
    scripts = []
    for swap in canvas.rng.permutation([False, True, False, True]):
        fast, slow = (other, one) if swap else (one, other)
        quick = canvas.move(fast, canvas.direction(), from_seconds, until_seconds, share=(0.85, 1))
        most_px = quick.length_px / LEAST_SPEED_RATIO
        calm = canvas.move(slow, canvas.direction(), from_seconds, until_seconds)
        calm = replace(calm, length_px=min(calm.length_px, float(round(most_px * canvas.rng.uniform(0.8, 0.97)))))
        if calm.length_px < canvas.unit * LEAST_MOVE_PX:
            raise NoRoomError
        scripts.append(Script(things=_only(start, replace(fast, parts=(quick,)), replace(slow, parts=(calm,)))))
    return scripts


def order(canvas: Canvas, start: Start) -> list[Script]:
    """Two things have one moment each; each comes first in two twins."""
    if len(start.things) < 2:
        raise NoRoomError
    pair = _subjects(canvas, start, 2)
    names = [_ORDERED[index] for index in canvas.rng.integers(len(_ORDERED), size=2)]
    scripts = []
    for swap in canvas.rng.permutation([False, True, False, True]):
        times = [canvas.seconds(1.3, 2.6), canvas.seconds(4.4, 5.8)]
        moments = times[::-1] if swap else times
        acting = [_at(canvas, thing, name, at) for thing, name, at in zip(pair, names, moments, strict=True)]
        scripts.append(Script(things=_only(start, *acting)))
    return scripts


def _at(canvas: Canvas, thing: Thing, name: str, at_seconds: float) -> Thing:
    """Let a thing start, stop, turn or vanish at a time."""
    if name == "vanish":
        return replace(thing, parts=(Part(kind="vanish", from_seconds=at_seconds, until_seconds=at_seconds),))
    way = canvas.direction()
    if name == "start":
        return replace(thing, parts=(canvas.move(thing, way, at_seconds, GOP_SECONDS),))
    first = canvas.move(thing, way, 0.0, at_seconds)
    if name == "stop":
        return replace(thing, parts=(first,))
    then = canvas.direction(way, OPPOSITE[way])
    second = canvas.move(thing, then, at_seconds, GOP_SECONDS, at_px=place_after(thing, (first,)))
    return replace(thing, parts=(first, second))


def reach_px(thing: Thing, direction: Direction) -> float:
    """Return how far a shape's edge is from its centre in a direction, on the line through the centre."""
    shares = {"square": 0.85, "cross": 1.05, "triangle": {"up": 1.2, "down": 0.6}.get(direction, 0.7)}
    return thing.radius_px * shares.get(thing.shape, 1.0)


def meeting(canvas: Canvas, start: Start) -> list[Script]:
    """One thing goes towards another: it passes behind, in front, hits it, or stops short."""
    if len(start.things) < 2:
        raise NoRoomError
    mover, other = _subjects(canvas, start, 2)
    way = canvas.direction()
    step_x, step_y = STEPS[way]
    touch_px = reach_px(mover, way) + reach_px(other, OPPOSITE[way])
    far_px = float(round(touch_px + canvas.unit * canvas.rng.uniform(12, 20)))
    clear_px = reach_px(mover, OPPOSITE[way]) + reach_px(other, way)
    beyond_px = float(round(clear_px + canvas.unit * canvas.rng.uniform(2, 6)))
    if canvas.room_px(mover.x_px, mover.y_px, way, mover.radius_px * 0.7) < far_px + beyond_px:
        raise NoRoomError
    other = replace(other, x_px=mover.x_px + step_x * far_px, y_px=mover.y_px + step_y * far_px)
    begins, lasts = canvas.seconds(0, 1), canvas.seconds(5, 6)
    speed = (far_px + beyond_px) / lasts

    def go(thing: Thing, length_px: float, from_seconds: float) -> Part:
        until = float(round(from_seconds + length_px / speed, 2))
        return Part(
            kind="move", from_seconds=from_seconds, until_seconds=until, direction=way, length_px=float(length_px)
        )

    passes = go(mover, far_px + beyond_px, begins)
    until_touch = go(mover, round(far_px - touch_px), begins)
    pushed = go(other, beyond_px, until_touch.until_seconds)
    short = go(mover, round((far_px - touch_px) * 0.5), begins)
    scripts = []
    for outcome in ("behind", "in front", "hits", "stops short"):
        depths = (9, 8) if outcome == "behind" else (8, 9)
        part = {"hits": until_touch, "stops short": short}.get(outcome, passes)
        acting = replace(mover, depth=depths[0], parts=(part,))
        standing = replace(other, depth=depths[1], parts=(pushed,) if outcome == "hits" else ())
        met = Meeting(mover=mover.name, other=other.name, outcome=outcome)
        scripts.append(Script(things=_only(start, acting, standing), meeting=met))
    return scripts


def camera(canvas: Canvas, start: Start) -> list[Script]:
    """The camera pans four ways, stands still, or there is a cut: four of these."""
    scripts = []
    for name in _scattered(canvas, ("left", "right", "up", "down", "still", "cut"), NUM_TWINS):
        script = Script(things=start.things)
        if name in STEPS:
            from_seconds, until_seconds = canvas.seconds(0, 2), canvas.seconds(4.5, 6.5)
            length_px = float(round((until_seconds - from_seconds) * canvas.unit * canvas.rng.uniform(7, 15)))
            pan = Part(
                kind="move",
                from_seconds=from_seconds,
                until_seconds=until_seconds,
                direction=name,  # type: ignore[arg-type]
                length_px=length_px,
            )
            script = replace(script, pan=pan)
        elif name == "cut":
            at_frame = int(canvas.rng.integers(60, 180))
            used = frozenset(thing.colour for thing in start.things)
            other = draw_start(Canvas(canvas.size_px, canvas.rng), 1 + int(canvas.rng.integers(2)), without=used)
            after = Shot(num_frames=GOP_FRAMES - at_frame, background_seed=other.background_seed, things=other.things)
            script = replace(script, cut_to=(at_frame, after))
        scripts.append(script)
    return scripts


def appearing(canvas: Canvas, start: Start) -> list[Script]:
    """Something else appears in each of three twins, nothing in the fourth."""
    used = {thing.colour for thing in start.things}
    colours = [str(name) for name in canvas.rng.permutation(list(COLOURS)) if name not in used]
    if len(colours) < NUM_TWINS - 1:
        raise NoRoomError
    newcomers = [_newcomer(canvas, start, colour) for colour in colours[: NUM_TWINS - 1]]
    return [Script(things=start.things), *(Script(things=(*start.things, newcomer)) for newcomer in newcomers)]


def _newcomer(canvas: Canvas, start: Start, colour: str) -> Thing:
    rng, radius_px = canvas.rng, start.things[0].radius_px
    x_px, y_px = _place(canvas, radius_px, list(start.things))
    new = Thing(
        shape=SHAPES[rng.integers(len(SHAPES))],
        colour=colour,
        radius_px=radius_px,
        x_px=x_px,
        y_px=y_px,
        degrees=float(rng.integers(-12, 13)),
        seed=int(rng.integers(2**31)),
        depth=len(start.things),
        is_there=False,
    )
    return act(canvas, new, "appear")


def counting(canvas: Canvas, start: Start) -> list[Script]:
    """One thing vanishes, one appears, two vanish or appear, or nothing of this happens."""
    leaving = _subjects(canvas, start, 2)
    one, two = (_newcomer(canvas, start, colour) for colour in _unused(canvas, start, 2))
    if np.hypot(one.x_px - two.x_px, one.y_px - two.y_px) < one.radius_px + two.radius_px + 4 * canvas.unit:
        raise NoRoomError
    last = Script(things=(*start.things, one, two))
    if len(leaving) == 2 and canvas.rng.random() < 0.5:
        last = Script(things=_only(start, *(act(canvas, thing, "vanish") for thing in leaving)))
    return [
        Script(things=start.things),
        Script(things=_only(start, act(canvas, leaving[0], "vanish"))),
        Script(things=(*start.things, one)),
        last,
    ]


def _unused(canvas: Canvas, start: Start, count: int) -> list[str]:
    used = {thing.colour for thing in start.things}
    return [str(name) for name in canvas.rng.permutation(list(COLOURS)) if name not in used][:count]


#: Theme -> its weight with one thing in the world, and with several.
THEMES: dict[str, tuple[Theme, float, float]] = {
    "direction": (direction, 0.28, 0.13),
    "two ways": (two_ways, 0.14, 0.07),
    "what": (what, 0.28, 0.13),
    "state": (state, 0.15, 0.07),
    "changes": (changes, 0.15, 0.08),
    "which": (which, 0.0, 0.11),
    "faster": (faster, 0.0, 0.12),
    "order": (order, 0.0, 0.12),
    "meeting": (meeting, 0.0, 0.1),
    "camera": (camera, 0.0, 0.09),
    "appearing": (appearing, 0.0, 0.05),
    "counting": (counting, 0.0, 0.06),
}
#: Themes that are about two things, and need them.
NEEDS_TWO = ("which", "faster", "order", "meeting")


def overlaps(script: Script, num_frames: int) -> bool:
    """Return whether two things that show come to touch each other, other than in a meeting."""
    meet = {script.meeting.mover, script.meeting.other} if script.meeting else set()
    tracks = {thing.name: (thing, track_of(thing, num_frames)) for thing in script.things}
    for (name, (thing, track)), (other_name, (other, other_track)) in combinations(tracks.items(), 2):
        far_px = np.hypot(track.x_px - other_track.x_px, track.y_px - other_track.y_px)
        touch_px = 1.05 * (thing.radius_px * track.scale + other.radius_px * other_track.scale)
        if {name, other_name} != meet and ((far_px < touch_px) & track.is_there & other_track.is_there).any():
            return True
    return False
