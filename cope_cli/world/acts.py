"""What a thing can do in a clip, as parts of its record, and the name of what it did, read back from the parts.

Whatever a thing does, it does before the last slot of its GOP (second 7); what "keeps moving" does so until the end.
Every act works from any place: near a rim a way is shorter, or an act that needs more room takes another direction.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from cope_cli.world.records import DIRECTIONS, GOP_SECONDS, OPPOSITE, STEPS, Direction, Easing, Part, Thing

#: What something does -> how an answer says it. `act` makes the parts, `act_of` finds the name again.
ACTS: dict[str, str] = {
    "stay": "stays still",
    "move": "keeps moving",
    "start": "starts moving",
    "stop": "stops moving",
    "hop": "starts and stops",
    "speed up": "speeds up",
    "slow down": "slows down",
    "turn": "turns",
    "turn back": "turns back",
    "bounce": "bounces",
    "spin": "spins",
    "grow": "grows",
    "shrink": "shrinks",
    "vanish": "vanishes",
    "appear": "appears",
}
USUAL_SIZE_PX = 128
LEAST_MOVE_PX = 12.0
#: The faster of two things is so many times as fast as the other, at least, or it is not asked which is faster.
LEAST_SPEED_RATIO = 1.8
#: What stops between this and the end of its GOP has no word: no slot shows it standing still.
LATEST_STOP_SECONDS = 6.0
_MOST_PX_PER_SECOND = 30.0
_BOUNCE_SLACK_PX = 1.5  # how near the rim a shape's edge is where it bounces
_TURN_BACK_GAP_PX = 12.0  # how far from the rim one at least is that turns back by itself


class NoRoomError(Exception):
    """A draw did not fit the picture: the group is drawn again."""


class Canvas:
    """The picture's size and the random stream, for everything that draws acts.

    Lengths in the code are those of a picture of 128 pixels; `unit` is how many pixels such a pixel has.
    """

    def __init__(self, size_px: int, rng: np.random.Generator) -> None:
        self.size_px = size_px
        self.unit = size_px / USUAL_SIZE_PX
        self.rng = rng
        self.things: tuple[Thing, ...] = ()  # what stands in the picture when the clip begins

    def seconds(self, low: float, high: float) -> float:
        """Draw a time, in tenths of a second."""
        return float(round(self.rng.uniform(low, high), 1))

    def direction(self, *excluded: str) -> Direction:
        """Draw a direction."""
        left = [direction for direction in DIRECTIONS if direction not in excluded]
        return left[self.rng.integers(len(left))]

    def directions(self) -> list[Direction]:
        """Draw an order of all four directions."""
        return [DIRECTIONS[index] for index in self.rng.permutation(4)]

    def room_px(self, x_px: float, y_px: float, direction: str, rim_px: float) -> float:
        """Return how far a centre can go until it is `rim_px` from the picture's edge."""
        step_x, step_y = STEPS[direction]
        along = step_x * x_px + step_y * y_px
        edge = self.size_px - 1 - rim_px if step_x + step_y > 0 else -rim_px
        return edge - along

    def _free_px(self, thing: Thing, x_px: float, y_px: float, direction: str) -> float:
        """Return how far a thing can go from (x, y) until it meets another where that stood at the start."""
        step_x, step_y = STEPS[direction]
        free_px = math.inf
        for other in self.things:
            if other.name == thing.name:
                continue
            ahead_px = (other.x_px - x_px) * step_x + (other.y_px - y_px) * step_y
            aside_px = (other.x_px - x_px) * step_y + (other.y_px - y_px) * step_x
            touch_px = 1.05 * (thing.radius_px + other.radius_px) + 1
            if ahead_px > 0 and abs(aside_px) < touch_px:
                free_px = min(free_px, ahead_px - math.sqrt(touch_px**2 - aside_px**2))
        return free_px

    def move(
        self,
        thing: Thing,
        direction: Direction,
        from_seconds: float,
        until_seconds: float,
        *,
        at_px: tuple[float, float] | None = None,
        share: tuple[float, float] = (0.65, 1.0),
        easing: Easing = "even",
    ) -> Part:
        """Draw one straight way, of a share of the room there is.

        Raises:
            NoRoomError: there is too little.
        """
        x_px, y_px = at_px or (thing.x_px, thing.y_px)
        room_px = self.room_px(x_px, y_px, direction, thing.radius_px / 2)
        room_px = min(
            room_px,
            self._free_px(thing, x_px, y_px, direction),
            self.unit * _MOST_PX_PER_SECOND * (until_seconds - from_seconds),
        )
        length_px = float(round(room_px * self.rng.uniform(*share)))
        if length_px < self.unit * LEAST_MOVE_PX:
            raise NoRoomError
        return Part(
            kind="move",
            from_seconds=from_seconds,
            until_seconds=until_seconds,
            direction=direction,
            length_px=length_px,
            easing=easing,
        )


def place_after(thing: Thing, parts: tuple[Part, ...]) -> tuple[float, float]:
    """Return where (x, y) a thing's centre is after some moves."""
    x_px, y_px = thing.x_px, thing.y_px
    for part in parts:
        if part.direction:
            step_x, step_y = STEPS[part.direction]
            x_px, y_px = x_px + step_x * part.length_px, y_px + step_y * part.length_px
    return x_px, y_px


def act(canvas: Canvas, thing: Thing, name: str, direction: Direction | None = None) -> Thing:
    """Let a thing do something.

    Args:
        canvas: where it does it.
        thing: one that does nothing yet.
        name: of what it does, see `ACTS`.
        direction: of its (first) move; drawn if None.

    Raises:
        NoRoomError: it does not fit.
    """
    way = direction or canvas.direction()
    end = GOP_SECONDS
    if name == "stay":
        parts: tuple[Part, ...] = ()
    elif name in ("move", "speed up", "slow down"):
        easing: Easing = {"speed up": "faster", "slow down": "slower"}.get(name, "even")  # type: ignore[assignment]
        parts = (canvas.move(thing, way, 0.0, end, easing=easing),)
    elif name == "start":
        parts = (canvas.move(thing, way, canvas.seconds(2, 4), end),)
    elif name == "stop":
        parts = (canvas.move(thing, way, 0.0, canvas.seconds(3, 5)),)
    elif name == "hop":
        parts = (canvas.move(thing, way, canvas.seconds(1, 2), canvas.seconds(4, 5.5)),)
    elif name == "turn":
        parts = _turn(canvas, thing, way)
    elif name in ("turn back", "bounce"):
        parts = _back(canvas, thing, direction, bounces=name == "bounce")
    else:
        parts = (_in_place(canvas, name),)
    return replace(thing, parts=parts)


def _turn(canvas: Canvas, thing: Thing, way: Direction) -> tuple[Part, ...]:
    """Go one way and then another, at a right angle."""
    first = canvas.move(thing, way, 0.0, canvas.seconds(3, 4.5))
    then = canvas.direction(way, OPPOSITE[way])
    return first, canvas.move(thing, then, first.until_seconds, GOP_SECONDS, at_px=place_after(thing, (first,)))


def _back(canvas: Canvas, thing: Thing, direction: Direction | None, *, bounces: bool) -> tuple[Part, ...]:
    """Go one way and the same way back: from the rim, or well before it."""
    rooms = {way: canvas.room_px(thing.x_px, thing.y_px, way, thing.radius_px) for way in DIRECTIONS}
    least_px, gap_px = canvas.unit * LEAST_MOVE_PX, 0.0 if bounces else canvas.unit * _TURN_BACK_GAP_PX
    fits = [way for way in DIRECTIONS if rooms[way] - gap_px >= least_px and direction in (None, way)]
    if not fits:
        raise NoRoomError
    way = fits[canvas.rng.integers(len(fits))]
    length_px = float(round(rooms[way] if bounces else (rooms[way] - gap_px) * canvas.rng.uniform(0.8, 1)))
    turns_at = canvas.seconds(3, 4.5)
    first = Part(kind="move", from_seconds=0.0, until_seconds=turns_at, direction=way, length_px=length_px)
    if length_px < least_px:
        raise NoRoomError
    there = place_after(thing, (first,))
    return first, canvas.move(thing, OPPOSITE[way], turns_at, GOP_SECONDS, at_px=there, share=(0.4, 0.7))


def _in_place(canvas: Canvas, name: str) -> Part:
    """Spin, grow, shrink, vanish or appear."""
    if name == "spin":
        degrees = float(canvas.rng.choice([-1, 1]) * round(canvas.rng.uniform(240, 400)))
        return Part(kind="spin", from_seconds=0.0, until_seconds=GOP_SECONDS, degrees=degrees)
    if name == "grow":
        factor = float(round(canvas.rng.uniform(1.5, 1.7), 2))
        return Part(kind="grow", from_seconds=1.0, until_seconds=canvas.seconds(5, 6.5), factor=factor)
    if name == "shrink":
        factor = float(round(canvas.rng.uniform(0.45, 0.6), 2))
        return Part(kind="shrink", from_seconds=1.0, until_seconds=canvas.seconds(5, 6.5), factor=factor)
    at = canvas.seconds(2, 6)
    return Part(kind="vanish" if name == "vanish" else "appear", from_seconds=at, until_seconds=at)


def act_of(thing: Thing, size_px: int) -> str | None:
    """Name what a thing does, from its parts; None if no one word says it."""
    if not thing.parts:
        return "stay"
    if len(thing.parts) == 1:
        part = thing.parts[0]
        return _single_move(part) if part.kind == "move" else part.kind
    if len(thing.parts) != 2 or len(thing.moves) != 2:
        return None
    first, second = thing.moves
    if first.until_seconds != second.from_seconds or first.from_seconds > 0 or second.until_seconds < GOP_SECONDS:
        return None
    if second.direction != OPPOSITE[str(first.direction)]:
        return "turn" if second.direction != first.direction else None
    rim_px = _rim_px(place_after(thing, (first,)), str(first.direction), size_px) - thing.radius_px
    if abs(rim_px) <= _BOUNCE_SLACK_PX:
        return "bounce"
    return "turn back" if rim_px >= _TURN_BACK_GAP_PX * size_px / USUAL_SIZE_PX - 1 else None


def _single_move(part: Part) -> str | None:
    if part.easing != "even":
        return "speed up" if part.easing == "faster" else "slow down"
    if LATEST_STOP_SECONDS < part.until_seconds < GOP_SECONDS:
        return None
    starts, stops = part.from_seconds > 0, part.until_seconds < GOP_SECONDS
    return {(False, False): "move", (True, False): "start", (False, True): "stop", (True, True): "hop"}[starts, stops]


def _rim_px(place_px: tuple[float, float], direction: str, size_px: int) -> float:
    """Return how far a centre is from the edge it goes to."""
    step_x, step_y = STEPS[direction]
    along = step_x * place_px[0] + step_y * place_px[1]
    return size_px - 1 - along if step_x + step_y > 0 else -along


def num_changes(thing: Thing) -> int:
    """Return how often a thing changes its direction."""
    return sum(a.direction != b.direction for a, b in pairwise(thing.moves))


def moment_of(thing: Thing) -> tuple[float, str] | None:
    """Return the one moment of a thing that does one thing at a time, and how one says it; None if there is no one.

    Such a moment is: it starts moving, stops, turns, appears or vanishes.
    """
    moments: list[tuple[float, str]] = []
    for part in thing.parts:
        if part.kind in ("vanish", "appear"):
            moments.append((part.from_seconds, ACTS[part.kind]))
        elif part.kind != "move" or part.easing != "even":
            return None
    moves = thing.moves
    if moves and moves[0].from_seconds > 0:
        moments.append((moves[0].from_seconds, ACTS["start"]))
    moments += [(b.from_seconds, ACTS["turn"]) for a, b in pairwise(moves)]
    if moves and moves[-1].until_seconds < GOP_SECONDS:
        if moves[-1].until_seconds > LATEST_STOP_SECONDS:
            return None
        moments.append((moves[-1].until_seconds, ACTS["stop"]))
    return moments[0] if len(moments) == 1 else None


def speed_of(thing: Thing) -> float | None:
    """Return the speed of a thing that makes one even move, in pixels a second; 0 if it never moves, None otherwise."""
    if not thing.moves:
        return 0.0
    if len(thing.moves) > 1 or thing.moves[0].easing != "even":
        return None
    return thing.moves[0].px_per_second
