"""Data of the vision stage: pictures drawn on demand, and the target of each of their patches.

Pictures and clips are rendered from records, which say where everything is. A patch shows the thing that covers its
centre, the nearest to the viewer if there are several, or otherwise a thing that reaches into it. The slots of clips,
as the codec leaves them, serve for evaluation.

Legend: V input side in pixels, M patches of a frame, B frames of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cope_cli.data.datasets import BadSample
from cope_cli.data.samples import OpenEntries
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import CopeError, DataError, PathNotFoundError, UsageError
from cope_cli.types import Float32, Float64, UInt8
from cope_cli.world.config import WorldConfig
from cope_cli.world.pictures import Pictures
from cope_cli.world.records import COLOURS, Clip
from cope_cli.world.themes import SHAPES
from cope_cli.world.tracks import camera_of, track_of

RECORDS_FILE = "scenes.jsonl"
COLOUR_NAMES = tuple(COLOURS)
#: A thing reaches into a patch if its rim is at most this share of the patch's side away from the patch's centre.
_REACH = 0.35


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A thing in a frame.

    Attributes:
        colour: name of its colour.
        shape: name of its outline.
        x: its centre from the left, as a share of the picture's side.
        y: its centre from the top, as a share of the picture's side.
        radius: about half its size, as a share of the picture's side.
        depth: distance from the viewer; smaller is nearer.
    """

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    depth: int


@dataclass(frozen=True, kw_only=True)
class PatchTargets:
    """The target of each patch; a batch has B in front of the shapes.

    Attributes:
        is_seen: (M,) bool, the patch shows a thing.
        is_centre: (M,) bool, the patch holds the centre of a thing.
        colour: (M,) int64, index of the thing's colour in `COLOUR_NAMES`; 0 without a thing.
        shape: (M,) int64, index of its shape in `SHAPES`.
        cell: (M,) int64, index in `CELLS` of the ninth of the picture that holds the thing's centre.
        place: (M, 3) float32, x and y from the patch's centre to the thing's, and its radius, in patch sides.
    """

    is_seen: NDArray[np.bool_] | Tensor
    is_centre: NDArray[np.bool_] | Tensor
    colour: NDArray[np.int64] | Tensor
    shape: NDArray[np.int64] | Tensor
    cell: NDArray[np.int64] | Tensor
    place: Float32 | Tensor


@dataclass(frozen=True, kw_only=True)
class VisionBatch:
    """Frames and the targets of their patches.

    Attributes:
        rgb: (B, V, V, 3) uint8.
        targets: tensors with B in front.
    """

    rgb: Tensor
    targets: PatchTargets

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VisionBatch:
        """Return the batch with every tensor on `device`."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in vars(self.targets).items()}
        return VisionBatch(rgb=self.rgb.to(device, non_blocking=non_blocking), targets=PatchTargets(**moved))


def read_clips(folder: Path) -> dict[Path, Clip]:
    """Read the records that `cope scenes` wrote, by the clip's file.

    Raises:
        PathNotFoundError: the folder holds no records.
        DataError: a line is no record.
    """
    path = folder / RECORDS_FILE
    if not path.is_file():
        raise PathNotFoundError(f"{path}: no records of clips", "Name a folder that `cope scenes --num N --out` wrote.")
    clips = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            clip = Clip.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}: line {number} is no record of a clip: {error}", "Run `cope scenes` again."
            ) from error
        clips[(folder / "clips" / f"{clip.name}.mp4").resolve()] = clip
    return clips


def seen_things(clip: Clip, frame: int) -> list[Seen]:
    """Return the things visible in a frame, from the clip's record."""
    shot_start = 0
    for shot in clip.shots:
        if frame < shot_start + shot.num_frames:
            break
        shot_start += shot.num_frames
    else:
        raise ValueError(f"frame {frame} of {clip.name}, which has {clip.num_frames}")
    at = frame - shot_start
    camera_x, camera_y = (values[at] for values in camera_of(shot))
    found = []
    for thing in shot.things:
        track = track_of(thing, shot.num_frames)
        x, y = (track.x_px[at] - camera_x) / clip.size_px, (track.y_px[at] - camera_y) / clip.size_px
        if track.is_there[at] and 0 <= x < 1 and 0 <= y < 1:
            radius = thing.radius_px * track.scale[at] / clip.size_px
            found.append(Seen(colour=thing.colour, shape=thing.shape, x=x, y=y, radius=radius, depth=thing.depth))
    return found


def patch_targets(things: Sequence[Seen], side: int) -> PatchTargets:
    """Return the targets of the patches of a frame of `side` x `side` patches, row by row."""
    num = side * side
    middle = (np.arange(side) + 0.5) / side
    y, x = (axis.reshape(-1) for axis in np.meshgrid(middle, middle, indexing="ij"))
    best: Float64 = np.full(num, np.inf)
    is_seen, is_centre = np.zeros(num, np.bool_), np.zeros(num, np.bool_)
    colour, shape, cell = np.zeros(num, np.int64), np.zeros(num, np.int64), np.zeros(num, np.int64)
    place = np.zeros((num, 3), np.float32)
    for thing in things:
        outside = np.hypot(x - thing.x, y - thing.y) - thing.radius
        # Negative where the thing covers the patch's centre, and lower for nearer things.
        rank = np.where(outside < 0, thing.depth - 1000.0, outside)
        wins = (rank < best) & (outside < _REACH / side)
        best[wins] = rank[wins]
        is_seen[wins] = True
        colour[wins], shape[wins] = COLOUR_NAMES.index(thing.colour), SHAPES.index(thing.shape)
        cell[wins] = 3 * int(3 * thing.y) + int(3 * thing.x)
        own = np.stack([(thing.x - x) * side, (thing.y - y) * side, np.full(num, thing.radius * side)], 1)
        place[wins] = own[wins]
        is_centre[int(thing.y * side) * side + int(thing.x * side)] = True
    return PatchTargets(is_seen=is_seen, is_centre=is_centre, colour=colour, shape=shape, cell=cell, place=place)


class PictureDataset:
    """Pictures of some worlds, new in each epoch, with the targets of their patches.

    Args:
        worlds: the worlds, used in turn.
        num_pictures: pictures per epoch.
        size_px: side V.
        patches_per_side: patches of the vision tower per side.

    Raises:
        UsageError: a world's pictures have another size.
    """

    def __init__(
        self, worlds: Sequence[WorldConfig], num_pictures: int, *, size_px: int, patches_per_side: int
    ) -> None:
        for world in worlds:
            if world.size_px != size_px:
                raise UsageError(
                    f"--data: clips of {world.size_px} pixels, cope-tiny sees {size_px}",
                    f"Render them with `cope scenes --size {size_px}`.",
                )
        self.side = patches_per_side
        self.num_pictures = num_pictures
        self.epoch = 0
        self._pictures = Pictures(list(worlds))

    def __len__(self) -> int:
        return self.num_pictures

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch to draw pictures for, counted from 0."""
        self.epoch = epoch

    def __getitem__(self, number: int) -> tuple[UInt8, PatchTargets]:
        """Draw a picture."""
        record = self._pictures.record(self.epoch * self.num_pictures + number)
        return self._pictures.draw(record), patch_targets(seen_things(record, 0), self.side)


class VisionDataset:
    """Every slot of every clip, as a picture and the targets of its patches.

    Args:
        clips: the records by file.
        index: the cache's entries; clips without an entry are ignored.
        size_px: side V.
        patches_per_side: patches of the vision tower per side.
        skip_bad: skip unreadable slots instead of raising.

    Raises:
        DataError: no clip has an entry.
    """

    def __init__(
        self,
        clips: Mapping[Path, Clip],
        index: VideoIndex,
        *,
        size_px: int,
        patches_per_side: int,
        skip_bad: bool = False,
    ) -> None:
        self.side = patches_per_side
        self.skip_bad = skip_bad
        self._entries = OpenEntries(index.cache.root, size_px)
        by_source = {entry.source_path: name for name, entry in sorted(index.entries.items())}
        self._clips = {by_source[path]: clip for path, clip in clips.items() if path in by_source}
        if not self._clips:
            raise DataError(
                f"{index.cache.root}: none of the {len(clips)} clips has primitives",
                f"Run `cope encode` on them, then `cope extract --grid {index.grid_px}`.",
            )
        counts = {name: int(index.entries[name].manifest.info["num_slots"]) for name in self._clips}
        self._num_slots = counts
        self._samples = [(name, slot) for name in sorted(counts) for slot in range(counts[name])]

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def entry_names(self) -> list[str]:
        """Names of the entries used."""
        return sorted(self._clips)

    def rgb_slots(self, name: str) -> tuple[int, ...]:
        """Return the slots of an entry that are used: all of them."""
        return tuple(range(self._num_slots[name]))

    def __getitem__(self, number: int) -> tuple[UInt8, PatchTargets] | BadSample:
        """Read a frame.

        Raises:
            DataError: the slot cannot be read and `skip_bad` is off.
        """
        name, slot = self._samples[number]
        try:
            rgb = self._entries.frames(name).rgb(slot)
            frame = int(self._entries.primitives(name).slots.frame[slot])
            return rgb, self._targets(name, frame)
        except (CopeError, LookupError) as error:
            message = error.message if isinstance(error, CopeError) else str(error)
            if self.skip_bad:
                return BadSample(where=f"slot {slot} of entry {name}", message=message)
            raise DataError(f"slot {slot} of entry {name}: {message}") from error

    def _targets(self, name: str, frame: int) -> PatchTargets:
        return patch_targets(seen_things(self._clips[name], frame), self.side)


def collate_frames(samples: Sequence[tuple[UInt8, PatchTargets]]) -> VisionBatch:
    """Collate at least one frame into a batch."""
    targets: dict[str, Any] = {
        name: torch.from_numpy(np.stack([getattr(target, name) for _, target in samples]))
        for name in vars(samples[0][1])
    }
    return VisionBatch(rgb=torch.from_numpy(np.stack([rgb for rgb, _ in samples])), targets=PatchTargets(**targets))
