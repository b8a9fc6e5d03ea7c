"""The true answers: what each kind of question asks of a clip, worked out from its record alone.

An answer is None where a clip leaves it open: the thing is not there, does several things, or is too near a line
between two answers. Such a question is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from cope_cli.world.acts import ACTS, LEAST_SPEED_RATIO, USUAL_SIZE_PX, act_of, moment_of, num_changes, speed_of
from cope_cli.world.records import FPS, GOP_SECONDS, LAST_SLOT_SECONDS, Clip, Shot, Thing
from cope_cli.world.tracks import track_of
from cope_cli.world.words import CAMERA, CELLS, MEETINGS, NONE, STATES, WHICH

#: So far apart are two moments of which one is asked which comes first.
LEAST_GAP_SECONDS = 1.2
#: So far from the lines between the nine cells is a place that is asked for.
CELL_MARGIN_PX = 4.0
_STATE_OF = dict(zip(("stop", "start", "move", "stay"), STATES, strict=True))


def direction(shot: Shot, name: str) -> str | None:
    """Which way a thing moves that moves one way only."""
    thing = shot.thing(name)
    if thing is None or not thing.moves or shot.pan or shot.meeting:
        return None
    ways = {str(part.direction) for part in thing.moves}
    return ways.pop() if len(ways) == 1 else None


def first_direction(shot: Shot, name: str) -> str | None:
    """Which way a thing moves first that moves several ways."""
    thing = shot.thing(name)
    return str(thing.moves[0].direction) if thing and len(thing.moves) > 1 else None


def last_direction(shot: Shot, name: str) -> str | None:
    """Which way a thing moves last that moves several ways."""
    thing = shot.thing(name)
    return str(thing.moves[-1].direction) if thing and len(thing.moves) > 1 else None


def ways(thing: Thing) -> list[str]:
    """Which ways a thing moves, one after the other, no way twice in a row."""
    return [str(way) for way, _ in groupby(part.direction for part in thing.moves)]


def state(shot: Shot, size_px: int, name: str) -> str | None:
    """Whether a thing stops, starts, keeps moving or stays still."""
    thing = shot.thing(name)
    if thing is None or shot.meeting or shot.pan or shot.num_frames != round(GOP_SECONDS * FPS):
        return None
    return _STATE_OF.get(act_of(thing, size_px) or "")


def changes(shot: Shot, name: str) -> str | None:
    """How often a thing that moves changes its direction."""
    thing = shot.thing(name)
    return str(num_changes(thing)) if thing and thing.moves else None


def faster(shot: Shot, name: str, other_name: str) -> str | None:
    """Which of two things that move is the faster one."""
    things = shot.thing(name), shot.thing(other_name)
    speeds = [(speed_of(thing), thing.name) for thing in things if thing is not None]
    if len(speeds) < 2 or not all(speed for speed, _ in speeds):
        return None
    (slow, _), (quick, quick_name) = sorted((speed or 0.0, name) for speed, name in speeds)
    return quick_name if quick >= LEAST_SPEED_RATIO * slow else None


def moments(shot: Shot, names: Iterable[str]) -> list[tuple[float, str]]:
    """Return the moments of the things that have one each, as (seconds, what one says), in the order of the names."""
    found = []
    for name in names:
        thing = shot.thing(name)
        moment = moment_of(thing) if thing else None
        if moment:
            found.append((moment[0], f"{name} {moment[1]}"))
    return found


def order(shot: Shot, moment: str, other_moment: str) -> str | None:
    """Which of two moments comes first, such as ``red circle stops moving``."""
    times = {text: seconds for seconds, text in moments(shot, [thing.name for thing in shot.things])}
    if moment not in times or other_moment not in times:
        return None
    first, second = sorted((moment, other_moment), key=lambda text: times[text])
    return first if times[second] - times[first] >= LEAST_GAP_SECONDS else None


def what(shot: Shot, size_px: int, name: str) -> str | None:
    """What a thing does, in the words of `ACTS`."""
    thing = shot.thing(name)
    if thing is None or shot.meeting or shot.pan or shot.num_frames != round(GOP_SECONDS * FPS):
        return None
    return ACTS.get(act_of(thing, size_px) or "")


def which(shot: Shot, size_px: int, verb: str) -> str | None:
    """Which one thing does something (see `WHICH`), or that none does; None if several do."""
    if shot.pan or shot.meeting or shot.num_frames != round(GOP_SECONDS * FPS):
        return None
    acts = {thing.name: act_of(thing, size_px) for thing in shot.things}
    if verb == "moves":
        doing = [thing.name for thing in shot.things if thing.moves]
    else:
        doing = [name for name, act in acts.items() if act is not None and WHICH.get(act) == verb]
    if len(doing) > 1 or None in acts.values():
        return None
    return doing[0] if doing else NONE


def camera(clip: Clip) -> str | None:
    """What the camera does in a clip of one GOP."""
    if len(clip.shots) > 1:
        return CAMERA["cut"]
    pan = clip.shots[0].pan
    return CAMERA[str(pan.direction) if pan else "still"]


def cell(x_px: float, y_px: float, size_px: int) -> str | None:
    """Name the cell of the picture that a place is in; None near a line between two."""
    third = size_px / 3
    for value in (x_px, y_px):
        if min(abs(value + 0.5 - third), abs(value + 0.5 - 2 * third)) < CELL_MARGIN_PX * size_px / USUAL_SIZE_PX:
            return None
    return nearest_cell(x_px, y_px, size_px)


def nearest_cell(x_px: float, y_px: float, size_px: int) -> str:
    """Name the cell of the picture that a place is in, however near to a line."""
    column, row = (min(max(int((value + 0.5) // (size_px / 3)), 0), 2) for value in (x_px, y_px))
    return CELLS[3 * row + column]


def end(clip: Clip, name: str) -> str | None:
    """In which cell a thing of the last shot is at the last slot and in the last frame, if that is the same one."""
    shot = clip.shots[-1]
    thing = shot.thing(name)
    if thing is None or shot.pan or (len(clip.shots) > 1 and shot.num_frames % round(GOP_SECONDS * FPS)):
        return None
    track = track_of(thing, shot.num_frames)
    last_slot = shot.num_frames - round((GOP_SECONDS - LAST_SLOT_SECONDS) * FPS)
    if not (track.is_there[-1] and track.is_there[last_slot]):
        return None
    cells = {cell(track.x_px[frame], track.y_px[frame], clip.size_px) for frame in (last_slot, -1)}
    return cells.pop() if len(cells) == 1 else None


def meeting(shot: Shot) -> str | None:
    """What becomes of two things on one line."""
    return MEETINGS[shot.meeting.outcome] if shot.meeting else None


def count_at_end(clip: Clip) -> str | None:
    """How many things show in the last frame of a clip without cuts and pans."""
    if len(clip.shots) > 1 or clip.shots[0].pan:
        return None
    shot = clip.shots[0]
    return str(sum(bool(track_of(thing, shot.num_frames).is_there[-1]) for thing in shot.things))


def start(clip: Clip, name: str) -> str | None:
    """In which cell a thing of the first shot is in the first frame."""
    thing = clip.shots[0].thing(name)
    return cell(thing.x_px, thing.y_px, clip.size_px) if thing and thing.is_there else None


def there(clip: Clip, place: str) -> str | None:
    """What stands alone in a cell in the first frame; None where nothing or several things do, or it is near a line."""
    things = [thing for thing in clip.shots[0].things if thing.is_there]
    near = [thing for thing in things if nearest_cell(thing.x_px, thing.y_px, clip.size_px) == place]
    return near[0].name if len(near) == 1 and start(clip, near[0].name) else None


def place(shot: Shot, size_px: int, name: str) -> str | None:
    """In which cell a thing is when a shot begins, however near to a line; None if it is not there then."""
    thing = shot.thing(name)
    return nearest_cell(thing.x_px, thing.y_px, size_px) if thing and thing.is_there else None


def caption(clip: Clip) -> str | None:
    """Tell what happens, shot by shot."""
    told = [_told(shot, clip.size_px) for shot in clip.shots]
    if any(sentences is None for sentences in told):
        return None
    text = " ".join(told[0] or ())
    if len(told) == 1:
        return text or "Nothing happens."
    after = " ".join(told[1] or ())
    return f"{text} Then there is a cut. {after}".strip() if text else f"There is a cut. {after}".strip()


def _told(shot: Shot, size_px: int) -> list[str] | None:
    """Return a sentence for each thing that does something, in the order of when they begin, then from the left."""
    if shot.pan:
        return [f"The camera {CAMERA[str(shot.pan.direction)]}."]
    if shot.meeting:
        return [_told_meeting(shot, size_px)]
    acting = sorted((thing for thing in shot.things if thing.parts), key=lambda t: (t.parts[0].from_seconds, t.x_px))
    sentences = [_sentence(thing, _who(shot, size_px, thing.name), size_px) for thing in acting]
    return None if None in sentences else [sentence for sentence in sentences if sentence]


def _told_meeting(shot: Shot, size_px: int) -> str:
    assert shot.meeting is not None
    who, other = _who(shot, size_px, shot.meeting.mover), shot.meeting.other
    return {
        "behind": f"{who} passes behind the {other}.",
        "in front": f"{who} passes in front of the {other}.",
        "hits": f"{who} hits the {other}.",
        "stops short": f"{who} moves to the {other} and stops before it.",
    }[shot.meeting.outcome]


def _who(shot: Shot, size_px: int, name: str) -> str:
    where = place(shot, size_px, name)
    return f"At the {where}, the {name}" if where else f"The {name}"


def _sentence(thing: Thing, who: str, size_px: int) -> str | None:
    """Say what one thing does."""
    name = act_of(thing, size_px)
    moved = ways(thing)
    if not moved:
        return f"{who} {_verb(name)}." if name else None
    if name == "bounce":
        return f"{who} moves {moved[0]}, bounces and moves {moved[1]}."
    ends = {"stop": " and stops", "hop": " and stops", "speed up": " and speeds up", "slow down": " and slows down"}
    verb = {"move": "keeps moving", "start": "starts moving", "hop": "starts moving"}.get(name or "", "moves")
    return f"{who} {verb} {', then '.join(moved)}{ends.get(name or '', '')}."


def _verb(name: str) -> str:
    return {"spin": "spins", "grow": "grows", "shrink": "shrinks", "vanish": "vanishes", "appear": "appears"}[name]
