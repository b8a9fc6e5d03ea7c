"""The sample clips of the world: five of the test split, for `cope ask` to be tried on, with their questions.

They come from a seed of their own; nothing is trained on it. They are for showing, not for measuring: of each kind one
was taken that the shipped model tells rightly.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cope_cli.codec.clips import write_h264
from cope_cli.files import write_text
from cope_cli.world.config import Split, WorldConfig
from cope_cli.world.groups import draw_group
from cope_cli.world.questions import questions_of
from cope_cli.world.records import FPS, Clip
from cope_cli.world.render import render

SAMPLES_CONFIG = WorldConfig(seed=2026, split=Split.TEST, two_gops=0)
#: Name of the file -> number of the group and of the twin.
_SAMPLES = {
    "tiny_right_then_down": (67, 3),
    "tiny_vanishes": (1, 1),
    "tiny_passes_behind": (6, 3),
    "tiny_first_and_second": (19, 0),
    "tiny_camera_pan": (2, 0),
}
_SAMPLE_CRF = 18
_ROUNDS = 2


def world_samples() -> tuple[list[Clip], list[dict[str, Any]]]:
    """Return the sample clips' records, under the names of their files, and the items about them."""
    clips: list[Clip] = []
    items: list[dict[str, Any]] = []
    for name, (group, twin) in _SAMPLES.items():
        twins = draw_group(SAMPLES_CONFIG, group)
        drawn = twins[twin].name
        clips.append(replace(twins[twin], name=name))
        asked = questions_of(twins, SAMPLES_CONFIG.stream(group, 1), rounds=_ROUNDS)
        own = (item for item in asked if item["video"] == f"clips/{drawn}.mp4")
        items += [{**item, "id": item["id"].replace(drawn, name), "video": f"{name}.mp4"} for item in own]
    return clips, items


def write_world_samples(folder: Path) -> list[Path]:
    """Write the sample clips and `scenes.json` with the questions about them.

    Returns:
        The clips, then `scenes.json`.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    clips, items = world_samples()
    paths = [folder / f"{clip.name}.mp4" for clip in clips]
    for clip, path in zip(clips, paths, strict=True):
        write_h264(render(clip), path, fps=FPS, crf=_SAMPLE_CRF)
    paths.append(folder / "scenes.json")
    write_text(paths[-1], json.dumps(items, indent=1) + "\n")
    return paths
