"""The six scenes of the sample videos, and the questions about them, in the item format of LLaVA-Video-178K.

The answers follow from the scenes' records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cope_cli.codec.clips import write_h264
from cope_cli.files import write_text
from cope_cli.types import OnProgress, UInt8
from cope_cli.world.render import render_scene
from cope_cli.world.scenes import Pan, Scene, SceneShot, Shape, Waypoint

_SAMPLE_CRF = 18  # hardly any visible loss, and small files

_Turn = tuple[str, str]  # a question and its answer


def sample_scenes() -> tuple[Scene, ...]:
    """Return the six scenes of the sample videos."""
    return tuple(sample.scene for sample in _samples())


def sample_questions() -> list[dict[str, Any]]:
    """Return questions and true answers about the sample videos, as items of LLaVA-Video-178K's format."""
    items = []
    for scene, conversations in _samples():
        for number, turns in enumerate(conversations):
            said = [
                {"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)
            ]
            said[0]["value"] = f"<image>\n{said[0]['value']}"
            item = {"id": f"{scene.name}-{number}", "conversations": said}
            items.append({**item, "data_source": "cope_samples", "video": f"{scene.name}.mp4"})
    return items


def sample_captions() -> list[dict[str, Any]]:
    """Return the items that ask "What happened?", one per clip: the same question, so only the video tells."""
    return [item for item in sample_questions() if item["conversations"][0]["value"] == "<image>\nWhat happened?"]


def write_sample_videos(folder: Path, progress: OnProgress | None = None) -> list[Path]:
    """Write the sample clips, `qa.json` with the questions about them, and `captions.json` with "What happened?" alone.

    Args:
        folder: where to; made if need be, files of these names are replaced.
        progress: called after each frame with the number of frames written so far and the number of all frames.

    Returns:
        The clips in the order of `sample_scenes`, then `qa.json` and `captions.json`.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    scenes = sample_scenes()
    num_frames, num_done = sum(scene.num_frames for scene in scenes), 0

    def counted(scene: Scene) -> Iterator[UInt8]:
        nonlocal num_done
        for picture in render_scene(scene):
            yield picture
            num_done += 1
            if progress:
                progress(num_done, num_frames)

    paths = []
    for scene in scenes:
        paths.append(folder / f"{scene.name}.mp4")
        write_h264(counted(scene), paths[-1], fps=scene.fps, crf=_SAMPLE_CRF)
    for name, items in (("qa.json", sample_questions()), ("captions.json", sample_captions())):
        paths.append(folder / name)
        write_text(paths[-1], json.dumps(items, indent=2) + "\n")
    return paths


class _Sample(NamedTuple):
    """A scene and its conversations: each a list of turns."""

    scene: Scene
    conversations: list[list[_Turn]]


def _samples() -> tuple[_Sample, ...]:
    return _turn_back(), _race(), _camera_pan(), _hard_cut(), _still(), _appear_and_stop()


def _choice(question: str, options: tuple[str, ...], correct: str) -> _Turn:
    """Return a multiple-choice question and the letter of the correct option."""
    lines = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
    text = "\n".join([question, *lines, "Please respond with only the letter of the correct answer."])
    return text, "ABCD"[options.index(correct)]


def _turn_back() -> _Sample:
    path = (Waypoint(1, 80, 180), Waypoint(9, 560, 180), Waypoint(17, 80, 180))
    circle = Shape(kind="circle", colour="red", radius_px=54, seed=1, path=path)
    shot = SceneShot(seconds=18, background_seed=11, tints=((92, 128, 112), (150, 168, 140)), shapes=(circle,))
    out, back = circle.moves
    there_and_back = f"{out.direction}, then {back.direction}"
    what = (
        f"A {circle.name} moves {out.direction} until second {out.until_seconds:g}, then turns around, "
        f"moves back {back.direction} and stops at second {back.until_seconds:g}."
    )
    options = ("left, then right", "right, then left", "only right", "up, then down")
    return _Sample(
        Scene(name="red_circle_right_then_left", shots=(shot,)),
        [
            [("What happened?", what)],
            [_choice("How does the circle move?", options, there_and_back)],
            [
                ("In which direction does the circle move first?", f"It moves {out.direction} first."),
                ("When does it turn around?", f"At second {out.until_seconds:g}."),
                ("In which direction does it move after that?", f"It moves {back.direction}."),
            ],
        ],
    )


def _race() -> _Sample:
    square_path = (Waypoint(1, 80, 110), Waypoint(5, 560, 110))
    triangle_path = (Waypoint(1, 80, 260), Waypoint(11, 530, 260))
    square = Shape(kind="square", colour="blue", radius_px=46, seed=2, path=square_path)
    triangle = Shape(kind="triangle", colour="green", radius_px=64, seed=3, path=triangle_path)
    tints = ((176, 150, 128), (206, 188, 164))
    shot = SceneShot(seconds=12.5, background_seed=12, tints=tints, shapes=(square, triangle))
    slow, fast = sorted(shot.shapes, key=lambda shape: shape.moves[0].px_per_second)
    direction = fast.moves[0].direction
    what = (
        f"A {fast.name} and a {slow.name} start together and move {direction}. The {fast.name} is faster and stops at "
        f"second {fast.moves[0].until_seconds:g}; the {slow.name} stops at second {slow.moves[0].until_seconds:g}."
    )
    options = ("the blue square", "the green triangle", "both at the same time")
    return _Sample(
        Scene(name="two_shapes_race", shots=(shot,)),
        [
            [("What happened?", what)],
            [("Which shape is faster?", f"The {fast.name} is faster than the {slow.name}.")],
            [_choice("Which shape reaches the right side first?", options, f"the {fast.name}")],
            [
                ("Which shapes are there?", f"A {square.name} and a {triangle.name}."),
                ("In which direction do they move?", f"Both move {direction}."),
                ("Which one stops last?", f"The {slow.name}."),
            ],
        ],
    )


def _camera_pan() -> _Sample:
    square = Shape(kind="square", colour="yellow", radius_px=48, seed=4, path=(Waypoint(0, 560, 200),))
    first = Pan(from_seconds=1, until_seconds=6, x_px_per_frame=3)
    second = Pan(from_seconds=7, until_seconds=9, x_px_per_frame=-4)
    tints = ((70, 104, 140), (128, 150, 168))
    shot = SceneShot(seconds=10, background_seed=13, tints=tints, shapes=(square,), pans=(first, second))
    what = (
        f"The camera pans {first.direction} from second {first.from_seconds:g} to {first.until_seconds:g}, then back "
        f"{second.direction} from second {second.from_seconds:g} to {second.until_seconds:g}. The {square.name} itself "
        "stays where it is."
    )
    return _Sample(
        Scene(name="camera_pan", shots=(shot,)),
        [
            [("What happened?", what)],
            [_choice("What moves?", ("only the square", "nothing", "the camera"), "the camera")],
            [
                ("In which direction does the camera pan first?", f"It pans {first.direction}."),
                ("And after that?", f"After second {second.from_seconds:g} it pans back {second.direction}."),
            ],
        ],
    )


def _hard_cut() -> _Sample:
    up = (Waypoint(1, 200, 280), Waypoint(5, 200, 90))
    down = (Waypoint(0.5, 440, 80), Waypoint(4.5, 440, 270))
    circle = Shape(kind="circle", colour="orange", radius_px=56, seed=5, path=up)
    triangle = Shape(kind="triangle", colour="purple", radius_px=70, seed=6, path=down)
    before = SceneShot(seconds=5.5, background_seed=14, tints=((64, 100, 76), (112, 140, 100)), shapes=(circle,))
    after = SceneShot(seconds=5.5, background_seed=15, tints=((206, 196, 170), (228, 222, 206)), shapes=(triangle,))
    scene = Scene(name="hard_cut", shots=(before, after))
    what = (
        f"First, an {circle.name} moves {circle.moves[0].direction}. At second {before.seconds:g} the picture cuts to "
        f"another place, where a {triangle.name} moves {triangle.moves[0].direction}."
    )
    return _Sample(
        scene,
        [
            [("What happened?", what)],
            [_choice("How many shots does the video have?", ("1", "2", "3", "4"), str(len(scene.shots)))],
            [
                ("What can be seen before the cut?", f"An {circle.name} that moves {circle.moves[0].direction}."),
                ("And after it?", f"A {triangle.name} that moves {triangle.moves[0].direction}."),
            ],
        ],
    )


def _still() -> _Sample:
    circle = Shape(kind="circle", colour="yellow", radius_px=50, seed=7, path=(Waypoint(0, 120, 180),))
    square = Shape(kind="square", colour="blue", radius_px=44, seed=8, path=(Waypoint(0, 320, 180),))
    triangle = Shape(kind="triangle", colour="red", radius_px=64, seed=9, path=(Waypoint(0, 520, 196),))
    tints = ((120, 116, 128), (160, 156, 166))
    shot = SceneShot(seconds=8, background_seed=16, tints=tints, shapes=(circle, square, triangle))
    left, middle, right = sorted(shot.shapes, key=lambda shape: shape.path[0].x_px)
    names = tuple(f"the {shape.name}" for shape in shot.shapes)
    moving = [f"the {shape.name}" for shape in shot.shapes if shape.moves] or ["none of them"]
    what = f"Nothing moves. A {left.name}, a {middle.name} and a {right.name} stay where they are, from left to right."
    return _Sample(
        Scene(name="still_scene", shots=(shot,)),
        [
            [("What happened?", what)],
            [("Which shape is in the middle?", f"The {middle.name}.")],
            [_choice("Which shape moves?", (*names, "none of them"), moving[0])],
        ],
    )


def _appear_and_stop() -> _Sample:
    path = (Waypoint(1, -80, 210), Waypoint(5, 280, 210))
    circle = Shape(kind="circle", colour="purple", radius_px=56, seed=10, path=path)
    place = (Waypoint(0, 500, 120),)
    square = Shape(
        kind="square",
        colour="green",
        radius_px=46,
        seed=11,
        path=place,
        visible_from_seconds=8,
        visible_until_seconds=12,
    )
    tints = ((196, 170, 150), (214, 202, 180))
    shot = SceneShot(seconds=14, background_seed=17, tints=tints, shapes=(circle, square))
    move = circle.moves[0]
    what = (
        f"A {circle.name} enters from the left, moves {move.direction} and stops at second {move.until_seconds:g}. "
        f"A {square.name} appears at second {square.visible_from_seconds:g} and disappears at second "
        f"{square.visible_until_seconds:g}."
    )
    options = ("It turns around.", "It disappears.", "It stops.")
    return _Sample(
        Scene(name="appear_and_stop", shots=(shot,)),
        [
            [("What happened?", what)],
            [("Which shape comes second?", f"The {square.name} appears after the {circle.name}.")],
            [_choice(f"What does the circle do at second {move.until_seconds:g}?", options, "It stops.")],
        ],
    )
