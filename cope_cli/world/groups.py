"""Draws groups of twins: every clip is a pure function of the settings and its number.

A clip of one GOP is a start and a script. One of two GOPs is either two such halves with a cut between them, at the
second I-frame, or one scene in which everything is back in its place when the second I-frame comes. So all twins of a
group have the same pictures in all their I-frames.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cope_cli.world.acts import Canvas, NoRoomError, act
from cope_cli.world.config import MAX_OBJECTS, WorldConfig
from cope_cli.world.records import GOP_FRAMES, GOP_SECONDS, OPPOSITE, Clip, Part, Shot
from cope_cli.world.themes import (
    NEEDS_TWO,
    NUM_TWINS,
    THEMES,
    Script,
    Start,
    draw_start,
    overlaps,
)

_MAX_TRIES = 300  # starts and scripts for one theme
_MAX_THEMES = 50
#: Themes whose questions stay clear if another scene comes before or after.
_HALF_THEMES = ("direction", "two ways", "what", "state", "changes", "faster", "order", "meeting")


def draw_group(config: WorldConfig, group: int) -> list[Clip]:
    """Draw the twins of one group.

    Args:
        config: which world.
        group: number of the group, from 0; its clips have the numbers from four times that.
    """
    canvas = Canvas(config.size_px, config.stream(group, 0))
    is_long = bool(canvas.rng.random() < config.two_gops)
    theme, twins = _two_gops(canvas, config) if is_long else _one_gop(canvas, config)
    return [
        Clip(
            name=config.clip_name(group * NUM_TWINS + number),
            group=f"{config.split}-{config.key}-g{group:05d}",
            twin=number,
            theme=theme,
            size_px=config.size_px,
            shots=twins[index],
        )
        for number, index in enumerate(canvas.rng.permutation(NUM_TWINS))
    ]


def _one_gop(canvas: Canvas, config: WorldConfig) -> tuple[str, list[tuple[Shot, ...]]]:
    theme, start, scripts = _draw(canvas, config, tuple(THEMES), frozenset())
    return theme, [_shots(start, script) for script in scripts]


def _two_gops(canvas: Canvas, config: WorldConfig) -> tuple[str, list[tuple[Shot, ...]]]:
    if config.objects == "1" or canvas.rng.random() < 0.5:
        return "there and back", _there_and_back(canvas, config)
    first_theme, first, first_scripts = _draw(canvas, config, _HALF_THEMES, frozenset())
    used = frozenset(thing.colour for thing in first.things)
    second_theme, second, second_scripts = _draw(canvas, config, _HALF_THEMES, used)
    second_scripts = [second_scripts[index] for index in canvas.rng.permutation(NUM_TWINS)]
    pairs = zip(first_scripts, second_scripts, strict=True)
    return f"{first_theme}, {second_theme}", [(*_shots(first, a), *_shots(second, b)) for a, b in pairs]


def _draw(
    canvas: Canvas, config: WorldConfig, among: tuple[str, ...], used: frozenset[str]
) -> tuple[str, Start, list[Script]]:
    """Draw how many things there are and a theme, then starts and scripts until all four fit."""
    column = 1 if config.objects == "1" else 2
    for _ in range(_MAX_THEMES):
        num_things = draw_num_things(canvas, config)
        if used:
            num_things = min(num_things, MAX_OBJECTS - len(used)) or 1
        names = [name for name in among if num_things > 1 or name not in NEEDS_TWO]
        weights = np.array([THEMES[name][column] for name in names])
        name = names[canvas.rng.choice(len(names), p=weights / weights.sum())]
        for _ in range(_MAX_TRIES):
            try:
                start = draw_start(canvas, num_things, without=used)
                scripts = THEMES[name][0](canvas, start)
            except NoRoomError:
                continue
            if not any(overlaps(script, GOP_FRAMES) for script in scripts):
                return name, start, scripts
    raise NoRoomError


def draw_num_things(canvas: Canvas, config: WorldConfig) -> int:
    """Draw how many things there are at the start."""
    low, high = config.objects_range
    return int(canvas.rng.integers(low, high + 1))


def _shots(start: Start, script: Script) -> tuple[Shot, ...]:
    shot = Shot(
        num_frames=GOP_FRAMES,
        background_seed=start.background_seed,
        things=script.things,
        pan=script.pan,
        meeting=script.meeting,
    )
    if script.cut_to is None:
        return (shot,)
    at_frame, after = script.cut_to
    return replace(shot, num_frames=at_frame), after


def _there_and_back(canvas: Canvas, config: WorldConfig) -> list[tuple[Shot, ...]]:
    """In the first GOP one thing goes away and comes back; in the second it goes somewhere: all four ways each time."""
    num_things = draw_num_things(canvas, config)
    for _ in range(_MAX_THEMES * _MAX_TRIES):
        try:
            start = draw_start(canvas, num_things)
            scripts = _round_trips(canvas, start)
        except NoRoomError:
            continue
        if not any(overlaps(script, 2 * GOP_FRAMES) for script in scripts):
            return [(replace(_shots(start, script)[0], num_frames=2 * GOP_FRAMES),) for script in scripts]
    raise NoRoomError


def _round_trips(canvas: Canvas, start: Start) -> list[Script]:
    subject = start.things[canvas.rng.integers(len(start.things))]
    scripts = []
    for away, later in zip(canvas.directions(), canvas.directions(), strict=True):
        first = canvas.move(subject, away, canvas.seconds(0, 1), canvas.seconds(3, 3.5))
        back = replace(
            first, direction=OPPOSITE[away], from_seconds=first.until_seconds, until_seconds=canvas.seconds(6, 7)
        )
        second = act(canvas, subject, ("hop", "stop", "start", "move")[canvas.rng.integers(4)], later).parts
        acting = replace(subject, parts=(first, back, *(_later(part, GOP_SECONDS) for part in second)))
        things = (acting if thing.name == subject.name else thing for thing in start.things)
        scripts.append(Script(things=tuple(things)))
    return scripts


def _later(part: Part, seconds: float) -> Part:
    return replace(part, from_seconds=part.from_seconds + seconds, until_seconds=part.until_seconds + seconds)
