"""Writes the world's clips, their records and the questions about them into a folder.

```
DIR/settings.json     which world: its fields and their hash
DIR/clips/*.mp4       the clips
DIR/scenes.jsonl      one record a line: all answers follow from it
DIR/questions.json    items in LLaVA-Video-178K's format
```

A clip that is there already is kept: its name and the settings say everything about it, and it appears whole or not at
all. More clips of the same settings may be added later; other settings need another folder, or `force`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from cope_cli.codec.clips import write_h264
from cope_cli.errors import DataError, PathNotFoundError, StorageError, UsageError
from cope_cli.files import canonical_json, write_json, write_text
from cope_cli.stages.batch import Batch
from cope_cli.types import OnProgress
from cope_cli.world.config import WORLD_VERSION, WorldConfig
from cope_cli.world.groups import draw_group
from cope_cli.world.questions import questions_of, video_of
from cope_cli.world.records import FPS, Clip
from cope_cli.world.render import Painter, render
from cope_cli.world.themes import NUM_TWINS

SETTINGS_FILE = "settings.json"
_CRF = 16  # hardly any loss to be seen
_PRESET = "superfast"  # a third of the time of the usual one, and less than twice the bytes
_ITEM_GROUPS = 8  # groups that go to a worker at a time


@dataclass(frozen=True, kw_only=True)
class WrittenRecord:
    """What became of some groups.

    Attributes:
        num_new: clips written.
        num_kept: clips that were there.
        size_bytes: of all of them.
        cpu_seconds: that the new ones took, drawing and encoding.
    """

    num_new: int
    num_kept: int
    size_bytes: int
    cpu_seconds: float


def draw_world(
    config: WorldConfig, num_clips: int, *, rounds: int = 1, twins: int = NUM_TWINS
) -> tuple[list[Clip], list[dict[str, Any]]]:
    """Return the records of a world's first clips, and the items about them.

    Args:
        config: which world.
        num_clips: how many clips, a multiple of `twins`.
        rounds: how often questions are drawn for each group.
        twins: clips of each group of four. Fewer show more different pictures. Questions come out even over all four.

    Raises:
        UsageError: a number does not fit.
    """
    if not 1 <= twins <= NUM_TWINS:
        raise UsageError(f"--twins {twins}: expected 1 to {NUM_TWINS}, clips of a group of twins")
    if num_clips < twins or num_clips % twins:
        raise UsageError(f"--num {num_clips}: expected a multiple of {twins}, the clips of a group of twins")
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: expected at least 1")
    clips: list[Clip] = []
    items: list[dict[str, Any]] = []
    for group in range(num_clips // twins):
        all_twins = draw_group(config, group)
        clips += all_twins[:twins]
        videos = {video_of(clip) for clip in all_twins[:twins]}
        found = questions_of(all_twins, config.stream(group, 1), rounds=rounds)
        items += [item for item in found if item["video"] in videos]
    return clips, items


def world_batch(
    config: WorldConfig,
    clips: Sequence[Clip],
    items: Sequence[dict[str, Any]],
    folder: Path,
    *,
    workers: int = 0,
    force: bool = False,
) -> Batch[WrittenRecord]:
    """Prepare the rendering of clips; their records and questions are written at once.

    Args:
        config: which world.
        clips: from `draw_world`.
        items: from `draw_world`.
        folder: where to.
        workers: processes at a time; 0 means one per core.
        force: write clips again that are there, and replace other settings.

    Raises:
        UsageError: the folder holds clips of other settings.
        StorageError: the folder cannot be written.
    """
    _claim(folder, config, force=force)
    write_text(folder / "scenes.jsonl", "".join(json.dumps(clip.to_dict()) + "\n" for clip in clips))
    write_text(folder / "questions.json", json.dumps(items, indent=1) + "\n")
    twins = max(clip.twin for clip in clips) + 1
    num_groups = len(clips) // twins
    names = [f"{first}-{min(first + _ITEM_GROUPS, num_groups) - 1}" for first in range(0, num_groups, _ITEM_GROUPS)]
    work = partial(_write_groups, config=config, twins=twins, folder=folder, force=force)
    return Batch(items=names, work=work, workers=workers)


def read_scenes(path: Path) -> list[Clip]:
    """Read the records that `world_batch` wrote."""
    return [Clip.from_dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def read_settings(folder: Path) -> WorldConfig:
    """Read which world a folder holds clips of.

    Raises:
        PathNotFoundError: it holds none.
        DataError: its settings are not those of a world.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise PathNotFoundError(f"{path}: no such file", "Name a folder that `cope scenes --num N --out` wrote.")
    names = {field.name for field in fields(WorldConfig)}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return WorldConfig(**{name: found[name] for name in names})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not the settings of a world: {error}", "Run `cope scenes` again.") from error


def _claim(folder: Path, config: WorldConfig, *, force: bool) -> None:
    """Write the settings, or hold them against those that are there."""
    settings = {"world": WORLD_VERSION, "crf": _CRF, "preset": _PRESET, **config.to_dict()}
    settings["sha256"] = hashlib.sha256(canonical_json(settings).encode()).hexdigest()
    path = folder / SETTINGS_FILE
    if path.exists() and not force:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        if found != settings:
            differ = sorted(key for key in {*settings, *found} - {"sha256"} if settings.get(key) != found.get(key))
            raise UsageError(
                f"{folder}: holds clips of other settings ({', '.join(differ) or 'unreadable'})",
                "Name another folder with --out, or replace them with --force.",
            )
    write_json(path, settings)


def _write_groups(
    item: str, report: OnProgress, *, config: WorldConfig, twins: int, folder: Path, force: bool
) -> WrittenRecord:
    """Render the groups of one item, named as first-last."""
    first, last = (int(part) for part in item.split("-"))
    num_new = num_kept = size_bytes = 0
    began = time.process_time()
    total = (last - first + 1) * twins
    for group in range(first, last + 1):
        painter = Painter()
        for clip in draw_group(config, group)[:twins]:
            path = folder / "clips" / f"{clip.name}.mp4"
            if force or not path.exists():
                write_h264(render(clip, painter), path, fps=FPS, crf=_CRF, preset=_PRESET)
                num_new += 1
            else:
                num_kept += 1
            try:
                size_bytes += path.stat().st_size
            except OSError as error:
                raise StorageError(f"{path}: is gone: {error}") from error
            report(num_new + num_kept, total)
    cpu_seconds = time.process_time() - began
    return WrittenRecord(num_new=num_new, num_kept=num_kept, size_bytes=size_bytes, cpu_seconds=cpu_seconds)
