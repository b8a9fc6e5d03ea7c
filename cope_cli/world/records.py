"""Records of the rendered world: what stands where when a clip begins, and what each thing then does.

A clip is one or more shots; the first frame of every GOP shows a state that its twins share. Positions are picture
pixels (x to the right, y down, pixel centres at whole numbers), times are seconds since the shot began.

Answers are worked out from these records alone, and `from_dict` reads them back from `scenes.jsonl`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FPS = 30
GOP_FRAMES = 240
GOP_SECONDS = GOP_FRAMES / FPS
#: Frames after the last slot of a GOP (fusion 30) belong to no slot: what happens, happens before this.
LAST_SLOT_SECONDS = 7.0

Direction = Literal["left", "right", "up", "down"]
PartKind = Literal["move", "spin", "grow", "shrink", "vanish", "appear"]
Easing = Literal["even", "faster", "slower"]

#: RGB of the colour names.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44),
    "green": (46, 170, 84),
    "blue": (48, 104, 222),
    "yellow": (242, 204, 48),
    "orange": (242, 132, 32),
    "purple": (150, 76, 204),
}
#: What each direction means in the picture (x, y).
STEPS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
OPPOSITE: dict[str, Direction] = {"left": "right", "right": "left", "up": "down", "down": "up"}
DIRECTIONS: tuple[Direction, ...] = ("left", "right", "up", "down")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that something does, from a time until a time.

    Attributes:
        kind: what it does.
        from_seconds: since the shot began.
        until_seconds: the same; equal to `from_seconds` for what takes no time (vanish, appear).
        direction: of a move.
        length_px: how far a move goes.
        easing: how a move's speed changes: not at all, from slow to fast, or from fast to slow.
        factor: final size over first size (grow, shrink).
        degrees: how far a spin turns, clockwise.
    """

    kind: PartKind
    from_seconds: float
    until_seconds: float
    direction: Direction | None = None
    length_px: float = 0.0
    easing: Easing = "even"
    factor: float = 1.0
    degrees: float = 0.0

    @property
    def px_per_second(self) -> float:
        """Mean speed of a move."""
        return self.length_px / (self.until_seconds - self.from_seconds)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A coloured, textured shape, where it is when the shot begins, and what it does.

    Attributes:
        shape: its kind of outline.
        colour: name of its colour; no two things of a clip share one.
        radius_px: a circle's radius; the other shapes are about as large.
        x_px: its centre at the start.
        y_px: the same, down.
        degrees: how it is turned at the start, clockwise.
        seed: of its texture.
        depth: things of lesser depth are drawn over those of greater depth.
        is_there: whether it shows when the shot begins; one that appears does not.
        parts: what it does, in order of time.
    """

    shape: str
    colour: str
    radius_px: float
    x_px: float
    y_px: float
    degrees: float
    seed: int
    depth: int
    is_there: bool = True
    parts: tuple[Part, ...] = ()

    @property
    def name(self) -> str:
        """What one calls it, such as ``red circle``."""
        return f"{self.colour} {self.shape}"

    @property
    def moves(self) -> tuple[Part, ...]:
        """The stretches on which it changes place."""
        return tuple(part for part in self.parts if part.kind == "move")


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """One thing goes towards another.

    Attributes:
        mover: name of the one that goes.
        other: name of the one that stands in its way.
        outcome: it passes behind or in front, hits the other (which then moves on in its stead), or stops short.
    """

    mover: str
    other: str
    outcome: Literal["behind", "in front", "hits", "stops short"]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What is filmed between two cuts.

    Attributes:
        num_frames: its length.
        background_seed: of the background's texture and tints.
        things: what stands in it, in no particular order.
        pan: where the camera goes; what stands still goes the other way in the picture.
        meeting: what becomes of two things on one line, if there are such.
    """

    num_frames: int
    background_seed: int
    things: tuple[Thing, ...]
    pan: Part | None = None
    meeting: Meeting | None = None

    def thing(self, name: str) -> Thing | None:
        """Return the thing of this name."""
        return next((thing for thing in self.things if thing.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip.

    Attributes:
        name: of its file, without ending.
        group: of its twins: clips with the same I-frames.
        twin: which of them it is.
        theme: what its group is about.
        size_px: side of the picture.
        shots: one after the other, joined by hard cuts.
    """

    name: str
    group: str
    twin: int
    theme: str
    size_px: int
    shots: tuple[Shot, ...] = field(repr=False)

    @property
    def num_frames(self) -> int:
        """Its length."""
        return sum(shot.num_frames for shot in self.shots)

    @property
    def num_objects(self) -> int:
        """Things that show when it begins."""
        return sum(thing.is_there for thing in self.shots[0].things)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Clip:
        """Read what `to_dict` gave."""
        return cls(**{**values, "shots": tuple(_shot(shot) for shot in values["shots"])})


def _shot(values: dict[str, Any]) -> Shot:
    things = tuple(
        Thing(**{**thing, "parts": tuple(Part(**part) for part in thing["parts"])}) for thing in values["things"]
    )
    pan = Part(**values["pan"]) if values["pan"] else None
    meeting = Meeting(**values["meeting"]) if values["meeting"] else None
    return Shot(**{**values, "things": things, "pan": pan, "meeting": meeting})
